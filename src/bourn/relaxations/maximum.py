"""Max: the greatest of several inputs; max-pooling is made of it.

The hull over a box has the lower side max(z) >= sum of w_i z_i, for weights w that are at least 0 with sum 1, and the upper side

    max(z) <= theta + sum of max(u_i - theta, 0) / (u_i - l_i) * (z_i - l_i),

for every threshold theta between the greatest lower and the greatest upper end.  Both are exact: the concave envelope's value
is the best way to give each input its share of the time it is the greatest, a linear program whose dual has one variable,
theta.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.relaxations.base import NO_HINTS, Hints, Intervals, LineRule, Side, Tensors
from bourn.relaxations.several import SeveralInputs, infinite_to_nothing, least_of_linear
from bourn.rounding import TINY, gamma


@dataclass(frozen=True)
class Maximum(SeveralInputs):
    """max(z_1, ..., z_K).  Greedy methods take the best single plane on either side, a weaker relaxation than the hull."""

    onnx_names = ("Max",)

    def evaluate(self, *z: Tensor) -> Tensor:
        return reduce(torch.maximum, z)

    def range(self, *z: Interval) -> Interval:
        return Interval(_greatest([own.lower for own in z]), _greatest([own.upper for own in z]))

    def stable(self, *z: Interval) -> Tensor:
        return self._dominant(z).any(0)

    def _dominant(self, z: Intervals) -> Tensor:
        """Which input is the greatest everywhere (K, B, *shape); one at most, none where it depends."""
        lower, upper = (torch.stack([getattr(own, end) for own in z]) for end in ("lower", "upper"))
        none = torch.full_like(upper[0], -math.inf)
        rivals = torch.stack([_greatest([none, *upper[:i], *upper[i + 1 :]]) for i in range(len(z))])
        found = lower >= rivals
        first = torch.cumsum(found.to(torch.int8), 0) == 1
        return found & first

    def slopes(self, rule: LineRule, *z: Interval) -> tuple[Tensors, Tensors]:
        dominant, (below, above) = self._dominant(z), self.sides(*z)
        stable = dominant.any(0)

        def settled(slopes: Tensors) -> Tensors:
            return tuple(torch.where(stable, own.to(torch.float64), s) for s, own in zip(slopes, dominant, strict=True))

        upper = settled(above.line(above.start)[0])
        return (upper, upper) if rule.parallel else (settled(below.line(below.start)[0]), upper)

    def stable_offset(self, *z: Interval) -> Tensor:
        return torch.zeros_like(z[0].lower)

    def sides(self, *z: Interval) -> tuple[Side, Side]:
        return Weights.of(z), Threshold.of(z)

    def support(self, z: Intervals, row: Tensor, mu: Tensors, hints: Hints = NO_HINTS) -> tuple[Tensor, Tensor]:
        ends = [(own.lower[:, None], own.upper[:, None]) for own in z]
        below, above = self._rising(ends, row, mu)[0], self._falling(ends, row, mu)[0]
        size = row.abs() * _greatest([torch.maximum(low.abs(), high.abs()) for low, high in ends])
        for (low, high), own in zip(ends, mu, strict=True):
            size = size + own.abs() * torch.maximum(low.abs(), high.abs())
        terms = 4 * len(z) + 8
        error = (gamma(terms) * size + terms * TINY * (1 + row.abs())).nan_to_num(nan=math.inf, posinf=math.inf)
        return infinite_to_nothing(torch.where(row > 0, below, above)), error

    def section(self, z: Intervals, at: Intervals) -> tuple[Tensor, Tensor]:
        # The lower side is the function.  The upper side grows with the point: it is taken at the lower ends, moved into the box.
        # A point that lies beyond the box's lower end by d belongs to a wider box, whose upper side is at most d lower there.
        points = [torch.minimum(torch.maximum(own.lower, b.lower), b.upper) for own, b in zip(at, z, strict=True)]
        beyond = _greatest([(b.lower - own.lower).clamp(min=0) for own, b in zip(at, z, strict=True)])
        side = Threshold.of(z)
        most = torch.full_like(beyond, math.inf)
        size = _greatest([b.magnitude for b in z]) * (4 * len(z) + 4)
        for theta in side.corners():
            slopes, height = side.line((theta,))
            for slope, own in zip(slopes, points, strict=True):
                height = height + slope * own
            most = torch.minimum(most, height)
        most = most - beyond - gamma(4 * len(z) + 16) * (size + beyond) - TINY * (1 + len(z))
        return _greatest([own.upper for own in at]), infinite_to_nothing(most)

    @staticmethod
    def _rising(ends: list[tuple[Tensor, Tensor]], row: Tensor, mu: Tensors) -> tuple[Tensor, Tensor]:
        """For a row of at least 0: the least value, and the threshold that the inputs worth raising are raised to."""
        floor = _greatest([low for low, _ in ends])
        best, level = torch.full_like(row, math.inf), torch.zeros_like(row)
        for candidate in (floor, *(torch.maximum(high, floor) for _, high in ends)):
            value = row * candidate
            for (low, high), own in zip(ends, mu, strict=True):
                value = value - torch.where(own > 0, own * torch.minimum(high, candidate), own * low)
            better = value < best
            best, level = torch.where(better, value, best), torch.where(better, candidate, level)
        return best, level

    @staticmethod
    def _falling(ends: list[tuple[Tensor, Tensor]], row: Tensor, mu: Tensors) -> tuple[Tensor, Tensor]:
        """For a row below 0: the least value, and the number of the input that is taken for the greatest."""
        own = [least_of_linear(-m, low, high) for (low, high), m in zip(ends, mu, strict=True)]
        best, which = torch.full_like(row, math.inf), torch.zeros_like(row)
        for i, ((low, high), m) in enumerate(zip(ends, mu, strict=True)):
            value = least_of_linear(row - m, low, high)
            for j, other in enumerate(own):
                value = value + other if j != i else value
            better = value < best
            best, which = torch.where(better, value, best), torch.where(better, float(i), which)
        return best, which

    def attained(self, z: Intervals, row: Tensor, mu: Tensors) -> tuple[Tensors, Tensor]:
        ends = [(own.lower[:, None], own.upper[:, None]) for own in z]
        level, which = self._rising(ends, row, mu)[1], self._falling(ends, row, mu)[1]
        points = []
        for i, ((low, high), m) in enumerate(zip(ends, mu, strict=True)):
            rising = torch.where(m > 0, torch.minimum(high, level), low)
            falling = torch.where(torch.where(which == i, row - m, -m) > 0, low, high)
            points.append(torch.where(row > 0, rising, falling))
        return tuple(points), _greatest(points)


def _greatest(values: Sequence[Tensor]) -> Tensor:
    return reduce(torch.maximum, values)


class Weights(Side):
    """The lower side: weights of the inputs, divided by their sum."""

    def __init__(self, least: Tensors, greatest: Tensors, start: Tensors) -> None:
        self.least, self.greatest, self.start = least, greatest, start

    @classmethod
    def of(cls, z: Intervals) -> Weights:
        """The side on given intervals, starting from all weight on the input that is greatest over the centre."""
        centers = torch.stack([own.center for own in z])
        first = centers.argmax(0)
        floor = _greatest([own.lower for own in z])
        zero = torch.zeros_like(floor)
        start = tuple((first == i).to(torch.float64) for i in range(len(z)))
        # An input that is never the greatest needs no weight.
        greatest = tuple((own.upper >= floor).to(torch.float64) for own in z)
        return cls((zero,) * len(z), greatest, start)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Weights:
        return Weights(*(tuple(change(t) for t in ts) for ts in (self.least, self.greatest, self.start)))

    def line(self, parameters: Tensors) -> tuple[Tensors, Tensor]:
        total = reduce(torch.add, parameters)
        shares = tuple(torch.where(total > 0, p / total, own) for p, own in zip(parameters, self.start, strict=True))
        return shares, torch.zeros_like(total)

    def pull(self, parameters: Tensors, z: Tensors) -> Tensors:
        slopes, _ = self.line(parameters)
        height = reduce(torch.add, (s * own for s, own in zip(slopes, z, strict=True)))
        return tuple(own - height for own in z)

    def at(self, z: Tensors) -> Tensors:
        first = torch.stack(z).argmax(0)
        return tuple((first == i).to(torch.float64) for i in range(len(z)))


class Threshold(Side):
    """The upper side: its threshold theta."""

    def __init__(self, ends: tuple[tuple[Tensor, Tensor], ...], least: Tensor, greatest: Tensor, start: Tensor) -> None:
        self.ends, self.least, self.greatest, self.start = ends, (least,), (greatest,), (start,)

    @classmethod
    def of(cls, z: Intervals) -> Threshold:
        """The side on given intervals, starting from the plane that is lowest over the centre."""
        floor, most = _greatest([own.lower for own in z]), _greatest([own.upper for own in z])
        upper = torch.stack([own.upper for own in z])
        # The plane that is lowest over the box's centre: there every input is worth half of what it has above theta.
        start = torch.maximum(upper.topk(2, dim=0).values[1], floor) if len(z) > 1 else floor
        return cls(tuple((own.lower, own.upper) for own in z), floor, most, start)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Threshold:
        ends = tuple((change(low), change(high)) for low, high in self.ends)
        return Threshold(ends, change(self.least[0]), change(self.greatest[0]), change(self.start[0]))

    def line(self, parameters: Tensors) -> tuple[Tensors, Tensor]:
        (theta,) = parameters
        slopes, offset = [], theta
        for low, high in self.ends:
            slope = ((high - theta).clamp(min=0) / (high - low)).nan_to_num(nan=0.0, posinf=1.0).clamp(max=1.0)
            slopes.append(slope)
            offset = offset - slope * low
        return tuple(slopes), offset

    def pull(self, parameters: Tensors, z: Tensors) -> Tensors:
        (theta,) = parameters
        change = torch.ones_like(theta)
        for (low, high), own in zip(self.ends, z, strict=True):
            share = ((own - low) / (high - low)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            change = change - torch.where(theta < high, share, 0.0)
        return (change,)

    def corners(self) -> list[Tensor]:
        """Thresholds of which one is best at any point: between them a plane's value there is linear in the threshold."""
        return [self.least[0], *(torch.maximum(high, self.least[0]) for _, high in self.ends)]

    def at(self, z: Tensors) -> Tensors:
        best, height = self.least[0].expand_as(z[0]), torch.full_like(z[0], math.inf)
        for candidate in self.corners():
            slopes, value = self.line((candidate,))
            for slope, own in zip(slopes, z, strict=True):
                value = value + slope * own
            better = value < height
            best, height = torch.where(better, candidate, best), torch.where(better, value, height)
        return (best,)
