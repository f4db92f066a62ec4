"""Arctan: the inverse of the tangent."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bourn.relaxations.smooth import Smooth


@dataclass(frozen=True)
class Arctan(Smooth):
    """arctan z: convex below 0, concave above."""

    onnx_names = ("Atan",)
    breaks = (0.0,)
    curvature = (1, -1)
    rising = True

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].atan()

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        return 1 / (1 + z * z)
