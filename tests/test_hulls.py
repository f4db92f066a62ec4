"""What every registered nonlinearity says of its hull: the support function, envelopes, vertices."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bourn.interval import Interval
from bourn.relaxations.base import ElementWise, LineRule
from bourn.relaxations.curves import PiecewiseLinear, Slopes
from bourn.relaxations.leaky_relu import LeakyReLU
from bourn.relaxations.sigmoid import Sigmoid
from test_nonlinearities import ELEMENT_WISE, FEW, PIECEWISE, column, inside, intervals, special, touching, value

FACTORS = st.floats(-4, 4) | st.sampled_from([0.0, 1.0, -1.0, 1e-310, 1e-200, -1e-200, 1e8, -1e150])


def wrong_supports(operation: ElementWise, z: Interval, row: Tensor, mu: Tensor) -> list[str]:
    """Where support minus its error is above row * sigma(v) - mu * v at a point of the interval, exactly."""
    found, error = operation.support((z,), row, (mu,))
    wrong = []
    for m in range(row.shape[1]):
        parts = (z.lower[0], z.upper[0], row[0, m], mu[0, m], found[0, m], error[0, m])
        for low, high, factor, multiplier, least, slack in zip(*(p.tolist() for p in parts), strict=True):
            if math.isinf(least) or math.isinf(slack):
                continue
            for point in inside(operation, low, high):
                exact = Fraction(factor) * value(operation, point) - Fraction(multiplier) * Fraction(point)
                if Fraction(least) - Fraction(slack) > exact:
                    wrong.append(f"{least!r} - {slack!r} on [{low!r}, {high!r}] is above {float(exact)!r} at {point!r}")
    return wrong


@pytest.mark.parametrize("operation", ELEMENT_WISE, ids=str)
def test_the_support_function_holds_exactly(operation: ElementWise) -> None:
    """Support minus its error is at most row x - mu z everywhere, in exact arithmetic."""

    @settings(max_examples=FEW)
    @given(intervals(operation), st.lists(st.tuples(FACTORS, FACTORS), min_size=2, max_size=2))
    def check(z: Interval, factors: list[tuple[float, float]]) -> None:
        row, mu = (column([f[i] for f in factors])[None, :, None].repeat(1, 1, len(z.lower)) for i in (0, 1))
        assert not wrong_supports(operation, _batch(z), row, mu)

    check()
    z = touching(operation)
    chosen = column(special(operation))
    row, mu = chosen[None, :4, None].repeat(1, 1, len(z.lower)), chosen[None, 4:8, None].repeat(1, 1, len(z.lower))
    assert not wrong_supports(operation, _batch(z), row, mu)


def _batch(z: Interval) -> Interval:
    """Intervals (N,) as one problem (1, N)."""
    return Interval(z.lower[None], z.upper[None])


@pytest.mark.parametrize("operation", PIECEWISE, ids=str)
def test_the_support_function_is_met_at_a_vertex(operation: PiecewiseLinear) -> None:
    """It is the minimum itself, up to rounding, and linear functions of a stable piece cost nothing."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(1, 500, 2, dtype=torch.float64, generator=generator).sort(2).values * 3
    z = Interval(ends[..., 0], ends[..., 1])
    row, mu = (torch.randn(1, 3, 500, dtype=torch.float64, generator=generator) for _ in range(2))
    found, error = operation.support((z,), row, (mu,))
    points = torch.stack([z.lower, *(z.lower.new_tensor(k).clamp(z.lower, z.upper) for k in operation.knots), z.upper])
    least = (row * operation.evaluate(points)[:, :, None] - mu * points[:, :, None]).amin(0)
    torch.testing.assert_close(found, least, rtol=1e-12, atol=1e-12)
    assert bool((error <= 1e-13).all())


@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize("operation", ELEMENT_WISE, ids=str)
def test_a_sides_lines_touch_the_function(operation: ElementWise, below: bool) -> None:
    """For any parameter between least and greatest the line's offset is the best of its slope, and it holds everywhere."""
    generator = torch.Generator().manual_seed(1)
    ends = torch.randn(100_000, 2, dtype=torch.float64, generator=generator).sort(1).values * 3
    z = Interval(ends[:, 0], ends[:, 1])
    usual = torch.isfinite(operation.range(z).magnitude) & torch.isfinite(operation.lines(LineRule.AREA, z).upper_offset)
    z = Interval(z.lower[usual], z.upper[usual])
    assert len(z.lower) > 1000
    side = operation.sides(z)[0 if below else 1]
    assert bool((side.least[0] <= side.greatest[0] + 1e-12).all())
    for share in (0.0, 0.3, 0.5, 1.0):
        parameter = (side.least[0] + share * (side.greatest[0] - side.least[0])).clamp(side.least[0], side.greatest[0])
        (slope,), offset = side.line((parameter,))
        wanted = operation.offsets(z, slope, slope.clone())[0 if below else 1]
        torch.testing.assert_close(offset, wanted, rtol=1e-9, atol=1e-9)
    # The hull's own slopes: at the ends of the range the line touches at an end of the interval.
    for parameter, end in ((side.least[0], z.lower), (side.greatest[0], z.upper)):
        slope = side.line((parameter,))[0][0]
        at = end if below or not isinstance(side, Slopes) else (z.upper if end is z.lower else z.lower)
        wanted = operation.offsets(z, slope, slope.clone())[0 if below else 1]
        own = operation.evaluate(at) - slope * at
        torch.testing.assert_close(own, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("operation", PIECEWISE, ids=str)
def test_vertices_are_points_of_the_function_with_its_ends(operation: PiecewiseLinear) -> None:
    z = touching(operation)
    usual = (z.magnitude < 1e9) & (z.magnitude > 1e-9)
    z = Interval(z.lower[usual], z.upper[usual])
    points, values = operation.vertices(z)
    assert torch.equal(points[0], z.lower)
    assert torch.equal(points[-1], z.upper)
    for point, height in zip(points, values, strict=True):
        assert bool((point >= z.lower).all() & (point <= z.upper).all())
        torch.testing.assert_close(height, operation.evaluate(point), rtol=1e-12, atol=1e-12)


def test_a_broken_support_function_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract can fail: a hull without one of its vertices."""

    @dataclasses.dataclass(frozen=True)
    class Broken(LeakyReLU):
        def _vertices(self, z: Interval) -> list[Tensor]:
            return [z.lower, z.upper]

    z = Interval(column([-1.0, -2.0])[None], column([1.0, 0.5])[None])
    ones = torch.ones(1, 1, 2, dtype=torch.float64)
    assert not wrong_supports(LeakyReLU(), z, ones, 0.5 * ones)
    assert wrong_supports(Broken(), z, ones, 0.5 * ones)


@pytest.mark.parametrize("operation", ELEMENT_WISE, ids=str)
def test_hulls_are_monotone(operation: ElementWise) -> None:
    """On an interval within another the hull lies within the other's: both sides' heights at any point, 10^5 intervals."""
    generator = torch.Generator().manual_seed(2)
    ends = torch.randn(100_000, 4, dtype=torch.float64, generator=generator).sort(1).values * 3
    outer, inner = Interval(ends[:, 0], ends[:, 3]), Interval(ends[:, 1], ends[:, 2])
    lines = operation.lines(LineRule.AREA, outer)
    usual = torch.isfinite(lines.lower_offset) & torch.isfinite(lines.upper_offset)
    outer, inner = (Interval(z.lower[usual], z.upper[usual]) for z in (outer, inner))
    for share in (0.0, 0.4, 1.0):
        point = (inner.lower + share * (inner.upper - inner.lower)).clamp(inner.lower, inner.upper)
        heights = []
        for z in (outer, inner):
            for side in operation.sides(z):
                (slope,), offset = side.line(side.at((point,)))
                heights.append(slope * point + offset)
        scale = 1e-11 * (1 + outer.magnitude * operation.range(outer).magnitude)
        assert bool((heights[0] <= heights[2] + scale).all() & (heights[1] >= heights[3] - scale).all())
        value = operation.evaluate(point)
        assert bool((heights[2] <= value + scale).all() & (heights[3] >= value - scale).all())


def test_a_smooth_function_of_wrong_curvature_is_caught() -> None:
    """The contract can fail: a sigmoid that calls itself convex, and one whose derivative is off."""

    @dataclasses.dataclass(frozen=True)
    class Convex(Sigmoid):
        breaks = ()  # type: ignore[assignment]
        curvature = (1,)  # type: ignore[assignment]

    @dataclasses.dataclass(frozen=True)
    class Steep(Sigmoid):
        def derivative(self, z: Tensor, from_left: bool = False) -> Tensor:
            return 1.1 * super().derivative(z)

    z = Interval(column([-3.0, 0.5])[None], column([2.0, 3.0])[None])
    rows = torch.tensor([1.0, -1.0], dtype=torch.float64)[None, :, None].expand(1, 2, 2)
    factors = (0.05, 0.1, 0.2)
    assert not any(wrong_supports(Sigmoid(), z, rows, factor * rows) for factor in factors)
    assert any(wrong_supports(Convex(), z, rows, factor * rows) for factor in factors)
    assert any(wrong_supports(Steep(), z, rows, factor * rows) for factor in factors)
