"""ONNX operators that only move numbers: each is one NumPy operation, run on indices or on constants."""

from __future__ import annotations

import math

import numpy as np

from bourn.errors import NetworkError
from bourn.formats.onnx_constants import Array, Constant
from bourn.formats.onnx_reading import Shape, Use, Value, moved, rule, select
from bourn.network import affine


@rule("Identity")
def _identity(use: Use) -> Value:
    return moved(use, use.value(0), lambda x: x)


@rule("Dropout")
def _dropout(use: Use) -> Value:
    use.attribute("ratio")
    use.attribute("seed")
    use.constant(1)
    training = use.constant(2)
    if training is not None and training.array.any():
        raise use.refuse("it drops at random in training mode")
    return moved(use, use.value(0), lambda x: x)


@rule("Reshape")
def _reshape(use: Use) -> Value:
    value, wanted = use.value(0), use.integers(1)
    if wanted is None:
        raise NetworkError("its shape is missing")
    shape = use.shape(value)
    copies = not use.attribute("allowzero", 0)
    filled = tuple(shape[axis] if size == 0 and copies else size for axis, size in enumerate(wanted))
    return moved(use, value, lambda x: x.reshape(filled))


@rule("Flatten")
def _flatten(use: Use) -> Value:
    value = use.value(0)
    shape = use.shape(value)
    axis = use.attribute("axis", 1)
    axis += len(shape) if axis < 0 else 0
    return moved(use, value, lambda x: x.reshape(math.prod(shape[:axis]), math.prod(shape[axis:])))


@rule("Squeeze")
def _squeeze(use: Use) -> Value:
    axes = use.setting("axes", 1, since=13)
    return moved(use, use.value(0), lambda x: x.squeeze(axes))


@rule("Unsqueeze")
def _unsqueeze(use: Use) -> Value:
    axes = use.setting("axes", 1, since=13)
    if axes is None:
        raise NetworkError("its axes are missing")
    return moved(use, use.value(0), lambda x: np.expand_dims(x, axes))


@rule("Transpose")
def _transpose(use: Use) -> Value:
    order = use.attribute("perm")
    return moved(use, use.value(0), lambda x: x.transpose(order))


@rule("Expand")
def _expand(use: Use) -> Value:
    value, wanted = use.value(0), use.integers(1)
    if wanted is None:
        raise NetworkError("its shape is missing")
    shape = np.broadcast_shapes(use.shape(value), wanted)
    return moved(use, value, lambda x: np.broadcast_to(x, shape))


@rule("Tile")
def _tile(use: Use) -> Value:
    repeats = use.integers(1)
    if repeats is None:
        raise NetworkError("its repeats are missing")
    return moved(use, use.value(0), lambda x: np.tile(x, repeats))


@rule("Gather")
def _gather(use: Use) -> Value:
    indices, axis = _indices(use), use.attribute("axis", 0)
    return moved(use, use.value(0), lambda x: np.take(x, indices, axis=axis))


@rule("GatherElements")
def _gather_elements(use: Use) -> Value:
    indices, axis = _indices(use), use.attribute("axis", 0)
    # Along other axes the indices may be fewer than the entries, which NumPy would repeat or refuse.
    reached = [slice(size) for size in indices.shape]
    reached[axis] = slice(None)
    return moved(use, use.value(0), lambda x: np.take_along_axis(x[tuple(reached)], indices, axis=axis))


def _indices(use: Use) -> Array:
    constant = use.constant(1)
    if constant is None or not constant.integral:
        raise NetworkError("its indices must be integers")
    return constant.array


@rule("Slice")
def _slice(use: Use) -> Value:
    value = use.value(0)
    starts, ends = use.setting("starts", 1, since=10), use.setting("ends", 2, since=10)
    if starts is None or ends is None:
        raise NetworkError("its starts and ends are missing")
    axes = use.setting("axes", 3, since=10) or tuple(range(len(starts)))
    steps = (use.integers(4) if use.opset >= 10 else None) or (1,) * len(starts)
    slices = [slice(None)] * len(use.shape(value))
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        slices[axis] = slice(start, end, step)
    return moved(use, value, lambda x: x[tuple(slices)])


@rule("Split")
def _split(use: Use) -> tuple[Value, ...]:
    value, axis = use.value(0), use.attribute("axis", 0)
    whole = use.shape(value)[axis]
    count = use.attribute("num_outputs", len(use.outputs))
    sizes = use.setting("split", 1, since=13)
    if sizes is None:
        each = -(-whole // count)
        sizes = (*(each,) * (count - 1), whole - each * (count - 1))
    if sum(sizes) != whole or min(sizes) < 0 or len(sizes) < len(use.outputs):
        raise NetworkError(f"it splits {whole} entries into {sizes}")
    ends = np.cumsum(sizes)[:-1]
    return tuple(
        moved(use, value, lambda x, part=part: np.split(x, ends, axis=axis)[part], output=part)  # type: ignore[misc]
        for part in range(len(use.outputs))
    )


@rule("DepthToSpace")
def _depth_to_space(use: Use) -> Value:
    value, block = use.value(0), use.attribute("blocksize")
    n, c, h, w = use.shape(value)
    depth = c // block**2
    inside, order = _blocks(
        use, (n, block, block, depth, h, w), (n, depth, block, block, h, w), (0, 3, 4, 1, 5, 2), (0, 1, 4, 2, 5, 3)
    )
    return moved(use, value, lambda x: x.reshape(inside).transpose(order).reshape(n, depth, h * block, w * block))


@rule("SpaceToDepth")
def _space_to_depth(use: Use) -> Value:
    value, block = use.value(0), use.attribute("blocksize")
    n, c, h, w = use.shape(value)
    split = (n, c, h // block, block, w // block, block)
    inside, order = _blocks(use, split, split, (0, 3, 5, 1, 2, 4), (0, 1, 3, 5, 2, 4))
    return moved(use, value, lambda x: x.reshape(inside).transpose(order).reshape(n, c * block**2, h // block, w // block))


def _blocks(use: Use, depth_first: Shape, column_first: Shape, depth_order: Shape, column_order: Shape) -> tuple[Shape, Shape]:
    """The six axes of the blocks and their order, by the node's mode: depth-column-row or column-row-depth."""
    mode = use.attribute("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise NetworkError(f"its mode {mode!r} is unknown")
    return (depth_first, depth_order) if mode == "DCR" else (column_first, column_order)


@rule("Concat")
def _concat(use: Use) -> Value:
    values = [use.value(i) for i in range(len(use.inputs))]
    constants = [v for v in values if isinstance(v, Constant)]
    axis = use.attribute("axis", 1)
    if len(constants) == len(values):
        return Constant(np.concatenate([c.array for c in constants], axis=axis), max(c.error for c in constants))
    numbers = [use.activation(v) for v in values]
    shapes = tuple(use.shape(n) for n in numbers)
    axis += len(shapes[0]) if axis < 0 else 0
    if len({(*s[:axis], *s[axis + 1 :]) for s in shapes}) > 1:
        raise NetworkError(f"it joins shapes {shapes} along axis {axis}")
    joined = sum(s[axis] for s in shapes)
    out_shape = (*shapes[0][:axis], joined, *shapes[0][axis + 1 :])
    return use.emit(affine.Concat(in_shapes=shapes, out_shape=out_shape, axis=axis), *numbers)


@rule("Pad")
def _pad(use: Use) -> Value:
    value, pads = use.value(0), use.setting("pads", 1, since=11)
    if pads is None:
        raise NetworkError("its pads are missing")
    fill = use.constant(2) if use.opset >= 11 else Constant(np.array(use.attribute("value", 0.0)))
    axes = use.integers(3) if use.opset >= 18 else None
    mode = use.attribute("mode", "constant")
    widths = _pad_widths(len(use.shape(value)), pads, axes)
    if mode != "constant":
        return moved(use, value, lambda x: padded(x, widths, mode))
    if fill is not None and fill.error:
        raise use.refuse("its value is computed and cannot be held exactly")
    number = 0.0 if fill is None else fill.array.item()
    if isinstance(value, Constant):
        return Constant(padded(value.array, widths, mode, number), value.error)
    shape = use.shape(value)
    index = np.arange(math.prod(shape)).reshape(shape)
    return select(use, value, padded(index, widths, mode, -1), fill=float(number))


def _pad_widths(rank: int, pads: Shape, axes: Shape | None) -> list[tuple[int, int]]:
    axes = tuple(range(rank)) if axes is None else axes
    if len(pads) != 2 * len(axes):
        raise NetworkError(f"it has {len(pads)} pads for {len(axes)} axes")
    widths = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        widths[axis] = (pads[position], pads[position + len(axes)])
    return widths


def padded(x: Array, widths: list[tuple[int, int]], mode: str = "constant", fill: float = 0) -> Array:
    """The array with every axis extended before and after; negative widths cut."""
    cut = x[tuple(slice(max(-before, 0), size - max(-after, 0)) for size, (before, after) in zip(x.shape, widths, strict=True))]
    positive = [(max(before, 0), max(after, 0)) for before, after in widths]
    if mode == "constant":
        return np.pad(cut, positive, constant_values=fill)
    if mode not in ("reflect", "edge", "wrap"):
        raise NetworkError(f"its mode {mode!r} is unknown")
    return np.pad(cut, positive, mode=mode)  # type: ignore[call-overload, no-any-return]
