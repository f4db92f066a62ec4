"""ELU and SELU: linear for z >= 0, exponential below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bourn.relaxations.smooth import Smooth


@dataclass(frozen=True)
class Elu(Smooth):
    """gamma z for z >= 0, gamma alpha (exp z - 1) below: for alpha up to 1 convex, above with a kink at 0 that turns down.

    Where alpha is below 1, ascent on positions takes no slope between those on both sides of 0; linear programs do.
    """

    alpha: float = 1.0
    gamma: float = 1.0
    onnx_names = ("Elu", "Selu")

    def __post_init__(self) -> None:
        if not (0 <= self.alpha < math.inf and 0 < self.gamma < math.inf):
            raise ValueError(f"alpha is {self.alpha}, gamma {self.gamma}; alpha must be at least 0 and gamma above 0")

    @property
    def kinks(self) -> tuple[float, ...]:  # type: ignore[override]
        """At 0, unless alpha is 1."""
        return () if self.alpha == 1 else (0.0,)

    @property
    def breaks(self) -> tuple[float, ...]:
        return (0.0,) if self.alpha <= 1 else (0.0, 0.0)

    @property
    def curvature(self) -> tuple[int, ...]:
        return (1, 0) if self.alpha <= 1 else (1, -1, 0)

    @property
    def affine_pieces(self) -> dict[int, tuple[float, float]]:
        return {len(self.breaks): (self.gamma, 0.0)}

    @property
    def bridges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        # A tangent of slope gamma never meets the linear part, which is parallel to it.
        return (-math.log(self.alpha) if self.alpha > 1 else -math.inf, math.inf), (-math.inf, math.inf)

    @classmethod
    def from_onnx(cls, op_type: str, attributes: Mapping[str, Any], constants: Sequence[np.ndarray | None]) -> Self:
        # The standard's defaults are the float32 numbers nearest to Klambauer et al.'s.
        selu = np.float32(1.67326319217681884765625), np.float32(1.05070102214813232421875)
        alpha, gamma = (1.0, 1.0) if op_type == "Elu" else selu
        return cls(float(attributes.get("alpha", alpha)), float(attributes.get("gamma", gamma)))

    @classmethod
    def examples(cls) -> Sequence[Self]:
        return (cls(), cls(0.5), cls(2.0), cls(0.0), cls(1.6732632423543772, 1.0507009873554805))

    def evaluate(self, *z: Tensor) -> Tensor:
        return self.gamma * torch.where(z[0] >= 0, z[0], self.alpha * z[0].clamp(max=0).expm1())

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        below = self.gamma * self.alpha * z.clamp(max=0).exp()
        return torch.where(z <= 0 if from_left else z < 0, below, self.gamma)
