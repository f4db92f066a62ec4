"""Max, MaxPool, GlobalMaxPool, ReduceMax, and Min by negation, made of maxima of several numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bourn_check.network import PiecewiseLinear, Sum
from bourn_check.nodes.maximum import Maximum
from bourn_check.readers.onnx_affine import over_axes, windows
from bourn_check.readers.onnx_reading import Array, Node, Reader, Rules

_MOST = 16
"""Inputs of one maximum; of more a tree would be made, which is not read."""


def _greatest(reader: Reader, node: Node, index: Array, shape: Sequence[int]) -> None:
    """Of entries of the input, by flat number (n, k)."""
    if not 0 < index.shape[1] <= _MOST or (index < 0).any():
        raise reader.fail(f"a maximum of {index.shape[1]} numbers, or one beside padding; up to {_MOST} without are read")
    entries = [node.move(column.reshape(shape)) for column in index.T]
    reader.add(Maximum(len(entries)), entries, shape, node.outputs[0])


def _pool(reader: Reader, node: Node) -> None:
    found, kernel = windows(node, node.ints("kernel_shape") or ()), node.ints("kernel_shape") or ()
    shape = (1, *found.shape[: 1 + len(kernel)])
    _greatest(reader, node, found.reshape(math.prod(shape), -1), shape)


def _reduced(reader: Reader, node: Node) -> None:
    index, shape = over_axes(reader, node, node.op_type == "GlobalMaxPool")
    _greatest(reader, node, index, shape)


def _extreme(reader: Reader, node: Node) -> None:
    """Max, and Min as minus the part ``greatest``; with one number it is piecewise linear."""
    sign, output = (1 if node.op_type == "Max" else -1), node.outputs[0]
    names = list(dict.fromkeys(n for n in node.inputs if n not in reader.constants))
    constants = [node.weights(i).ravel() for i in range(len(node.inputs)) if node.is_constant(i)]
    if constants:
        levels = np.unique(np.concatenate(constants))
        if len(levels) != 1 or len(names) != 1:
            raise reader.fail("beside constants other than one number it is not read")
        level, line = float(levels[0]), (1.0, 0.0)
        pieces = ((0.0, level), line) if sign > 0 else (line, (0.0, level))
        reader.add(PiecewiseLinear((level,), pieces), names, reader.shapes[names[0]], output)
        return
    shape = tuple(np.broadcast_shapes(*(reader.shapes[n] for n in names)))
    wide = [reader.wide(n, shape) for n in names]
    if sign > 0:
        reader.add(Maximum(len(wide)), wide, shape, output)
        return
    turned = [reader.add(Sum((-1,)), [n], shape) for n in wide]
    reader.add(Sum((-1,)), [reader.add(Maximum(len(wide)), turned, shape, f"{output}.greatest")], shape, output)


RULES: Rules = {
    **dict.fromkeys(("Max", "Min"), _extreme),
    **dict.fromkeys(("GlobalMaxPool", "ReduceMax"), _reduced),
    "MaxPool": _pool,
}
