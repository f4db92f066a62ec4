"""Small models of every operator that is read as a composition of others, for the tests of their values and of their bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from onnx_models import Array, Inputs, model, node, numbers

Models = dict[str, onnx.ModelProto]

IMAGE: Inputs = {"x": [1, 2, 5, 6]}
TABLE: Inputs = {"x": [1, 3, 4]}


def one(
    op_type: str, inputs: Inputs, constants: dict[str, Array] | None = None, opset: int = 18, **attributes: Any
) -> onnx.ModelProto:
    """A model of one node that reads all inputs, then all constants."""
    names = " ".join([*inputs, *(constants or {})])
    return model([node(op_type, names, **attributes)], inputs, constants, opset=opset)


def positive(op_type: str, inputs: str, constants: dict[str, Array] | None = None, **attributes: Any) -> onnx.ModelProto:
    """A model of a node whose argument ``p`` is above 0."""
    return model([node("Exp", "x", "p"), node(op_type, inputs, **attributes)], TABLE, constants, opset=18)


def extremes() -> Models:
    """Max, Min, pools and reductions."""
    found: Models = {}
    three: Inputs = {"x": [2, 3], "z": [3], "w": [2, 1]}
    for op in ("Max", "Min"):
        found |= {
            f"{op} of three": one(op, three),
            f"{op} of one": one(op, TABLE),
            f"{op} of the same": model([node(op, "x x")], TABLE),
            f"{op} with a number": one(op, TABLE, {"c": np.array(0.3, dtype=np.float32)}),
            f"{op} with zeros": model([node(op, "c x")], TABLE, {"c": np.zeros((2, 3, 1), dtype=np.float32)}),
            f"{op} with a vector": one(op, TABLE, {"c": numbers(4)}),
            f"{op} of all kinds": one(op, three, {"c": numbers(3), "d": numbers(2, 3, seed=5)}),
        }
    for op in ("ReduceMax", "ReduceMin"):
        found |= {
            f"{op} over one": one(op, TABLE, opset=13, axes=[1]),
            f"{op} over two": one(op, IMAGE, {"a": np.array([-1, 1])}, keepdims=0),
            f"{op} over all": one(op, TABLE),
            f"{op} over nothing": one(op, TABLE, noop_with_empty_axes=1),
            f"{op} of many": one(op, {"x": [2, 35]}, opset=13, axes=[1]),
        }
    found |= {
        "MaxPool plain": one("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
        "MaxPool padded": one("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        "MaxPool long": one("MaxPool", IMAGE, kernel_shape=[5, 4], pads=[2, 1, 2, 0]),
        "GlobalMaxPool": one("GlobalMaxPool", IMAGE),
    }
    return found


def products() -> Models:
    """Products, quotients and matrix products of activations."""
    pairs = [((2, 3), (3, 4)), ((1, 3), (3,)), ((2, 1, 2, 3), (2, 3, 2)), ((3,), (2, 3, 2)), ((2, 4, 3), (3,)), ((2, 2), (2, 1))]
    found = {f"MatMul {a} {b}": one("MatMul", {"x": a, "z": b}) for a, b in pairs}
    found |= {
        "Mul": one("Mul", {"x": [2, 3], "z": [3]}),
        "Mul the same": model([node("Mul", "x x")], TABLE),
        "Div": positive("Div", "x p"),
        "Div of a constant": positive("Div", "c p", {"c": numbers(2, 3, 1)}),
        "Gemm": one("Gemm", {"x": [2, 3], "z": [4, 3], "w": [4]}, alpha=0.5, beta=2.0, transB=1),
        "Gemm turned": one("Gemm", {"x": [3, 2], "z": [3, 4]}, transA=1),
        "Reciprocal": positive("Reciprocal", "p"),
        "Sqrt": positive("Sqrt", "p"),
    }
    found["Pow of numbers"] = model([node("Pow", "c x")], TABLE, {"c": np.array([2, 0.3, 1, 1.001], dtype=np.float32)})
    for exponent in (0, 1, 2, 3, -1, -2, 0.5, -0.5):
        found[f"Pow {exponent}"] = positive("Pow", "p e", {"e": np.array(exponent, dtype=np.float32)})
    found["Pow mixed"] = positive("Pow", "p e", {"e": np.array([1, 2, -0.5, 2], dtype=np.float32)})
    return found


def activations() -> Models:
    """Functions of one variable."""
    found = {op: one(op, TABLE) for op in ("HardSigmoid", "HardSwish", "Celu", "Abs")}
    found |= {f"PRelu {s}": one("PRelu", {"x": [1, 3, 2, 2]}, {"s": numbers(*s)}) for s in [(3, 1, 1), (1,), (1, 1, 2)]}
    found["Celu 1.7"] = one("Celu", TABLE, alpha=1.7)
    found["HardSigmoid 0.6"] = one("HardSigmoid", TABLE, alpha=0.6, beta=0.3)
    for op in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"):
        found[op] = one(op, TABLE, opset=13, axes=[1])
        found[f"{op} 18"] = one(op, TABLE, {"a": np.array([2, 1])}, keepdims=0)
    found["ReduceLogSum"] = positive("ReduceLogSum", "p")
    for op in ("Softmax", "LogSoftmax"):
        for opset in (11, 13):
            found |= {f"{op} {opset} over {axis}": one(op, {"x": [2, 3, 2]}, opset=opset, axis=axis) for axis in (1, 2, -1, 0)}
        found[f"{op} of many"] = one(op, {"x": [66]}, axis=0)
        found[f"{op} of one"] = one(op, {"x": [2, 1]})
    found |= {f"ReduceLogSumExp of {n}": one("ReduceLogSumExp", {"x": [2, n]}, opset=13, axes=[1], keepdims=0) for n in (1, 2, 5)}
    return found


def norms() -> Models:
    """Normalisation layers."""
    each = {"g": numbers(4), "b": numbers(4, seed=1)}
    found = {
        "LayerNormalization": one("LayerNormalization", TABLE, each),
        "LayerNormalization of two axes": one("LayerNormalization", TABLE, {"g": numbers(3, 4)}, axis=-2, epsilon=0.1),
        "InstanceNormalization": one("InstanceNormalization", IMAGE, {"g": numbers(2), "b": numbers(2, seed=1)}),
        "GroupNormalization": one("GroupNormalization", {"x": [1, 4, 2, 2]}, each, opset=21, num_groups=2),
        "RMSNormalization": one("RMSNormalization", TABLE, {"g": numbers(4)}, opset=23),
    }
    for order in (1, 2):
        found[f"LpNormalization {order}"] = one("LpNormalization", TABLE, p=order, axis=1)
    further = [node("LayerNormalization", "x g", "a m i"), node("Add", "a m", "c"), node("Mul", "c i")]
    found["LayerNormalization with all its outputs"] = model(further, TABLE, {"g": numbers(4)}, opset=18)
    return found


def gelu(order: str) -> onnx.ModelProto:
    """GELU as PyTorch exports it, its factors in one order or another."""
    constants = {"r": np.array(np.sqrt(2), dtype=np.float32), "one": np.array(1.0), "half": np.array(0.5)}
    constants = {k: v.astype(np.float32) for k, v in constants.items()}
    head = [node("Div", "x r", "d"), node("Erf", "d", "e"), node("Add", "e one", "g")]
    tail = {
        "last": [node("Mul", "x g", "p"), node("Mul", "p half")],
        "first": [node("Mul", "x half", "p"), node("Mul", "p g")],
        "inside": [node("Mul", "half g", "p"), node("Mul", "x p")],
        "gate first": [node("Mul", "g x", "p"), node("Mul", "half p")],
    }
    return model([*head, *tail[order]], TABLE, constants)


def fused() -> Models:
    """What is recognised as one nonlinearity."""
    found = {f"GELU, half {order}": gelu(order) for order in ("last", "first", "inside", "gate first")}
    quick = {"a": np.array(1.702, dtype=np.float32)}
    found["SiLU"] = model([node("Sigmoid", "x", "g"), node("Mul", "x g")], TABLE)
    found["quick GELU"] = model([node("Mul", "x a", "s"), node("Sigmoid", "s", "g"), node("Mul", "g x")], TABLE, quick)
    return found


def attention() -> Models:
    """Self-attention, and two branches that share a weight."""
    nodes = [
        node("MatMul", "x q", "Q"),
        node("MatMul", "x k", "K"),
        node("MatMul", "x v", "V"),
        node("Transpose", "K", "T", perm=[0, 2, 1]),
        node("MatMul", "Q T", "scores"),
        node("Div", "scores d", "scaled"),
        node("Softmax", "scaled", "shares", axis=-1),
        node("MatMul", "shares V", "mixed"),
        node("Add", "mixed x"),
    ]
    weights = {name: numbers(4, 4, seed=i) / 2 for i, name in enumerate("qkv")} | {"d": np.array(2.0, dtype=np.float32)}
    shared = [
        node("MatMul", "x w", "a"),
        node("MatMul", "z w", "b"),
        node("Relu", "a", "c"),
        node("Sigmoid", "b", "d"),
        node("Mul", "c d", "e"),
        node("MatMul", "e w"),
    ]
    return {
        "attention": model(nodes, TABLE, weights),
        "shared weights": model(shared, {"x": [1, 3], "z": [1, 3]}, {"w": numbers(3, 3)}),
    }


def resizes() -> Models:
    """One model of every way to resize."""
    small: Inputs = {"x": [1, 2, 3, 4]}

    def scaled(mode: str, *scales: float, **attributes: Any) -> onnx.ModelProto:
        s = {"s": np.array(scales, dtype=np.float32)}
        return model([node("Resize", "x - s", mode=mode, **attributes)], small, s, opset=18)

    return {
        "nearest": scaled("nearest", 1, 1, 2, 3),
        "linear": scaled("linear", 1, 1, 2, 1.5),
        "linear by size": model([node("Resize", "x - - s", mode="linear")], small, {"s": np.array([1, 2, 2, 7])}, opset=18),
        "some axes": scaled("linear", 2, 1 / 3, axes=[-1, 2], coordinate_transformation_mode="align_corners"),
        "Resize 10": model([node("Resize", "x s")], small, {"s": np.array([1, 1, 2, 1.5], dtype=np.float32)}, opset=10),
        "Upsample 9": model(
            [node("Upsample", "x s", mode="linear")], small, {"s": np.array([1, 1, 2, 1.5], dtype=np.float32)}, opset=9
        ),
        "Upsample 8": model([node("Upsample", "x", mode="nearest", scales=[1.0, 1.0, 2.0, 3.0])], small, opset=8),
    }


def choices() -> Models:
    """Comparisons, and choices by them."""
    single = {"c": np.array([0.5, 0, -1, 0.25], dtype=np.float32)}
    pair: Inputs = {"x": [1, 3, 4], "z": [3, 1]}
    found: Models = {}
    for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"):
        found |= {
            f"{op} a number": model([node(op, "x c", "t"), node("Cast", "t", to=1)], TABLE, single),
            f"{op} with an input": model([node(op, "c x", "t"), node("Where", "t x z")], pair, single),
        }
    both = [node("Less", "x c", "s"), node("Greater", "x d", "t")]
    two = {**single, "d": np.array(-0.5, dtype=np.float32), "yes": np.array([True, False, True, False])}
    for op in ("And", "Or"):
        found[op] = model([*both, node(op, "s t", "u"), node("Not", "u", "v"), node("Where", "v c d")], TABLE, two)
        found[f"{op} with constants"] = model([*both, node(op, "s yes", "u"), node("Cast", "u", to=1)], TABLE, two)
    compare = node("Greater", "x zero", "t")
    zero = {"zero": np.zeros((), dtype=np.float32), "c": single["c"], "half": np.array(-0.5, dtype=np.float32)}
    return found | {
        "Cast to truth": model([node("Cast", "x", "t", to=9), node("Cast", "t", to=1)], TABLE),
        "Where of numbers": model([compare, node("Where", "t c half")], TABLE, zero),
        "Where x, else 0": model([compare, node("Where", "t x zero")], TABLE, zero),
        "Where 0, else x": model([compare, node("Where", "t zero x")], TABLE, zero),
        "Where half of x": model([node("Mul", "x half", "h"), compare, node("Where", "t h zero")], TABLE, zero),
        "Where x, else a number": model([compare, node("Where", "t x c")], TABLE, zero),
        "ThresholdedRelu": one("ThresholdedRelu", TABLE, alpha=0.25),
    }


COMPOSED: Models = {
    **choices(),
    **extremes(),
    **products(),
    **activations(),
    **norms(),
    **fused(),
    **attention(),
    **resizes(),
}
