"""Small ONNX models for the tests of the reader, and their comparison with onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bourn.formats.onnx import (
    from_model,
)
from bourn.formats.replay import Replay
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


W34, W43, B3, B4 = numbers(3, 4), numbers(4, 3), numbers(3, seed=1), numbers(4, seed=2)
