"""Reciprocal: 1 / z."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.relaxations.smooth import Smooth
from bourn.rounding import down, up


@dataclass(frozen=True)
class Reciprocal(Smooth):
    """1 / z: concave below 0, convex above; where an interval holds 0 no bound is stated."""

    onnx_names = ("Reciprocal",)
    breaks = (0.0,)
    curvature = (-1, 1)
    floor = 0.0
    domain = (-1e150, 1e150)

    def evaluate(self, *z: Tensor) -> Tensor:
        return 1 / z[0]

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        return -1 / (z * z)

    def range(self, *z: Interval) -> Interval:
        """From the reciprocals of the ends, which are correctly rounded, and exact at powers of two: 1 / 1 is 1.

        So a softmax's share is at most 1.  An infinite end, beyond where lines are stated, is no obstacle here.
        """
        (own,) = z
        apart = (own.lower > 0) | (own.upper < 0)
        low, high = 1 / own.upper, 1 / own.lower
        lower, upper = torch.where(_exact(own.upper), low, down(low)), torch.where(_exact(own.lower), high, up(high))
        return Interval(lower.where(apart, -math.inf), upper.where(apart, math.inf))


def _exact(z: Tensor) -> Tensor:
    """Where 1 / z does not round: at powers of two far from overflow, and at infinity, of which 0 is the limit."""
    return ((torch.frexp(z).mantissa.abs() == 0.5) & (z.abs() > 2.0**-1000) & (z.abs() < 2.0**1000)) | torch.isinf(z)
