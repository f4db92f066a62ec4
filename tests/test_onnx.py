"""The ONNX reader against the standard's own examples, onnxruntime, and exact arithmetic; and its refusals."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bourn.errors import NetworkError, UnsupportedOperatorError, UsageError
from bourn.formats.onnx import (
    OPSETS,
    Port,
    diagnose,
    from_bytes,
    from_model,
    load,
    read_model,
    signature,
    supported_operators,
)
from bourn.formats.onnx_reading import RULES
from bourn.formats.replay import Replay
from bourn.network.affine import Affine, Constant, Convolution, Dense, Offset, Scale
from bourn.network.graph import Graph

Array = NDArray[Any]
Inputs = dict[str, Sequence[int | str]]


def node(op_type: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node; its inputs and outputs are separated by blanks, ``-`` leaves one out."""
    return helper.make_node(op_type, ["" if i == "-" else i for i in inputs.split()], outputs.split(), **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Inputs,
    constants: dict[str, Array] | None = None,
    *,
    opset: int = 13,
    outputs: str = "y",
    element_type: int = TensorProto.FLOAT,
    listed: bool = False,
) -> onnx.ModelProto:
    """A model of these nodes; ``listed`` also lists its initializers as inputs, as old files do."""
    initializers = [numpy_helper.from_array(a, name) for name, a in (constants or {}).items()]
    declared = [helper.make_tensor_value_info(name, element_type, shape) for name, shape in inputs.items()]
    if listed:
        declared += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in initializers]
    results = [helper.make_tensor_value_info(name, element_type, None) for name in outputs.split()]
    graph = helper.make_graph(list(nodes), "test", declared, results, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def numbers(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def agrees(built: onnx.ModelProto, tolerance: float = 1e-5) -> Graph:
    """Both the graph as read and the simplified one compute what onnxruntime computes; returns the simplified one."""
    replay = Replay(built)
    graph = from_model(built)
    for candidate in (from_model(built, simplify=False), graph):
        x = torch.from_numpy(np.random.default_rng(7).normal(size=(3, replay.inputs)).astype(np.float32).astype(np.float64))
        y = candidate.evaluate(x.reshape(3, *candidate.input_shape)).reshape(3, -1).numpy()
        expected = replay.run(x.numpy())
        assert y.shape == expected.shape
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance * scale)
    return graph


def operations(graph: Graph) -> list[str]:
    return [type(n.operation).__name__ for n in graph.nodes]


# The standard's own examples

REFUSED = {
    "test_batchnorm_example_training_mode": "inference",
    "test_batchnorm_epsilon_training_mode": "inference",
    "test_convtranspose_output_shape": "larger than its input makes it",
    "test_reduce_sum_empty_set": "is not fixed",
    "test_reduce_sum_empty_set_non_reduced_axis_zero": "is not fixed",
    "test_reshape_allowzero_reordered": "cannot reshape",
    "test_split_zero_size_splits_opset13": "splits",
    "test_split_zero_size_splits_opset18": "splits",
}
"""Examples that are rightly not read: random at run time, of empty tensors, or of an output that the standard leaves open."""

ROUNDING_CASTS = tuple(
    f"test_cast{like}_{source}_to_FLOAT16{expanded}"
    for source in ("FLOAT", "DOUBLE")
    for like, expanded in (("", ""), ("like", "_expanded"))
)


@pytest.fixture(scope="session")
def standard_examples() -> dict[str, list[Any]]:
    """The single-node test cases of the onnx package by operator."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    found: dict[str, list[Any]] = {}
    for case in cases:
        if case.model is not None and len(case.model.graph.node) == 1:
            found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def _with_constants(case: Any) -> tuple[onnx.ModelProto, Array, Array] | None:
    """The case with all inputs but the first made constants, its input and its output; None if it is not about floats."""
    inputs, outputs = case.data_sets[0]
    floats = (np.float16, np.float32, np.float64)
    if not inputs or not all(isinstance(v, np.ndarray) for v in [*inputs, outputs[0]]):
        return None
    if inputs[0].dtype not in floats or outputs[0].dtype not in floats:
        return None
    built = onnx.ModelProto()
    built.CopyFrom(case.model)
    built.graph.initializer.extend(
        numpy_helper.from_array(v, i.name) for i, v in zip(built.graph.input[1:], inputs[1:], strict=True)
    )
    del built.graph.input[1:], built.graph.output[1:]
    return built, inputs[0], outputs[0]


def test_every_operator_is_tested(standard_examples: dict[str, list[Any]]) -> None:
    assert set(supported_operators()) <= set(standard_examples)


@pytest.mark.parametrize("op_type", supported_operators())
def test_standard_examples(op_type: str, standard_examples: dict[str, list[Any]]) -> None:
    for case in standard_examples[op_type]:
        prepared = _with_constants(case)
        if prepared is None:
            continue
        built, x, expected = prepared
        if REFUSED.get(case.name):
            with pytest.raises(NetworkError, match=REFUSED.get(case.name, "rounds to FLOAT16")):
                from_model(built)
            continue
        try:
            graph = from_model(built)
        except UnsupportedOperatorError:
            # What a nonlinearity refuses is its own affair.
            if op_type in RULES:
                raise
            continue
        with torch.no_grad():
            y = graph.evaluate(torch.from_numpy(x.astype(np.float64))[None])[0].numpy()
        assert y.shape == expected.shape, case.name
        tolerance = 1e-2 if expected.dtype == np.float16 or x.dtype == np.float16 else 1e-4
        np.testing.assert_allclose(y, expected.astype(np.float64), rtol=tolerance, atol=tolerance, err_msg=case.name)


# Hand-made models against onnxruntime

W34, W43, B3, B4 = numbers(3, 4), numbers(4, 3), numbers(3, seed=1), numbers(4, seed=2)


@pytest.mark.parametrize("opset", [8, 9, 11, 13, 17, 20])
@pytest.mark.parametrize("bias", [(3,), (1, 3), (2, 1), (1,), ()])
def test_gemm(opset: int, bias: tuple[int, ...]) -> None:
    built = model(
        [node("Gemm", "x w b", transB=1, alpha=0.5, beta=1.3)], {"x": [2, 4]}, {"w": W34, "b": numbers(*bias, seed=3)}, opset=opset
    )
    assert operations(agrees(built)) == ["Input", "Dense"]


def test_gemm_with_activations_elsewhere() -> None:
    agrees(model([node("Gemm", "w x b", alpha=0.7)], {"x": [4, 2]}, {"w": W34, "b": numbers(3, 1)}))
    agrees(model([node("Gemm", "x w", transA=1)], {"x": [4, 2]}, {"w": W43}))
    agrees(model([node("Gemm", "w x c", beta=0.5, transA=1, transB=1)], {"x": [2, 4], "c": [2]}, {"w": W43}))
    agrees(model([node("Gemm", "x w x", transB=1)], {"x": [4, 4]}, {"w": numbers(4, 4)}))


@pytest.mark.parametrize("x", [(4,), (1, 4), (3, 4), (2, 3, 4), (1, 2, 3, 4)])
@pytest.mark.parametrize("w", [(4,), (4, 5), (2, 4, 5), (1, 4, 5), (3, 1, 4, 5)])
def test_matrix_products(x: tuple[int, ...], w: tuple[int, ...]) -> None:
    weight = numbers(*w)
    try:
        np.matmul(np.zeros(x), weight)
    except ValueError:
        pytest.skip("these shapes have no product")
    agrees(model([node("MatMul", "x w")], {"x": x}, {"w": weight}))
    flipped, turned = x[::-1] if len(x) < 3 else (*x[:-2], x[-1], x[-2]), weight if len(w) == 1 else weight.swapaxes(-1, -2).copy()
    agrees(model([node("MatMul", "w x")], {"x": flipped}, {"w": turned}))


def test_arithmetic_broadcasts() -> None:
    for x, c in [((1, 3, 1), (2, 1, 4)), ((1, 3), (3,)), ((3,), (1, 3)), ((1, 2, 3), ()), ((1,), (2, 2)), ((2, 3), (1, 3))]:
        constant = np.abs(numbers(*c, seed=4)) + np.float32(0.5)
        for op_type in ("Add", "Sub", "Mul", "Div"):
            agrees(model([node(op_type, "x c")], {"x": x}, {"c": constant}))
        for op_type in ("Add", "Sub", "Mul"):
            agrees(model([node(op_type, "c x")], {"x": x}, {"c": constant}))
        for op_type in ("Add", "Sub"):
            agrees(model([node(op_type, "x z")], {"x": x, "z": c or [1]}))
        agrees(model([node("Sum", "x c x"), node("Mean", "y x c", "z")], {"x": x}, {"c": constant}, outputs="z"))
    agrees(model([node("Sub", "x x", "z"), node("Neg", "z")], {"x": [1, 3]}))


def test_chain_of_affine_nodes_keeps_the_names_that_nonlinearities_read() -> None:
    nodes = [
        node("MatMul", "x w", "product"),
        node("Add", "product b", "pre"),
        node("Identity", "pre", "same"),
        node("Relu", "same", "post"),
        node("Reshape", "post shape", "y"),
    ]
    graph = agrees(model(nodes, {"x": [1, 4]}, {"w": W43, "b": B3, "shape": np.array([0, 3])}))
    assert operations(graph) == ["Input", "Dense", "ReLU"]
    assert [n.name for n in graph.nodes][:2] == ["x", "same"]
    assert graph.nodes[1].source == "Identity same"


@pytest.mark.parametrize("opset", [8, 11, 13, 18, 21])
def test_moves_over_opsets(opset: int) -> None:
    """Settings that were attributes first and inputs later."""

    def moved(op_type: str, inputs: str, since: int, settings: dict[str, Any], outputs: str = "y", **attributes: Any) -> Graph:
        old = opset < since
        constants = {} if old else {k: np.array(v, dtype=np.int64) for k, v in settings.items()}
        listed = "x" if old else f"x {inputs}"
        built = node(op_type, listed, outputs, **(settings if old else {}), **attributes)
        return agrees(model([built], {"x": [1, 4, 6]}, constants, opset=opset, outputs=outputs))

    moved("Squeeze", "axes", 13, {"axes": [0]})
    moved("Unsqueeze", "axes", 13, {"axes": [1, 3]})
    moved("Slice", "starts ends axes", 10, {"starts": [1, -4], "ends": [2**62, -1], "axes": [1, 2]})
    moved("ReduceSum", "axes", 13, {"axes": [1]}, keepdims=0)
    moved("ReduceMean", "axes", 18, {"axes": [-1, 1]})
    moved("ReduceMean", "", 18, {})
    moved("Split", "split", 13, {"split": [1, 5]}, "a b", axis=2)
    if opset < 18:
        moved("Split", "", 13, {}, "a b c", axis=-1)
    else:
        moved("Split", "", 13, {}, "a b c d", axis=-1, num_outputs=4)
    moved("Flatten", "", 99, {"axis": 2})
    moved("Transpose", "", 99, {"perm": [2, 0, 1]})
    moved("Transpose", "", 99, {})
    if opset >= 10:
        moved(
            "Slice", "starts ends axes steps", 10, {"starts": [5, -1], "ends": [-100, -(2**62)], "axes": [2, 1], "steps": [-2, -1]}
        )
    if opset >= 18:
        moved("ReduceSum", "axes", 13, {"axes": []}, noop_with_empty_axes=1)


@pytest.mark.parametrize("opset", [8, 11, 18])
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(opset: int, mode: str) -> None:
    pads = [0, 0, 1, 2, 0, 0, 2, 0]
    x: Inputs = {"x": [1, 2, 3, 4]}
    value: dict[str, Any] = {"value": 1.5} if mode == "constant" else {}
    if opset < 11:
        agrees(model([node("Pad", "x", mode=mode, pads=pads, **value)], x, opset=opset))
        agrees(model([node("Pad", "x", mode="constant", pads=[0, 0, -1, 0, 0, 0, 0, -2])], x, opset=opset))
        return
    settings = {"p": np.array(pads), "v": np.array(1.5, dtype=np.float32)}
    agrees(model([node("Pad", "x p v", mode=mode)], x, settings, opset=opset))
    agrees(model([node("Pad", "x p", mode=mode)], x, settings, opset=opset))
    if opset >= 18:
        settings = {"p": np.array([1, 2, 0, 1]), "a": np.array([-1, 2])}
        agrees(model([node("Pad", "x p - a", mode=mode)], x, settings, opset=opset))


def test_other_moves() -> None:
    x: Inputs = {"x": [1, 4, 2, 3]}
    agrees(model([node("Tile", "x r")], x, {"r": np.array([1, 2, 1, 3])}))
    agrees(model([node("Expand", "x s")], x, {"s": np.array([2, 1, 2, 1])}))
    agrees(model([node("Gather", "x i", axis=1)], x, {"i": np.array([[3, -4], [0, 0]])}))
    agrees(model([node("Gather", "x i", axis=-1)], x, {"i": np.array(1)}))
    agrees(model([node("GatherElements", "x i", axis=1)], x, {"i": np.ones((1, 2, 2, 3), dtype=np.int64)}))
    agrees(model([node("Concat", "x c x", axis=-1)], x, {"c": numbers(1, 4, 2, 2)}))
    agrees(model([node("Reshape", "x s")], x, {"s": np.array([0, -1, 3])}))
    agrees(model([node("Reshape", "x s", allowzero=1)], x, {"s": np.array([2, -1])}, opset=14))
    agrees(model([node("Where", "c x z")], {"x": [1, 3], "z": [2, 1]}, {"c": np.array([[True, False, True]])}))
    agrees(model([node("Where", "c x k")], {"x": [1, 3]}, {"c": np.array([True, False, True]), "k": B3}))
    for mode in ("DCR", "CRD"):
        agrees(model([node("DepthToSpace", "x", blocksize=2, mode=mode)], x))
    agrees(model([node("SpaceToDepth", "x", blocksize=2)], {"x": [1, 3, 4, 2]}))
    agrees(model([node("Dropout", "x", ratio=0.3)], x, opset=10))
    agrees(model([node("Dropout", "x r t", seed=3)], x, {"r": np.array(0.5, dtype=np.float32), "t": np.array(False)}))
    agrees(model([node("Cast", "x", "z", to=TensorProto.DOUBLE), node("Cast", "z", to=TensorProto.FLOAT)], x))


def test_shape_arithmetic_is_folded() -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node("Constant", "", "zero", value_int=0),
        node("Constant", "", "axes", value=numpy_helper.from_array(np.array([0]))),
        node("Gather", "shape zero", "batch"),
        node("Mul", "batch two", "twice"),
        node("Div", "twice two", "once"),
        node("Cast", "once", "real", to=TensorProto.FLOAT),
        node("Floor", "real", "floored"),
        node("Cast", "floored", "whole", to=TensorProto.INT64),
        node("Unsqueeze", "whole axes", "row"),
        node("Size", "x", "size"),
        node("Unsqueeze", "size axes", "sizes"),
        node("Concat", "row minus", "target", axis=0),
        node("ConstantOfShape", "row", "more", value=numpy_helper.from_array(np.array([2.5], dtype=np.float32))),
        node("Reshape", "x target", "flat"),
        node("Expand", "more sizes", "wide"),
        node("Add", "flat wide"),
    ]
    built = model(nodes, {"x": ["N", 2, 3]}, {"two": np.array(2), "minus": np.array([-1])})
    assert operations(agrees(built)) == ["Input", "Reshape", "Offset"]


@pytest.mark.parametrize("opset", [8, 9, 14, 15])
@pytest.mark.parametrize("space", [(), (5,), (3, 2)])
def test_batch_normalization(opset: int, space: tuple[int, ...]) -> None:
    constants = {"s": B4, "b": numbers(4, seed=5), "m": numbers(4, seed=6), "v": np.abs(numbers(4, seed=8)) + np.float32(0.1)}
    built = model([node("BatchNormalization", "x s b m v", epsilon=1e-3)], {"x": [1, 4, *space]}, constants, opset=opset)
    graph = agrees(built)
    assert operations(graph) == ["Input", "Offset", "Scale"]
    # Only the factor is rounded: its square times the variance is the gain's square, up to the stated error.
    factor = graph.nodes[2].operation
    assert isinstance(factor, Scale)
    assert factor.bias_error is None
    assert 0 < factor.weight_error < 1e-15
    epsilon = Fraction(float(np.float32(1e-3)))
    error = Fraction(factor.weight_error)
    for f, s, v in zip(factor.factor.reshape(-1).tolist(), constants["s"].tolist(), constants["v"].tolist(), strict=True):
        real_square = Fraction(s) ** 2 / (Fraction(v) + epsilon)
        assert (Fraction(f) * (1 - error)) ** 2 <= real_square <= (Fraction(f) * (1 + error)) ** 2


@st.composite
def windows(draw: st.DrawFn, ceil: bool) -> tuple[dict[str, Any], list[int]]:
    """Attributes of a sliding window and the spatial shape under it."""
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int, count: int = 1) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=rank * count, max_size=rank * count))

    kernel = each(1, 3)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": each(1, 3)}
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto != "NOTSET":
        attributes["auto_pad"] = auto
    else:
        attributes["pads"] = [min(p, k - 1) for p, k in zip(each(0, 2, 2), kernel * 2, strict=True)]
        if draw(st.booleans()):
            attributes["dilations"] = each(1, 2)
    if ceil and draw(st.booleans()):
        attributes["ceil_mode"] = 1
    return attributes, each(5, 7 if rank < 3 else 5)


@given(window=windows(ceil=False), groups=st.integers(1, 2), opset=st.sampled_from([8, 11, 22]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_convolutions(window: tuple[dict[str, Any], list[int]], groups: int, opset: int) -> None:
    attributes, space = window
    weight = numbers(groups * 2, 3, *attributes["kernel_shape"])
    built = node("Conv", "x w b", group=groups, **attributes)
    agrees(model([built], {"x": [1, groups * 3, *space]}, {"w": weight, "b": numbers(groups * 2, seed=9)}, opset=opset))


@given(window=windows(ceil=False), groups=st.integers(1, 2), extra=st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_transposed_convolutions(window: tuple[dict[str, Any], list[int]], groups: int, extra: bool) -> None:
    attributes, space = window
    if len(space) > 2 and groups > 1:
        return
    if extra and "auto_pad" not in attributes:
        attributes["output_padding"] = [min(1, s - 1) for s in attributes["strides"]]
    if any(k < s for k, s in zip(attributes["kernel_shape"], attributes["strides"], strict=True)) and "auto_pad" in attributes:
        return
    weight = numbers(groups * 3, 2, *attributes["kernel_shape"])
    built = node("ConvTranspose", "x w b", group=groups, **attributes)
    agrees(model([built], {"x": [1, groups * 3, *space]}, {"w": weight, "b": numbers(groups * 2, seed=9)}))


@given(window=windows(ceil=True), includes=st.booleans())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_average_pools(window: tuple[dict[str, Any], list[int]], includes: bool) -> None:
    attributes, space = window
    built = node("AveragePool", "x", count_include_pad=int(includes), **attributes)
    agrees(model([built], {"x": [1, 2, *space]}, opset=19))


def test_pools_and_clip() -> None:
    graph = agrees(model([node("GlobalAveragePool", "x")], {"x": [1, 3, 2, 5]}))
    assert operations(graph) == ["Input", "ReduceSum", "Scale"]
    low, high = np.array(-0.5, dtype=np.float32), np.array(0.25, dtype=np.float32)
    agrees(model([node("Clip", "x", min=-0.5, max=0.25)], {"x": [1, 5]}, opset=8))
    agrees(model([node("Clip", "x l h")], {"x": [1, 5]}, {"l": low, "h": high}))
    agrees(model([node("Clip", "x - h")], {"x": [1, 5]}, {"h": high}))
    agrees(model([node("LeakyRelu", "x", alpha=0.3)], {"x": [1, 5]}))
    agrees(model([node("Relu", "c", "z"), node("Add", "x z")], {"x": [1, 3]}, {"c": B3}))


def test_residual_with_several_consumers() -> None:
    nodes = [
        node("Relu", "x", "a"),
        node("MatMul", "a w", "b"),
        node("Relu", "b", "c"),
        node("Add", "a c", "d"),
        node("Sub", "d a"),
    ]
    agrees(model(nodes, {"x": [1, 4]}, {"w": numbers(4, 4)}))


def test_several_inputs_and_outputs() -> None:
    nodes = [node("Relu", "a", "p"), node("Flatten", "b", "q"), node("Concat", "p q", "r", axis=1), node("MatMul", "r w", "s")]
    built = model(nodes, {"a": [1, 2], "b": [1, 3, 1], "unused": ["N", 2]}, {"w": numbers(5, 2)}, outputs="s p")
    graph = agrees(built)
    assert graph.input_shape == (1, 7)
    assert graph.output_shape == (1, 4)
    assert signature(built).inputs == (
        Port("a", "float32", (1, 2)),
        Port("b", "float32", (1, 3, 1)),
        Port("unused", "float32", (1, 2)),
    )
    assert [p.name for p in signature(built).outputs] == ["s", "p"]
    assert signature(built).outputs[0].shape is None


def test_output_that_is_an_input_or_a_constant() -> None:
    assert from_model(model([], {"y": [1, 2]})).output == 0
    built = model([node("Relu", "x", "z"), node("Identity", "c")], {"x": [1, 2]}, {"c": B3}, outputs="y z")
    agrees(built)


@pytest.mark.parametrize("first", ["N", 0, None])
def test_open_batch_is_one_and_initializers_may_be_inputs(first: str | int | None) -> None:
    built = model([node("MatMul", "x w", "z"), node("Relu", "z")], {"x": [first, 4]}, {"w": W43}, listed=True)  # type: ignore[list-item]
    graph = agrees(built)
    assert graph.input_shape == (1, 4)
    assert [p.name for p in signature(built).inputs] == ["x"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_are_held_exactly(dtype: Any) -> None:
    weight = numbers(4, 3, dtype=dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = agrees(
        model([node("MatMul", "x w")], {"x": [1, 4]}, {"w": weight}, element_type=kind), 1e-2 if dtype == np.float16 else 1e-5
    )
    operation = graph.nodes[1].operation
    assert isinstance(operation, Dense)
    assert operation.weight.dtype == torch.float64
    assert operation.weight_error == 0
    assert operation.weight.T.tolist() == weight.astype(np.float64).tolist()


def test_bfloat16_weights_are_held_exactly() -> None:
    raw = helper.make_tensor("w", TensorProto.BFLOAT16, [2, 1], [1.5, -0.15625])
    built = model([node("Cast", "w", "v", to=TensorProto.FLOAT), node("MatMul", "x v")], {"x": [1, 2]})
    built.graph.initializer.append(raw)
    operation = from_model(built).nodes[1].operation
    assert isinstance(operation, Dense)
    assert operation.weight.tolist() == [[1.5, -0.15625]]


# Constants computed from constants


def _only(built: onnx.ModelProto, kind: type[Affine]) -> Any:
    (found,) = [n.operation for n in from_model(built).nodes if isinstance(n.operation, kind)]
    return found


def _covers(stored: torch.Tensor, error: float, real: Sequence[Fraction]) -> bool:
    """Whether the exact numbers are within the stated relative error of the stored ones."""
    return all(
        abs(r - Fraction(s)) <= Fraction(error) * abs(Fraction(s)) for s, r in zip(stored.reshape(-1).tolist(), real, strict=True)
    )


positive = st.floats(2.0**-20, 2.0**20, width=32)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_errors_of_computed_weights(pairs: list[tuple[float, float]]) -> None:
    a, b = (np.array(v, dtype=np.float64) for v in zip(*pairs, strict=True))
    exact = [(Fraction(p), Fraction(q)) for p, q in pairs]
    x: Inputs = {"x": [1, len(pairs)]}
    constants = {"a": a, "b": b, "third": np.array(3.0)}

    def scale(*nodes: onnx.NodeProto) -> Scale:
        return _only(model(nodes, x, constants, element_type=TensorProto.DOUBLE), Scale)  # type: ignore[no-any-return]

    divided = scale(node("Div", "x a"))
    assert _covers(divided.factor, divided.weight_error, [1 / p for p, _ in exact])
    quotient = scale(node("Div", "a b", "c"), node("Mul", "c third", "d"), node("Mul", "x d"))
    assert _covers(quotient.factor, quotient.weight_error, [3 * p / q for p, q in exact])
    product = scale(node("Mul", "a b", "c"), node("Mul", "x c"))
    assert product.weight_error == 0  # Products of float32 numbers are exact in float64.
    assert _covers(product.factor, 0.0, [p * q for p, q in exact])
    cube = scale(node("Mul", "a b", "c"), node("Mul", "c b", "d"), node("Mul", "x d"))
    assert _covers(cube.factor, cube.weight_error, [p * q * q for p, q in exact])
    total = scale(node("Add", "a b", "c"), node("Div", "c third", "d"), node("Mul", "d x"))
    assert _covers(total.factor, total.weight_error, [(p + q) / 3 for p, q in exact])


@given(st.lists(positive, min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_errors_of_computed_biases_and_matrices(values: list[float]) -> None:
    a = np.array(values)
    built = model([node("Div", "a k", "c"), node("Add", "x c")], {"x": [1, 3]}, {"a": a, "k": np.array(7.0)})
    offset = _only(built, Offset)
    assert offset.bias is not None
    errors = [0.0] * 3 if offset.bias_error is None else offset.bias_error.tolist()
    for b, e, v in zip(offset.bias.tolist(), errors, values, strict=True):
        assert abs(Fraction(b) - Fraction(v) / 7) <= Fraction(e) <= Fraction(2.0**-50) * Fraction(b)
    weights = np.outer(a, a[::-1])
    built = model([node("MatMul", "a w", "c"), node("Mul", "x c")], {"x": [1, 3]}, {"a": a, "w": weights})
    scale = _only(built, Scale)
    exact = [
        sum((Fraction(v) * Fraction(w) for v, w in zip(values, column, strict=True)), Fraction()) for column in weights.T.tolist()
    ]
    assert _covers(scale.factor, scale.weight_error, exact)
    built = model([node("ReduceMean", "w", "c", axes=[0], keepdims=0), node("Mul", "x c")], {"x": [1, 3]}, {"w": weights})
    scale = _only(built, Scale)
    exact = [sum((Fraction(w) for w in column), Fraction()) / 3 for column in weights.T.tolist()]
    assert _covers(scale.factor, scale.weight_error, exact)


def test_powers_of_two_and_small_means_are_exact() -> None:
    assert _only(model([node("Div", "x c")], {"x": [1, 2]}, {"c": np.array([4.0, 0.125])}), Scale).weight_error == 0
    assert _only(model([node("AveragePool", "x", kernel_shape=[2, 2])], {"x": [1, 1, 4, 4]}), Scale).weight_error == 0
    graph = from_model(model([node("AveragePool", "x", kernel_shape=[3])], {"x": [1, 1, 4]}))
    scale, window = graph.nodes[2].operation, graph.nodes[1].operation
    assert isinstance(scale, Scale)
    assert isinstance(window, Convolution)
    assert window.weight_error == 0
    assert _covers(scale.factor, scale.weight_error, [Fraction(1, 3)] * scale.factor.numel())


def test_constants_that_lose_their_accuracy_are_refused() -> None:
    third = {"a": np.array([1.0]), "k": np.array([3.0]), "m": np.array([-0.3333333333333333])}
    nodes = [node("Div", "a k", "c"), node("Add", "c m", "d"), node("Mul", "x d")]
    with pytest.raises(UnsupportedOperatorError, match="accuracy"):
        from_model(model(nodes, {"x": [1, 1]}, third))
    huge = {"a": np.array([1e308]), "b": np.array([1e-308])}
    for op_type, inputs in [("Mul", "a a"), ("Mul", "b b"), ("Add", "a a"), ("Div", "a b"), ("Div", "b a")]:
        with pytest.raises(UnsupportedOperatorError, match="accuracy"):
            from_model(model([node(op_type, inputs, "c"), node("Mul", "x c")], {"x": [1, 1]}, huge))
    with pytest.raises(UnsupportedOperatorError, match="divides by the constant 0"):
        from_model(model([node("Div", "x c")], {"x": [1, 1]}, {"c": np.array([0.0])}))


# Refusals


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("Mul", "x x")], "depend on the network's input"),
        ([node("MatMul", "x x")], "depend on the network's input"),
        ([node("Div", "c x")], "depend on the network's input"),
        ([node("Relu", "x", "z"), node("NoSuchOperator", "z")], "NoSuchOperator"),
        ([node("Cast", "x", "z", to=TensorProto.INT64), node("Gather", "c z")], "rounds to INT64"),
        ([node("Cast", "x", "z", to=TensorProto.FLOAT16), node("Cast", "z", to=TensorProto.FLOAT)], "rounds to FLOAT16"),
        ([node("Reshape", "c x")], "depends on the network's input"),
        ([node("Floor", "x")], "Floor"),
        ([node("Clip", "x x")], "parameters depend"),
        ([node("Clip", "x one zero")], "not at most"),
        ([node("Dropout", "x", "z mask"), node("Relu", "mask")], "mask"),
        ([node("Flatten", "x", axis=1, strange=3)], "strange"),
        ([node("Dropout", "x zero yes")], "training mode"),
        ([node("Identity", "x", domain="my.own")], "my.own.Identity"),
    ],
)
def test_unsupported(nodes: list[onnx.NodeProto], why: str) -> None:
    constants = {"c": numbers(2, 2), "one": np.array(1.0), "zero": np.array(0.0), "yes": np.array(True)}
    with pytest.raises(UnsupportedOperatorError, match=why.replace(".", r"\.")) as caught:
        from_model(model(nodes, {"x": [2, 2]}, constants))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("MatMul", "x w")], "MatMul node 'y'"),
        ([node("Add", "x w")], "Add node 'y'"),
        ([node("Add", "x")], "input 2 is missing"),
        ([node("Add", "x missing")], "nothing produces it"),
        ([node("Relu", "z"), node("Relu", "x", "z")], "before it is used"),
        ([node("Conv", "x w")], "does not fit"),
        ([node("Conv", "x n", kernel_shape=[1])], "no spatial axes"),
        ([node("Concat", "x w", axis=1)], "joins shapes"),
        ([node("Transpose", "x", perm=[0, 5])], "Transpose node 'y'"),
        ([node("Reshape", "x five")], "Reshape node 'y'"),
        ([node("Gather", "x five", axis=0)], "Gather node 'y'"),
        ([node("Split", "x five", "y")], "splits"),
        ([node("Add", "x n")], "NaN or infinite"),
        ([node("Mul", "x i")], "accuracy|NaN or infinite"),
        ([node("MatMul", "x x3", "y")], "nothing produces it"),
    ],
)
def test_malformed(nodes: list[onnx.NodeProto], why: str) -> None:
    constants = {
        "w": numbers(3, 2, 2),
        "five": np.array([5]),
        "n": np.array([np.nan, 1, 1], dtype=np.float32),
        "i": np.array([np.inf, 1, 1], dtype=np.float32),
    }
    with pytest.raises(NetworkError, match=why) as caught:
        from_model(model(nodes, {"x": [2, 3]}, constants), "net.onnx")
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_read(tmp_path: Path) -> None:
    def refused(path: Path, why: str) -> None:
        with pytest.raises(NetworkError, match=why) as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    good = model([node("MatMul", "x w")], {"x": [1, 4]}, {"w": W43}).SerializeToString()
    refused(tmp_path / "none.onnx", "cannot be read")
    refused(tmp_path, "cannot be read")
    for name, data, why in [
        ("empty.onnx", b"", "no network"),
        ("text.onnx", b"this is not a network", "not a readable ONNX file"),
        ("cut.onnx", good[:-30], "not a readable ONNX file"),
        ("plain.onnx.gz", good, "cannot be read"),
        ("cut.onnx.gz", gzip.compress(good)[:-20], "cannot be read"),
        ("rotten.onnx.gz", gzip.compress(good)[:30] + b"rotten" * 20, "cannot be read"),
    ]:
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, why)
    (tmp_path / "good.onnx.gz").write_bytes(gzip.compress(good))
    assert load(str(tmp_path / "good.onnx.gz")).output_shape == (1, 3)
    assert from_bytes(good).output_shape == (1, 3)

    for built, name, why in [
        (model([node("Relu", "x")], {"x": [1, "n"]}), "open.onnx", "shape of input 'x' is not fixed"),
        (model([node("Relu", "x")], {}), "noinput.onnx", "no input"),
        (model([node("Relu", "x")], {"x": [1, 2]}, opset=7), "old.onnx", "operator set 7 is not read; 8 to"),
        (model([node("Relu", "x")], {"x": [1, 2]}, opset=OPSETS[-1] + 1), "new.onnx", "is not read"),
        (model([node("Relu", "x")], {"x": [1, 2]}, element_type=TensorProto.INT64), "integers.onnx", "does not hold floats"),
        (model([node("Relu", "x", "z")], {"x": [1, 2]}), "nowhere.onnx", "'y' is read but nothing produces it"),
    ]:
        (tmp_path / name).write_bytes(built.SerializeToString())
        refused(tmp_path / name, why)


def test_external_data(tmp_path: Path) -> None:
    built = model([node("MatMul", "x w")], {"x": [1, 40]}, {"w": numbers(40, 30)})
    path = tmp_path / "outside.onnx"
    onnx.save_model(built, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert load(path).output_shape == (1, 30)
    assert Replay.from_file(path).run(np.zeros(40)).shape == (30,)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(NetworkError, match="not a readable ONNX file"):
        load(path)


def test_diagnose_names_every_obstacle(tmp_path: Path) -> None:
    nodes = [
        node("Alien", "x", "a", name="first"),
        node("Relu", "a", "b"),
        node("Foreign", "b", "c"),
        node("Mul", "x x", "d"),
        node("Sum", "c d"),
        node("Alien", "x", "unused"),
    ]
    path = tmp_path / "strange.onnx"
    path.write_bytes(model(nodes, {"x": [1, 2]}).SerializeToString())
    found = [(o.node, o.op_type) for o in diagnose(path)]
    expected = [("first", "Alien"), ("c", "Foreign"), ("d", "Mul")]
    assert found == [e for e in expected if e[1] not in supported_operators() or e[1] == "Mul"]
    assert all(o.reason for o in diagnose(path))
    path.write_bytes(model([node("Relu", "x")], {"x": [1, 2]}).SerializeToString())
    assert diagnose(path) == []


def test_nodes_that_the_output_does_not_need_are_not_read() -> None:
    agrees_without = model([node("Relu", "x"), node("Alien", "x", "z")], {"x": [1, 2]})
    assert operations(from_model(agrees_without)) == ["Input", "ReLU"]


def test_supported_operators_are_sorted_names() -> None:
    names = supported_operators()
    assert list(names) == sorted(set(names))
    assert {"Gemm", "Relu", "Conv", "Clip", "Constant"} <= set(names)


# Networks from elsewhere


def _networks(folder: Path) -> list[Path]:
    found = sorted((folder / "vnncomp2022").glob("**/*.onnx*"))
    return [p for p in found if "ACASXU" not in p.name or "_1_1_" in p.name or "_5_9_" in p.name]


def test_networks_of_the_competition(data_folder: Path) -> None:
    paths = _networks(data_folder)
    assert paths
    for path in paths:
        assert diagnose(path) == []
        assert agrees(read_model(path)).output_shape[0] == 1


# Replay


def test_replay_takes_one_point_at_a_time(tmp_path: Path) -> None:
    built = model([node("MatMul", "x w", "z"), node("Relu", "z")], {"x": ["N", 4]}, {"w": W43})
    (tmp_path / "net.onnx.gz").write_bytes(gzip.compress(built.SerializeToString()))
    (tmp_path / "net.onnx").write_bytes(built.SerializeToString())
    points = numbers(5, 4, dtype=np.float64)
    expected = np.maximum(points.astype(np.float32) @ W43, 0)
    sources: list[Callable[[], Replay]] = [
        lambda: Replay(built),
        lambda: Replay(built.SerializeToString(), optimise=False),
        lambda: Replay.from_file(tmp_path / "net.onnx"),
        lambda: Replay.from_file(str(tmp_path / "net.onnx.gz")),
    ]
    for source in sources:
        replay = source()
        np.testing.assert_allclose(replay.run(points), expected, rtol=1e-5, atol=1e-6)
        assert replay.run(points[0]).shape == (3,)
        assert replay.run(points).dtype == np.float64
    fed = replay.fed(points)
    assert (fed == points.astype(np.float32)).all()
    assert (replay.fed(points[1]) == fed[1]).all()
    assert (replay.run(fed) == replay.run(points)).all()


def test_replay_errors(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    (tmp_path / "broken.onnx.gz").write_bytes(b"broken")
    for name in ("broken.onnx", "broken.onnx.gz", "none.onnx", "."):
        with pytest.raises(NetworkError, match=str(tmp_path)) as caught:
            Replay.from_file(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(NetworkError, match="not a tensor of floats"):
        Replay(model([node("Neg", "x")], {"x": [1, 2]}, element_type=TensorProto.INT64))
    with pytest.raises(NetworkError, match="not fixed"):
        Replay(model([node("Neg", "x")], {"x": [1, "n"]}))
    replay = Replay(model([node("Neg", "x")], {"x": [1, 2]}))
    for shape in ((3,), (2, 3), (1, 1, 2)):
        with pytest.raises(UsageError, match="do not fit"):
            replay.run(np.zeros(shape))


def test_constant_node_of_a_graph() -> None:
    built = model([node("Concat", "x c", axis=1), node("Relu", "c", "unused")], {"x": [1, 2]}, {"c": numbers(1, 2)})
    graph = agrees(built)
    assert sum(isinstance(n.operation, Constant) for n in graph.nodes) == 1
