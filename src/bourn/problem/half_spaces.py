"""What half-spaces do to boxes: nearest points, numerically; and, rounded outward, projections and ends of entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.rounding import TINY, float_above, float_below, gamma, up

_NEAR = 1e-11
"""By so much of its size a nearest point may miss a half-space."""

_STEPS = 2000
"""At most so many gradient steps for nearest points."""


def nearest(x: Tensor, rows: Tensor, limits: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The points of the polytopes nearest to x (N, n), about; ``rows`` (1 or N, K, n), ends (1 or N, n).

    By accelerated gradient ascent on the dual, whose momentum starts anew where it leads down.
    """
    norms = rows.norm(dim=2)
    norms = torch.where(norms > 0, norms, 1.0)
    unit, most = rows / norms[..., None], limits / norms
    pace = 1 / torch.linalg.matrix_norm(unit, 2).square().clamp(min=1e-12)[:, None]
    size = (unit.abs() @ x.abs()[..., None])[..., 0] + most.abs()

    def at(multipliers: Tensor) -> tuple[Tensor, Tensor]:
        pull = multipliers @ unit[0] if len(unit) == 1 else (multipliers[:, None] @ unit)[:, 0]
        point = torch.minimum(torch.maximum(x - pull, lower), upper)
        value = point @ unit[0].mT if len(unit) == 1 else (unit @ point[..., None])[..., 0]
        return point, value - most

    multipliers = x.new_zeros(len(x), rows.shape[1])
    ahead, momentum = multipliers, x.new_ones(len(x), 1)
    point = x
    for step in range(_STEPS):
        point, beyond = at(ahead)
        following = (ahead + pace * beyond).clamp(min=0)
        moved = following - ahead
        if step % 10 == 0 and bool((moved.abs() <= pace * _NEAR * size).all()):
            break
        restart = (moved * (following - multipliers)).sum(1, keepdim=True) < 0
        grown = torch.where(restart, 1.0, (1 + (1 + 4 * momentum.square()).sqrt()) / 2)
        ahead = following + torch.where(restart, 0.0, (momentum - 1) / grown) * (following - multipliers)
        multipliers, momentum = following, grown
    return point


def least_products(rows: Tensor, box: Interval) -> tuple[Tensor, Tensor]:
    """The least value of every product a_kj x_j over a box (B, n): (B, K, n), and its size; 0 where a_kj is 0."""
    lower, upper = box.lower.flatten(1)[:, None], box.upper.flatten(1)[:, None]
    products = torch.where(rows > 0, rows * lower, rows * upper).masked_fill(rows == 0, 0.0)
    return products, products.abs()


def window_limits(rows: Tensor, box: Interval, limits: Tensor, kept: Tensor, window: Interval) -> Tensor:
    """Limits (B', K) of half-spaces projected to some entries of each problem, rounded outward; infinite where there is none.

    ``rows`` (B, K, n) and ``box`` are all entries; ``kept`` (B', K, n') and ``window`` those kept, B' / B sets of each problem.
    """
    several = len(kept) // len(rows)
    whole, size = (t.sum(2).repeat_interleave(several, 0) for t in least_products(rows, box))
    part, part_size = (t.sum(2) for t in least_products(kept, window))
    own = limits.repeat_interleave(several, 0)
    terms = rows.shape[2]
    error = gamma(terms + 8) * (size + part_size + own.abs()) + TINY * (1 + terms)
    return up(own - (whole - part) + error)


def propagate(rows: Tensor, limits: Tensor, box: Interval) -> tuple[Tensor, Tensor]:
    """Ends of the box after every half-space a . x <= b has bounded every entry by what the box leaves the others.

    Rounded outward; they cross where the polytope is empty.
    """
    lower, upper, terms = box.lower.flatten(1), box.upper.flatten(1), rows.shape[2]
    for a, b in zip(rows.unbind(1), limits.unbind(1), strict=True):
        products, sizes = least_products(a[:, None], Interval(torch.minimum(lower, upper), upper))
        own = products[:, 0]
        endless = torch.isinf(own)
        total = own.masked_fill(endless, 0.0).sum(1, keepdim=True)
        size = sizes[:, 0].masked_fill(endless, 0.0).sum(1, keepdim=True) + b[:, None].abs()
        others = endless.sum(1, keepdim=True) - endless.to(torch.int64)
        room = b[:, None] - (total - own.masked_fill(endless, 0.0)) + gamma(terms + 8) * 2 * size + TINY * (1 + terms)
        end = torch.where(others > 0, torch.inf, up(room))
        quotient = torch.where(a != 0, end / a, torch.inf)
        upper = torch.where(a > 0, torch.minimum(upper, up(quotient)), upper)
        lower = torch.where(a < 0, torch.maximum(lower, -up(-quotient)), lower)
        if bool((lower > upper).any()):
            break
    return lower, upper


def exact_end(
    entry: int,
    sign: int,
    rows: Sequence[Sequence[float]],
    limits: Sequence[float],
    box: Sequence[tuple[float, float]],
    guess: Sequence[float],
) -> float:
    """A lower bound of sign * x_entry where ends of the box are infinite, from multipliers near ``guess``; -inf without one.

    Entries with infinite ends need reduced costs that are exactly 0 or of one sign: so multipliers are solved for in fractions.
    """
    used = [k for k, m in enumerate(guess) if m > 1e-9 * max(1e-9, *guess)]
    exact = {k: [Fraction(v) for v in rows[k]] for k in used}
    costs = [Fraction(sign if j == entry else 0) for j in range(len(box))]
    near = [float(costs[j]) + sum(guess[k] * rows[k][j] for k in used) for j in range(len(box))]
    size = [abs(float(costs[j])) + sum(guess[k] * abs(rows[k][j]) for k in used) for j in range(len(box))]
    tight = [j for j, (low, high) in enumerate(box) if size[j] > 0 and abs(near[j]) <= 1e-6 * size[j] and (low, high) != (low, low)]
    tight.sort(key=lambda j: max(map(abs, box[j])) < math.inf)
    found = _solve([[exact[k][j] for k in used] for j in tight], [-costs[j] for j in tight], [Fraction(guess[k]) for k in used])
    if any(m < 0 for m in found):
        return -math.inf
    total = -sum((m * Fraction(limits[k]) for k, m in zip(used, found, strict=True)), Fraction(0))
    for j, ends in enumerate(box):
        reduced = costs[j] + sum((m * exact[k][j] for k, m in zip(used, found, strict=True)), Fraction(0))
        if reduced:
            end = ends[0] if reduced > 0 else ends[1]
            if abs(end) == math.inf:
                return -math.inf
            total += reduced * Fraction(end)
    return float_below(total)


def _solve(matrix: list[list[Fraction]], right: list[Fraction], guess: list[Fraction]) -> list[Fraction]:
    """Solve as many of the equations, in order, as are independent; what they leave open takes its ``guess``."""
    found: dict[int, tuple[list[Fraction], Fraction]] = {}
    for row, value in zip(matrix, right, strict=True):
        row = list(row)
        for pivot, (other, own) in found.items():
            factor = row[pivot]
            if factor:
                row, value = [a - factor * c for a, c in zip(row, other, strict=True)], value - factor * own
        chosen = next((i for i, a in enumerate(row) if a), None)
        if chosen is None:
            continue
        row, value = [a / row[chosen] for a in row], value / row[chosen]
        for p, (other, own) in found.items():
            factor = other[chosen]
            if factor:
                found[p] = [a - factor * c for a, c in zip(other, row, strict=True)], own - factor * value
        found[chosen] = row, value
    solved = list(guess)
    for pivot, (row, value) in found.items():
        solved[pivot] = value - sum((a * guess[i] for i, a in enumerate(row) if i != pivot and a), Fraction(0))
    return solved


def rounded_row(
    coefficients: Sequence[Fraction], limit: Fraction, reach: Sequence[float]
) -> tuple[list[float], float, float] | None:
    """A half-space in float64: its row, and limits that hold more and less than it; the same twice where numbers are exact.

    ``reach``: the greatest |x_j|.  A row is first multiplied by its numbers' common denominator.  None where a coefficient that
    float64 does not hold meets an infinite ``reach``, or is beyond its range.
    """
    for scale in (Fraction(1), Fraction(math.lcm(*(c.denominator for c in (*coefficients, limit))))):
        try:
            row, right = [float(c * scale) for c in coefficients], float(limit * scale)
        except OverflowError:
            continue
        if right == limit * scale and all(a == c * scale for a, c in zip(row, coefficients, strict=True)):
            return row, right, right
    try:
        row = [float(c) for c in coefficients]
    except OverflowError:
        return None
    slack = Fraction(0)
    for a, c, far in zip(row, coefficients, reach, strict=True):
        if Fraction(a) != c:
            if far == math.inf:
                return None
            slack += abs(Fraction(a) - c) * Fraction(far)
    return row, float_above(limit + slack), float_below(limit - slack)

