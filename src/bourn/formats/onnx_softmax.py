"""ONNX's Softmax, LogSoftmax and ReduceLogSumExp.

Every sum of exponentials is taken relative to one of its terms, so that it is 1 + something: then a linear bound of it can be
kept off 0, where the logarithm and the reciprocal end.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from bourn.errors import NetworkError
from bourn.formats.onnx_arithmetic import add, reduced_axes, reduced_index
from bourn.formats.onnx_constants import Array, Constant
from bourn.formats.onnx_products import activation_product
from bourn.formats.onnx_reading import Use, Value, moved, rule, select
from bourn.network import affine
from bourn.relaxations.exp import Exp
from bourn.relaxations.log import Log
from bourn.relaxations.reciprocal import Reciprocal
from bourn.relaxations.sigmoid import Sigmoid
from bourn.relaxations.softplus import Softplus

LONGEST, MOST = 64, 2**16
"""The most entries of a row, and the most exponentials of a node, for which every entry is compared with every other."""


@rule("Softmax")
def _softmax(use: Use) -> Value:
    """softmax_i = 1 / (1 + sum of exp(z_j - z_i) over the others): one product less than by its definition, and tighter."""
    number, rows = use.activation(use.value(0)), _rows(use)
    shape, length = use.shape(number), rows.shape[1]
    if length == 1:
        return Constant(np.ones(shape))
    if _too_many(rows):
        ahead, total = _from_first(use, number, rows)
        share = use.emit(Reciprocal(), total, part="reciprocal")
        return _in_place(use, activation_product(use, use.emit(Exp(), ahead), share, part="shares"), rows, shape)
    if length == 2:
        shares = _share_and_rest(use, use.emit(Sigmoid(), _differences(use, number, rows[:, :1], rows[:, 1:], "ahead")))
    else:
        shares = use.emit(Reciprocal(), _one_and_others(use, number, rows), part="shares")
    return _in_place(use, shares, rows, shape)


@rule("LogSoftmax")
def _log_softmax(use: Use) -> Value:
    """-log(1 + sum of exp(z_j - z_i) over the others)."""
    number, rows = use.activation(use.value(0)), _rows(use)
    shape, length = use.shape(number), rows.shape[1]
    if length == 1:
        return Constant(np.zeros(shape))
    if _too_many(rows):
        ahead, total = _from_first(use, number, rows)
        logs = add(use, [ahead, use.emit(Log(), total, part="log")], [1, -1], part="logs")
    else:
        if length == 2:
            behind = use.emit(Softplus(), _differences(use, number, rows[:, ::-1], rows, "behind"), part="behind")
        else:
            behind = use.emit(Log(), _one_and_others(use, number, rows), part="behind")
        logs = add(use, [behind], [-1], part="logs")
    return _in_place(use, use.activation(logs), rows, shape)


@rule("ReduceLogSumExp")
def _reduce_log_sum_exp(use: Use) -> Value:
    """z_1 + log(1 + sum of exp(z_j - z_1) over the others)."""
    number = use.activation(use.value(0))
    axes, keepdims = reduced_axes(use, since=18)
    if axes is None:
        raise use.refuse("it reduces over no axes")
    index, out = reduced_index(use.shape(number), axes, keepdims)
    rows = index.reshape(-1, index.shape[-1])
    first = select(use, number, index[..., 0], part="first")
    if rows.shape[1] == 1:
        return first
    if rows.shape[1] == 2:
        over = use.emit(Softplus(), _differences(use, number, rows[:, 1:], rows[:, :1], "ahead"), part="over")
    else:
        over = use.emit(Log(), _from_first(use, number, rows)[1], part="over")
    level = moved(use, over, lambda x: x.reshape(out), part="level")
    return add(use, [first, level], [1, 1])


def _from_first(use: Use, number: int, rows: Array) -> tuple[int, int]:
    """Every entry of a row minus the row's first, and the sum of the exponentials of these, (rows, 1)."""
    ahead = _differences(use, number, rows, rows[:, :1], "ahead")
    others = select(use, ahead, np.arange(rows.size).reshape(rows.shape)[:, 1:], part="others")
    return ahead, _one_and(use, use.emit(Exp(), others, part="exponentials"), (len(rows), 1))


def _rows(use: Use) -> Array:
    """Flat indices of the input, one row for every distribution: up to opset 12 all axes from the stated one on are one."""
    shape = use.shape(use.value(0))
    index = np.arange(math.prod(shape)).reshape(shape)
    if not shape:
        raise NetworkError("its input is a scalar, which has no axis")
    axis = use.attribute("axis", -1 if use.opset >= 13 else 1)
    axis += len(shape) if axis < 0 else 0
    if use.opset < 13:
        return index.reshape(math.prod(shape[:axis]), math.prod(shape[axis:]))
    return np.moveaxis(index, axis, -1).reshape(-1, shape[axis])


def _share_and_rest(use: Use, share: int) -> int:
    """(p, 1 - p) for every p: of two shares one is a variable, so that their sum is known to be 1."""
    weight, bias = torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    shape = use.shape(share)
    operation = affine.Dense(in_shapes=(shape,), out_shape=(*shape[:-1], 2), weight=weight, bias=bias)
    return use.emit(operation, share, part="shares")


def _too_many(rows: Array) -> bool:
    count, length = rows.shape
    return bool(length > LONGEST or count * length * (length - 1) > MOST)


def _in_place(use: Use, number: int, rows: Array, shape: tuple[int, ...]) -> int:
    """The results, row by row, put back to where their arguments stand."""
    place = np.empty(rows.size, dtype=np.int64)
    place[rows.reshape(-1)] = np.arange(rows.size)
    return select(use, number, place.reshape(shape))


def _differences(use: Use, number: int, first: Array, second: Array, part: str) -> int:
    """Entries minus other entries, by flat indices that broadcast."""
    shape = np.broadcast_shapes(first.shape, second.shape)
    pair = [select(use, number, np.broadcast_to(i, shape), part=p) for i, p in ((first, "these"), (second, "those"))]
    return use.emit(affine.Sum(in_shapes=(shape, shape), out_shape=shape, signs=(1, -1)), *pair, part=part)


def _one_and_others(use: Use, number: int, rows: Array) -> int:
    """1 + sum of exp(z_j - z_i) over j other than i, for every i.

    The 1 is a constant and not exp(z_i - z_i), of which interval arithmetic does not know that it is one.
    """
    length = rows.shape[1]
    others = np.array([[j for j in range(length) if j != i] for i in range(length)])
    ahead = _differences(use, number, rows[:, others], rows[:, :, None], "ahead")
    return _one_and(use, use.emit(Exp(), ahead, part="exponentials"), rows.shape)


def _one_and(use: Use, powers: int, shape: tuple[int, ...]) -> int:
    """1 and the sum over the last axis."""
    before = use.shape(powers)
    one = torch.ones(1, dtype=torch.float64)
    total = affine.ReduceSum(in_shapes=(before,), out_shape=shape, axes=(len(before) - 1,), bias=one)
    return use.emit(total, powers, part="sum")
