"""Reciprocal: 1 / z."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bourn.relaxations.smooth import Smooth


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
