"""ReLU: max(z, 0)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bourn.relaxations.curves import PiecewiseLinear


@dataclass(frozen=True)
class ReLU(PiecewiseLinear):
    """max(z, 0); its hull on l < 0 < u is the triangle of Ehlers 2017 (Planet)."""

    onnx_names = ("Relu",)
    knots = (0.0,)
    pieces = ((0.0, 0.0), (1.0, 0.0))

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].relu()
