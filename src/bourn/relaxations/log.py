"""Log: the natural logarithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from bourn.relaxations.smooth import Smooth


@dataclass(frozen=True)
class Log(Smooth):
    """log z for z > 0, concave; where an interval reaches 0 no bound is stated."""

    onnx_names = ("Log",)
    curvature = (-1,)
    domain = (1e-300, 1e300)

    @classmethod
    def from_onnx(cls, op_type: str, attributes: Mapping[str, Any], constants: Sequence[np.ndarray | None]) -> Self:
        return cls()

    @classmethod
    def examples(cls) -> Sequence[Self]:
        return (cls(),)

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].log()

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        return 1 / z
