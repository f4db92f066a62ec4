"""Roots of many increasing functions at once, on the tensors' own device.

scipy's elementwise root finder uses the same method, but on NumPy arrays, with an import of a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_CLOSE = 1e-13
"""How near to each other, relative to their size, the ends of the interval are when it is enough."""

_STEPS = 80
"""Enough for bisection to reach neighbouring float64 numbers from any interval of usual size; it seldom takes a fifth of it."""


def root(function: Callable[[Tensor, Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """For every entry a point of [low, high] where ``function(points, which)``, increasing, changes its sign.

    ``low`` where it is positive everywhere, ``high`` where it is negative everywhere.  ``which`` are the flat numbers of the
    entries that are still open: the function is evaluated for these alone.  Chandrupatla 1997: inverse quadratic
    interpolation where that is safe, bisection elsewhere.  Not rounded outward: no bound may rest on the result.
    """
    shape = low.shape
    a, b = low.reshape(-1).clone(), high.reshape(-1).clone()
    result = torch.where(b > a, b, a)
    which = torch.arange(len(a), device=a.device)
    fa, fb = function(a, which), function(b, which)
    result = torch.where(fa >= 0, a, result)
    open_ = (fa < 0) & (fb > 0) & (b > a)
    which, a, b, fa, fb = which[open_], a[open_], b[open_], fa[open_], fb[open_]
    share = fa / (fa - fb)
    for _ in range(_STEPS):
        if not len(which):
            break
        x = a + share * (b - a)
        fx = function(x, which)
        same = (fx < 0) == (fa < 0)
        # (c, fc) is the end that was given up, (a, fa) the newest point, (b, fb) the end on the other side.
        c, fc = torch.where(same, a, b), torch.where(same, fa, fb)
        b, fb = torch.where(same, b, a), torch.where(same, fb, fa)
        a, fa = x, fx
        best = torch.where(fa.abs() < fb.abs(), a, b)
        result[which] = best
        width, size = (b - a).abs(), best.abs()
        kept = (fa != 0) & (width > _CLOSE * size + 1e-300)
        if not bool(kept.any()):
            break
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        quadratic = (phi * phi < xi) & ((1 - phi) ** 2 < 1 - xi)
        step = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        least = (_CLOSE / 2 * size + 5e-301) / width
        share = torch.where(quadratic & (step.abs() < 1), step, 0.5).clamp(min=least, max=1 - least)
        if not bool(kept.all()):
            which, a, b, fa, fb, share = which[kept], a[kept], b[kept], fa[kept], fb[kept], share[kept]
    return result.reshape(shape)


class Table:
    """A function on a grid: ``values`` at the equally spaced points from ``low`` to ``high``."""

    def __init__(self, low: float, high: float, values: Tensor) -> None:
        self.low, self.high, self.values = low, high, values
        self.per_unit = (len(values) - 1) / (high - low)

    def covers(self, at: Tensor) -> Tensor:
        """Which points lie on the grid."""
        return (at >= self.low) & (at <= self.high)

    def between(self, at: Tensor) -> Tensor:
        """The function by linear interpolation; beyond the grid its end's value."""
        values = self.values.to(at.device)
        place = ((at - self.low) * self.per_unit).nan_to_num(nan=0.0).clamp(0, len(values) - 1)
        cell = place.floor().clamp(max=len(values) - 2)
        before = cell.long()
        return torch.lerp(values[before], values[before + 1], place - cell)
