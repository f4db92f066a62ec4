"""Abs: the absolute value."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bourn.relaxations.curves import PiecewiseLinear


@dataclass(frozen=True)
class Absolute(PiecewiseLinear):
    """|z|: convex, with its kink at 0."""

    onnx_names = ("Abs",)
    knots = (0.0,)
    pieces = ((-1.0, 0.0), (1.0, 0.0))

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].abs()
