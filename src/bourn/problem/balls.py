"""Balls in the l1 and l2 norm, each intersected with a box.

For any v, weak duality gives for a ball of radius r around c, with the dual norm and x in the box [l, u],

    min row . x  >=  row . c - r ||v||_dual - sum over entries of max(-(row - v) (l - c), -(row - v) (u - c)),

with equality at the best v.  So v is searched in plain floating point, and what is stated is the right-hand side, with its
rounding error: it holds whatever v is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from bourn.errors import EmptyInputSetError, UsageError
from bourn.interval import Interval
from bourn.problem.input_set import InputSet, as_tensor, box, dot, linf_ball, subtract_down
from bourn.problem.waterfill import ball_threshold, fill_cheapest, reach_of_norm, shrink_to_norm
from bourn.rounding import TINY, gamma

_CHUNK_BYTES = 1 << 19
"""Memory of one set of rows or points; some ten are alive at a time, and they are fastest in the processor's cache."""


@dataclass(frozen=True, eq=False, repr=False)
class Ball(InputSet):
    """All x with ||x - center||_norm <= radius and sides.lower <= x <= sides.upper; B of them of one radius.

    ``norm`` is 1 or 2, ``center`` finite, (B, *shape); the ends of ``sides`` may be infinite.  Numbers mean what they are in
    exact arithmetic.  :func:`lp_ball` makes one and checks that it is not empty.
    """

    norm: int
    center: Tensor
    radius: float
    sides: Interval

    @cached_property
    def interval(self) -> Interval:  # type: ignore[override]
        """The enclosing box, rounded outward; the smallest where the center lies in ``sides``."""
        low, high = subtract_down(self.center, self.radius), -subtract_down(-self.center, self.radius)
        return Interval(torch.maximum(low, self.sides.lower), torch.minimum(high, self.sides.upper))

    @property
    def middle(self) -> Tensor:
        """The point of ``sides`` nearest to the center: inside wherever the set is not empty."""
        return self.center.clamp(self.sides.lower, self.sides.upper)

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """How far x may go from the center, down and up: (B, 1, n) each, either of any sign."""
        low, high = self.interval.lower - self.center, self.interval.upper - self.center
        return low.flatten(1)[:, None], high.flatten(1)[:, None]

    @cached_property
    def _cut(self) -> bool:
        """Whether ``sides`` cut anything off the ball."""
        low, high = subtract_down(self.center, self.radius), -subtract_down(-self.center, self.radius)
        return bool((self.sides.lower > low).any() | (self.sides.upper < high).any())

    def extremes(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`InputSet.extremes`; but for rounding exact, for the best v is known in closed form or by a few Newton steps."""
        parts = []
        for w in self._pieces(rows):
            (low, below), (high, above) = self._least(w), self._least(-w)
            parts.append((low, -high, torch.maximum(below, above)))
        lows, highs, errors = zip(*parts, strict=True)
        return torch.cat(lows, 1), torch.cat(highs, 1), torch.cat(errors, 1)

    def minimise_linear(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        lows, errors = zip(*(self._least(w) for w in self._pieces(rows)), strict=True)
        return torch.cat(lows, 1), torch.cat(errors, 1)

    def _pieces(self, rows: Tensor) -> Iterator[Tensor]:
        flat = rows.flatten(2)
        at_once = max(1, _CHUNK_BYTES // (8 * self.batch * max(1, flat.shape[2])))
        yield from torch.split(flat, at_once, dim=1)

    def _least(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The right-hand side above for rows ``w`` (B or 1, M, n) at a good v, and a bound of its rounding error."""
        (low, high), terms = self._ends, w.shape[2]
        v = self._multipliers(w) if self._cut else w
        # The largest entry is taken out of the squares, which could underflow or overflow.
        largest = v.abs().amax(2) if terms else v.new_zeros(v.shape[:2])
        dual = largest
        if self.norm == 2:
            scaled = v / torch.where(largest > 0, largest, 1.0)[..., None]
            dual = largest * scaled.square().sum(2).sqrt()
        center = self.center.flatten(1)[..., None]
        middle, size = dot(w, center)[..., 0], dot(w.abs(), center.abs())[..., 0]
        reach = (self.radius * dual).expand_as(middle)
        value, size = middle - reach, size + reach
        if self._cut:
            rest = w - v
            beyond = torch.maximum(-rest * low, -rest * high)
            value, size = value - beyond.sum(2), size + beyond.abs().sum(2)
        # No quantity takes part in more than terms + 12 roundings, and all relative errors act on the sizes added up here.
        return value, gamma(terms + 16) * size + TINY * (4 + terms + self.radius)

    def _multipliers(self, w: Tensor) -> Tensor:
        """The best v: what the ball's constraint pays of each row, the rest being paid by the box."""
        low, high = self._ends
        if self.norm == 2:
            reach, size = reach_of_norm(-w, low, high, self.radius)
            share, radius = size / reach, self.radius or 1.0
            return torch.minimum(torch.maximum(w, -(high / radius) * share), -(low / radius) * share)
        threshold = ball_threshold(w, low, high, self.radius)
        # An entry that the box holds away from the center takes the whole threshold, towards the center.
        return torch.minimum(
            torch.maximum(w, torch.where(high < 0, threshold, -threshold)), torch.where(low > 0, -threshold, threshold)
        )

    def minimiser(self, rows: Tensor) -> Tensor:
        low, high = self._ends
        moves = []
        for w in self._pieces(rows):
            if self.norm == 2:
                moves.append(self._moved(-w, self.radius))
            else:
                moves.append(fill_cheapest(w, low, high, self.radius))
        move = torch.cat(moves, 1).reshape(self.batch, -1, *self.shape)
        return (self.center[:, None] + move).clamp(self.lower[:, None], self.upper[:, None])

    def _moved(self, direction: Tensor, radius: float, at_most: float = math.inf) -> Tensor:
        """Moves along ``direction`` (B, M, n), at most so many times it, that the box holds back and an l2 ball ends."""
        reach, size = reach_of_norm(direction, *self._ends, radius)
        steps = torch.minimum(reach.clamp(max=1e300) * radius, at_most * size)
        return torch.minimum(torch.maximum(direction / size * steps, self._ends[0]), self._ends[1])

    def contains(self, x: Tensor) -> Tensor:
        inside, undecided = self._certainly(x)
        for i in torch.nonzero(undecided)[:, 0].tolist():
            inside[i] = self._exactly(x[i], self.center[i if self.batch > 1 else 0])
        return inside

    def _certainly(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Which points (N, *shape) are inside beyond rounding, and for which float64 cannot tell."""
        within = ((x >= self.sides.lower) & (x <= self.sides.upper)).flatten(1).all(1)
        distance = (x - self.center).flatten(1)
        terms = distance.shape[1]
        sizes, limit = (distance.abs(), self.radius) if self.norm == 1 else (distance.square(), self.radius * self.radius)
        total = sizes.sum(1)
        error = gamma(terms + 12) * (total + limit) + TINY * (1 + terms)
        # Beyond float64's range nothing is known: infinity compares as if it were exact.
        known = torch.isfinite(total + limit)
        inside, outside = known & (total + error <= limit), known & (total - error > limit)
        return within & inside, within & ~inside & ~outside

    def _exactly(self, x: Tensor, center: Tensor) -> bool:
        if not bool(torch.isfinite(x).all()):
            return False
        pairs = zip(x.flatten().tolist(), center.flatten().tolist(), strict=True)
        distances = (abs(Fraction(a) - Fraction(b)) for a, b in pairs if a != b)
        total = sum((d if self.norm == 1 else d * d for d in distances), Fraction(0))
        return bool(total <= (Fraction(self.radius) if self.norm == 1 else Fraction(self.radius) ** 2))

    def project(self, x: Tensor) -> Tensor:
        if not len(x):
            return x
        at_once = len(x) if self.batch > 1 else max(1, _CHUNK_BYTES // (8 * max(1, x[0].numel())))
        return torch.cat([self._project(part) for part in torch.split(x, at_once)])

    def _project(self, x: Tensor) -> Tensor:
        # The ball is taken a hair smaller, so that rounding leaves the point inside; where that is not enough, more.
        hair = 1e-12 + 4 * gamma(self.center[0].numel() + 16)
        point, middle = x, self.middle.expand_as(x)
        for shrunk in (hair, 1e-9, 1e-6, 1e-3, 0.1):
            outside = ~self._certainly(point)[0]
            if not bool(outside.any()):
                return point
            direction = (x - self.center).flatten(1)[:, None]
            radius = self.radius * (1 - shrunk)
            along = self.norm == 2
            move = self._moved(direction, radius, 1.0) if along else shrink_to_norm(direction, *self._ends, radius)
            nearest = (self.center + move.reshape(x.shape)).clamp(self.sides.lower, self.sides.upper)
            point = torch.where(outside.reshape(-1, *(1,) * (x.dim() - 1)), nearest, point)
        outside = ~self._certainly(point)[0]
        return torch.where(outside.reshape(-1, *(1,) * (x.dim() - 1)), middle, point)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` points (B, count, *shape): uniform in the ball, those outside the box projected."""
        size = self.center[0].numel()
        shape = (self.batch * count, size)
        direction = torch.randn(shape, dtype=torch.float64, generator=generator)
        length = torch.rand(shape[0], 1, dtype=torch.float64, generator=generator)
        if self.norm == 1:
            direction = direction.sign() * -torch.rand(shape, dtype=torch.float64, generator=generator).clamp(min=1e-300).log()
        direction = direction / direction.norm(p=self.norm, dim=1, keepdim=True).clamp(min=1e-300)
        moves = (self.radius * length ** (1 / max(1, size)) * direction).to(self.center.device)
        spread = self.map(lambda t: t.repeat_interleave(count, 0))
        points = spread.project(spread.center + moves.reshape(-1, *self.shape))
        return points.reshape(self.batch, count, *self.shape)

    def finite(self) -> tuple[Tensor, Tensor]:
        return self.lower, self.upper

    def steepest(self, gradient: Tensor) -> Tensor:
        """The gradient itself, as long as the ball is wide (in the l1 norm the steepest step would move one entry only)."""
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-300)
        across: Tensor = 2 * self.radius * gradient / length.reshape(-1, *(1,) * (gradient.dim() - 1))
        return across

    def map(self, change: Callable[[Tensor], Tensor]) -> Ball:
        """As :meth:`InputSet.map`; where entries are left out, the ball's projection, or more if the center is not in ``sides``."""
        return Ball(self.norm, change(self.center), self.radius, Interval(change(self.sides.lower), change(self.sides.upper)))


def lp_ball(center: object, radius: float, *, norm: float = 2, clip: Sequence[float] | None = None) -> InputSet:
    """The ball of all x with ||x - center||_norm <= radius, for centers (B, *shape); ``norm`` is 1, 2 or ``math.inf``.

    ``clip``: the two ends of an interval that every entry must also lie in, such as (0, 1).  Raises :class:`UsageError` for
    another norm, a radius that is negative or not finite or a center that is not finite, :class:`EmptyInputSetError` if the
    intersection is empty.
    """
    if norm == math.inf:
        return linf_ball(center, radius, clip=clip)
    if norm not in (1, 2):
        raise UsageError(f"the norm is {norm}; there are 1, 2 and infinity")
    if not (0 <= radius < math.inf):
        raise UsageError(f"the radius is {radius}; it must be at least 0 and finite")
    c = as_tensor(center, "the center")
    if c.dim() < 1:
        raise UsageError("the center has no shape; it needs (B, *shape)")
    if not bool(torch.isfinite(c).all()):
        raise UsageError("the center holds infinity")
    low, high = (-math.inf, math.inf) if clip is None else (float(clip[0]), float(clip[1]))
    made = Ball(int(norm), c, float(radius), box(torch.full_like(c, low), torch.full_like(c, high)).interval)
    inside = made.contains(made.middle)
    if not bool(inside.all()):
        number = int(torch.nonzero(~inside)[0])
        raise EmptyInputSetError(f"the input set is empty: ball {number} misses the range from {low:g} to {high:g}")
    return made
