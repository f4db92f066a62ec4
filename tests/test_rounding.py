"""Rounding: the a-priori error bounds, outward conversions and outward operations against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import bourn.rounding
from bourn.errors import EmptyInputSetError, UsageError
from bourn.interval import Interval
from bourn.problem.input_set import Box, box, linf_ball
from bourn.rounding import down, float_above, float_below, gamma, up
from networks import at_most, fractions, random, seeds

MOST = math.nextafter(math.inf, 0.0)
finite = st.floats(allow_nan=False, allow_infinity=False)
exact_numbers = st.one_of(
    st.fractions(),
    finite.map(Fraction),
    st.builds(lambda a, e: a * Fraction(2) ** e, st.integers(-(10**18), 10**18), st.integers(-1200, 1100)),
    st.builds(lambda f, n: Fraction(f) + Fraction(n, 3**700), finite, st.integers(-1, 1)),
)


def ill_conditioned(generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers of both signs over thirty orders of magnitude: their sums cancel."""
    size = 10 ** (30 * torch.rand(*shape, dtype=torch.float64, generator=generator) - 15)
    return size * torch.randn(*shape, dtype=torch.float64, generator=generator)


@settings(max_examples=60)
@given(seeds, st.integers(1, 300))
def test_gamma_bounds_the_error_of_dot_products(seed: int, terms: int) -> None:
    """|fl(a . b) - a . b| <= gamma(n) |a| . |b| (Higham), for torch's matrix product, on sums that cancel."""
    generator = random(seed)
    a, b = ill_conditioned(generator, terms), ill_conditioned(generator, terms)
    if terms > 1:  # make the whole cancel, up to one rounding
        a[-1], b[-1] = -torch.dot(a[:-1], b[:-1]), 1.0
    products = [x * y for x, y in zip(fractions(a), fractions(b), strict=True)]
    error = abs(Fraction((a[None] @ b[:, None]).item()) - sum(products))
    assert error <= Fraction(gamma(terms)) * sum(abs(p) for p in products)
    assert error <= Fraction((gamma(terms) * (a.abs()[None] @ b.abs()[:, None])).item())


def test_gamma_is_above_its_exact_value() -> None:
    """gamma(n) >= n u / (1 - n u) in exact arithmetic, and it is not absurdly above."""
    unit = Fraction(1, 2**53)
    assert Fraction(bourn.rounding.UNIT) == unit
    for n in (0, 1, 2, 3, 10, 1000, 10**6, 2**31):
        exact = n * unit / (1 - n * unit)
        assert exact <= Fraction(gamma(n)) <= exact * (1 + Fraction(1, 2**19))
    with pytest.raises(OverflowError):
        gamma(2**32)


@settings(max_examples=300)
@given(exact_numbers)
def test_conversions_to_float_are_the_nearest_on_their_side(x: Fraction) -> None:
    """float_below is the greatest float64 at most x, float_above the least at least x; infinite where there is none."""
    below, above = float_below(x), float_above(x)
    assert below == -math.inf or Fraction(below) <= x
    assert above == math.inf or Fraction(above) >= x
    following, preceding = math.nextafter(below, math.inf), math.nextafter(above, -math.inf)
    assert following == math.inf or Fraction(following) > x
    assert preceding == -math.inf or Fraction(preceding) < x
    if below == -math.inf:
        assert x < Fraction(-MOST)
    if above == math.inf:
        assert x > Fraction(MOST)


def test_conversions_at_the_ends_of_the_range() -> None:
    huge, tiny = Fraction(10) ** 400, Fraction(1, 10**400)
    assert (float_below(huge), float_above(huge)) == (MOST, math.inf)
    assert (float_below(-huge), float_above(-huge)) == (-math.inf, -MOST)
    assert (float_below(tiny), float_above(tiny)) == (0.0, 5e-324)
    assert (float_below(-tiny), float_above(-tiny)) == (-5e-324, 0.0)
    assert float_below(Fraction(1, 10)) < float_above(Fraction(1, 10)) == 0.1
    assert float_below(Fraction(MOST) + 1) == MOST


@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_down_and_up_move_outward(values: list[float]) -> None:
    """One float64 outward; NaN gives no bound, and no result is NaN."""
    x = torch.tensor(values, dtype=torch.float64)
    lower, upper = down(x), up(x)
    for value, low, high in zip(values, lower.tolist(), upper.tolist(), strict=True):
        if math.isnan(value):
            assert (low, high) == (-math.inf, math.inf)
        else:
            assert low == math.nextafter(value, -math.inf)
            assert high == math.nextafter(value, math.inf)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_intervals_refuse_what_is_no_interval() -> None:
    with pytest.raises(UsageError, match=r"at index \(1,\)"):
        Interval(double(0.0, 2.0), double(1.0, 1.0))
    with pytest.raises(UsageError, match="nan"):
        Interval(double(math.nan), double(1.0))
    with pytest.raises(UsageError, match="nan"):
        Interval(double(0.0), double(math.nan))
    with pytest.raises(UsageError, match="float64"):
        Interval(double(0.0).float(), double(1.0).float())
    with pytest.raises(UsageError, match="float64"):
        Interval(double(0.0), double(1.0).float())
    with pytest.raises(UsageError, match="shapes"):
        Interval(double(0.0), double(1.0, 2.0))
    with pytest.raises(UsageError):
        Interval(double(0.0), double(1.0)).intersect(Interval(double(2.0), double(3.0)))


@given(st.tuples(finite, finite).map(sorted))
def test_center_and_radius_cover_the_interval(ends: list[float]) -> None:
    """The center lies inside, and center +- radius covers both ends exactly."""
    low, high = ends
    z = Interval(double(low), double(high))
    center, radius = z.center.item(), z.radius.item()
    assert low <= center <= high
    if radius < math.inf:
        assert Fraction(center) - Fraction(radius) <= Fraction(low)
        assert Fraction(center) + Fraction(radius) >= Fraction(high)
    assert (radius == 0) == (low == high)
    assert z.magnitude.item() == max(abs(low), abs(high))


def test_intersections_keep_the_inner_ends() -> None:
    both = Interval(double(0.0, -1.0), double(2.0, math.inf)).intersect(Interval(double(-math.inf, 0.0), double(1.0, 5.0)))
    assert both.lower.tolist() == [0.0, 0.0]
    assert both.upper.tolist() == [1.0, 5.0]


@given(st.lists(finite, min_size=1, max_size=8), st.floats(0, allow_nan=False, allow_infinity=False) | st.floats(0, 1))
def test_balls_are_rounded_outward_and_only_as_much_as_needed(center: list[float], radius: float) -> None:
    """The ends of linf_ball are the float64 nearest to center -+ radius on the outer side."""
    ball = linf_ball([center], radius)
    for c, low, high in zip(center, ball.lower[0].tolist(), ball.upper[0].tolist(), strict=True):
        below, above = Fraction(c) - Fraction(radius), Fraction(c) + Fraction(radius)
        assert at_most(low, below)
        assert at_most(-high, -above)
        if max(abs(c), radius) < 1e307:
            assert low == float_below(below)
            assert high == float_above(above)


def test_balls_are_clipped() -> None:
    ball = linf_ball([[0.0, 0.5, 1.0]], 0.25, clip=(0.0, 1.0))
    assert ball.lower.tolist() == [[0.0, 0.25, 0.75]]
    assert ball.upper.tolist() == [[0.25, 0.75, 1.0]]
    with pytest.raises(EmptyInputSetError):
        linf_ball([[2.0]], 0.5, clip=(0.0, 1.0))
    for radius in (-1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match="radius"):
            linf_ball([[0.0]], radius)
    with pytest.raises(UsageError, match="NaN"):
        linf_ball([[math.nan]], 0.5)


def test_boxes_refuse_empty_and_undefined_ends() -> None:
    with pytest.raises(EmptyInputSetError, match="empty"):
        box([[1.0]], [[0.0]])
    with pytest.raises(UsageError, match="NaN"):
        box([[math.nan]], [[0.0]])
    with pytest.raises(UsageError, match="shape"):
        box([[0.0]], [[0.0, 1.0]])


def exact_extremes(question: Box, problem: int, row: Tensor) -> tuple[Fraction, Fraction]:
    low = high = Fraction(0)
    ends = zip(fractions(row), fractions(question.lower[problem]), fractions(question.upper[problem]), strict=True)
    for c, a, b in ends:
        low, high = low + min(c * a, c * b), high + max(c * a, c * b)
    return low, high


@settings(max_examples=60)
@given(seeds, st.integers(1, 40), st.integers(1, 3), st.booleans(), st.booleans())
def test_extremes_are_exact_up_to_their_stated_error(seed: int, size: int, batch: int, shared: bool, ill: bool) -> None:
    """Minimum and maximum of rows over boxes differ from the exact ones by at most the stated error."""
    generator = random(seed)

    def numbers(*shape: int) -> Tensor:
        return ill_conditioned(generator, *shape) if ill else torch.randn(*shape, dtype=torch.float64, generator=generator)

    first, second = numbers(batch, size), numbers(batch, size)
    second = torch.where(torch.rand(batch, size, generator=generator) < 0.3, first, second)
    question = box(torch.minimum(first, second), torch.maximum(first, second))
    rows = numbers(1 if shared else batch, 4, size)
    low, high, error = question.extremes(rows)
    low, high, error = (t.expand(batch, 4) for t in (low, high, error))
    for b in range(batch):
        for m in range(4):
            least, greatest = exact_extremes(question, b, rows[0 if shared else b, m])
            assert abs(Fraction(low[b, m].item()) - least) <= Fraction(error[b, m].item())
            assert abs(Fraction(high[b, m].item()) - greatest) <= Fraction(error[b, m].item())
    assert torch.equal(question.minimise_linear(rows)[0], question.extremes(rows)[0])


def test_extremes_over_infinite_ends() -> None:
    """An infinite end counts only where the row asks for it."""
    question = box([[-math.inf, 0.0, 1.0]], [[2.0, math.inf, 1.0]])
    rows = double(*[1.0, 0.0, 0.0], *[-1.0, 1.0, 0.0], *[0.0, 1.0, 5.0], *[0.0, -1.0, 0.0], *[0.0, 0.0, 3.0]).reshape(1, 5, 3)
    low, high, _ = question.extremes(rows)
    assert low.tolist() == [[-math.inf, -2.0, 5.0, -math.inf, 3.0]]
    assert high.tolist() == [[2.0, math.inf, math.inf, 0.0, 3.0]]


@pytest.mark.parametrize("end", [-math.inf, math.inf])
def test_samples_of_unbounded_boxes_are_finite_and_inside(end: float) -> None:
    question = box([[min(end, 0.0), -1.0]], [[max(end, 0.0), 1.0]])
    points = question.sample(50, random(0))
    assert points.isfinite().all()
    assert question.contains(points[0]).all() if question.batch == 50 else all(bool(question.contains(p[None])) for p in points[0])
    assert torch.equal(question.project(points[:, 0]), points[:, 0])


def test_containment_is_that_of_the_box_as_written() -> None:
    """A box whose ends are no float64 is wider for proofs than for counterexamples."""
    wide = Interval(double(float_below(Fraction(1, 10)))[None], double(float_above(Fraction(3, 10)))[None])
    question = Box(wide, (double(float_above(Fraction(1, 10)))[None], double(float_below(Fraction(3, 10)))[None]))
    assert not question.contains(question.lower)
    assert not question.contains(question.upper)
    assert question.contains(double(0.1)[None])
    assert question[0:1].inner is not None
