"""Product of two inputs, each of which depends on the network's input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.relaxations.base import NO_HINTS, Hints, Intervals, LineRule, Side, Tensors
from bourn.relaxations.several import SeveralInputs, infinite_to_nothing
from bourn.rounding import TINY, down, gamma, up


@dataclass(frozen=True)
class Product(SeveralInputs):
    """x y; its hull on a box is McCormick's 1976: two planes below and two above, through three corners each."""

    onnx_names = ("Mul",)

    def shape(self, *shapes: tuple[int, ...]) -> tuple[int, ...]:
        if len(shapes) != 2:
            raise ValueError(f"it has {len(shapes)} inputs")
        return super().shape(*shapes)

    def evaluate(self, *z: Tensor) -> Tensor:
        return z[0] * z[1]

    def range(self, *z: Interval) -> Interval:
        corners = torch.stack([a * b for a in (z[0].lower, z[0].upper) for b in (z[1].lower, z[1].upper)])
        corners = corners.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)  # 0 times infinity: a side of length 0
        exact = (z[0].magnitude == 0) | (z[1].magnitude == 0)
        low, high = corners.amin(0), corners.amax(0)
        return Interval(torch.where(exact, 0.0, down(low)), torch.where(exact, 0.0, up(high)))

    def stable(self, *z: Interval) -> Tensor:
        return (z[0].lower == z[0].upper) | (z[1].lower == z[1].upper)

    def slopes(self, rule: LineRule, *z: Interval) -> tuple[Tensors, Tensors]:
        # Over the centre both planes of a side are equally good; their middle makes both sides parallel.
        (a, b), first = (own.center for own in z), z[0].lower == z[0].upper
        both = b.masked_fill(first, 0.0), a.masked_fill((z[1].lower == z[1].upper) & ~first, 0.0)
        return both, both

    def stable_offset(self, *z: Interval) -> Tensor:
        return torch.zeros_like(z[0].lower)

    def sides(self, *z: Interval) -> tuple[Side, Side]:
        x, y = z
        # Planes through the corner (p, q): q x + p y - p q.
        below = Mixture((x.lower, y.lower), (x.upper, y.upper), True)
        return below, Mixture((x.lower, y.upper), (x.upper, y.lower), False)

    def section(self, z: Intervals, at: Intervals) -> tuple[Tensor, Tensor]:
        # A plane through the corner (p, q), q x + p y - p q, is x y - (x - p) (y - q): exact where x or y is at that end.
        inside = torch.stack([(own.lower >= b.lower) & (own.upper <= b.upper) for own, b in zip(at, z, strict=True)]).all(0)
        (x, y), (a, b) = at, z
        size = 8 * a.magnitude * b.magnitude

        def plane(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
            """The least and the greatest value of a plane on ``at``, rounded outward."""
            ends = torch.stack([torch.stack([q * x.lower, q * x.upper]), torch.stack([p * y.lower, p * y.upper])])
            error = gamma(8) * size + TINY
            return ends.amin(1).sum(0) - p * q - error, ends.amax(1).sum(0) - p * q + error

        least = torch.maximum(plane(a.lower, b.lower)[1], plane(a.upper, b.upper)[1])
        most = torch.minimum(plane(a.lower, b.upper)[0], plane(a.upper, b.lower)[0])
        inside = inside & torch.isfinite(least) & torch.isfinite(most)
        return torch.where(inside, least, math.inf), torch.where(inside, most, -math.inf)

    def support(self, z: Intervals, row: Tensor, mu: Tensors, hints: Hints = NO_HINTS) -> tuple[Tensor, Tensor]:
        best, error = torch.full_like(row, math.inf), torch.zeros_like(row)
        for a in (z[0].lower[:, None], z[0].upper[:, None]):
            for b in (z[1].lower[:, None], z[1].upper[:, None]):
                parts = (row * (a * b), mu[0] * a, mu[1] * b)
                best = torch.minimum(best, parts[0] - parts[1] - parts[2])
                size = parts[0].abs() + parts[1].abs() + parts[2].abs()
                error = torch.maximum(error, gamma(8) * size + TINY * (1 + row.abs()))
        return infinite_to_nothing(best), error.nan_to_num(nan=math.inf)

    def attained(self, z: Intervals, row: Tensor, mu: Tensors) -> tuple[Tensors, Tensor]:
        best = torch.full_like(row, math.inf)
        points = [torch.zeros_like(row), torch.zeros_like(row)]
        for a in (z[0].lower[:, None], z[0].upper[:, None]):
            for b in (z[1].lower[:, None], z[1].upper[:, None]):
                value = row * (a * b) - mu[0] * a - mu[1] * b
                better = value < best
                best = torch.where(better, value, best)
                points = [torch.where(better, new, old) for new, old in zip((a, b), points, strict=True)]
        return tuple(points), points[0] * points[1]


class Mixture(Side):
    """One side: the planes at two corners, mixed by the second one's share."""

    def __init__(self, first: Tensors, second: Tensors, below: bool) -> None:
        self.first, self.second, self.below = first, second, below
        zero = torch.zeros_like(first[0])
        self.least, self.greatest, self.start = (zero,), (zero + 1,), (zero + 0.5,)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Mixture:
        return Mixture(tuple(map(change, self.first)), tuple(map(change, self.second)), self.below)

    def line(self, parameters: Tensors) -> tuple[Tensors, Tensor]:
        (share,) = parameters
        (p, q), (r, s) = self.first, self.second
        slopes = q + share * (s - q), p + share * (r - p)
        return slopes, -(p * q + share * (r * s - p * q))

    def pull(self, parameters: Tensors, z: Tensors) -> Tensors:
        (p, q), (r, s) = self.first, self.second
        return ((s * z[0] + r * z[1] - r * s) - (q * z[0] + p * z[1] - p * q),)

    def at(self, z: Tensors) -> Tensors:
        (rise,) = self.pull(self.start, z)
        return ((rise > 0 if self.below else rise < 0).to(torch.float64),)
