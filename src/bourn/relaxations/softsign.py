"""Softsign: z / (1 + |z|)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bourn.relaxations.smooth import Smooth


@dataclass(frozen=True)
class Softsign(Smooth):
    """z / (1 + |z|): convex below 0, concave above."""

    onnx_names = ("Softsign",)
    breaks = (0.0,)
    curvature = (1, -1)
    rising = True
    values = (-1.0, 1.0)

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0] / (1 + z[0].abs())

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        return (1 + z.abs()).reciprocal().square()
