"""Tangents from a point of a smooth function to one of its convex stretches: where they touch.

Most are looked up in a table of the function and improved by two secant steps; the others are found as roots.  No bound rests on
where a tangent touches (:mod:`bourn.relaxations.smooth`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bourn.relaxations.roots import Table, root

if TYPE_CHECKING:
    from bourn.relaxations.smooth import Smooth

_GRID, _FAR, _POINTS = 16.0, 64.0, 8001
"""How far beyond a stretch its table's anchors reach, how far into it their tangents may touch, and how many anchors there are."""

_STEP, _NEAR = 1e-5, 1e-7
"""The first secant step's width, and how near the last two points must be: the error is the product of the last two steps' size."""

_ENDLESS = 1e100
"""A domain that reaches so far has no end for a table."""

Stretch = tuple[float, float]
"""The ends of a convex stretch, infinite where it has none."""


def tangent_from(
    operation: Smooth, anchor: Tensor, start: Tensor, end: Tensor, sign: float, stretch: Stretch | None, left: bool
) -> tuple[Tensor, Tensor]:
    """Where a tangent from the function's point at ``anchor`` touches a convex stretch; whether it does within it.

    ``start`` and ``end`` are what an interval holds of the ``stretch``; anchors come from its ``left`` or its right.  An end where
    the tangent does not touch: the nearer one where the function rises too steeply, the further one where it never touches.
    """
    right = anchor >= end
    found, touches = torch.where(right, end, start), torch.zeros_like(right)
    wide = torch.nonzero((end > start).reshape(-1))[:, 0]
    if not len(wide):
        return found, touches
    at, first, last = (t.reshape(-1)[wide] for t in (anchor, start, end))
    way = torch.where(right.reshape(-1)[wide], 1.0, -1.0)
    own, height_way = sign * operation.evaluate(at), sign * way

    def above(v: Tensor, i: Tensor | slice) -> Tensor:
        """By how much the tangent at v passes above the anchor's point: it grows towards the anchor."""
        tangent = operation.evaluate(v) + operation.slope_within(v, last[i]) * (at[i] - v)
        return height_way[i] * tangent - way[i] * own[i]

    whole = slice(None)
    point, known = _looked_up(operation, at, first, last, sign, stretch, left, lambda v: above(v, whole))
    if not bool(known.all()):
        rest = torch.nonzero(~known)[:, 0]
        point[rest] = root(lambda v, i: above(v, rest[i]), first[rest], last[rest])
    furthest = above(torch.where(way > 0, first, last), whole) * way <= 0
    shape = found.shape
    found, touches = found.reshape(-1).scatter(0, wide, point), touches.reshape(-1).scatter(0, wide, furthest)
    return found.reshape(shape), touches.reshape(shape)


def _looked_up(
    operation: Smooth, at: Tensor, first: Tensor, last: Tensor, sign: float, stretch: Stretch | None, left: bool, above: object
) -> tuple[Tensor, Tensor]:
    """The points where tangents touch, of which those are right that are ``known`` (bool)."""
    assert callable(above)
    # From a point of the stretch itself the tangent touches there.
    within = at >= first if left else at <= last
    nearest = first if left else last
    if stretch is None:
        return nearest.clone(), within
    table = _tangents(operation, sign, stretch, left)
    guess = torch.minimum(torch.maximum(table.between(at), first), last)
    before = torch.where(guess + _STEP <= last, guess + _STEP, guess - _STEP)
    height, point = above(before), guess
    for _ in range(2):
        own = above(point)
        change = (own * (point - before) / (height - own)).nan_to_num(nan=0.0)
        before, height = point, own
        point = torch.minimum(torch.maximum(point + change, first), last)
    near = (point - before).abs() <= _NEAR * (1 + point.abs())
    return torch.where(within, nearest, point), within | (near & table.covers(at))


@lru_cache(maxsize=128)
def _tangents(operation: Smooth, sign: float, stretch: Stretch, left: bool) -> Table:
    """Where the tangent from a point beyond the left or the right end of a convex stretch touches it."""
    low, high = stretch
    grid = torch.linspace(0, _GRID, _POINTS, dtype=torch.float64)
    anchors = low - grid.flip(0) if left else high + grid
    if left:
        high = min(high, low + _FAR)
    else:
        low = max(low, high - _FAR)
    own, way = sign * operation.evaluate(anchors), -1.0 if left else 1.0

    def above(v: Tensor, i: Tensor) -> Tensor:
        return way * (sign * (operation.evaluate(v) + operation.derivative(v) * (anchors[i] - v)) - own[i])

    values = root(above, torch.full_like(anchors, low), torch.full_like(anchors, high))
    return Table(float(anchors[0]), float(anchors[-1]), values)


def convex_stretch(operation: Smooth, below: bool, first: bool) -> Stretch | None:
    """The ends of the first or the last convex stretch, seen from below or (the negative function) from above.

    None where no table of its tangents is kept: for functions with kinks, or that end somewhere.
    """
    if operation.kinks or min(-operation.domain[0], operation.domain[1]) < _ENDLESS:
        return None
    ends = [-math.inf, *operation.breaks, math.inf]
    convex = [k for k, c in enumerate(operation.curvature) if (c >= 0 if below else c <= 0)]
    number = convex[0 if first else -1]
    return ends[number], ends[number + 1]
