"""Exp: the exponential function."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from bourn.relaxations.smooth import Smooth


@dataclass(frozen=True)
class Exp(Smooth):
    """exp z, convex; beyond the range of float64 no bound is stated from above."""

    onnx_names = ("Exp",)
    curvature = (1,)
    rising = True
    values = (0.0, math.inf)
    floor = 0.0
    domain = (-700.0, 700.0)

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].exp()

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        return z.exp()
