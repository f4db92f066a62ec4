"""Log: the natural logarithm."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bourn.relaxations.smooth import Smooth


@dataclass(frozen=True)
class Log(Smooth):
    """log z for z > 0, concave; where an interval reaches 0 no bound is stated."""

    onnx_names = ("Log",)
    curvature = (-1,)
    rising = True
    domain = (1e-300, 1e300)

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].log()

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        return 1 / z
