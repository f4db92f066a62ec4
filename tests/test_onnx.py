"""Hand-made ONNX models compute what onnxruntime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from bourn.formats.onnx import (
    Port,
    diagnose,
    from_model,
    read_model,
    signature,
    supported_operators,
)
from bourn.network.affine import Constant
from bourn.network.graph import Graph
from onnx_models import B3, W34, W43, Inputs, agrees, model, node, numbers, operations


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
    agrees(model([node("GatherElements", "x i", axis=-1)], x, {"i": np.array([[[[2, 0, -1, 1]]]])}))
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


def test_nodes_that_the_output_does_not_need_are_not_read() -> None:
    agrees_without = model([node("Relu", "x"), node("Alien", "x", "z")], {"x": [1, 2]})
    assert operations(from_model(agrees_without)) == ["Input", "ReLU"]


def test_supported_operators_are_sorted_names() -> None:
    names = supported_operators()
    assert list(names) == sorted(set(names))
    assert {"Gemm", "Relu", "Conv", "Clip", "Constant"} <= set(names)


def _networks(folder: Path) -> list[Path]:
    found = sorted((folder / "vnncomp2022").glob("**/*.onnx*"))
    return [p for p in found if "ACASXU" not in p.name or "_1_1_" in p.name or "_5_9_" in p.name]


def test_networks_of_the_competition(data_folder: Path) -> None:
    paths = _networks(data_folder)
    assert paths
    for path in paths:
        assert diagnose(path) == []
        assert agrees(read_model(path)).output_shape[0] == 1


def test_constant_node_of_a_graph() -> None:
    built = model([node("Concat", "x c", axis=1), node("Relu", "c", "unused")], {"x": [1, 2]}, {"c": numbers(1, 2)})
    graph = agrees(built)
    assert sum(isinstance(n.operation, Constant) for n in graph.nodes) == 1
