"""Shared bases of functions of one variable."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.relaxations.base import NO_HINTS, ElementWise, Hints, Intervals, LineRule, Side, Tensors
from bourn.rounding import UNIT, down, up


class Slopes(Side):
    """One side of a piecewise linear function's hull: its lines by their slope.

    A slope between ``least`` and ``greatest`` touches the function at one of ``points``, where it has ``values``.
    """

    def __init__(self, least: Tensor, greatest: Tensor, start: Tensor, points: Tensors, values: Tensors, below: bool) -> None:
        self.least, self.greatest, self.start = (least,), (greatest,), (start,)
        self.points, self.values, self.below = points, values, below

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Slopes:
        least, greatest, start = (change(t[0]) for t in (self.least, self.greatest, self.start))
        points, values = (tuple(change(t) for t in ts) for ts in (self.points, self.values))
        return Slopes(least, greatest, start, points, values, self.below)

    def fixed(self, where: Tensor, slopes: Tensors, offset: Tensor) -> Slopes:
        # A line of one slope that touches at 0 at the height of its offset.
        least, greatest, start = (torch.where(where, slopes[0], t[0]) for t in (self.least, self.greatest, self.start))
        points = tuple(p.masked_fill(where, 0.0) for p in self.points)
        values = tuple(torch.where(where, offset, v) for v in self.values)
        return Slopes(least, greatest, start, points, values, self.below)

    def touch(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Where the line of this slope touches, and its offset there."""
        point, offset = self.points[0], self.values[0] - slope * self.points[0]
        for other, value in zip(self.points[1:], self.values[1:], strict=True):
            candidate = value - slope * other
            # An edge's slope touches at both its ends: which of them is not left to rounding.
            least = 4096 * torch.finfo(slope.dtype).eps * (value.abs() + (slope * other).abs())
            better = candidate < offset - least if self.below else candidate > offset + least
            point, offset = torch.where(better, other, point), torch.where(better, candidate, offset)
        return point, offset

    def line(self, parameters: Tensors) -> tuple[Tensors, Tensor]:
        return parameters, self.touch(parameters[0])[1]

    def pull(self, parameters: Tensors, z: Tensors) -> Tensors:
        return (z[0] - self.touch(parameters[0])[0],)

    def at(self, z: Tensors) -> Tensors:
        # Of all slopes the one whose line is furthest out at z: right of every touching point the greatest, and so on.
        best, height = self.least[0].expand_as(z[0]), None
        for slope in (self.least[0], self.greatest[0], *self._edges()):
            value = slope * z[0] + self.touch(slope)[1]
            if height is None:
                best, height = slope.expand_as(z[0]), value
                continue
            better = value > height if self.below else value < height
            best, height = torch.where(better, slope, best), torch.where(better, value, height)
        return (best,)

    def _edges(self) -> list[Tensor]:
        """Slopes between touching points, those beyond the side's own left out by the limits."""
        pairs = combinations(range(len(self.points)), 2)
        slopes = [(self.values[j] - self.values[i]) / (self.points[j] - self.points[i]) for i, j in pairs]
        return [s.nan_to_num(0.0, 0.0, 0.0).clamp(self.least[0], self.greatest[0]) for s in slopes]


class PiecewiseLinear(ElementWise):
    """A continuous function of finitely many affine pieces.

    A subclass states :attr:`knots` (ascending, exact) and :attr:`pieces`, one (slope, offset) more than
    knots, which meet at the knots in exact arithmetic.  Envelopes, lines and stability follow, optimal
    on every interval: a piecewise linear function's extremes over an interval, and those of its
    difference to any line, lie at the interval's ends and the knots inside.
    """

    @property
    @abstractmethod
    def knots(self) -> tuple[float, ...]:
        """Where the pieces meet, ascending."""

    @property
    @abstractmethod
    def pieces(self) -> tuple[tuple[float, float], ...]:
        """(slope, offset) of every piece, from left to right."""

    @property
    def split_points(self) -> tuple[float, ...]:
        return self.knots

    def _piece(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and offset of the piece that holds ``z``, the right one at a knot."""
        slope = torch.full_like(z, self.pieces[0][0])
        offset = torch.full_like(z, self.pieces[0][1])
        for knot, (s, o) in zip(self.knots, self.pieces[1:], strict=True):
            right = z >= knot
            slope = slope.masked_fill(right, s)
            offset = offset.masked_fill(right, o)
        return slope, offset

    def _vertices(self, z: Interval) -> list[Tensor]:
        """The interval's ends and, between them, the knots, moved to an end where they lie outside."""
        inner = [z.lower.new_tensor(k).clamp(z.lower, z.upper) for k in self.knots]
        return [z.lower, *inner, z.upper]

    def anchors(self, z: Interval) -> list[Tensor]:
        return self._vertices(z)

    def _minus_line(self, vertex: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """sigma(vertex) - slope * vertex, and a bound of its rounding error (0 where nothing is rounded)."""
        piece_slope, piece_offset = self._piece(vertex)
        exact = (piece_slope == slope) | (vertex == 0)
        product = ((piece_slope - slope) * vertex).masked_fill(exact, 0.0)
        # The least float64 covers underflow; an infinite vertex gives the limit itself, -inf or inf.
        error = 4 * UNIT * (product.abs() + piece_offset.abs()) + math.ulp(0.0)
        exact |= vertex.isinf() | ((slope == 0) & (piece_slope.abs() == 1) & (piece_offset == 0))
        return product + piece_offset, error.masked_fill(exact, 0.0)

    def range(self, *z: Interval) -> Interval:
        zero = torch.zeros_like(z[0].lower)
        low, high = self.offsets(z[0], zero, zero)
        return Interval(low, high)

    def stable(self, *z: Interval) -> Tensor:
        lower, upper = z[0].lower, z[0].upper
        inside = torch.zeros_like(lower, dtype=torch.bool)
        for knot, (left, right) in zip(self.knots, zip(self.pieces, self.pieces[1:], strict=False), strict=True):
            if left != right:
                inside |= (lower < knot) & (upper > knot)
        return ~inside

    def offsets(self, z: Interval, lower_slope: Tensor, upper_slope: Tensor) -> tuple[Tensor, Tensor]:
        low = torch.full_like(z.lower, math.inf)
        high = torch.full_like(z.lower, -math.inf)
        for vertex in self._vertices(z):
            difference, error = self._minus_line(vertex, lower_slope)
            low = torch.minimum(low, down(difference - error).where(error > 0, difference))
            if upper_slope is not lower_slope:
                difference, error = self._minus_line(vertex, upper_slope)
            high = torch.maximum(high, up(difference + error).where(error > 0, difference))
        # A stable interval's own piece is exact; at a knot the piece beyond would only add rounding.
        own_slope, own_offset = self._piece(z.lower)
        stable = self.stable(z)
        low = torch.where(stable & (lower_slope == own_slope), own_offset, low)
        high = torch.where(stable & (upper_slope == own_slope), own_offset, high)
        # An unbounded interval may have no line of this slope: inf - inf.
        return low.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf), high.nan_to_num(
            nan=math.inf, posinf=math.inf, neginf=-math.inf
        )

    def slopes(self, z: Interval, rule: LineRule) -> tuple[Tensor, Tensor]:
        stable = self.stable(z)
        # The piece right of the lower end; a point interval at a knot belongs to either.
        own_slope, _ = self._piece(z.lower)
        if rule.parallel:
            shared = self._join_slope(z) if rule is LineRule.JOIN else self._chord(z.lower, z.upper)
            slope = torch.where(stable, own_slope, shared)
            return slope, slope
        lower, upper = self._envelope_edges(z)
        if rule is not LineRule.AREA:
            side = self._side(z, True)
            lower = (side.least if rule is LineRule.LOWER_LEAST else side.greatest)[0]
        return torch.where(stable, own_slope, lower), torch.where(stable, own_slope, upper)

    def vertices(self, z: Interval) -> tuple[list[Tensor], list[Tensor]]:
        """The interval's ends and the knots between them, ascending, and the function's values there: the hull is theirs.

        A knot outside the interval is moved to its end.  Not rounded outward.
        """
        points = self._vertices(z)
        return points, [self._value(p) for p in points]

    def sides(self, *z: Interval) -> tuple[Side, Side]:
        return self._side(z[0], True), self._side(z[0], False)

    def _side(self, z: Interval, below: bool) -> Slopes:
        points, values = self.vertices(z)
        first = torch.full_like(z.lower, math.inf if below else -math.inf)
        last = -first
        outer, inner = (torch.minimum, torch.maximum) if below else (torch.maximum, torch.minimum)
        for point in points[1:]:
            first = torch.where(point > z.lower, outer(first, self._chord(z.lower, point)), first)
        for point in points[:-1]:
            last = torch.where(point < z.upper, inner(last, self._chord(point, z.upper)), last)
        own, _ = self._piece(z.lower)
        affine = self.stable(z)
        first, last = torch.where(affine, own, first), torch.where(affine, own, last)
        least, greatest = (first, last) if below else (last, first)
        if len(self.knots) == 1:
            # Between the slopes of two edges every line touches at the knot; a single edge touches at its ends as well.
            turns = least < greatest
            points = [torch.where(turns, points[1], z.lower)]
            values = [torch.where(turns, values[1], values[0])]
        chord = ((self._value(z.upper) - self._value(z.lower)) / (z.upper - z.lower)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        start = torch.minimum(torch.maximum(chord, least), greatest)
        return Slopes(least, greatest, start, tuple(points), tuple(values), below)

    def support(self, z: Intervals, row: Tensor, mu: Tensors, hints: Hints = NO_HINTS) -> tuple[Tensor, Tensor]:
        best = torch.full_like(row, math.inf)
        error = torch.zeros_like(row)
        for vertex in self._vertices(z[0]):
            slope, offset = (t[:, None] for t in self._piece(vertex))
            point = vertex[:, None]
            through = row * slope
            coefficient, constant = through - mu[0], row * offset
            term = (coefficient * point).masked_fill(coefficient == 0, 0.0) + constant
            best = torch.minimum(best, term)
            # Five roundings, and underflow; where an end is infinite so is the error, and the caller's bound.
            size = ((through.abs() + mu[0].abs()) * point.abs()).nan_to_num(nan=math.inf) + constant.abs()
            error = torch.maximum(error, 8 * UNIT * size + 4 * math.ulp(0.0) * (1 + point.abs()))
        return best.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf), error

    def attained(self, z: Intervals, row: Tensor, mu: Tensors) -> tuple[Tensors, Tensor]:
        point, height = torch.zeros_like(row), torch.zeros_like(row)
        least = torch.full_like(row, math.inf)
        for vertex, value in zip(*self.vertices(z[0]), strict=True):
            term = row * value[:, None] - mu[0] * vertex[:, None]
            better = term < least
            least = torch.where(better, term, least)
            point, height = torch.where(better, vertex[:, None], point), torch.where(better, value[:, None], height)
        return (point,), height

    def _value(self, z: Tensor) -> Tensor:
        slope, offset = self._piece(z)
        return torch.where(slope == 0, offset, slope * z + offset)

    def _chord(self, left: Tensor, right: Tensor) -> Tensor:
        """Slope of the chord, kept within the pieces' slopes; 0 where an end is infinite."""
        slope = (self._value(right) - self._value(left)) / (right - left)
        least, most = min(s for s, _ in self.pieces), max(s for s, _ in self.pieces)
        return slope.nan_to_num(nan=0.0, posinf=most, neginf=least).clamp(least, most)

    def _join_slope(self, z: Interval) -> Tensor:
        """Of the pieces that the interval meets the slope nearest 0, and 0 where their signs differ."""
        least, most = torch.full_like(z.lower, math.inf), torch.full_like(z.lower, -math.inf)
        for start, (slope, _), end in zip((-math.inf, *self.knots), self.pieces, (*self.knots, math.inf), strict=True):
            meets = (z.lower < end) & (z.upper > start)
            least = torch.where(meets, least.clamp(max=slope), least)
            most = torch.where(meets, most.clamp(min=slope), most)
        return (least.clamp(min=0.0) + most.clamp(max=0.0)).nan_to_num(posinf=0.0, neginf=0.0)

    def _envelope_edges(self, z: Interval) -> tuple[Tensor, Tensor]:
        """Slopes of the lower and upper envelope at the midpoint: of all chords across it, the lowest and highest."""
        vertices = self._vertices(z)
        middle = z.center
        best_low = torch.full_like(middle, math.inf)
        best_high = torch.full_like(middle, -math.inf)
        low_slope = torch.zeros_like(middle)
        high_slope = torch.zeros_like(middle)
        for left, right in combinations(vertices, 2):
            across = (left < right) & (left <= middle) & (middle <= right)
            slope = self._chord(left, right)
            height = self._value(left) + slope * (middle - left)
            lower, higher = across & (height < best_low), across & (height > best_high)
            best_low, low_slope = height.where(lower, best_low), slope.where(lower, low_slope)
            best_high, high_slope = height.where(higher, best_high), slope.where(higher, high_slope)
        return low_slope, high_slope
