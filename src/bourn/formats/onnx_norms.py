"""ONNX's normalisation layers at inference: means are affine, a variance is a mean of squares."""

from __future__ import annotations

import math

import numpy as np

from bourn.errors import NetworkError
from bourn.formats.onnx_arithmetic import add, real, reduce, scale
from bourn.formats.onnx_constants import Constant
from bourn.formats.onnx_products import activation_product
from bourn.formats.onnx_reading import Shape, Use, Value, moved, rule
from bourn.relaxations.absolute import Absolute
from bourn.relaxations.power import Power
from bourn.relaxations.reciprocal import Reciprocal
from bourn.relaxations.sqrt import Sqrt


def normalised(use: Use, value: Value, axes: Shape, *, centred: bool = True) -> tuple[Value, Value, Value]:
    """(x - mean) / sqrt(variance + epsilon) over axes, the mean, and the root's reciprocal; nothing is subtracted where not
    ``centred``."""
    x = use.activation(value)
    mean: Value = real(0)
    epsilon = real(use.attribute("epsilon", float(np.float32(1e-5))))
    use.attribute("stash_type")
    if centred:
        mean = reduce(use, x, axes, keepdims=True, mean=True, part="mean")
        x = use.activation(add(use, [x, mean], [1, -1], part="centred"))
    variance = reduce(use, use.emit(Power(2), x, part="squares"), axes, keepdims=True, mean=True, part="variance")
    deviation = use.emit(Sqrt(), use.activation(add(use, [variance, epsilon], [1, 1], part="safe")), part="deviation")
    inverse = use.emit(Reciprocal(), deviation, part="inverse")
    return activation_product(use, x, inverse, part="normalised"), mean, inverse


def _affine(use: Use, value: Value, gain: Constant | None, bias: Constant | None) -> Value:
    """The value times a gain plus a bias, named as the node's output."""
    if gain is None and bias is None:
        return moved(use, value, lambda x: x)
    if gain is not None:
        value = scale(use, value, gain, part="" if bias is None else "scaled")
    return value if bias is None else add(use, [value, bias], [1, 1])


def _last_axes(use: Use, default: int) -> Shape:
    rank = len(use.shape(use.value(0)))
    axis = use.attribute("axis", default)
    return tuple(range(axis + rank if axis < 0 else axis, rank))


@rule("LayerNormalization")
def _layer_normalization(use: Use) -> tuple[Value, ...]:
    found, mean, inverse = normalised(use, use.value(0), _last_axes(use, -1))
    return _affine(use, found, use.constant(1), use.constant(2)), mean, inverse


@rule("RMSNormalization")
def _rms_normalization(use: Use) -> Value:
    return _affine(use, normalised(use, use.value(0), _last_axes(use, -1), centred=False)[0], use.constant(1), None)


def _over_channels(constant: Constant | None, rank: int) -> Constant | None:
    return None if constant is None else Constant(constant.array.reshape(-1, *(1,) * (rank - 2)), constant.error)


@rule("InstanceNormalization")
def _instance_normalization(use: Use) -> Value:
    value = use.value(0)
    rank = len(use.shape(value))
    if rank < 3:
        raise NetworkError(f"its input of shape {use.shape(value)} has no spatial axes")
    found = normalised(use, value, tuple(range(2, rank)))[0]
    return _affine(use, found, _over_channels(use.constant(1), rank), _over_channels(use.constant(2), rank))


@rule("GroupNormalization")
def _group_normalization(use: Use) -> Value:
    value, groups = use.value(0), use.attribute("num_groups")
    shape = use.shape(value)
    if len(shape) < 2 or not groups or shape[1] % groups:
        raise NetworkError(f"{groups} groups do not fit the input's shape {shape}")
    grouped = moved(use, value, lambda x: x.reshape(shape[0], groups, math.prod(shape[1:]) // groups), part="grouped")
    found = moved(use, normalised(use, grouped, (2,))[0], lambda x: x.reshape(shape), part="back")
    gain, bias = (_each(c, groups, shape[1]) for c in (use.constant(1), use.constant(2)))
    return _affine(use, found, _over_channels(gain, len(shape)), _over_channels(bias, len(shape)))


def _each(constant: Constant | None, groups: int, channels: int) -> Constant | None:
    """One number a channel; before opset 21 it is one a group."""
    if constant is None or constant.array.size == channels:
        return constant
    return Constant(np.repeat(constant.array.reshape(groups), channels // groups), constant.error)


@rule("LpNormalization")
def _lp_normalization(use: Use) -> Value:
    """x / |x| along an axis, in the norm 1 or 2."""
    x, axis, order = use.activation(use.value(0)), use.attribute("axis", -1), use.attribute("p", 2)
    if order not in (1, 2):
        raise use.refuse(f"p is {order}; 1 and 2 are read")
    axis += len(use.shape(x)) if axis < 0 else 0
    sizes = use.emit(Absolute() if order == 1 else Power(2), x, part="sizes")
    norm = use.activation(reduce(use, sizes, (axis,), keepdims=True, mean=False, part="norm" if order == 1 else "squares"))
    if order == 2:
        norm = use.emit(Sqrt(), norm, part="norm")
    return activation_product(use, x, use.emit(Reciprocal(), norm, part="inverse"))
