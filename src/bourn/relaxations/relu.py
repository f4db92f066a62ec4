"""ReLU: max(z, 0)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.relaxations.base import NO_HINTS, Hints, Intervals, LineRule, Tensors
from bourn.relaxations.curves import PiecewiseLinear
from bourn.rounding import UNIT, up


@dataclass(frozen=True)
class ReLU(PiecewiseLinear):
    """max(z, 0); its hull on l < 0 < u is the triangle of Ehlers 2017 (Planet).

    What its base finds for any knots is stated here in a few operations: ReLU's lines are half the work of splitting.
    """

    onnx_names = ("Relu",)
    knots = (0.0,)
    pieces = ((0.0, 0.0), (1.0, 0.0))

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].relu()

    def range(self, *z: Interval) -> Interval:
        return Interval(z[0].lower.clamp(min=0), z[0].upper.clamp(min=0))

    def stable(self, *z: Interval) -> Tensor:
        return (z[0].lower >= 0) | (z[0].upper <= 0)

    def slopes(self, z: Interval, rule: LineRule) -> tuple[Tensor, Tensor]:
        if rule not in (LineRule.AREA, LineRule.PARALLEL):
            return super().slopes(z, rule)
        on, open_ = z.lower >= 0, (z.lower < 0) & (z.upper > 0)
        chord = (z.upper / (z.upper - z.lower)).nan_to_num(nan=0.0).where(open_, on.to(z.upper.dtype))
        if rule is LineRule.PARALLEL:
            return chord, chord
        return (on | (open_ & (z.upper > -z.lower) & ~z.upper.isinf())).to(z.upper.dtype), chord

    def offsets(self, z: Interval, lower_slope: Tensor, upper_slope: Tensor) -> tuple[Tensor, Tensor]:
        own, stable = (z.lower >= 0).to(z.lower.dtype), self.stable(z)
        inside = [torch.where(stable, slope == own, (slope >= 0) & (slope <= 1)) for slope in (lower_slope, upper_slope)]
        if not bool((inside[0] & inside[1]).all()):
            return super().offsets(z, lower_slope, upper_slope)
        # A slope from 0 to 1 touches from below at 0, and from above at one of the ends.
        left, right = -upper_slope * z.lower, (1 - upper_slope) * z.upper
        high = torch.maximum(left.masked_fill(upper_slope == 0, 0.0), right.masked_fill(upper_slope == 1, 0.0))
        rounded = up(high + (4 * UNIT * high + math.ulp(0.0)))
        high = rounded.where((upper_slope > 0) & (upper_slope < 1), high).masked_fill(stable, 0.0)
        return torch.zeros_like(high), high

    def support(self, z: Intervals, row: Tensor, mu: Tensors, hints: Hints = NO_HINTS) -> tuple[Tensor, Tensor]:
        lower, upper = z[0].lower[:, None], z[0].upper[:, None]
        behind, ahead = row - mu[0], -mu[0]  # what a unit of z costs where the function rises, and where it is 0
        best = None
        for end in (lower, upper):
            coefficient = torch.where(end > 0, behind, ahead)
            term = (coefficient * end).masked_fill(coefficient == 0, 0.0)
            best = term if best is None else torch.minimum(best, term)
        assert best is not None
        best = torch.where((lower < 0) & (upper > 0), best.clamp(max=0.0), best)
        # Two roundings, and underflow; where an end is infinite so is the error, and the caller's bound.
        far = torch.maximum(lower.abs(), upper.abs())
        size = ((row.abs() * (upper > 0) + mu[0].abs()) * far).nan_to_num(nan=math.inf)
        error = 8 * UNIT * size + 4 * math.ulp(0.0) * (1 + far)
        return best.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf), error
