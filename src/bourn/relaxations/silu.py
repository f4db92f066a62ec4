"""SiLU (Swish): z times its sigmoid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from bourn.relaxations.smooth import Smooth

_INFLECTION = 2.3993572805154677
"""Where the second derivative of z / (1 + exp(-z)) is 0, found by root finding with 40 digits."""


@dataclass(frozen=True)
class Silu(Smooth):
    """z / (1 + exp(-alpha z)): concave, convex between two inflections, and concave again."""

    alpha: float = 1.0
    onnx_names = ("Swish",)
    domain = (-1e150, 1e150)
    curvature = (-1, 1, -1)

    def __post_init__(self) -> None:
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha}; it must be above 0")

    @property
    def breaks(self) -> tuple[float, ...]:
        return (-_INFLECTION / self.alpha, _INFLECTION / self.alpha)

    @classmethod
    def from_onnx(cls, op_type: str, attributes: Mapping[str, Any], constants: Sequence[np.ndarray | None]) -> Self:
        return cls(float(attributes.get("alpha", 1.0)))

    @classmethod
    def examples(cls) -> Sequence[Self]:
        return (cls(), cls(1.702))

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0] * (self.alpha * z[0]).sigmoid()

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        y = (self.alpha * z).sigmoid()
        return y + self.alpha * z * y * (1 - y)
