"""Tanh: the hyperbolic tangent."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bourn.relaxations.smooth import Smooth


@dataclass(frozen=True)
class Tanh(Smooth):
    """tanh z: convex below 0, concave above."""

    onnx_names = ("Tanh",)
    breaks = (0.0,)
    curvature = (1, -1)
    rising = True
    values = (-1.0, 1.0)

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].tanh()

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        y = z.tanh()
        return (1 - y) * (1 + y)
