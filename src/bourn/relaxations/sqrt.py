"""Sqrt: the square root."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.relaxations.smooth import Smooth

_FLAT = 1e-290


@dataclass(frozen=True)
class Sqrt(Smooth):
    """sqrt z for z >= 0, concave; where an interval reaches below 0 no bound is stated."""

    onnx_names = ("Sqrt",)
    curvature = (-1,)
    rising = True
    values = (0.0, math.inf)
    domain = (0.0, 1e200)
    floor = 0.0

    def evaluate(self, *z: Tensor) -> Tensor:
        # The gradient at 0 is infinite, which no attack can follow.
        return torch.where(z[0] > _FLAT, z[0].clamp(min=_FLAT).sqrt(), z[0].detach().sqrt())

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        return 0.5 / z.clamp(min=_FLAT).sqrt()

    def error(self, value: Tensor) -> Tensor:
        # Nearer to 0 the derivative is not what it says.
        return super().error(value).masked_fill(value.abs() > 1e140, math.inf)
