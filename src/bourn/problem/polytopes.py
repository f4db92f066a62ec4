"""Polytopes: boxes cut by a few half-spaces A x <= b.

For any multipliers lambda >= 0, weak duality gives

    min row . x  >=  min over the box of (row + A^T lambda) . x - b . lambda,

with equality at the best lambda.  So lambda is searched in plain floating point, and what is stated is the right-hand side, with
its rounding error: it holds whatever lambda is.  With lambda = 0 it is the box's minimum, which is stated where it is greater.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.problem.dual_simplex import Optima, minimise
from bourn.problem.half_spaces import nearest, window_limits
from bourn.problem.input_set import Box, InputSet, dot
from bourn.rounding import TINY, gamma

_CHUNK_BYTES = 1 << 22
"""Memory of one set of rows; some ten are alive at a time."""

_RANDOM_ROWS = 16
"""So many random directions, and their opposites, give the vertices between which points inside lie."""

_WALK = 10
"""Steps of hit and run for a sample."""


@dataclass(frozen=True, eq=False, repr=False)
class Polytope(InputSet):
    """All x of ``sides`` with matrix . x <= limits: B of them, ``matrix`` (B, K, *shape) and ``limits`` (B, K).

    ``interval`` is a box around them within ``sides``; its ends hold by multipliers of their own.  Numbers mean what they are in
    exact arithmetic.  Where the rows as written have numbers that are no float64, ``limits`` are rounded outward and
    ``inner_limits`` inward: who meets the latter lies in the set as written.  :func:`bourn.problem.cutting.polytope` makes one
    and checks that it is not empty.
    """

    interval: Interval
    matrix: Tensor
    limits: Tensor
    sides: Box
    inner_limits: Tensor

    @property
    def inner(self) -> tuple[Tensor, Tensor] | None:  # type: ignore[override]
        """As :attr:`InputSet.inner`, from the sets' own."""
        if self.sides.inner is None:
            return None
        return torch.maximum(self.sides.inner[0], self.lower), torch.minimum(self.sides.inner[1], self.upper)

    @property
    def _rows(self) -> Tensor:
        return self.matrix.flatten(2)

    @cached_property
    def _bounded(self) -> bool:
        return bool(torch.isfinite(self.interval.magnitude).all())

    @property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """Between these a point lies in ``sides`` as written."""
        return self.sides.inner if self.sides.inner is not None else (self.sides.lower, self.sides.upper)

    def extremes(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`InputSet.extremes`; the multipliers are those of the dual simplex, so that little but rounding is lost."""
        low, below = self.minimise_linear(rows)
        high, above = self.minimise_linear(-rows)
        return low, -high, torch.maximum(below, above)

    def minimise_linear(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        parts = [self._least(w) for w in self._pieces(rows)]
        lows, errors, _ = zip(*parts, strict=True)
        return torch.cat(lows, 1), torch.cat(errors, 1)

    def _pieces(self, rows: Tensor) -> Iterator[Tensor]:
        flat = rows.flatten(2)
        flat = flat.expand(self.batch, -1, -1)
        at_once = max(1, _CHUNK_BYTES // (8 * self.batch * (flat.shape[2] + self.limits.shape[1] + 1)))
        yield from torch.split(flat, at_once, dim=1)

    def weights(self, rows: Tensor) -> Tensor:
        """The multipliers (B, M, K) at which :meth:`minimise_linear` states its minima of rows (B or 1, M, *shape)."""
        return torch.cat([self._least(w)[2] for w in self._pieces(rows)], 1)

    def _least(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The right-hand side above for rows ``w`` (B, M, n), a bound of its rounding error, and the multipliers: found, or 0."""
        if self._bounded:
            low, error = Box(self.interval).minimise_linear(w.reshape(self.batch, -1, *self.shape))
        else:  # a box states no minimum where the maximum is infinite
            low, error = self._at(w, torch.zeros_like(w[..., :1]).expand(-1, -1, self.limits.shape[1]))
        multipliers = self.multipliers(w)
        found, rounding = self._at(w, multipliers)
        better = found - rounding > low - error
        return torch.where(better, found, low), torch.where(better, rounding, error), multipliers * better[..., None]

    def _at(self, w: Tensor, multipliers: Tensor) -> tuple[Tensor, Tensor]:
        """The right-hand side at given multipliers (B, M, K), at least 0."""
        rows, terms = self._rows, w.shape[2]
        count = rows.shape[1]
        v, size = w + multipliers @ rows, w.abs() + multipliers @ rows.abs()
        lower, upper = self.interval.lower.flatten(1)[:, None], self.interval.upper.flatten(1)[:, None]
        end = torch.where(v > 0, lower, upper)
        far = end.abs()
        if self._bounded:
            far = torch.maximum(lower.abs(), upper.abs()).expand_as(v)
        else:
            # Where rounding may have changed the sign, both ends count, and an infinite one leaves no bound.
            touched = (multipliers > 0).to(v.dtype) @ (rows != 0).to(v.dtype) > 0
            unsure = (v.abs() <= gamma(count + 4) * size + TINY * (1 + count)) & touched
            far = torch.where(unsure, torch.maximum(lower.abs(), upper.abs()), far).masked_fill((w == 0) & ~touched, 0.0)
            end = end.masked_fill(v == 0, 0.0)
        paid = (multipliers * self.limits[:, None]).sum(2)
        value = (v * end).sum(2) - paid
        total = (size * far).sum(2) + (multipliers * self.limits.abs()[:, None]).sum(2)
        # Each product takes part in at most terms + count + 12 roundings; v may miss w + A^T lambda by what underflows, too.
        error = gamma(terms + count + 16) * total + TINY * (2 + terms + count) * (1 + far.sum(2))
        return torch.where(torch.isfinite(error), value, -torch.inf), torch.where(torch.isfinite(error), error, 0.0)

    @cached_property
    def _scaled(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Center and radius (B, 1, n) of the finite box; rows and limits in units of the radius, divided by sizes (B, K)."""
        lower, upper = (t.flatten(1)[:, None] for t in self.finite())
        center, radius = lower / 2 + upper / 2, upper / 2 - lower / 2
        rows = self._rows * radius
        limits = self.limits - (self._rows @ center.mT)[..., 0]
        sizes = rows.abs().amax(2) if rows.shape[2] else torch.zeros_like(limits)
        sizes = torch.where(sizes > 0, sizes, 1.0)
        return center, radius, rows / sizes[..., None], limits / sizes, sizes

    def _optima(self, w: Tensor) -> tuple[Optima, Tensor]:
        """What the dual simplex finds for rows (B, M, n), in scaled units, and the sizes of the scaled rows (B, M, 1)."""
        _, radius, rows, limits, _ = self._scaled
        costs = w * radius
        sizes = costs.abs().amax(2, keepdim=True) if costs.shape[2] else costs.new_ones(*costs.shape[:2], 1)
        sizes = torch.where(sizes > 0, sizes, 1.0)
        return minimise(costs / sizes, rows, limits), sizes

    def multipliers(self, w: Tensor) -> Tensor:
        """Good multipliers (B, M, K) for rows (B, M, n), numerically."""
        found, sizes = self._optima(w)
        multipliers = found.multipliers * (sizes / self._scaled[4][:, None])
        return multipliers.nan_to_num(0.0, 0.0, 0.0).clamp(min=0)

    def minimiser(self, rows: Tensor) -> Tensor:
        """As :meth:`InputSet.minimiser`, a vertex; it may miss a half-space by rounding."""
        center, radius = self._scaled[:2]
        points = torch.cat([center + radius * self._optima(w)[0].points for w in self._pieces(rows)], 1)
        lower, upper = (t[:, None] for t in self.finite())
        return points.reshape(self.batch, -1, *self.shape).clamp(lower, upper)

    def contains(self, x: Tensor) -> Tensor:
        inside, undecided = self._certainly(x)
        for i in torch.nonzero(undecided)[:, 0].tolist():
            inside[i] = self._exactly(x[i], i if self.batch > 1 else 0)
        return inside

    def _certainly(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Which points (N, *shape) are inside beyond rounding, and for which float64 cannot tell."""
        within = self.sides.contains(x) & torch.isfinite(x).flatten(1).all(1)
        values, sizes = self._values(x, self._rows), self._values(x.abs(), self._rows.abs())
        terms = x[0].numel()
        error = gamma(terms + 12) * (sizes + self.inner_limits.abs()) + TINY * (1 + terms)
        # Beyond float64's range nothing is known: infinity compares as if it were exact.
        known = torch.isfinite(sizes)
        inside = (known & (values + error <= self.inner_limits)).all(1)
        outside = (known & (values - error > self.inner_limits)).any(1)
        return within & inside, within & ~inside & ~outside

    def _values(self, x: Tensor, rows: Tensor) -> Tensor:
        """rows . x for points (N, *shape), one for each problem or any number for one: (N, K)."""
        flat = x.flatten(1)
        return flat @ rows[0].mT if len(rows) == 1 else dot(rows, flat[..., None])[..., 0]

    def _exactly(self, x: Tensor, problem: int) -> bool:
        point = [Fraction(v) for v in x.flatten().tolist()]
        for row, limit in zip(self._rows[problem].tolist(), self.inner_limits[problem].tolist(), strict=True):
            if sum((Fraction(a) * v for a, v in zip(row, point, strict=True) if a), Fraction(0)) > Fraction(limit):
                return False
        return True

    @cached_property
    def _vertices(self) -> Tensor:
        """Points (B, P, n) far from each half-space's face, and far out in random directions."""
        generator = torch.Generator().manual_seed(0)
        some = torch.randn(1, _RANDOM_ROWS, self.matrix[0, 0].numel(), dtype=torch.float64, generator=generator)
        some = some.to(self.matrix.device).expand(self.batch, -1, -1)
        rows = torch.cat([self._rows, some, -some], 1)
        return self.minimiser(rows.reshape(self.batch, -1, *self.shape)).flatten(2)

    @cached_property
    def _inside(self) -> Tensor:
        """A point of every set, off the half-spaces' faces where there is one: the vertices' mean, (B, *shape)."""
        mean = self._vertices.mean(1).reshape(self.batch, *self.shape)
        return mean.clamp(*self.finite())

    @cached_property
    def middle(self) -> Tensor:
        """The mean of vertices; of a flat set, which that may miss by rounding, a point of fewer digits near it that lies there."""
        found = self._inside
        if bool(self._certainly(found)[0].all()):
            return found
        center = Box(self.interval).middle
        for near in (found.to(torch.float32).to(torch.float64), center, center.to(torch.float32).to(torch.float64)):
            take = ~self.contains(found) & self.contains(near)
            found = torch.where(take.reshape(-1, *(1,) * len(self.shape)), near, found)
        return found

    def project(self, x: Tensor) -> Tensor:
        """As :meth:`InputSet.project`; where the set is flat, a point that may miss it by rounding."""
        if not len(x):
            return x
        lower, upper = self._ends
        point = torch.minimum(torch.maximum(x, lower), upper)
        outside = ~self._certainly(point)[0]
        if not bool(outside.any()):
            return point
        if self.batch > 1:
            return self._nearest(x, self._inside)
        return point.index_put((outside,), self._nearest(x[outside], self._inside))

    def _nearest(self, x: Tensor, goal: Tensor) -> Tensor:
        """The nearest points, moved towards ``goal`` (1 or N, *shape) until rounding leaves them inside."""
        lower, upper = self._ends
        ends = lower.flatten(1), upper.flatten(1)
        moved = nearest(x.flatten(1), self._rows, self.inner_limits, *ends).reshape(x.shape)
        point = moved
        for hair in (0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3):
            open_ = ~self._certainly(point)[0]
            if not bool(open_.any()):
                break
            closer = moved + self._inward(moved, goal, hair) * (goal - moved)
            closer = torch.minimum(torch.maximum(closer, lower), upper)
            point = torch.where(open_.reshape(-1, *(1,) * (x.dim() - 1)), closer, point)
        return point

    def _inward(self, x: Tensor, goal: Tensor, hair: float) -> Tensor:
        """Which share of the way to ``goal`` brings x behind all faces, and a hair's breadth further: (N, 1, ...)."""
        sizes = self._values(x.abs(), self._rows.abs()) + self.inner_limits.abs()
        margin = (hair + gamma(x[0].numel() + 16)) * 2 * sizes
        beyond = self._values(x, self._rows) - self.inner_limits + margin
        room = self.inner_limits - self._values(goal, self._rows)
        share = torch.where((beyond > 0) & (room > margin), beyond / (beyond + room - margin), 0.0)
        return share.amax(1).clamp(0, 1).reshape(-1, *(1,) * (x.dim() - 1))

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` points (B, count, *shape), by hit and run from random means of vertices."""
        vertices, (lower, upper) = self._vertices, self.finite()
        shares = torch.rand(self.batch, count, vertices.shape[1], dtype=torch.float64, generator=generator).clamp(min=1e-300)
        shares = -shares.log().to(vertices.device)
        x = (shares / shares.sum(2, keepdim=True)) @ vertices
        low, high = lower.flatten(1)[:, None], upper.flatten(1)[:, None]
        for _ in range(_WALK):
            way = torch.randn(x.shape, dtype=torch.float64, generator=generator).to(x.device) * (high - low)
            share = torch.rand(*x.shape[:2], 1, dtype=torch.float64, generator=generator).to(x.device)
            room, pace = self.limits[:, None] - x @ self._rows.mT, way @ self._rows.mT
            ahead = torch.cat([torch.where(way > 0, high - x, low - x) / way, torch.where(pace > 0, room / pace, torch.inf)], 2)
            behind = torch.cat([torch.where(way > 0, low - x, high - x) / way, torch.where(pace < 0, room / pace, -torch.inf)], 2)
            most = ahead.nan_to_num(nan=torch.inf).amin(2, keepdim=True).clamp(0, 1e6)
            least = behind.nan_to_num(nan=-torch.inf).amax(2, keepdim=True).clamp(-1e6, 0)
            x = torch.minimum(torch.maximum(x + (least + share * (most - least)) * way, low), high)
        spread = self if self.batch == 1 else self[torch.arange(self.batch, device=x.device).repeat_interleave(count)]
        goal = self._inside if self.batch == 1 else self._inside.repeat_interleave(count, 0)
        x = x.reshape(-1, *self.shape)
        outside = ~spread._certainly(x)[0]
        x = torch.where(outside.reshape(-1, *(1,) * len(self.shape)), spread._nearest(x, goal), x) if bool(outside.any()) else x
        return x.reshape(self.batch, count, *self.shape)

    def finite(self) -> tuple[Tensor, Tensor]:
        return Box(self.interval).finite()

    def steepest(self, gradient: Tensor) -> Tensor:
        """By the gradient's signs, across the enclosing box."""
        return Box(self.interval).steepest(gradient)

    def map(self, change: Callable[[Tensor], Tensor]) -> Polytope:
        """As :meth:`InputSet.map`; where it makes several of each problem, these follow each other.

        Where entries are left out, each half-space's own projection is kept: what the box allows those entries at most.  That is
        the polytope's projection where there is one half-space, and a set around it where there are more.
        """
        matrix = torch.stack([change(row) for row in self.matrix.unbind(1)], 1)
        interval = Interval(change(self.interval.lower), change(self.interval.upper))
        limits = window_limits(self._rows, self.interval, self.limits, matrix.flatten(2), interval)
        several = len(matrix) // self.batch
        whole = (matrix.flatten(2) != 0).sum(2) == (self._rows != 0).sum(2).repeat_interleave(several, 0)
        own, inner = (t.repeat_interleave(several, 0) for t in (self.limits, self.inner_limits))
        limits, inner = torch.where(whole, own, limits), torch.where(whole, inner, limits)
        known = torch.isfinite(limits)
        matrix = torch.where(known.reshape(*known.shape, *(1,) * (matrix.dim() - 2)), matrix, 0.0)
        limits, inner = torch.where(known, limits, 0.0), torch.where(known, inner, 0.0)
        return Polytope(interval, matrix, limits, self.sides.map(change), inner)

    def __getitem__(self, index: slice | Tensor) -> Polytope:
        return self._with(lambda t: t[index])

    def to(self, device: torch.device | str) -> Polytope:
        return self._with(lambda t: t.to(device))

    def reshape(self, shape: tuple[int, ...]) -> Polytope:
        interval = Interval(*(t.reshape(self.batch, *shape) for t in (self.lower, self.upper)))
        matrix = self.matrix.reshape(*self.limits.shape, *shape)
        return Polytope(interval, matrix, self.limits, self.sides.reshape(shape), self.inner_limits)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Polytope:
        """The same sets with every tensor changed alike."""
        interval = Interval(change(self.interval.lower), change(self.interval.upper))
        return Polytope(interval, change(self.matrix), change(self.limits), self.sides.map(change), change(self.inner_limits))

