"""Sigmoid: 1 / (1 + exp(-z))."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bourn.relaxations.smooth import Smooth


@dataclass(frozen=True)
class Sigmoid(Smooth):
    """1 / (1 + exp(-z)): convex below 0, concave above."""

    onnx_names = ("Sigmoid",)
    breaks = (0.0,)
    curvature = (1, -1)
    rising = True
    values = (0.0, 1.0)

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].sigmoid()

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        y = z.sigmoid()
        return y * (1 - y)
