"""What every registered smooth nonlinearity promises besides: exactness of its values, curvature, an optimal hull."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

import networks
from bourn.interval import Interval
from bourn.relaxations.smooth import Smooth
from exact_values import FORMULAS, exact_value
from test_nonlinearities import ELEMENT_WISE, column, defined, special

SMOOTH = [e for e in ELEMENT_WISE if isinstance(e, Smooth)]


@pytest.mark.parametrize("operation", SMOOTH, ids=str)
def test_values_and_derivatives_are_as_exact_as_is_relied_on(operation: Smooth) -> None:
    """What is trusted of torch, compared with arithmetic of 50 digits; half of the trust is left over."""
    if type(operation) not in FORMULAS:
        pytest.skip(f"there is no formula for {operation}")
    generator = networks.random(4)
    parts = [scale * torch.randn(500, dtype=torch.float64, generator=generator) for scale in (0.1, 1.0, 5.0, 100.0)]
    points = [p for p in (*torch.cat(parts).tolist(), *special(operation)) if defined(operation, p)]
    z = column(points)
    values, slopes = operation.evaluate(z), operation.derivative(z)
    for p, y, s in zip(points, values.tolist(), slopes.tolist(), strict=True):
        exact = exact_value(operation, p)
        assert abs(Fraction(y) - exact) <= Fraction(float(operation.error(column([y])))) / 2 + Fraction(1, 2**1060), p
        trusted = float(operation.error(column([s])))
        if math.isfinite(trusted):
            wanted = exact_value(operation, p, derivative=True)
            assert abs(Fraction(s) - wanted) <= Fraction(trusted) / 2 + Fraction(1, 2**1060), p


@pytest.mark.parametrize("operation", [e for e in SMOOTH if e.rising], ids=str)
def test_what_is_said_to_rise_nowhere_falls(operation: Smooth) -> None:
    scales = (0.01, 1.0, 100.0)
    z = torch.cat([scale * torch.randn(2000, dtype=torch.float64, generator=networks.random(5)) for scale in scales]).sort().values
    z = z[operation.inside(Interval(z, z))]
    values = operation.evaluate(z)
    assert bool((operation.derivative(z) >= 0).all())
    assert bool((values.diff() >= -2 * operation.error(values[1:])).all())


@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize("operation", SMOOTH, ids=str)
def test_curvature_is_as_stated(operation: Smooth, below: bool) -> None:
    """Slopes rise on the stretches that are said to be convex, of the function and of its negative."""
    ends = torch.randn(200, 2, dtype=torch.float64, generator=networks.random(6)).sort(1).values * 8
    z = Interval(ends[:, 0].contiguous(), ends[:, 1].contiguous())
    z = Interval(z.lower[operation.inside(z)], z.upper[operation.inside(z)])
    sign, seen = (1.0 if below else -1.0), 0
    for start, end, convex in operation.pieces(z, below):
        if not convex:
            continue
        shares = torch.linspace(0, 1, 203, dtype=torch.float64)[1:-1]
        slopes = sign * operation.derivative(start[:, None] + shares * (end - start)[:, None])
        assert bool((slopes.diff(dim=1) >= -4 * operation.error(slopes[:, 1:])).all())
        seen += int((end > start).sum())
    # A function that is convex everywhere has nothing to be looked at from above.
    assert seen or set(operation.curvature) <= ({-1} if below else {1})


@pytest.mark.parametrize("operation", SMOOTH, ids=str)
def test_the_hull_of_a_smooth_function_is_optimal(operation: Smooth) -> None:
    """Both sides' best lines at a point are the numerical convex hull's, to the sampling's precision."""
    ends = torch.randn(300, 2, dtype=torch.float64, generator=networks.random(5)).sort(1).values * 3
    ends = torch.cat([ends, ends * 1e-3, ends + 4, ends - 4])
    ends = ends[[defined(operation, a) and defined(operation, b) for a, b in ends.tolist()]]
    z = Interval(ends[:, 0].contiguous(), ends[:, 1].contiguous())
    inside_ = operation.inside(z) & torch.isfinite(operation.range(z).magnitude)
    z = Interval(z.lower[inside_], z.upper[inside_])
    share = torch.linspace(0, 1, 801, dtype=torch.float64)
    points = torch.minimum(z.lower[:, None] + share * (z.upper - z.lower)[:, None], z.upper[:, None])
    values = operation.evaluate(points)
    for below, side in zip((True, False), operation.sides(z), strict=True):
        for at in (0.0, 0.13, 0.4, 0.5, 0.77, 1.0):
            position = (z.lower + at * (z.upper - z.lower)).clamp(z.lower, z.upper)
            (slope,), offset = side.line(side.at((position,)))
            height = slope * position + offset
            # The sampled hull's height at the position: the best line through it that passes all samples.
            sign = 1.0 if below else -1.0
            over = sign * (values - height[:, None] - slope[:, None] * (points - position[:, None]))
            scale = 1 + values.abs().amax(1)
            assert float((-over / scale[:, None]).max()) <= 1e-12  # no sample beyond the line
            left = points <= position[:, None] + 1e-12
            # It is touched on both sides of the position: no line through a higher point passes all samples.
            step = (z.upper - z.lower) / 800
            curve = operation.derivative(points).diff(dim=1).abs().amax(1) * step + 1e-12 * scale
            assert bool((torch.where(left, over, math.inf).amin(1) <= curve).all())
            assert bool((torch.where(points >= position[:, None] - 1e-12, over, math.inf).amin(1) <= curve).all())
