"""ONNX's Resize and Upsample: every output entry is one input entry, or a mean of neighbours with constant weights."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from bourn.errors import NetworkError
from bourn.formats.onnx_constants import Array
from bourn.formats.onnx_reading import Use, Value, moved, rule
from bourn.network import affine
from bourn.rounding import UNIT

_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@rule("Upsample")
def _upsample(use: Use) -> Value:
    if use.opset >= 10:
        raise use.refuse("the standard has no Upsample from operator set 10 on")
    if use.opset >= 9:
        given = use.constant(1)
        scales = None if given is None else given.floats.reshape(-1)
    else:
        scales = np.array(use.attribute("scales") or (), dtype=np.float64)
    if scales is None or len(scales) != len(use.shape(use.value(0))):
        raise NetworkError("its scales do not fit its input")
    if scales.min() < 1:
        raise use.refuse("a scale is below 1")
    axes = range(len(scales))
    return _resized(use, use.attribute("mode", "nearest"), {a: _by_scale(use, a, s) for a, s in zip(axes, scales, strict=True)})


@rule("Resize")
def _resize(use: Use) -> Value:
    mode = use.attribute("mode", "nearest")
    for name, neutral in (("antialias", 0), ("exclude_outside", 0), ("keep_aspect_ratio_policy", "stretch")):
        if use.attribute(name, neutral) != neutral:
            raise use.refuse(f"{name} is not read")
    use.attribute("cubic_coeff_a")
    use.attribute("extrapolation_value")
    rank = len(use.shape(use.value(0)))
    axes = [a + rank if a < 0 else a for a in use.attribute("axes") or range(rank)]
    scales = use.constant(2 if use.opset >= 11 else 1)
    sizes = use.integers(3) if use.opset >= 11 else None
    if sizes:
        shape = use.shape(use.value(0))
        lengths = {a: (m, Fraction(m, shape[a])) for a, m in zip(axes, sizes, strict=True)}
    elif scales is not None and scales.array.size == len(axes):
        given = zip(axes, scales.floats.reshape(-1), strict=True)
        lengths = {a: _by_scale(use, a, s) for a, s in given}
    else:
        raise NetworkError("it states neither scales nor sizes for all its axes")
    return _resized(use, mode, lengths)


def _by_scale(use: Use, axis: int, scale: float) -> tuple[int, Fraction]:
    """The length of an axis after scaling, and the scale."""
    before = use.shape(use.value(0))[axis]
    if not 0 < scale < math.inf:
        raise NetworkError(f"a scale is {scale}")
    exact = math.floor(before * Fraction(float(scale)))
    if exact != int(np.float32(before) * np.float32(scale)) or exact < 1:
        raise use.refuse(f"the length of {before} entries times {scale} depends on rounding")
    return exact, Fraction(float(scale))


def _resized(use: Use, mode: str, lengths: dict[int, tuple[int, Fraction]]) -> Value:
    """The input with new lengths along some axes, each by its scale."""
    value = use.value(0)
    old = use.op_type == "Upsample" or use.opset < 11
    kind = use.attribute("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    choice = use.attribute("nearest_mode", "floor" if old else "round_prefer_floor")
    if kind not in _COORDINATES:
        raise use.refuse(f"coordinates by {kind!r} are not read; {', '.join(_COORDINATES)} are")
    shape = use.shape(value)
    changed = {a: (m, s) for a, (m, s) in lengths.items() if m != shape[a] or s != 1}
    if kind == "align_corners" and any(abs(m - shape[a] * s) > 1e-4 for a, (m, s) in changed.items()):
        raise use.refuse("the standard and onnxruntime differ on align_corners with a length that is rounded")
    if mode == "nearest":
        if choice not in _NEAREST:
            raise use.refuse(f"nearest_mode {choice!r} is not known")
        if old and any(s < 1 for _, s in changed.values()):
            raise use.refuse("the standard leaves open how operator set 10 takes fewer entries")
        picked = {a: _nearest(use, kind, choice, shape[a], m, s) for a, (m, s) in changed.items()}

        def move(x: Array) -> Array:
            for axis, index in picked.items():
                x = np.take(x, index, axis=axis)
            return x

        return moved(use, value, move)
    if mode not in ("linear", "bilinear"):
        raise use.refuse(f"mode {mode!r} is not read; nearest and linear are")
    for axis, (length, scale) in changed.items():
        value = _linear(use, value, axis, [_coordinate(kind, i, shape[axis], length, scale) for i in range(length)])
    return moved(use, value, lambda x: x)


def _coordinate(kind: str, i: int, before: int, after: int, scale: Any, half: Any = Fraction(1, 2)) -> Any:
    """Where output entry i stands on the input's axis, in the arithmetic of ``scale``'s type."""
    one = half + half
    if kind == "asymmetric":
        return i / scale
    if kind == "align_corners":
        return one * 0 if after == 1 else (one * i * (before - 1)) / (after - 1)
    if kind == "pytorch_half_pixel" and after == 1:
        return one * 0
    middle = (i + half) / scale - half
    if kind == "half_pixel_symmetric":
        return one * before / 2 * (one - after / (scale * before)) + middle
    return middle


def _nearest(use: Use, kind: str, choice: str, before: int, after: int, scale: Fraction) -> Array:
    """For every output entry the input entry that it is."""

    def pick(x: Fraction) -> int:
        if choice == "floor":
            found = math.floor(x)
        elif choice == "ceil":
            found = math.ceil(x)
        else:
            found = math.ceil(x - Fraction(1, 2)) if choice == "round_prefer_floor" else math.floor(x + Fraction(1, 2))
        return min(max(found, 0), before - 1)

    narrow, half = np.float32(float(scale)), np.float32(0.5)
    found = []
    for i in range(after):
        x = _coordinate(kind, i, before, after, scale)
        found.append(pick(x))
        # onnxruntime computes in float32, in which a coordinate may fall on the other side of where the choice changes.
        rounded = float(_coordinate(kind, np.float32(i), before, after, narrow, half))  # type: ignore[arg-type]
        slack = Fraction(1, 2**17) * (1 + abs(x))
        exact = Fraction(rounded) == x and (kind != "half_pixel_symmetric" or math.log2(scale).is_integer())
        if not exact and {pick(x - slack), pick(x + slack)} != {found[-1]}:
            raise use.refuse("which entries are nearest depends on rounding")
    return np.array(found, dtype=np.int64)


def _linear(use: Use, value: Value, axis: int, coordinates: list[Fraction]) -> Value:
    """Along an axis every entry a mean of the two neighbours of its coordinate; beyond the ends the end itself."""
    number = use.activation(value)
    before = use.shape(number)[axis]
    weight, exact = torch.zeros(len(coordinates), before, dtype=torch.float64), True
    for i, x in enumerate(coordinates):
        x = min(max(x, Fraction(0)), Fraction(before - 1))
        first = math.floor(x)
        for place, share in ((first, 1 - (x - first)), (min(first + 1, before - 1), x - first)):
            weight[i, place] += float(share)
            exact = exact and Fraction(float(share)) == share
    turned = use.activation(moved(use, number, lambda x: np.moveaxis(x, axis, -1), part="turned"))
    shape = use.shape(turned)
    operation = affine.Dense(
        in_shapes=(shape,),
        out_shape=(*shape[:-1], len(coordinates)),
        weight=weight,
        weight_error=0.0 if exact else 2 * UNIT,
    )
    along = use.emit(operation, turned, part=f"along{axis}")
    return moved(use, along, lambda x: np.moveaxis(x, -1, axis), part="back")
