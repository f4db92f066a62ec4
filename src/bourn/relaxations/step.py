"""Step functions: the sign and the Heaviside step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.relaxations.base import NO_HINTS, ElementWise, Hints, Intervals, LineRule, Side, Tensors
from bourn.relaxations.curves import Slopes
from bourn.rounding import UNIT, up


@dataclass(frozen=True)
class Step(ElementWise):
    """One value below 0, one at 0, one above: (-1, 0, 1) is the sign, (0, 1, 1) the Heaviside step.

    Its hull is that of the values which it takes and those it comes near to; at 0 these are several.
    """

    below: float = -1.0
    at: float = 0.0
    above: float = 1.0
    onnx_names = ("Sign",)

    def __post_init__(self) -> None:
        if not self.below <= self.at <= self.above or not math.isfinite(self.above - self.below):
            raise ValueError(f"its values {self.below}, {self.at}, {self.above} do not ascend")

    @classmethod
    def examples(cls) -> Sequence[Self]:
        return (cls(), cls(0.0, 1.0, 1.0), cls(0.0, 0.0, 1.0), cls(-0.5, -0.5, 3.0))

    @property
    def split_points(self) -> tuple[float, ...]:
        return (0.0,)

    def evaluate(self, *z: Tensor) -> Tensor:
        # Of gradient 0, but not cut off from what comes before.
        value = 0.0 * z[0].clamp(-1, 1) + self.at
        return torch.where(z[0] > 0, value - self.at + self.above, torch.where(z[0] < 0, value - self.at + self.below, value))

    def range(self, *z: Interval) -> Interval:
        return Interval(self._value(z[0].lower), self._value(z[0].upper))

    def _value(self, z: Tensor) -> Tensor:
        found = torch.full_like(z, self.at)
        return found.masked_fill(z < 0, self.below).masked_fill(z > 0, self.above)

    def _corners(self, z: Interval, lower: bool) -> tuple[Tensors, Tensors]:
        """Points of the hull's lower (or upper) side and their heights: the ends and, where it is inside, 0."""
        middle = torch.zeros_like(z.lower).clamp(z.lower, z.upper)
        limits = [self._value(middle)]
        inside = middle == 0
        limits.append(torch.where(inside & (z.lower < 0), self.below, limits[0]))
        limits.append(torch.where(inside & (z.upper > 0), self.above, limits[0]))
        height = torch.stack(limits).amin(0) if lower else torch.stack(limits).amax(0)
        return (z.lower, middle, z.upper), (self._value(z.lower), height, self._value(z.upper))

    def stable(self, *z: Interval) -> Tensor:
        own = self.range(*z)
        # With a value of its own at 0 even an end there is a step.
        return (own.lower == own.upper) & (self._corners(z[0], True)[1][1] == self._corners(z[0], False)[1][1])

    def slopes(self, z: Interval, rule: LineRule) -> tuple[Tensor, Tensor]:
        stable = self.stable(z)
        if rule is LineRule.PARALLEL:
            chord = ((self._value(z.upper) - self._value(z.lower)) / (z.upper - z.lower)).nan_to_num(0.0, 0.0, 0.0)
            slope = chord.masked_fill(stable, 0.0)
            return slope, slope
        below, above = (side.at((z.center,))[0] for side in self.sides(z))
        return below.masked_fill(stable, 0.0), above.masked_fill(stable, 0.0)

    def offsets(self, z: Interval, lower_slope: Tensor, upper_slope: Tensor) -> tuple[Tensor, Tensor]:
        low = -self._furthest(z, lower_slope, True)
        return low, self._furthest(z, upper_slope, False)

    def _furthest(self, z: Interval, slope: Tensor, lower: bool) -> Tensor:
        """max over a side's corners of sign * (height - slope * point), rounded up; the sign is -1 for the lower side."""
        sign, found = (-1.0 if lower else 1.0), torch.full_like(z.lower, -math.inf)
        for point, height in zip(*self._corners(z, lower), strict=True):
            exact = (slope == 0) | (point == 0)
            product = (slope * point).masked_fill(exact, 0.0)
            value = sign * (height - product)
            error = 4 * UNIT * (product.abs() + height.abs()) + math.ulp(0.0)
            found = torch.maximum(found, torch.where(exact, value, up(value + error)))
        return found.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)

    def sides(self, *z: Interval) -> tuple[Side, Side]:
        return self._side(z[0], True), self._side(z[0], False)

    def _side(self, z: Interval, lower: bool) -> Slopes:
        points, heights = self._corners(z, lower)
        first, last = _chord(points, heights, 0), _chord(points, heights, 1)
        whole = ((heights[2] - heights[0]) / (points[2] - points[0])).nan_to_num(0.0, 0.0, 0.0)
        least, greatest = (first, last) if lower else (last, first)
        # Where there is no corner between the ends, or it lies inside the hull, the chord is all.
        turns = (points[1] > points[0]) & (points[1] < points[2]) & (least <= greatest)
        corner = (points[1] == points[0]) & (heights[1] != heights[0]) | (points[1] == points[2]) & (heights[1] != heights[2])
        far = (last if lower else first), (first if lower else last)
        least = torch.where(turns, least, torch.where(corner, torch.minimum(whole, far[0]), whole))
        greatest = torch.where(turns, greatest, torch.where(corner, torch.maximum(whole, far[0]), whole))
        start = torch.minimum(torch.maximum(whole, least), greatest)
        return Slopes(least, greatest, start, points, heights, lower)

    def support(self, z: Intervals, row: Tensor, mu: Tensors, hints: Hints = NO_HINTS) -> tuple[Tensor, Tensor]:
        error = torch.zeros_like(row)
        sides = []
        for lower in (True, False):
            best = torch.full_like(row, math.inf)
            for point, height in zip(*self._corners(z[0], lower), strict=True):
                linear = (mu[0] * point[:, None]).masked_fill(mu[0] == 0, 0.0)
                best = torch.minimum(best, row * height[:, None] - linear)
                error = torch.maximum(error, 8 * UNIT * ((row * height[:, None]).abs() + linear.abs()) + 4 * math.ulp(0.0))
            sides.append(best)
        found = torch.where(row > 0, sides[0], sides[1])
        return found.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf), error.nan_to_num(nan=math.inf)

    def attained(self, z: Intervals, row: Tensor, mu: Tensors) -> tuple[Tensors, Tensor]:
        found = torch.full_like(row, math.inf)
        at, value = torch.zeros_like(row), torch.zeros_like(row)
        for lower in (True, False):
            for point, height in zip(*self._corners(z[0], lower), strict=True):
                own = row * height[:, None] - mu[0] * point[:, None]
                better = (own < found) & ((row > 0) == lower)
                found = torch.where(better, own, found)
                at, value = torch.where(better, point[:, None], at), torch.where(better, height[:, None], value)
        return (at,), value


def _chord(points: Tensors, heights: Tensors, first: int) -> Tensor:
    """The slope from a corner to the next, 0 where they are one point or an end is infinite."""
    return ((heights[first + 1] - heights[first]) / (points[first + 1] - points[first])).nan_to_num(0.0, 0.0, 0.0)
