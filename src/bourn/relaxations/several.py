"""The shared base of functions of several variables."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import reduce

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.relaxations.base import LineRule, Lines, Nonlinearity, Tensors
from bourn.rounding import down, up


class SeveralInputs(Nonlinearity):
    """A function of several variables, applied entry by entry to inputs of one shape.

    A subclass states its support function, and with which slopes its planes stand; their offsets follow.
    """

    @abstractmethod
    def slopes(self, rule: LineRule, *z: Interval) -> tuple[Tensors, Tensors]:
        """The rule's slopes (lower, upper), one an input each, for finite intervals; exact where the function is stable."""

    @abstractmethod
    def stable_offset(self, *z: Interval) -> Tensor:
        """The offset where the function is stable, exact for the slopes of :meth:`slopes`."""

    def lines(self, rule: LineRule, *z: Interval) -> Lines:
        finite = reduce(torch.logical_and, (torch.isfinite(own.magnitude) for own in z))
        kept = z
        if not bool(finite.all()):
            kept = tuple(Interval(own.lower.where(finite, 0.0), own.upper.where(finite, 0.0)) for own in z)
        lower, upper = self.slopes(rule, *kept)
        parallel = all(a is b for a, b in zip(lower, upper, strict=True))
        lower = tuple(s.where(finite, 0.0) for s in lower)
        upper = lower if parallel else tuple(s.where(finite, 0.0) for s in upper)
        row = torch.ones_like(lower[0])[:, None]
        low, low_error = self.support(kept, row, tuple(s[:, None] for s in lower))
        high, high_error = self.support(kept, -row, tuple(-s[:, None] for s in upper))
        stable, offset, own = self.stable(*kept), self.stable_offset(*kept), self.range(*z)
        below = torch.where(stable, offset, down(low - low_error)[:, 0]).where(finite, own.lower)
        above = torch.where(stable, offset, up(high_error - high)[:, 0]).where(finite, own.upper)
        return Lines(lower, below, upper, above)


def least_of_linear(coefficient: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """min of coefficient * z for z between lower and upper (up to rounding)."""
    return torch.minimum(coefficient * lower, coefficient * upper)


def infinite_to_nothing(value: Tensor) -> Tensor:
    """-inf in place of what is no number: no bound was found."""
    return value.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
