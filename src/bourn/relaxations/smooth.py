"""The shared base of functions of one variable that are convex and concave by stretches.

The hull on an interval is made of stretches of the function and of chords between them.  A side's lines have one parameter,
the position: the line is the tangent there, or the chord that bridges it.  No bound rests on where a tangent touches: for any
slope and any point of a convex stretch, the tangent at the point bounds the function on the whole stretch, and a concave
stretch is least at an end.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.relaxations.base import NO_HINTS, ElementWise, Hints, Intervals, LineRule, Lines, Tensors
from bourn.relaxations.positions import Positions, chord, joined
from bourn.relaxations.roots import root
from bourn.relaxations.tangents import Stretch, convex_stretch, tangent_from
from bourn.rounding import TINY, UNIT, down, up

_TIE = 1e-11

_WIDE = 64.0
"""In what multiple of the distance to its outermost break a function's flat point is looked for."""


class Smooth(ElementWise):
    """A continuous function that is convex, concave or affine between its :attr:`breaks`.

    A subclass states the function, its derivative, the breaks and the curvature between them.  What is trusted of torch: both
    come out within ``PRECISION`` times their size plus :attr:`floor` (tests compare them with arithmetic of 50 digits).
    """

    PRECISION: ClassVar[float] = 2.0**-46

    floor: float = 1.0
    """To what size the relative precision is meant: the error is never less than ``PRECISION`` times this."""
    domain: tuple[float, float] = (-math.inf, math.inf)
    """Where the function is defined, ends included; no bound is stated for an interval that reaches beyond."""

    kinks: tuple[float, ...] = ()
    """Which of the breaks are kinks: there the derivative jumps."""
    rising: ClassVar[bool] = False
    """Whether the function nowhere falls: then its range is that between its values at the ends."""
    values: tuple[float, float] = (-math.inf, math.inf)
    """Between what the function's values lie, exactly, wherever it is defined."""

    @property
    def breaks(self) -> tuple[float, ...]:
        """Where the curvature changes, ascending.  At a kink that turns the other way than its neighbours, twice the same."""
        return ()

    @property
    @abstractmethod
    def curvature(self) -> tuple[int, ...]:
        """1 convex, -1 concave, 0 affine: one more than breaks."""

    @property
    def affine_pieces(self) -> dict[int, tuple[float, float]]:
        """Slope and offset, exact, of the stretches of curvature 0."""
        return {}

    @property
    def bridges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where the lower and the upper hull of the whole line leave the first stretch and come back to the last, if ever."""
        return (-math.inf, math.inf), (-math.inf, math.inf)

    @abstractmethod
    def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
        """The derivative; at a kink that of the side asked for."""

    @property
    def split_points(self) -> tuple[float, ...]:
        return tuple(dict.fromkeys(self.breaks))

    # What the rest is made of.

    def bends(self, z: Interval) -> Tensor:
        """Where one of the breaks lies inside the interval."""
        found = torch.zeros_like(z.lower, dtype=torch.bool)
        for place in self.split_points:
            found |= (z.lower < place) & (z.upper > place)
        return found

    def inside(self, z: Interval) -> Tensor:
        """Where the interval is finite and the function defined on it."""
        return (z.lower >= self.domain[0]) & (z.upper <= self.domain[1]) & torch.isfinite(z.magnitude)

    def _kept(self, z: Interval) -> Interval:
        """The interval, 1 where no bound can be stated, so that arithmetic stays finite."""
        inside = self.inside(z)
        return z if bool(inside.all()) else Interval(torch.where(inside, z.lower, 1.0), torch.where(inside, z.upper, 1.0))

    def pieces(self, z: Interval, below: bool) -> list[tuple[Tensor, Tensor, bool]]:
        """The stretches within an interval, and whether the function (from ``below``; its negative from above) is convex there.

        Those outside shrink to an end.  Neighbours of one curvature are one, unless a kink is between them.
        """
        turned = [c >= 0 if below else c <= 0 for c in self.curvature]
        cuts = [z.lower.new_tensor(b).clamp(z.lower, z.upper) for b in self.breaks]
        parts = list(zip([z.lower, *cuts], [*cuts, z.upper], turned, strict=True))
        return joined(parts, [b not in self.kinks for b in self.breaks])

    def slope_within(self, point: Tensor, end: Tensor) -> Tensor:
        """The derivative within the stretch that ends at ``end``."""
        own = self.derivative(point)
        return torch.where(point >= end, self.derivative(point, True), own) if self.kinks else own

    def refined(self, hint: Tensor, piece: int, z: Interval, slope: Tensor, below: bool) -> Tensor:
        """A better hint for one of the :meth:`pieces`, where there is a closed form."""
        return hint

    def error(self, value: Tensor) -> Tensor:
        """How far a computed value or derivative may be from the true one."""
        return self.PRECISION * (value.abs() + self.floor)

    def least(self, z: Interval, slope: Tensor, hint: Tensor, below: bool) -> tuple[Tensor, Tensor]:
        """min of f(v) - slope v over the interval, f the function or (not ``below``) its negative, and a bound of its error.

        Tight where ``hint`` is the point at which a convex stretch has this slope, if any has; valid for any hint.  All
        broadcast together.
        """
        sign = 1.0 if below else -1.0
        best = torch.full_like(slope, math.inf)
        error = torch.zeros_like(slope)
        size = slope.abs()
        for number, (start, end, convex) in enumerate(self.pieces(z, below)):
            if convex:
                # A slope that the stretch does not have is least at one of its ends, and a hint for another stretch no use.
                point = torch.minimum(torch.maximum(self.refined(hint, number, z, slope, below), start), end)
                point = torch.where(sign * self.slope_within(end, end) <= slope, end, point)
                point = torch.where(sign * self.derivative(start) >= slope, start, point)
                value, turn = sign * self.evaluate(point), sign * self.slope_within(point, end)
                base = value - slope * point
                # What underflows of the derivative is multiplied by the step.
                most = self.error(value) + 8 * UNIT * (value.abs() + size * point.abs())
                per_step = self.error(turn) + 8 * UNIT * (turn.abs() + size) + TINY
                for corner in (start, end):
                    step = corner - point
                    best = torch.minimum(best, base + (turn - slope) * step)
                    error = torch.maximum(error, most + (per_step * step.abs()).masked_fill(step == 0, 0.0))
            else:
                for corner in (start, end):
                    value = sign * self.evaluate(corner)
                    best = torch.minimum(best, value - slope * corner)
                    error = torch.maximum(error, self.error(value) + 8 * UNIT * (value.abs() + size * corner.abs()))
        return best, error + 8 * UNIT * best.abs() + TINY

    def touching(self, z: Interval, slope: Tensor, below: bool, *, ends: bool = False) -> Tensor:
        """The point of a convex stretch at which f(v) - slope v is least, up to rounding; ``slope`` may have an axis for rows.

        With ``ends`` of all points, where it may be an end of a stretch; :meth:`least` looks at these by itself.
        """
        sign = 1.0 if below else -1.0
        best, height = z.lower.expand_as(slope), torch.full_like(slope, math.inf)

        def consider(point: Tensor, at_end: Tensor | None = None) -> None:
            nonlocal best, height
            own = sign * self.evaluate(point) - slope * point
            if at_end is not None and not ends:
                # A chord's slope touches at both its ends; the one inside a stretch is the better hint.
                own = own + at_end * _TIE * (1 + own.abs() + (slope * point).abs())
            best, height = torch.where(own < height, point, best), torch.minimum(own, height)

        flat = slope.reshape(-1)
        for start, end, convex in self.pieces(z, below):
            if convex:
                last = end.expand_as(slope).reshape(-1)

                def steeper(v: Tensor, i: Tensor, last: Tensor = last) -> Tensor:
                    return sign * self.slope_within(v, last[i]) - flat[i]

                point = root(steeper, start.expand_as(slope), end.expand_as(slope))
                consider(point, (point == start) | (point == end))
            elif ends:
                consider(start.expand_as(slope))
                consider(end.expand_as(slope))
        return best

    def stretches(self, z: Interval, below: bool) -> list[tuple[Tensor, Tensor]]:
        """Where the hull's side runs along the function, ascending from the lower end to the upper; chords lie between.

        Of up to three stretches of the function, by Chandrupatla's method; exact up to rounding.
        """
        sign = 1.0 if below else -1.0
        found = self.pieces(z, below)
        found = joined(found, [True] * (len(found) - 1))
        shape = tuple(convex for _, _, convex in found)
        if shape == (True,):
            return [(z.lower, z.upper)]
        if shape == (False,):
            return [(z.lower, z.lower), (z.upper, z.upper)]
        if shape == (False, True, False):
            return self._between(z, *found[1][:2], sign)
        # A class with more stretches states its own, as Sine does; the contract tests would stop here.
        assert shape in ((True, False), (False, True), (True, False, True)), f"{type(self).__name__}: stretches {shape}"
        first = found[0][1] if shape[0] else z.lower
        second = found[-1][0] if shape[-1] else z.upper
        known = convex_stretch(self, below, True), convex_stretch(self, below, False)
        return self._bridged(z, first, second, sign, self.bridges[0 if below else 1], known)

    def _bridged(
        self,
        z: Interval,
        first_end: Tensor,
        second_start: Tensor,
        sign: float,
        bridge: tuple[float, float],
        known: tuple[Stretch | None, Stretch | None] = (None, None),
    ) -> list[tuple[Tensor, Tensor]]:
        """The hull over [lower, first_end], convex, a concave stretch, and [second_start, upper], convex.

        ``known``: the stretches as a whole, where tables of their tangents can be kept.
        """
        leave, back = bridge
        left, left_touches = tangent_from(self, z.lower, second_start, z.upper, sign, known[1], True)
        right, right_touches = tangent_from(self, z.upper, z.lower, first_end, sign, known[0], False)
        whole = (leave >= z.lower) & (back <= z.upper)
        from_left = ~whole & (z.lower > leave) & left_touches & (second_start < z.upper)
        from_right = ~whole & ~from_left & right_touches & (first_end > z.lower)
        p, q = torch.where(from_right, right, z.lower), torch.where(from_left, left, z.upper)
        if math.isfinite(leave) and math.isfinite(back):
            p, q = torch.where(whole, leave, p), torch.where(whole, back, q)
        return [(z.lower, p), (q, z.upper)]

    def _between(self, z: Interval, start: Tensor, end: Tensor, sign: float) -> list[tuple[Tensor, Tensor]]:
        """The hull over a convex stretch between two concave ones."""
        stretch = convex_stretch(self, sign > 0, True)
        first, _ = tangent_from(self, z.lower, start, end, sign, stretch, True)
        last, _ = tangent_from(self, z.upper, start, end, sign, stretch, False)
        rise = chord(self, z.lower, first, sign), chord(self, last, z.upper, sign)
        usual = (first > z.lower) & (last < z.upper)
        turns = (first <= last) & ~(usual & (rise[0] > rise[1] + 1e-12 * (rise[0].abs() + rise[1].abs())))
        return [
            (z.lower, z.lower),
            (torch.where(turns, first, z.upper), torch.where(turns, last, z.upper)),
            (z.upper, z.upper),
        ]

    # The facts.

    def anchors(self, z: Interval) -> list[Tensor]:
        kept = self._kept(z)
        ends = [end for below in (True, False) for stretch in self.stretches(kept, below) for end in stretch]
        return list(torch.stack([kept.lower, *(e.clamp(kept.lower, kept.upper) for e in ends), kept.upper]).sort(0).values)

    def stable(self, *z: Interval) -> Tensor:
        ends = [-math.inf, *self.breaks, math.inf]
        found = torch.zeros_like(z[0].lower, dtype=torch.bool)
        for piece in self.affine_pieces:
            found |= (z[0].lower >= ends[piece]) & (z[0].upper <= ends[piece + 1])
        return found

    def _affine(self, z: Interval) -> list[tuple[Tensor, float, float]]:
        """Where the interval lies in an affine stretch, and that one's slope and offset."""
        ends = [-math.inf, *self.breaks, math.inf]
        return [
            ((z.lower >= ends[piece]) & (z.upper <= ends[piece + 1]), slope, offset)
            for piece, (slope, offset) in self.affine_pieces.items()
        ]

    def range(self, *z: Interval) -> Interval:
        kept, zero = self._kept(z[0]), torch.zeros_like(z[0].lower)
        if self.rising and not self.affine_pieces:
            low, high = self.evaluate(kept.lower), self.evaluate(kept.upper)
            return self._limited(z[0], Interval(down(low - self.error(low)), up(high + self.error(high))))
        low, high = self._offsets(kept, kept, zero, zero, (zero + _level(self, True), zero + _level(self, False)))
        return self._limited(z[0], Interval(low, high))

    def _limited(self, z: Interval, found: Interval) -> Interval:
        """The range, without bounds where the interval leaves what the function is defined on."""
        inside = self.inside(z)
        lower, upper = found.lower.clamp(*self.values), found.upper.clamp(*self.values)
        return Interval(lower.where(inside, -math.inf), upper.where(inside, math.inf))

    def sides(self, *z: Interval) -> tuple[Positions, Positions]:
        kept = self._kept(z[0])
        return Positions(self, kept, True), Positions(self, kept, False)

    def slopes(self, z: Interval, rule: LineRule) -> tuple[Tensor, Tensor]:
        lower, upper, _ = self._chosen(z, self._kept(z), rule)
        return lower, upper

    def _chosen(self, z: Interval, kept: Interval, rule: LineRule) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """The rule's slopes, and where their lines touch if that is known."""
        if rule.parallel:
            slope = self._flat_outside(z, chord(self, kept.lower, kept.upper, 1.0))
            return slope, slope, None
        below, above = self.sides(kept)
        position = _lower_position(below, rule)
        lower, upper = (self._flat_outside(z, side.line(at)[0][0]) for side, at in ((below, position), (above, above.start)))
        return lower, upper, (below.hint(position), above.hint(above.start))

    def _flat_outside(self, z: Interval, slope: Tensor) -> Tensor:
        for where, own, _ in self._affine(z):
            slope = slope.masked_fill(where, own)
        return slope.where(self.inside(z) & slope.isfinite(), 0.0)

    def offsets(self, z: Interval, lower_slope: Tensor, upper_slope: Tensor) -> tuple[Tensor, Tensor]:
        kept = self._kept(z)
        hints = self.touching(kept, lower_slope, True), self.touching(kept, -upper_slope, False)
        return self._offsets(z, kept, lower_slope, upper_slope, hints)

    def _offsets(
        self, z: Interval, kept: Interval, lower_slope: Tensor, upper_slope: Tensor, hints: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        low, low_error = self.least(kept, lower_slope, hints[0], True)
        high, high_error = self.least(kept, -upper_slope, hints[1], False)
        lower, upper = down(low - low_error), up(high_error - high)
        for where, slope, offset in self._affine(z):
            lower = torch.where(where & (lower_slope == slope), offset, lower)
            upper = torch.where(where & (upper_slope == slope), offset, upper)
        inside = self.inside(z)
        return lower.where(inside, -math.inf), upper.where(inside, math.inf)

    def support(self, z: Intervals, row: Tensor, mu: Tensors, hints: Hints = NO_HINTS) -> tuple[Tensor, Tensor]:
        kept = self._kept(z[0])
        one = Interval(kept.lower[:, None], kept.upper[:, None])
        size, multiplier = row.abs(), mu[0]
        slope = multiplier / size
        # Where a row is 0, or so small that the slope is no use, each of both terms is least on its own.
        apart = ~(slope.abs() < 1e100)
        slope = slope.masked_fill(apart, 0.0)
        found, error = torch.zeros_like(row), torch.zeros_like(row)
        for below in (True, False):
            mine = row > 0 if below else row <= 0
            if not bool(mine.any()):
                continue
            given = hints[0 if below else 1]
            hint = self.touching(one, slope, below) if given is None else given.expand_as(slope)
            if given is not None and bool(apart.any()):
                hint = torch.where(apart, self.touching(one, slope, below), hint)
            own, slack = self.least(one, slope, hint, below)
            found, error = torch.where(mine, own, found), torch.where(mine, slack, error)
        found, error = ((size * t).masked_fill(row == 0, 0.0) for t in (found, error * (1 + 8 * UNIT)))
        far = torch.maximum(one.lower.abs(), one.upper.abs())
        linear = torch.minimum(-multiplier * one.lower, -multiplier * one.upper)
        found = torch.where(apart, found + linear, found)
        error = error + 8 * UNIT * (found.abs() + multiplier.abs() * far) + 8 * math.ulp(0.0) * (1 + far) * (1 + size)
        inside = self.inside(z[0])[:, None]
        return found.where(inside, -math.inf).nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf), error.where(
            inside, 0.0
        )

    def attained(self, z: Intervals, row: Tensor, mu: Tensors) -> tuple[Tensors, Tensor]:
        kept = self._kept(z[0])
        one = Interval(kept.lower[:, None], kept.upper[:, None])
        slope = (mu[0] / row.abs()).nan_to_num(nan=0.0, posinf=1e100, neginf=-1e100).clamp(-1e100, 1e100)
        point = torch.where(row > 0, self.touching(one, slope, True, ends=True), self.touching(one, slope, False, ends=True))
        point = torch.where(row == 0, torch.where(mu[0] > 0, one.upper, one.lower), point)
        return (point,), self.evaluate(point)

    def lines(self, rule: LineRule, *z: Interval) -> Lines:
        kept = self._kept(z[0])
        lower_slope, upper_slope, hints = self._chosen(z[0], kept, rule)
        if hints is None:
            hints = self.touching(kept, lower_slope, True), self.touching(kept, -upper_slope, False)
        lower, upper = self._offsets(z[0], kept, lower_slope, upper_slope, hints)
        return Lines((lower_slope,), lower, (upper_slope,), upper)


@lru_cache(maxsize=64)
def _level(operation: Smooth, below: bool) -> float:
    """Where the function is flat within a convex stretch, as a hint, if it is anywhere near its breaks."""
    far = _WIDE * (1 + max(map(abs, operation.breaks), default=0.0))
    ends = max(-far, operation.domain[0]), min(far, operation.domain[1])
    wide = Interval(*(torch.tensor([end], dtype=torch.float64) for end in ends))
    return float(operation.touching(wide, torch.zeros(1, dtype=torch.float64), below)[0])


def _lower_position(below: Positions, rule: LineRule) -> Tensors:
    """Where the rule's lower line is best: a convex envelope is steepest at its right end."""
    return {LineRule.LOWER_LEAST: below.least, LineRule.LOWER_GREATEST: below.greatest}.get(rule, below.start)
