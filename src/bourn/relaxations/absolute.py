"""Abs: the absolute value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from bourn.relaxations.curves import PiecewiseLinear


@dataclass(frozen=True)
class Absolute(PiecewiseLinear):
    """|z|: convex, with its kink at 0."""

    onnx_names = ("Abs",)
    knots = (0.0,)
    pieces = ((-1.0, 0.0), (1.0, 0.0))

    @classmethod
    def from_onnx(cls, op_type: str, attributes: Mapping[str, Any], constants: Sequence[np.ndarray | None]) -> Self:
        return cls()

    @classmethod
    def examples(cls) -> Sequence[Self]:
        return (cls(),)

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].abs()
