"""Functions of one variable that are convex or concave by stretches; ``tangents.py`` bounds them on one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import flint
import numpy as np
from numpy.typing import NDArray

from bourn_check.arithmetic import TINY, UNIT, Arithmetic, Floats, Index, Values
from bourn_check.errors import NotAProof
from bourn_check.network import Nonlinear, of_rows
from bourn_check.nodes.tangents import Function, stretch
from bourn_check.nodes.tangents import ends as bounds


@dataclass(frozen=True, eq=False)
class Smooth(Nonlinear):
    """``function`` and its ``derivative`` for Arb, an approximation ``steep`` of the latter for NumPy, and what is known of them.

    ``curvature``: 1 convex, -1 concave; one more than ``breaks``, each of which lies between two numbers.  ``domain``: where it is
    defined, ends included.
    """

    function: Function
    derivative: Function
    steep: Callable[[Floats], Floats]
    curvature: tuple[int, ...]
    breaks: tuple[tuple[float, float], ...] = ()
    domain: tuple[float, float] = (-math.inf, math.inf)

    def lines(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """The slope in the middle, and about the chord's, by Simpson's rule; across a break the lesser slope of both ends."""
        first, middle, last = (np.nan_to_num(self.steep(z)) for z in (lower, lower / 2 + upper / 2, upper))
        chord, least = (first + 4 * middle + last) / 6, np.minimum(first, last)
        across = np.any([(lower < b) & (upper > a) for a, b in self.breaks], axis=0) if self.breaks else np.zeros(1, dtype=bool)
        below, above = np.where(last > first, middle, chord), np.where(last > first, chord, middle)
        return np.where(across, least, below), np.where(across, least, above)

    def minima(self, row: Values, mu: Values | None, ends: Floats, of: Index | None, arithmetic: Arithmetic) -> Values:
        if arithmetic.name == "rational":
            raise ArithmeticError("only piecewise linear networks have a place in it; use --arithmetic ball")
        about, (start, end) = row.about(), (np.broadcast_to(of_rows(z, of), row.shape) for z in ends)
        slope = np.zeros(row.shape) if mu is None else np.nan_to_num(mu.about() / about, nan=0.0, posinf=0.0, neginf=0.0)
        low, high = self.extent(slope, about > 0, start, end)
        least = row.scaled(low).minimum(row.scaled(high))
        if mu is None:
            return least
        rest = row.scaled(slope) + -mu  # next to nothing, where the row is not
        return least + rest.scaled(start).minimum(rest.scaled(end))

    def forward(self, z: Values, arithmetic: Arithmetic) -> Values:
        low, high = (self.extent(np.zeros(z.shape), np.full(z.shape, k == 0), z.lower(), z.upper())[k] for k in (0, 1))
        return arithmetic.between(low, high)

    def extent(self, slope: Floats, upward: NDArray[np.bool_], lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Bounds of f(z) - slope z on intervals; the lower one is as tight as can be where ``upward``, the upper where not."""
        if (lower < self.domain[0]).any() or (upper > self.domain[1]).any():
            raise NotAProof("a function is not defined, or not known, on all of an interval")
        low, high = np.full(slope.shape, math.inf), np.full(slope.shape, -math.inf)
        starts, ends = (-math.inf, *(b for _, b in self.breaks)), (*(a for a, _ in self.breaks), math.inf)
        for sign, first, last in zip(self.curvature, starts, ends, strict=True):
            a, b = np.clip(first, lower, upper), np.clip(last, lower, upper)
            wanted, own = (upward if sign > 0 else ~upward), (self.function, self.derivative, self.steep)
            below, above = stretch(own, sign, sign * slope, wanted, a, b)
            low, high = np.minimum(low, below if sign > 0 else -above), np.maximum(high, above if sign > 0 else -below)
        for a, b in ((a, b) for a, b in self.breaks if a < b):  # between both numbers, whatever it does there
            value = self.function(flint.arb(a).union(flint.arb(b)))
            met, ((least,), (most,)) = (lower < b) & (upper > a), bounds([value])
            size = 8 * UNIT * (np.abs(slope) * max(-a, b) + max(-least, most)) + TINY
            low = np.where(met, np.minimum(low, least - np.maximum(slope * a, slope * b) - size), low)
            high = np.where(met, np.maximum(high, most - np.minimum(slope * a, slope * b) + size), high)
        return low, high
