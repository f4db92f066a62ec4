"""Leaky ReLU: z for z >= 0, alpha z below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bourn.relaxations.curves import PiecewiseLinear


@dataclass(frozen=True)
class LeakyReLU(PiecewiseLinear):
    """z for z >= 0 and alpha z for z < 0, for any finite alpha: convex below 1, concave above."""

    alpha: float = 0.01
    onnx_names = ("LeakyRelu",)
    knots = (0.0,)

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha):
            raise ValueError(f"alpha is {self.alpha}")

    @property
    def pieces(self) -> tuple[tuple[float, float], ...]:
        return ((self.alpha, 0.0), (1.0, 0.0))

    @classmethod
    def from_onnx(cls, op_type: str, attributes: Mapping[str, Any], constants: Sequence[np.ndarray | None]) -> Self:
        # The standard's default is the float32 nearest to 0.01.
        return cls(float(attributes.get("alpha", np.float32(0.01))))

    @classmethod
    def examples(cls) -> Sequence[Self]:
        return tuple(cls(alpha) for alpha in (0.0, 0.01, 0.5, 1.0, 1.5, -0.25))

    def evaluate(self, *z: Tensor) -> Tensor:
        return torch.where(z[0] >= 0, z[0], self.alpha * z[0])
