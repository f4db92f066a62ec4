"""How far entries move within their ends when a norm of all moves is limited: numerically, nothing here is a bound.

Moves d are (B, M, n) or broadcast to it, with ends low <= d <= high that need not have 0 between them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_STEPS = 64
"""At most so many Newton steps; a handful does."""

_CLOSE = 1e-13
"""Relative change at which they end: a bound loses its square."""


def reach_of_norm(direction: Tensor, low: Tensor, high: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """The greatest s with ||clamp(s radius direction / size, low, high)||_2 <= radius, infinite where all s do, and the size.

    (B, M, 1) each; the size is the direction's greatest entry, kept apart because numbers far from 1 would overflow together.
    In q = s^2 the norm's square is piecewise linear, and concave if 0 lies between the ends, so that Newton's method ends.
    """
    radius = radius if radius > 0 else 1.0  # at radius 0 the ends are 0 too, and any s does
    largest = direction.abs().amax(2, keepdim=True) if direction.shape[2] else direction.new_zeros(*direction.shape[:2], 1)
    largest = torch.where(largest > 0, largest, 1.0)
    slopes = (direction / largest).square()
    least = (torch.zeros_like(low).clamp(low, high) / radius).square()
    most = torch.maximum((torch.where(direction > 0, high, low) / radius).square(), least)
    most = torch.where(slopes > 0, most, least)

    def norm(q: Tensor) -> tuple[Tensor, Tensor]:
        grown = slopes * q
        moving = (grown > least) & (grown < most)
        fixed = torch.minimum(torch.maximum(grown, least), most)
        return fixed.sum(2, keepdim=True), slopes.masked_fill(~moving, 0.0).sum(2, keepdim=True)

    begin = 1 / slopes.sum(2, keepdim=True).clamp(min=1.0)
    q = _root(norm, begin.expand(*most.shape[:2], 1), most.sum(2, keepdim=True) <= 1)
    return q.sqrt(), largest


def _root(function: Callable[[Tensor], tuple[Tensor, Tensor]], begin: Tensor, never: Tensor) -> Tensor:
    """Where a growing function, which comes with its slope, reaches 1; infinite where ``never``."""
    x, low, high = begin, torch.zeros_like(begin), torch.full_like(begin, torch.inf)
    for _ in range(_STEPS):
        value, slope = function(x)
        newton = x + (1 - value) / slope
        done = never | ((newton - x).abs() <= _CLOSE * x)
        if bool(done.all()):
            break
        low, high = torch.where(value < 1, x, low), torch.where(value < 1, high, x)
        halved = torch.where(torch.isinf(high), 4 * x, (low + high) / 2)
        x = torch.where(done, x, torch.where((newton > low) & (newton < high), newton, halved))
    return x.masked_fill(never, torch.inf)


def ball_threshold(cost: Tensor, low: Tensor, high: Tensor, radius: float) -> Tensor:
    """The |cost| of the entry that moves last when the dearest move first, all by at most ``radius``: (B, M, 1); 0 if all may."""
    _, filled, costs, _, budget = _by_cost(cost, low, high, radius)
    count = (filled < budget).sum(2, keepdim=True)
    costs = torch.cat([costs, torch.zeros_like(costs[..., :1])], dim=2).expand(*filled.shape[:2], -1)
    return costs.gather(2, count)


def fill_cheapest(cost: Tensor, low: Tensor, high: Tensor, radius: float) -> Tensor:
    """The moves d at which cost . d is least with ||d||_1 <= radius: the entries of greatest |cost| move first."""
    room, filled, _, order, budget = _by_cost(cost, low, high, radius)
    moved = torch.minimum((budget - (filled - room)).clamp(min=0), room)
    own = torch.zeros_like(moved).scatter(2, order, moved)
    return torch.zeros_like(low).clamp(low, high) - cost.sign() * own


def _by_cost(cost: Tensor, low: Tensor, high: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rooms to move, their running sums, |cost| (all by falling |cost|), that order, and what may be moved in all."""
    still = torch.zeros_like(low).clamp(low, high)
    room = torch.where(cost < 0, high - still, still - low)
    room = torch.where(cost == 0, 0.0, room)
    costs, order = cost.abs().expand_as(room).sort(dim=2, descending=True)
    room = room.gather(2, order)
    return room, room.cumsum(2), costs, order, radius - still.abs().sum(2, keepdim=True)


def shrink_to_norm(direction: Tensor, low: Tensor, high: Tensor, radius: float) -> Tensor:
    """The moves nearest to ``direction`` with ||d||_1 <= radius: all shortened by one length, then held within the ends."""
    still = torch.zeros_like(low).clamp(low, high)
    least = still.abs()
    most = torch.maximum(torch.where(direction > 0, high, -low), least)
    size = direction.abs()
    largest = size.amax(2, keepdim=True)
    shorter, below, above = torch.zeros_like(largest), torch.zeros_like(largest), largest
    for _ in range(_STEPS):
        left = size - shorter
        total = torch.minimum(torch.maximum(left, least), most).sum(2, keepdim=True)
        newton = shorter + (total - radius) / ((left > least) & (left < most)).sum(2, keepdim=True)
        above, below = torch.where(total <= radius, shorter, above), torch.where(total > radius, shorter, below)
        done = ((above - below) <= _CLOSE * largest) | ((total - radius).abs() <= _CLOSE * radius)
        if bool(done.all()):
            break
        moved = torch.where((newton > below) & (newton < above), newton, (below + above) / 2)
        shorter = torch.where(done, shorter, moved)
    kept = direction.sign() * (size - shorter).clamp(min=0)
    return torch.minimum(torch.maximum(kept, low), high)
