"""Bounds of a function on a stretch on which it is convex, from enclosures by Arb at exact float64 numbers.

The function lies above its tangent at any point, and below the greater of its values at the ends.  Which point is taken is a matter
of tightness.  Beside Arb's enclosures everything is float64 with its error bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flint
import numpy as np
from numpy.typing import NDArray

from bourn_check.arithmetic import PRECISION, TINY, UNIT, Floats

flint.ctx.prec = PRECISION
_STEPS = 48
"""Of bisection: as close as a tangent point is needed."""
Function = Callable[[Any], Any]
"""Of Arb's numbers."""


def stretch(
    functions: tuple[Function, Function, Callable[[Floats], Floats]],
    sign: int,
    slope: Floats,
    wanted: NDArray[np.bool_],
    a: Floats,
    b: Floats,
) -> tuple[Floats, Floats]:
    """Of g(z) - slope z, where g = sign f is convex on [a, b], a lower bound, tight where ``wanted``, and an upper one.

    ``functions``: f, its derivative, and about the derivative.
    """
    (f, derivative, steep), t, some = functions, a / 2 + b / 2, np.nonzero(wanted & (a < b))
    left, right = a[some], b[some]
    for _ in range(_STEPS):
        t[some] = left / 2 + right / 2
        short = sign * steep(t[some]) < slope[some]
        left, right = np.where(short, t[some], left), np.where(short, right, t[some])
    value, (least, most) = enclosed(f, sign, t)[0], enclosed(derivative, sign, t)
    below, above = np.full(slope.shape, math.inf), np.full(slope.shape, -math.inf)
    for z, rise in ((a, most), (b, least)):
        step = np.where(z == t, 0.0, (rise - slope) * (z - t))
        size = np.abs(value) + np.abs(slope * t) + np.where(z == t, 0.0, (np.abs(rise) + np.abs(slope)) * np.abs(z - t))
        below = np.minimum(below, value - slope * t + step - (8 * UNIT * size + TINY))
        top = enclosed(f, sign, z)[1]
        above = np.maximum(above, top - slope * z + (8 * UNIT * (np.abs(top) + np.abs(slope * z)) + TINY))
    return np.where(np.isnan(below), -math.inf, below), np.where(np.isnan(above), math.inf, above)


def enclosed(function: Function, sign: int, z: Floats) -> tuple[Floats, Floats]:
    """Bounds of sign times a function at float64 numbers."""
    points, place = np.unique(z, return_inverse=True)
    low, high = ends([sign * function(flint.arb(p)) for p in points.tolist()])
    return low[place].reshape(z.shape), high[place].reshape(z.shape)


def ends(values: list[Any]) -> tuple[Floats, Floats]:
    """Ends of Arb's balls, rounded outward; what is not finite says nothing."""
    found = [(float(v.lower()), float(v.upper())) if v.is_finite() else (-math.inf, math.inf) for v in values]
    low, high = np.array(found).reshape(-1, 2).T
    return np.nextafter(low, -math.inf), np.nextafter(high, math.inf)
