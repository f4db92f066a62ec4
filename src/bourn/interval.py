"""Interval: the one type for bounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.errors import UsageError
from bourn.rounding import up


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """Element-wise bounds ``lower <= x <= upper``: two float64 tensors of one shape on one device.

    Infinite ends mean "no bound is known".  Raises :class:`UsageError` where an end is NaN, a lower end
    is above its upper end, or shapes or types differ.
    """

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape:
            raise UsageError(f"bounds of different shapes: {tuple(self.lower.shape)} and {tuple(self.upper.shape)}")
        if self.lower.dtype != torch.float64 or self.upper.dtype != torch.float64:
            raise UsageError(f"bounds must be float64, not {self.lower.dtype} and {self.upper.dtype}")
        # One comparison refuses both NaN and crossed ends.
        fits = self.lower <= self.upper
        if not bool(fits.all()):
            where = tuple(int(i) for i in torch.nonzero(~fits)[0])
            raise UsageError(
                f"lower bound {self.lower[where].item()} is not at most upper bound {self.upper[where].item()} at index {where}"
            )

    @classmethod
    def between(cls, one: Tensor, other: Tensor) -> Interval:
        """The interval between two numbers in either order: bounds of what is empty may cross, and of that any bounds hold."""
        return cls(torch.minimum(one, other), torch.maximum(one, other))

    @property
    def shape(self) -> torch.Size:
        return self.lower.shape

    @property
    def center(self) -> Tensor:
        """A point inside (the midpoint, rounded)."""
        return (self.lower / 2 + self.upper / 2).clamp(self.lower, self.upper)

    @property
    def radius(self) -> Tensor:
        """How far the interval reaches from :attr:`center`, rounded up."""
        center = self.center
        return up(torch.maximum(self.upper - center, center - self.lower)).where(self.upper > self.lower, 0.0)

    @property
    def magnitude(self) -> Tensor:
        """Greatest absolute value inside, exact."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def intersect(self, other: Interval) -> Interval:
        """Both bounds at once; two sound bounds of one quantity never miss each other."""
        return Interval(torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper))

    def to(self, device: torch.device | str) -> Interval:
        """The same bounds on ``device``."""
        return Interval(self.lower.to(device), self.upper.to(device))
