"""ONNX operators that compare and choose: truth values are the numbers 0 and 1.

Every comparison is a step of a difference, and a choice between a and b by a truth value c is b + c (a - b).  Both hold in real
arithmetic, which knows of no NaN and no overflow.  A comparison of a computed value that comes out equal in real arithmetic may
not do so in floats; what is said of the network is said of real arithmetic here as everywhere.
"""

from __future__ import annotations

import math

import numpy as np

from bourn.formats import onnx_constants as constants
from bourn.formats.onnx_arithmetic import add, real, scale
from bourn.formats.onnx_constants import Array, Constant
from bourn.formats.onnx_products import activation_product
from bourn.formats.onnx_reading import Use, Value, broadcast, rule, select
from bourn.relaxations.clip import Clip
from bourn.relaxations.maximum import Maximum
from bourn.relaxations.step import Step


@rule("Greater")
def _greater(use: Use) -> Value:
    return _above(use, _number(use, 0), _number(use, 1), equal=False)


@rule("GreaterOrEqual")
def _greater_or_equal(use: Use) -> Value:
    return _above(use, _number(use, 0), _number(use, 1), equal=True)


@rule("Less")
def _less(use: Use) -> Value:
    return _above(use, _number(use, 1), _number(use, 0), equal=False)


@rule("LessOrEqual")
def _less_or_equal(use: Use) -> Value:
    return _above(use, _number(use, 1), _number(use, 0), equal=True)


@rule("Equal")
def _equal(use: Use) -> Value:
    return _same(use, _number(use, 0), _number(use, 1))


@rule("Not")
def _not(use: Use) -> Value:
    return opposite(use, _number(use, 0))


@rule("And")
def _and(use: Use) -> Value:
    """Not (not a or not b)."""
    a, b = (opposite(use, _number(use, i), part=f"not{i}") for i in range(2))
    return opposite(use, _either(use, a, b, part="either"))


@rule("Or")
def _or(use: Use) -> Value:
    return _either(use, _number(use, 0), _number(use, 1))


@rule("ThresholdedRelu")
def _thresholded_relu(use: Use) -> Value:
    """x where it is above alpha, 0 elsewhere."""
    x = use.activation(use.value(0))
    return activation_product(use, _above(use, x, real(use.attribute("alpha", 1.0)), equal=False, part="above"), x)


def nonzero(use: Use, value: Value) -> Value:
    """The truth value of "is not 0", which a cast to truth values gives."""
    return opposite(use, _same(use, value, real(0), part="zero"))


def opposite(use: Use, truth: Value, part: str = "") -> Value:
    """Not: 1 - c."""
    return add(use, [real(1), truth], [1, -1], part=part)


def _number(use: Use, position: int) -> Value:
    """An input as numbers, truth values among them."""
    value = use.value(position)
    return Constant(value.floats, value.error) if isinstance(value, Constant) else value


def _above(use: Use, a: Value, b: Value, *, equal: bool, part: str = "") -> int:
    """1 where a is above b or, with ``equal``, not below it, and 0 elsewhere."""
    over = use.activation(add(use, [a, b], [1, -1], part=f"{part or 'over'}.difference"))
    return use.emit(Step(0.0, 1.0 if equal else 0.0, 1.0), over, part=part)


def _same(use: Use, a: Value, b: Value, part: str = "") -> int:
    """1 where a is b: at least as great, and not above."""
    least, above = _above(use, a, b, equal=True, part="least"), _above(use, a, b, equal=False, part="above")
    # The clip changes nothing; without it the relaxations of both steps together could leave [0, 1].
    return use.emit(Clip(0.0, 1.0), use.activation(add(use, [least, above], [1, -1], part="both")), part=part)


def _either(use: Use, a: Value, b: Value, part: str = "") -> int:
    """Or: the greater truth value."""
    shape = np.broadcast_shapes(use.shape(a), use.shape(b))
    return use.emit(Maximum(), *(use.activation(broadcast(use, v, shape)) for v in (a, b)), part=part)


@rule("Where")
def _where(use: Use) -> Value:
    """A choice between two values; with a constant condition it only moves numbers."""
    condition = use.value(0)
    a, b = use.value(1), use.value(2)
    if isinstance(condition, int):
        return _chosen(use, condition, a, b)
    shape = np.broadcast_shapes(condition.array.shape, use.shape(a), use.shape(b))
    chosen = np.broadcast_to(condition.array.astype(bool), shape)
    if isinstance(a, Constant) and isinstance(b, Constant):
        return Constant(np.where(chosen, a.array, b.array), max(a.error, b.error))
    return add(use, [_masked(use, a, chosen, "yes"), _masked(use, b, ~chosen, "no")], [1, 1])


def _chosen(use: Use, condition: int, a: Value, b: Value) -> Value:
    """b + c (a - b); b - c b and c a where one is 0, which fuses where a step of something gates that something."""
    if any(isinstance(v, Constant) and v.array.dtype.kind in "iu" for v in (a, b)):
        # What reads integers may divide them as such.
        raise use.refuse("it chooses among integers by what depends on the network's input")
    a, b = _number(use, 1), _number(use, 2)
    for value in (a, b):
        if isinstance(value, Constant) and not np.isfinite(value.array).all():
            raise use.refuse("it chooses infinity or NaN by what depends on the network's input")
    if isinstance(a, Constant) and isinstance(b, Constant):
        return add(use, [b, scale(use, condition, constants.add(a, b, -1), part="step")], [1, 1])
    if _is_zero(b):
        return activation_product(use, condition, use.activation(a))
    if _is_zero(a):
        gated = activation_product(use, condition, use.activation(b), part="gated")
        return add(use, [b, gated], [1, -1])
    rise = use.activation(add(use, [a, b], [1, -1], part="rise"))
    return add(use, [b, activation_product(use, condition, rise, part="step")], [1, 1])


def _is_zero(value: Value) -> bool:
    return isinstance(value, Constant) and not value.array.any()


def _masked(use: Use, value: Value, kept: Array, part: str) -> Value:
    """The value where ``kept``, 0 elsewhere."""
    if isinstance(value, Constant):
        return Constant(np.where(kept, value.array, 0), value.error)
    shape = use.shape(value)
    index = np.broadcast_to(np.arange(math.prod(shape)).reshape(shape), kept.shape)
    return select(use, value, np.where(kept, index, -1), part=part)
