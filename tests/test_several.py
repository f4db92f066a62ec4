"""What every registered nonlinearity of several inputs promises: planes, support function, sides of an optimal hull."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

import networks
from bourn.interval import Interval
from bourn.relaxations.base import Intervals, LineRule
from bourn.relaxations.maximum import Maximum
from bourn.relaxations.product import Product
from bourn.relaxations.several import SeveralInputs
from test_nonlinearities import EXAMPLES

SEVERAL = [e for e in EXAMPLES if isinstance(e, SeveralInputs)]
COUNT = 400


def counts(operation: SeveralInputs) -> list[int]:
    """The numbers of inputs that it takes, up to four."""
    found = []
    for count in range(1, 5):
        try:
            operation.shape(*((1,),) * count)
        except ValueError:
            continue
        found.append(count)
    return found


CASES = [(operation, count) for operation in SEVERAL for count in counts(operation)]


def boxes(inputs: int, seed: int, count: int = COUNT) -> Intervals:
    """Random boxes as one problem (1, count) each; some sides are points, some inputs equal, some huge, some tiny."""
    generator = networks.random(seed)
    ends = (2 * torch.randn(inputs, count, 2, dtype=torch.float64, generator=generator)).sort(2).values
    ends[:, ::7] = (ends[:, ::7] * 2).round() / 2
    ends[0, ::5, 1] = ends[0, ::5, 0]
    ends[:, 3::31] *= 1e8
    ends[:, 4::31] *= 1e-8
    if inputs > 1:
        ends[1, ::11] = ends[0, ::11]
    return tuple(Interval(e[None, :, 0].contiguous(), e[None, :, 1].contiguous()) for e in ends)


def corners(z: Intervals) -> list[tuple[Tensor, ...]]:
    """Every corner of the boxes, and middles of their sides: one tensor (1, count) an input."""
    return list(product(*((own.lower, own.center, own.upper) for own in z)))


def within(z: Intervals, shares: Tensor) -> tuple[Tensor, ...]:
    """The points at these shares (inputs, ...) of the boxes' sides."""
    return tuple((own.lower + s * (own.upper - own.lower)).clamp(own.lower, own.upper) for own, s in zip(z, shares, strict=True))


def exact(operation: SeveralInputs, point: tuple[float, ...]) -> Fraction:
    numbers = [Fraction(p) for p in point]
    if isinstance(operation, Maximum):
        return max(numbers)
    if isinstance(operation, Product):
        return numbers[0] * numbers[1]
    return Fraction(float(operation.evaluate(*(torch.tensor(p, dtype=torch.float64) for p in point))))


@pytest.mark.parametrize("rule", LineRule)
@pytest.mark.parametrize(("operation", "inputs"), CASES, ids=str)
def test_planes_hold_exactly(operation: SeveralInputs, inputs: int, rule: LineRule) -> None:
    z = boxes(inputs, 0)
    lines = operation.lines(rule, *z)
    stable = operation.stable(*z)
    for corner in corners(z):
        for i in range(COUNT):
            point = tuple(float(c[0, i]) for c in corner)
            value = exact(operation, point)
            low, high = Fraction(float(lines.lower_offset[0, i])), Fraction(float(lines.upper_offset[0, i]))
            for below, above, p in zip(lines.lower_slopes, lines.upper_slopes, point, strict=True):
                low, high = low + Fraction(float(below[0, i])) * Fraction(p), high + Fraction(float(above[0, i])) * Fraction(p)
            assert low <= value <= high, (i, point)
            if stable[0, i]:
                assert low == value == high


@pytest.mark.parametrize(("operation", "inputs"), CASES, ids=str)
def test_the_support_function_is_the_minimum(operation: SeveralInputs, inputs: int) -> None:
    """Never above the function anywhere, met at ``attained``."""
    z = boxes(inputs, 1)
    generator = networks.random(2)
    row = torch.randn(1, 6, COUNT, dtype=torch.float64, generator=generator)
    row[:, 0], row[:, 1] = 1.0, 0.0
    mu = tuple(torch.randn(1, 6, COUNT, dtype=torch.float64, generator=generator) * (own < 5) for own in range(inputs))
    found, error = operation.support(z, row, mu)
    points, height = operation.attained(z, row, mu)
    scale = 1 + sum(own.magnitude for own in z)[:, None] ** 2  # type: ignore[index]
    torch.testing.assert_close(operation.evaluate(*points), height, rtol=1e-12, atol=1e-12)
    met = row * height - sum(m * p for m, p in zip(mu, points, strict=True))
    assert bool(((met - found).abs() <= 1e-13 * scale).all())
    for own, point in zip(z, points, strict=True):
        assert bool(((point >= own.lower[:, None]) & (point <= own.upper[:, None])).all())
    shares = torch.rand(200, inputs, COUNT, dtype=torch.float64, generator=generator)
    for share in [*shares, *(torch.tensor(c).expand(COUNT, inputs).T for c in product((0.0, 1.0), repeat=inputs))]:
        sample = within(z, share)
        value = row * operation.evaluate(*sample)[:, None] - sum(m * p[:, None] for m, p in zip(mu, sample, strict=True))
        assert bool((found - error <= value + 1e-14 * scale).all())
    assert bool((error <= 1e-12 * scale).all())


def envelope(operation: SeveralInputs, z: Intervals, i: int, point: list[float], below: bool) -> float:
    """The hull's lowest (or highest) value over a point, by a linear program over a grid's points."""
    axes = [np.linspace(float(own.lower[0, i]), float(own.upper[0, i]), 5) for own in z]
    grid = np.array(list(product(*axes)))
    values = operation.evaluate(*(torch.from_numpy(grid[:, k]) for k in range(len(z)))).numpy()
    cost = values if below else -values
    middle, width = grid.mean(0), np.where(np.ptp(grid, 0) > 0, np.ptp(grid, 0), 1.0)
    found = linprog(cost, A_eq=np.vstack([((grid - middle) / width).T, np.ones(len(grid))]), b_eq=[*((point - middle) / width), 1])
    assert found.status == 0
    return float(found.fun if below else -found.fun)


@pytest.mark.parametrize(("operation", "inputs"), CASES, ids=str)
def test_the_hull_is_optimal(operation: SeveralInputs, inputs: int) -> None:
    """A side's best plane at a point has the hull's own height there, but for what a grid does not see below a maximum."""
    z = boxes(inputs, 3, 60)
    share = torch.rand(inputs, 1, 60, dtype=torch.float64, generator=networks.random(4))
    point = within(z, share)
    for below, side in zip((True, False), operation.sides(*z), strict=True):
        slopes, offset = side.line(side.at(point))
        height = offset + sum(s * p for s, p in zip(slopes, point, strict=True))
        for i in range(60):
            own = [float(p[0, i]) for p in point]
            wanted = envelope(operation, z, i, own, below)
            scale = 1 + max(float(o.magnitude[0, i]) for o in z) ** 2
            if isinstance(operation, Maximum) and below:  # a grid's hull is above it between the grid's points
                assert float(height[0, i]) == pytest.approx(max(own), abs=1e-12 * scale)
            else:
                assert float(height[0, i]) == pytest.approx(wanted, abs=1e-9 * scale)


@pytest.mark.parametrize(("operation", "inputs"), CASES, ids=str)
def test_every_parameter_gives_a_plane_that_holds(operation: SeveralInputs, inputs: int) -> None:
    z = boxes(inputs, 5)
    generator = networks.random(6)
    for below, side in zip((True, False), operation.sides(*z), strict=True):
        for draw in range(8):
            chosen = tuple(
                least + torch.rand(least.shape, dtype=torch.float64, generator=generator) * (most - least) if draw else start
                for least, most, start in zip(side.least, side.greatest, side.start, strict=True)
            )
            slopes, offset = side.line(chosen)
            for corner in corners(z):
                line = offset + sum(s * p for s, p in zip(slopes, corner, strict=True))
                over = operation.evaluate(*corner) - line
                scale = 1 + sum(own.magnitude for own in z) ** 2
                assert bool(((over if below else -over) >= -1e-13 * scale).all())
            # The pull is the derivative of the line's value, or has its sign.
            point = tuple(own.center for own in z)
            pulls = side.pull(chosen, point)
            assert all(p.isfinite().all() for p in pulls)


@pytest.mark.parametrize(("operation", "inputs"), CASES, ids=str)
def test_ranges_hold_and_are_met(operation: SeveralInputs, inputs: int) -> None:
    z = boxes(inputs, 7)
    bounds = operation.range(*z)
    values = torch.stack([operation.evaluate(*corner) for corner in corners(z)])
    scale = 1 + sum(own.magnitude for own in z) ** 2
    assert bool((bounds.lower <= values.amin(0)).all() & (bounds.upper >= values.amax(0)).all())
    assert bool((values.amin(0) - bounds.lower <= 1e-14 * scale).all() & (bounds.upper - values.amax(0) <= 1e-14 * scale).all())


@pytest.mark.parametrize(("operation", "inputs"), CASES, ids=str)
def test_infinite_ends_are_never_wrong(operation: SeveralInputs, inputs: int) -> None:
    ends = [(-math.inf, math.inf), (-math.inf, 1.0), (0.0, math.inf), (0.0, 0.0), (-1.0, 2.0)]
    pairs = list(product(ends, repeat=inputs))
    z = tuple(
        Interval(*(torch.tensor([[p[k][e] for p in pairs]], dtype=torch.float64) for e in (0, 1))) for k in range(inputs)
    )
    lines, bounds = operation.lines(LineRule.AREA, *z), operation.range(*z)
    for t in (*lines.lower_slopes, *lines.upper_slopes):
        assert t.isfinite().all()
    assert not lines.lower_offset.isnan().any()
    assert not lines.upper_offset.isnan().any()
    sample = tuple(own.lower.clamp(min=-1e3) * 0.5 + own.upper.clamp(max=1e3) * 0.5 for own in z)
    value = operation.evaluate(*sample)
    assert bool((bounds.lower <= value).all() & (bounds.upper >= value).all())
    low = lines.lower_offset + sum(s * p for s, p in zip(lines.lower_slopes, sample, strict=True))
    assert bool((low <= value + 1e-9).all())
