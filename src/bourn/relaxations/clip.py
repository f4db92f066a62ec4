"""Clip: z kept between two constants (HardTanh and ReLU6 are cases of it)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from bourn.relaxations.curves import PiecewiseLinear


@dataclass(frozen=True)
class Clip(PiecewiseLinear):
    """min(max(z, low), high) with low <= high; either may be infinite."""

    low: float = -math.inf
    high: float = math.inf
    onnx_names = ("Clip",)

    def __post_init__(self) -> None:
        if not self.low <= self.high or self.low == math.inf or self.high == -math.inf:
            raise ValueError(f"min {self.low} is not at most max {self.high}")

    @property
    def knots(self) -> tuple[float, ...]:
        return tuple(k for k in (self.low, self.high) if math.isfinite(k))

    @property
    def pieces(self) -> tuple[tuple[float, float], ...]:
        below = ((0.0, self.low),) if math.isfinite(self.low) else ()
        above = ((0.0, self.high),) if math.isfinite(self.high) else ()
        return (*below, (1.0, 0.0), *above)

    @classmethod
    def from_onnx(cls, op_type: str, attributes: Mapping[str, Any], constants: Sequence[np.ndarray | None]) -> Self:
        """``min`` and ``max`` are attributes before opset 11 and inputs from then on."""
        given = [*constants, None, None][:2]
        low = attributes.get("min", -math.inf) if given[0] is None else given[0].item()
        high = attributes.get("max", math.inf) if given[1] is None else given[1].item()
        return cls(float(low), float(high))

    @classmethod
    def examples(cls) -> Sequence[Self]:
        return (cls(-1.0, 1.0), cls(0.0, 6.0), cls(-0.5), cls(high=2.0), cls(0.25, 0.25), cls())

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].clamp(self.low, self.high)
