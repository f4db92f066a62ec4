"""Erf: the error function."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from bourn.relaxations.smooth import Smooth


@dataclass(frozen=True)
class Erf(Smooth):
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to z: convex below 0, concave above."""

    onnx_names = ("Erf",)
    breaks = (0.0,)
    curvature = (1, -1)
    rising = True
    values = (-1.0, 1.0)

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].erf()

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        return 2 / math.sqrt(math.pi) * (-z * z).exp()
