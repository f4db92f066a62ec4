"""Softplus: log(1 + exp(z))."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.relaxations.smooth import Smooth


@dataclass(frozen=True)
class Softplus(Smooth):
    """log(1 + exp z), convex."""

    onnx_names = ("Softplus",)
    curvature = (1,)
    rising = True
    values = (0.0, math.inf)
    domain = (-1e300, 1e300)

    def evaluate(self, *z: Tensor) -> Tensor:
        return torch.logaddexp(z[0], torch.zeros_like(z[0]))

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        return z.sigmoid()
