"""ONNX operators that take the greatest or least of several numbers: Max, Min, max-pools, reductions."""

from __future__ import annotations

import math

import numpy as np

from bourn.errors import NetworkError
from bourn.formats.onnx_arithmetic import add, reduced_axes, reduced_index
from bourn.formats.onnx_constants import Array, Constant
from bourn.formats.onnx_moves import padded
from bourn.formats.onnx_reading import Shape, Use, Value, assembled, broadcast, rule, select
from bourn.formats.onnx_windows import Window, sliding_window
from bourn.network.pick import pick
from bourn.relaxations.clip import Clip
from bourn.relaxations.maximum import Maximum
from bourn.relaxations.relu import ReLU

ARITY = 16
"""The most inputs of one maximum."""


def greatest(use: Use, number: int, index: Array, part: str = "") -> int:
    """The greatest of some entries of a node: ``index`` (*out, K) holds flat indices, -1 for none.

    Where the counts differ from entry to entry each count has a maximum of its own: repeating an entry would give the same
    function, but the hull takes every input for a variable of its own.
    """
    counts = (index >= 0).sum(-1)
    if not counts.size or counts.min() == 0:
        raise use.refuse("it takes the greatest of no entries at all")
    order = np.argsort(index < 0, axis=-1, kind="stable")
    index = np.take_along_axis(index, order, axis=-1)
    sizes = np.unique(counts)
    if len(sizes) == 1:
        return _greatest_of_all(use, number, index[..., : sizes[0]], part)
    parts = [(counts == k, _greatest_of_all(use, number, index[counts == k][:, :k], f"of{k}")) for k in sizes]
    return assembled(use, parts, part)


def _greatest_of_all(use: Use, number: int, index: Array, part: str) -> int:
    """The greatest of K entries each.  Beyond :data:`ARITY` a tree of maxima, whose relaxation is weaker than one hull."""
    *out, count = index.shape
    if count > ARITY:
        groups = -(-count // ARITY)
        each = -(-count // groups)
        grouped = padded(index, [(0, 0)] * len(out) + [(0, groups * each - count)], fill=-1)
        number = greatest(use, number, grouped.reshape(*out, groups, each), "groups")
        return greatest(use, number, np.arange(math.prod(out) * groups).reshape(*out, groups), part)
    if count == 1:
        return select(use, number, index[..., 0], part=part)
    entries = [select(use, number, index[..., k], part=f"entry{k}") for k in range(count)]
    return use.emit(Maximum(), *entries, part=part)


def negative(use: Use, value: Value, part: str = "") -> Value:
    """Minus the value."""
    return add(use, [value], [-1], part=part)


@rule("Max")
def _max(use: Use) -> Value:
    return _extreme(use, 1)


@rule("Min")
def _min(use: Use) -> Value:
    return _extreme(use, -1)


def _extreme(use: Use, sign: int) -> Value:
    """The greatest (sign 1) or least (-1) of the inputs, broadcast."""
    values = [use.value(i) for i in range(len(use.inputs))]
    shape = np.broadcast_shapes(*(use.shape(v) for v in values))
    constants = [v for v in values if isinstance(v, Constant)]
    # A node that is given twice counts once: to the hull it would be two variables.
    numbers = list(dict.fromkeys(v for v in values if isinstance(v, int)))
    constant = _extreme_constant(use, constants, sign)
    if not numbers:
        assert constant is not None
        return constant
    spread = [use.activation(broadcast(use, v, shape)) for v in numbers]
    if constant is not None and len(spread) == 1:
        return _against_constant(use, spread[0], constant, sign)
    if constant is not None:
        spread.append(use.activation(broadcast(use, constant, shape)))
    if len(spread) == 1:
        return select(use, spread[0], np.arange(math.prod(shape)).reshape(shape))
    if sign > 0:
        return use.emit(Maximum(), *spread)
    return negative(use, use.emit(Maximum(), *(use.activation(negative(use, v, "negative")) for v in spread), part="greatest"))


def _extreme_constant(use: Use, constants: list[Constant], sign: int) -> Constant | None:
    if len(constants) < 2:
        return constants[0] if constants else None
    if any(c.error for c in constants):
        raise use.refuse("it compares constants that are computed and cannot be held exactly")
    found = constants[0].floats
    for other in constants[1:]:
        found = np.maximum(found, other.floats) if sign > 0 else np.minimum(found, other.floats)
    return Constant(found)


def _against_constant(use: Use, x: int, constant: Constant, sign: int) -> Value:
    """max(x, c) = c + relu(x - c) or min(x, c) = c - relu(c - x): one hull, in real arithmetic nothing rounds.  Where all of
    c are one number it is a clip."""
    levels = np.unique(constant.floats)
    if len(levels) == 1 and not constant.error and np.isfinite(levels[0]):
        level = float(levels[0])
        if sign < 0:
            return use.emit(Clip(high=level), x)
        return use.emit(ReLU() if level == 0 else Clip(low=level), x)
    over = add(use, [x, constant], [sign, -sign], part="over")
    return add(use, [constant, use.emit(ReLU(), use.activation(over), part="excess")], [1, sign])


@rule("ReduceMax")
def _reduce_max(use: Use) -> Value:
    return _reduced(use, use.activation(use.value(0)))


@rule("ReduceMin")
def _reduce_min(use: Use) -> Value:
    least = _reduced(use, use.activation(negative(use, use.value(0), "negative")), part="greatest")
    return negative(use, least)


def _reduced(use: Use, number: int, part: str = "") -> int:
    axes, keepdims = reduced_axes(use, since=18)
    shape = use.shape(number)
    if axes is None:
        return select(use, number, np.arange(math.prod(shape)).reshape(shape), part=part)
    return greatest_over(use, number, axes, keepdims, part)


def greatest_over(use: Use, number: int, axes: Shape, keepdims: bool, part: str = "") -> int:
    """The greatest entry over axes."""
    return greatest(use, number, reduced_index(use.shape(number), axes, keepdims)[0], part)


@rule("GlobalMaxPool")
def _global_max_pool(use: Use) -> Value:
    number = use.activation(use.value(0))
    return greatest_over(use, number, tuple(range(2, len(use.shape(number)))), keepdims=True)


@rule("MaxPool")
def _max_pool(use: Use) -> Value:
    """The greatest over a window, one input of a maximum for every position in it."""
    use.attribute("storage_order")
    x = use.activation(use.value(0))
    shape, kernel = use.shape(x), use.attribute("kernel_shape")
    if kernel is None:
        raise NetworkError("its kernel_shape is missing")
    window = sliding_window(use, shape[2:], tuple(kernel))
    index = _positions(shape, window)
    # What moves alike all over an image is written as convolutions, so that receptive fields see through it.
    if len(kernel) == 2 and 1 < math.prod(kernel) <= ARITY and not (index < 0).any():
        return use.emit(Maximum(), *_picked(use, x, window))
    return greatest(use, x, index)


def _positions(shape: Shape, window: Window) -> Array:
    """Flat indices of the entries under the window, (*out, K), -1 in the padding."""
    index = np.arange(math.prod(shape)).reshape(shape)
    sides = [(b, a + o) for b, a, o in zip(window.before, window.after, window.overhang, strict=True)]
    index = padded(index, [(0, 0), (0, 0), *sides], fill=-1)
    found = []
    for place in np.ndindex(*window.kernel):
        starts = [k * d for k, d in zip(place, window.dilation, strict=True)]
        over = [slice(s, s + (n - 1) * t + 1, t) for s, n, t in zip(starts, window.out, window.stride, strict=True)]
        found.append(index[(slice(None), slice(None), *over)])
    return np.stack(found, axis=-1)


def _picked(use: Use, x: int, window: Window) -> list[int]:
    """One convolution for every place in the window, which picks the entry there."""
    shape = use.shape(x)
    out = (*shape[:2], *window.out)
    places = enumerate(np.ndindex(*window.kernel))
    return [use.emit(pick(shape, out, window.kernel, t, window.stride, window.dilation), x, part=f"entry{k}") for k, t in places]
