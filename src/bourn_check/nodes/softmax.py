"""Softmax: 1 / (1 + sum of exp(z_j - z_i) over the others), of the parts ``exponentials`` and ``shares``."""

from __future__ import annotations

import numpy as np

from bourn_check.network import Sum
from bourn_check.nodes.exponentials import EXP
from bourn_check.nodes.powers import RECIPROCAL
from bourn_check.nodes.sigmoids import SIGMOID
from bourn_check.readers.onnx_reading import Node, Reader, Rules

_LONGEST, _MOST = 64, 2**16
"""Entries of a row, and exponentials in all."""


def _softmax(reader: Reader, node: Node) -> None:
    """Up to operator set 12 all axes from the stated one on are one.  Of two shares p is a sigmoid, and the other 1 - p."""
    index, output = node.index(), node.outputs[0]
    axis = int(node.attribute("axis", -1 if node.opset >= 13 else 1)) % index.ndim
    rows = np.moveaxis(index, axis, -1)
    rows = rows.reshape(-1, rows.shape[-1]) if node.opset >= 13 else index.reshape(int(np.prod(index.shape[:axis])), -1)
    count, length = rows.shape
    if not 1 < length <= _LONGEST or count * length * (length - 1) > _MOST:
        raise reader.fail(f"rows of {length} entries, {count} of them, are not read")
    others = np.array([[j for j in range(length) if j != i] for i in range(length)])
    place = np.argsort(rows.ravel())
    shares = f"{output}.shares" if (place != np.arange(len(place))).any() else output
    if length == 2:
        share = reader.add(SIGMOID, [_differences(reader, node, rows[:, :1], rows[:, 1:])], (count, 1), f"{output}.sigmoid")
        both = reader.linear(share, np.array([[[1.0, -1.0]]]), (count, 2))
        shares = reader.shift(both, np.array([0.0, 1.0]), f"{output}.both")
    else:
        ahead = _differences(reader, node, rows[:, others], rows[:, :, None])
        powers = reader.add(EXP, [ahead], reader.shapes[ahead], f"{output}.exponentials")
        total = reader.shift(reader.linear(powers, np.ones((1, length - 1, 1)), rows.shape), np.ones(1), f"{output}.sum")
        reader.add(RECIPROCAL, [total], rows.shape, shares)
    if shares != output:
        reader.move(place.reshape(index.shape), shares, output)
    else:
        reader.shapes[output] = index.shape


def _differences(reader: Reader, node: Node, first: np.ndarray, second: np.ndarray) -> str:
    shape = np.broadcast_shapes(first.shape, second.shape)
    pair = [node.move(np.broadcast_to(index, shape)) for index in (first, second)]
    return reader.add(Sum((1, -1)), pair, shape)


RULES: Rules = {"Softmax": _softmax}
