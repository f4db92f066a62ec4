"""One side of a smooth function's hull, its lines chosen by position."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.relaxations.base import Side, Tensors

if TYPE_CHECKING:
    from bourn.relaxations.smooth import Smooth

_NARROW = 1e-9
"""Ends nearer than this, relative to their size, have no chord: rounding would choose its slope."""


def chord(operation: Smooth, left: Tensor, right: Tensor, sign: float = 1.0) -> Tensor:
    """The slope between two points of the function, the derivative where they are too near each other."""
    apart = right - left > _NARROW * (1e-6 + left.abs() + right.abs())
    slope = (operation.evaluate(right) - operation.evaluate(left)) / (right - left)
    return sign * torch.where(apart, slope, operation.derivative(left / 2 + right / 2))


class Positions(Side):
    """One side of a smooth function's hull: its lines by the position at which they are best."""

    def __init__(self, operation: Smooth, z: Interval, below: bool) -> None:
        self.operation, self.below = operation, below
        self.least, self.greatest, self.start = (z.lower,), (z.upper,), (z.center,)
        stretches = operation.stretches(z, below)
        self.gaps: list[Tensors] = []
        for (first, end), (start, last) in pairwise(stretches):
            slope = chord(operation, end, start)
            # A chord from an end of the interval touches at its other end.
            touch = torch.where(end > first, end, torch.where(last > start, start, end))
            wide = start - end > _NARROW * (1e-6 + start.abs() + end.abs())
            self.gaps.append((torch.where(wide, end, math.inf), torch.where(wide, start, -math.inf), slope, touch))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Positions:
        other = object.__new__(Positions)
        other.operation, other.below = self.operation, self.below
        other.least, other.greatest, other.start = ((change(t[0]),) for t in (self.least, self.greatest, self.start))
        other.gaps = [tuple(change(t) for t in gap) for gap in self.gaps]
        return other

    def line(self, parameters: Tensors) -> tuple[Tensors, Tensor]:
        (position,) = parameters
        slope = self.operation.derivative(position)
        point = position
        for end, start, chord, touch in self.gaps:
            within = (position >= end) & (position <= start)
            slope, point = torch.where(within, chord, slope), torch.where(within, touch, point)
        return (slope,), self.operation.evaluate(point) - slope * point

    def hint(self, parameters: Tensors) -> Tensor:
        (point,) = parameters
        for end, start, _, touch in self.gaps:
            point = torch.where((point >= end) & (point <= start), touch, point)
        return point

    def pull(self, parameters: Tensors, z: Tensors) -> Tensors:
        # A tangent is best where it touches at z itself: the way there, for the derivative's sign is the curvature's.
        toward = z[0] - parameters[0]
        return (toward if self.below else -toward,)

    def at(self, z: Tensors) -> Tensors:
        return (torch.minimum(torch.maximum(z[0], self.least[0]), self.greatest[0]),)


def joined(parts: list[tuple[Tensor, Tensor, bool]], may: list[bool]) -> list[tuple[Tensor, Tensor, bool]]:
    """Neighbours of one curvature made one, where they may be."""
    found = parts[:1]
    for (start, end, convex), allowed in zip(parts[1:], may, strict=True):
        if allowed and found[-1][2] == convex:
            found[-1] = (found[-1][0], end, convex)
        else:
            found.append((start, end, convex))
    return found
