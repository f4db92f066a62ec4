"""GELU: z times the normal distribution function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bourn.relaxations.smooth import Smooth

_CUBIC = 0.044715
_TANH_INFLECTION = 1.4185040087908284
"""Where the second derivative of the approximation is 0, found by root finding with 40 digits."""


@dataclass(frozen=True)
class Gelu(Smooth):
    """z Phi(z), exactly or by its approximation with tanh: concave, convex between two inflections, and concave again."""

    approximate: bool = False
    onnx_names = ("Gelu",)
    domain = (-1e150, 1e150)
    curvature = (-1, 1, -1)

    @property
    def breaks(self) -> tuple[float, ...]:
        return (-_TANH_INFLECTION, _TANH_INFLECTION) if self.approximate else (-math.sqrt(2), math.sqrt(2))

    @classmethod
    def from_onnx(cls, op_type: str, attributes: Mapping[str, Any], constants: Sequence[np.ndarray | None]) -> Self:
        kind = attributes.get("approximate", "none")
        if kind not in ("none", "tanh"):
            raise ValueError(f"approximate is {kind!r}; 'none' and 'tanh' are read")
        return cls(kind == "tanh")

    @classmethod
    def examples(cls) -> Sequence[Self]:
        return (cls(), cls(True))

    def evaluate(self, *z: Tensor) -> Tensor:
        if self.approximate:
            return 0.5 * z[0] * (1 + self._inner(z[0]).tanh())
        normal: Tensor = torch.special.erfc(-z[0] / math.sqrt(2))
        return 0.5 * z[0] * normal

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        if self.approximate:
            y = self._inner(z).tanh()
            rise = math.sqrt(2 / math.pi) * (1 + 3 * _CUBIC * z * z)
            return 0.5 * (1 + y) + 0.5 * z * ((1 - y) * (1 + y) * rise).nan_to_num(nan=0.0)
        normal: Tensor = torch.special.erfc(-z / math.sqrt(2))
        return 0.5 * normal + z * (-z * z / 2).exp() / math.sqrt(2 * math.pi)

    @staticmethod
    def _inner(z: Tensor) -> Tensor:
        return math.sqrt(2 / math.pi) * (z + _CUBIC * z * z * z)
