"""Sine and cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.relaxations.smooth import Smooth

_FURTHEST = 1e6
"""Beyond this, where a period is no longer told exactly enough, no line but the constants -1 and 1 would hold."""


@dataclass(frozen=True)
class Sine(Smooth):
    """sin z, or with ``shifted`` cos z.

    Its hull is made of at most two parts: from the lower end to the first valley, and from the last valley to the upper end;
    between valleys it is flat.  Each part has at most one hump.
    """

    shifted: bool = False
    onnx_names = ("Sin", "Cos")
    curvature = (0,)
    values = (-1.0, 1.0)
    domain = (-_FURTHEST, _FURTHEST)

    @classmethod
    def from_onnx(cls, op_type: str, attributes: Mapping[str, Any], constants: Sequence[np.ndarray | None]) -> Self:
        return cls(op_type == "Cos")

    @classmethod
    def examples(cls) -> Sequence[Self]:
        return (cls(), cls(True))

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0].cos() if self.shifted else z[0].sin()

    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        return -z.sin() if self.shifted else z.cos()

    def bends(self, z: Interval) -> Tensor:
        first = math.pi / 2 if self.shifted else 0.0
        return torch.floor((z.lower - first) / math.pi) + 1 < torch.ceil((z.upper - first) / math.pi)

    def _valleys(self, z: Interval, below: bool) -> tuple[Tensor, Tensor]:
        """The first valley at or after the lower end, the last at or before the upper one; they may lie beyond the other end."""
        place = -math.pi / 2 if below else math.pi / 2
        if self.shifted:
            place -= math.pi / 2
        period = 2 * math.pi
        first = place + period * torch.ceil((z.lower - place) / period)
        last = place + period * torch.floor((z.upper - place) / period)
        return first, last

    def _places(self, z: Interval, below: bool) -> tuple[Tensor, ...]:
        first, last = self._valleys(z, below)
        return first - 2 * math.pi, first, last, last + 2 * math.pi

    def pieces(self, z: Interval, below: bool) -> list[tuple[Tensor, Tensor, bool]]:
        """The stretches around the first and the last valley and their neighbours beyond the interval's ends.

        Others need not be looked at: with a slope of at least 0 no point before the last valley is better than that one, with
        one of at most 0 none after the first.
        """
        found: list[tuple[Tensor, Tensor, bool]] = []
        half = math.pi / 2
        for valley in self._places(z, below):
            start, end = (valley - half).clamp(z.lower, z.upper), (valley + half).clamp(z.lower, z.upper)
            found.append((start, end, True))
        # The ends are looked at as those of a concave stretch; all others belong to convex ones.
        found.append((z.lower, z.upper, False))
        return found

    def refined(self, hint: Tensor, piece: int, z: Interval, slope: Tensor, below: bool) -> Tensor:
        # Around a valley at c the function is -cos(v - c).
        return self._places(z, below)[piece] + slope.clamp(-1, 1).asin()

    def stretches(self, z: Interval, below: bool) -> list[tuple[Tensor, Tensor]]:
        sign, half = (1.0 if below else -1.0), math.pi / 2
        first, last = self._valleys(z, below)
        # Without a valley inside there is one part, from a convex stretch over a hump to the next.
        inside = first <= z.upper
        before = torch.where(inside, first.clamp(z.lower, z.upper), z.upper)
        after = torch.where(inside, torch.maximum(last, first).clamp(z.lower, z.upper), z.upper)
        never = (-math.inf, math.inf)
        left = Interval(z.lower, before)
        left_end = (first - 2 * math.pi + half).clamp(left.lower, left.upper)
        left_start = (first - half).clamp(left.lower, left.upper)
        right = Interval(after, z.upper)
        right_end = (last + half).clamp(right.lower, right.upper)
        right_start = (last + 2 * math.pi - half).clamp(right.lower, right.upper)
        return [
            *self._bridged(left, left_end, left_start, sign, never),
            *self._bridged(right, right_end, right_start, sign, never),
        ]
