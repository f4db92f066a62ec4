"""ONNX's Softmax and LogSoftmax, as compositions without a product."""

from __future__ import annotations

import math

import numpy as np
import torch

from bourn.errors import NetworkError
from bourn.formats.onnx_arithmetic import add, reduce
from bourn.formats.onnx_constants import Array, Constant
from bourn.formats.onnx_products import activation_product
from bourn.formats.onnx_reading import Use, Value, broadcast, rule, select
from bourn.network import affine
from bourn.relaxations.exp import Exp
from bourn.relaxations.log import Log
from bourn.relaxations.reciprocal import Reciprocal
from bourn.relaxations.sigmoid import Sigmoid
from bourn.relaxations.softplus import Softplus

LONGEST = 64
"""The most entries for which every one is compared with every other: n (n - 1) exponentials."""


@rule("Softmax")
def _softmax(use: Use) -> Value:
    """softmax_i = 1 / (1 + sum of exp(z_j - z_i) over the others): one product less than by its definition, and tighter."""
    number, rows = use.activation(use.value(0)), _rows(use)
    shape, length = use.shape(number), rows.shape[1]
    if length == 1:
        return Constant(np.ones(shape))
    if length > LONGEST:
        powers = use.emit(Exp(), select(use, number, rows, part="rows"), part="exponentials")
        total = reduce(use, powers, (1,), keepdims=True, mean=False, part="sum")
        share = use.emit(Reciprocal(), use.activation(total), part="reciprocal")
        return _in_place(use, activation_product(use, powers, share, part="shares"), rows, shape)
    if length == 2:
        shares = use.emit(Sigmoid(), _differences(use, number, rows[:, ::-1], rows, "ahead"), part="shares")
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
    if length > LONGEST:
        powers = use.emit(Exp(), select(use, number, rows, part="rows"), part="exponentials")
        total = use.activation(reduce(use, powers, (1,), keepdims=True, mean=False, part="sum"))
        level = broadcast(use, use.emit(Log(), total, part="log"), rows.shape)
        logs = add(use, [select(use, number, rows, part="rows"), level], [1, -1], part="logs")
    else:
        if length == 2:
            behind = use.emit(Softplus(), _differences(use, number, rows, rows[:, ::-1], "behind"), part="behind")
        else:
            behind = use.emit(Log(), _one_and_others(use, number, rows), part="behind")
        logs = add(use, [behind], [-1], part="logs")
    return _in_place(use, use.activation(logs), rows, shape)


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


def _in_place(use: Use, number: int, rows: Array, shape: tuple[int, ...]) -> int:
    """The results, row by row, put back to where their arguments stand."""
    place = np.empty(rows.size, dtype=np.int64)
    place[rows.reshape(-1)] = np.arange(rows.size)
    return select(use, number, place.reshape(shape))


def _differences(use: Use, number: int, others: Array, own: Array, part: str) -> int:
    """Entries ``own`` minus entries ``others``, by flat indices that broadcast."""
    shape = np.broadcast_shapes(own.shape, others.shape)
    pair = [select(use, number, np.broadcast_to(i, shape), part=p) for i, p in ((own, "own"), (others, "others"))]
    return use.emit(affine.Sum(in_shapes=(shape, shape), out_shape=shape, signs=(1, -1)), *pair, part=part)


def _one_and_others(use: Use, number: int, rows: Array) -> int:
    """1 + sum of exp(z_j - z_i) over j other than i, for every i.

    The 1 is a constant and not exp(z_i - z_i), of which interval arithmetic does not know that it is one.
    """
    length = rows.shape[1]
    others = np.array([[j for j in range(length) if j != i] for i in range(length)])
    behind = _differences(use, number, rows[:, :, None], rows[:, others], "behind")
    powers = use.emit(Exp(), behind, part="exponentials")
    total = affine.ReduceSum(
        in_shapes=(use.shape(powers),), out_shape=rows.shape, axes=(2,), bias=torch.ones(1, dtype=torch.float64)
    )
    return use.emit(total, powers, part="sum")
