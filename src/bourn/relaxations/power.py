"""Integer powers: the square and others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from bourn.relaxations.smooth import Smooth


@dataclass(frozen=True)
class Power(Smooth):
    """z ** exponent for an integer exponent of at least 2: convex if it is even, concave below 0 and convex above if it is odd."""

    exponent: int = 2
    onnx_names = ("Pow",)
    floor = 0.0

    def __post_init__(self) -> None:
        if not 2 <= self.exponent <= 64:
            raise ValueError(f"the exponent is {self.exponent}; integers from 2 to 64 are read, 0.5 and -1 as Sqrt and Reciprocal")

    @property
    def domain(self) -> tuple[float, float]:  # type: ignore[override]
        """Where the power is far from float64's limits."""
        most = 10.0 ** (290 / self.exponent)
        return -most, most

    @property
    def values(self) -> tuple[float, float]:  # type: ignore[override]
        """At least 0 where the exponent is even."""
        return (-math.inf if self.exponent % 2 else 0.0), math.inf

    @property
    def breaks(self) -> tuple[float, ...]:
        return (0.0,) if self.exponent % 2 else ()

    @property
    def curvature(self) -> tuple[int, ...]:
        return (-1, 1) if self.exponent % 2 else (1,)

    @classmethod
    def from_onnx(cls, op_type: str, attributes: Mapping[str, Any], constants: Sequence[np.ndarray | None]) -> Self:
        given = constants[0] if constants else None
        if given is None or given.size != 1 or not float(given.item()).is_integer():
            raise ValueError("its exponent is not one integer")
        return cls(int(given.item()))

    @classmethod
    def examples(cls) -> Sequence[Self]:
        return (cls(), cls(3), cls(4), cls(7))

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0] ** self.exponent

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        return self.exponent * z ** (self.exponent - 1)
