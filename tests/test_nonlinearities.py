"""What every registered nonlinearity promises, on its own ``examples()``: a new class is tested by being there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import bourn.relaxations  # noqa: F401 -- importing the package registers all
import networks
from bourn.interval import Interval
from bourn.relaxations.base import REGISTRY, ElementWise, LineRule, Lines, Nonlinearity
from bourn.relaxations.clip import Clip
from bourn.relaxations.curves import PiecewiseLinear
from bourn.relaxations.leaky_relu import LeakyReLU
from bourn.relaxations.relu import ReLU
from bourn.relaxations.smooth import Smooth
from bourn.relaxations.step import Step
from exact_values import FORMULAS, exact_value
from networks import apply_exactly

CLASSES = sorted(set(REGISTRY.values()), key=lambda c: c.__name__)
EXAMPLES: list[Nonlinearity] = [example for c in CLASSES for example in c.examples()]
ELEMENT_WISE = [e for e in EXAMPLES if isinstance(e, ElementWise)]
PIECEWISE = [e for e in ELEMENT_WISE if isinstance(e, PiecewiseLinear)]
TINIEST = math.ulp(0.0)
FEW = 10
"""Draws of up to 12 intervals each, for every example."""


def column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def special(operation: ElementWise) -> list[float]:
    """The kinks, their neighbours, and sizes at which arithmetic could go wrong."""
    near = [v for k in operation.split_points for v in (k, math.nextafter(k, math.inf), math.nextafter(k, -math.inf))]
    sizes = [0.0, TINIEST, 1e-310, 1e-300, 1e-160, 1e-8, 0.3, 1.0, 1e8, 1e30, 1e200, 1e308]
    return [p for p in (*near, *sizes, *(-s for s in sizes)) if defined(operation, p)]


def defined(operation: ElementWise, z: float) -> bool:
    """Whether the function is defined, and finite, at a point."""
    if isinstance(operation, Smooth) and not operation.domain[0] <= z <= operation.domain[1]:
        return False
    return bool(operation.evaluate(column([z])).isfinite().all())


def ends(operation: ElementWise) -> st.SearchStrategy[float]:
    usual = st.floats(-8, 8)
    anything = st.floats(allow_nan=False, allow_infinity=False)
    return st.one_of(usual, st.sampled_from(special(operation)), anything)


@st.composite
def intervals(draw: st.DrawFn, operation: ElementWise) -> Interval:
    """Several intervals at once, points among them."""
    count = draw(st.integers(1, 12))
    pairs = [sorted((draw(ends(operation)), draw(ends(operation)))) for _ in range(count)]
    if draw(st.booleans()):
        pairs[0][1] = pairs[0][0]
    return Interval(column([p[0] for p in pairs]), column([p[1] for p in pairs]))


def touching(operation: ElementWise) -> Interval:
    """Every interval between two special points, each with its points."""
    points = sorted(set(special(operation)))
    pairs = [(a, b) for i, a in enumerate(points) for b in points[i:]]
    return Interval(column([p[0] for p in pairs]), column([p[1] for p in pairs]))


def inside(operation: ElementWise, low: float, high: float) -> list[float]:
    """Points that decide whether a line is valid: for a piecewise linear function the ends and the knots inside."""
    if isinstance(operation, PiecewiseLinear):
        return [low, high, *(k for k in operation.knots if low < k < high)]
    share = np.linspace(0.0, 1.0, 17)
    usual = np.clip(low * (1 - share) + high * share, low, high).tolist()
    near = [p for k in (0.0, *operation.split_points) for p in (k - 1.0, k, k + 1.0) if low < p < high]
    return [p for p in sorted({low, high, *usual, *near}) if defined(operation, p)]


def value(operation: ElementWise, z: float) -> Fraction:
    if isinstance(operation, PiecewiseLinear):
        return apply_exactly(operation, Fraction(z))
    if isinstance(operation, Step):
        return Fraction(operation.above if z > 0 else operation.below if z < 0 else operation.at)
    if type(operation) in FORMULAS:
        return exact_value(operation, z)
    return Fraction(float(operation.evaluate(column([z]))[0]))


def violations(operation: ElementWise, z: Interval, lines: Lines) -> list[str]:
    """Where a line crosses the function, in rational arithmetic."""
    # Without a formula for the exact value it is only known to a few units in the last place.
    known = isinstance(operation, PiecewiseLinear | Step) or type(operation) in FORMULAS
    slack = Fraction(0) if known else Fraction(1, 2**46)
    found = []
    parts = (z.lower, z.upper, lines.lower_slopes[0], lines.lower_offset, lines.upper_slopes[0], lines.upper_offset)
    for low, high, ls, lo, us, uo in zip(*(p.tolist() for p in parts), strict=True):
        for point in inside(operation, low, high):
            exact, at = value(operation, point), Fraction(point)
            tolerance = slack * (1 + abs(exact))
            if lo != -math.inf and Fraction(ls) * at + Fraction(lo) > exact + tolerance:
                found.append(f"the lower line {ls!r} z + {lo!r} of [{low!r}, {high!r}] is above the function at {point!r}")
            if uo != math.inf and Fraction(us) * at + Fraction(uo) < exact - tolerance:
                found.append(f"the upper line {us!r} z + {uo!r} of [{low!r}, {high!r}] is below the function at {point!r}")
    return found


@pytest.mark.parametrize("rule", LineRule)
@pytest.mark.parametrize("operation", ELEMENT_WISE, ids=str)
def test_lines_hold_exactly(operation: ElementWise, rule: LineRule) -> None:
    """Lower line <= function <= upper line on the whole interval, in exact arithmetic for the float64 coefficients."""

    @settings(max_examples=FEW)
    @given(intervals(operation))
    def check(z: Interval) -> None:
        assert not violations(operation, z, operation.lines(rule, z))

    check()
    z = touching(operation)
    assert not violations(operation, z, operation.lines(rule, z))


@pytest.mark.parametrize("operation", ELEMENT_WISE, ids=str)
def test_lines_of_any_slope_hold_and_are_tight(operation: ElementWise) -> None:
    """``offsets`` are the extremes of function - slope z: valid exactly, and met up to rounding."""
    slopes = st.floats(-3, 3) | st.sampled_from([0.0, 1.0, 1e-200, -1e-200, 1e8])

    @settings(max_examples=FEW)
    @given(intervals(operation), slopes, slopes)
    def check(z: Interval, lower_slope: float, upper_slope: float) -> None:
        ls, us = torch.full_like(z.lower, lower_slope), torch.full_like(z.lower, upper_slope)
        low, high = operation.offsets(z, ls, us)
        assert not violations(operation, z, Lines((ls,), low, (us,), high))
        for i, (a, b) in enumerate(zip(z.lower.tolist(), z.upper.tolist(), strict=True)):
            if max(abs(a), abs(b)) > 1e290:  # products may overflow, and the offset with them
                continue
            points = inside(operation, a, b)
            if not (defined(operation, a) and defined(operation, b)) or low[i].isinf():
                continue
            both = (lower_slope, upper_slope)
            scale = float(max(abs(value(operation, p)) + abs(Fraction(s) * Fraction(p)) for p in points for s in both))
            least = min(value(operation, p) - Fraction(lower_slope) * Fraction(p) for p in points)
            greatest = max(value(operation, p) - Fraction(upper_slope) * Fraction(p) for p in points)
            if isinstance(operation, PiecewiseLinear):
                assert float(least) - low[i].item() <= 1e-9 * scale + 1e-320
                assert high[i].item() - float(greatest) <= 1e-9 * scale + 1e-320

    check()


@pytest.mark.parametrize("operation", ELEMENT_WISE, ids=str)
def test_one_tensor_of_slopes_serves_both_sides(operation: ElementWise) -> None:
    """Passing one tensor for both slopes, as parallel lines do, gives the offsets of two equal ones."""
    z = touching(operation)
    slope = torch.rand(z.shape, dtype=torch.float64, generator=networks.random(0))
    same, apart = operation.offsets(z, slope, slope), operation.offsets(z, slope, slope.clone())
    assert torch.equal(same[0], apart[0])
    assert torch.equal(same[1], apart[1])


@pytest.mark.parametrize("rule", LineRule)
@pytest.mark.parametrize("operation", PIECEWISE, ids=str)
def test_stable_means_the_piece_itself(operation: PiecewiseLinear, rule: LineRule) -> None:
    """Where no kink is strictly inside, both lines are the function's own piece, without rounding."""
    z = touching(operation)
    stable, lines = operation.stable(z), operation.lines(rule, z)
    for i, (low, high) in enumerate(zip(z.lower.tolist(), z.upper.tolist(), strict=True)):
        pieces = operation.pieces
        kinks = [k for k, left, right in zip(operation.knots, pieces, pieces[1:], strict=False) if left != right]
        assert bool(stable[i]) == (not any(low < k < high for k in kinks))
        if stable[i]:
            assert lines.lower_slopes[0][i] == lines.upper_slopes[0][i]
            assert lines.lower_offset[i] == lines.upper_offset[i]
            slope, offset = Fraction(lines.lower_slopes[0][i].item()), Fraction(lines.lower_offset[i].item())
            for point in (low, high):
                assert slope * Fraction(point) + offset == value(operation, point)


@pytest.mark.parametrize("operation", ELEMENT_WISE, ids=str)
def test_parallel_lines_are_parallel(operation: ElementWise) -> None:
    assert operation.lines(LineRule.PARALLEL, touching(operation)).parallel


@pytest.mark.parametrize("rule", LineRule)
@pytest.mark.parametrize("operation", PIECEWISE, ids=str)
def test_lines_touch_the_function(operation: PiecewiseLinear, rule: LineRule) -> None:
    """No line could be moved towards the function: each meets it at an end or a knot."""
    generator = networks.random(1)
    points = torch.randn(200, 2, dtype=torch.float64, generator=generator).sort(1).values * 3
    z = Interval(points[:, 0].contiguous(), points[:, 1].contiguous())
    lines = operation.lines(rule, z)
    vertices = torch.stack([z.lower, z.upper, *(torch.full_like(z.lower, k).clamp(z.lower, z.upper) for k in operation.knots)])
    exact = operation.evaluate(vertices)
    below = (exact - lines.lower_slopes[0] * vertices - lines.lower_offset).min(0).values
    above = (lines.upper_slopes[0] * vertices + lines.upper_offset - exact).min(0).values
    assert float(below.abs().max()) <= 1e-13
    assert float(above.abs().max()) <= 1e-13


@pytest.mark.parametrize("operation", PIECEWISE, ids=str)
def test_lines_of_least_area_touch_the_envelope_at_the_midpoint(operation: PiecewiseLinear) -> None:
    """At the midpoint the AREA lines are the envelopes' values: the lowest and the highest chord over it."""
    generator = networks.random(2)
    points = torch.randn(200, 2, dtype=torch.float64, generator=generator).sort(1).values * 3
    z = Interval(points[:, 0].contiguous(), points[:, 1].contiguous())
    lines = operation.lines(LineRule.AREA, z)
    for i, (low, high) in enumerate(points.tolist()):
        middle = (low + high) / 2
        vertices = sorted(set(inside(operation, low, high)))
        chords = []
        for a in vertices:
            for b in vertices:
                if a <= middle <= b and a < b:
                    fa, fb = float(value(operation, a)), float(value(operation, b))
                    chords.append(fa + (fb - fa) * (middle - a) / (b - a))
        assert lines.lower_slopes[0][i].item() * middle + lines.lower_offset[i].item() == pytest.approx(min(chords), abs=1e-12)
        assert lines.upper_slopes[0][i].item() * middle + lines.upper_offset[i].item() == pytest.approx(max(chords), abs=1e-12)


@pytest.mark.parametrize("operation", ELEMENT_WISE, ids=str)
def test_range_holds_samples_and_is_met(operation: ElementWise) -> None:
    """``range`` contains the function, and where it is piecewise linear it is met at an end or a knot."""

    @settings(max_examples=FEW)
    @given(intervals(operation))
    def check(z: Interval) -> None:
        bounds = operation.range(z)
        for low, high, a, b in zip(*(t.tolist() for t in (z.lower, z.upper, bounds.lower, bounds.upper)), strict=True):
            points = inside(operation, low, high)
            values = [value(operation, p) for p in points] or [Fraction(0)]
            assert a == -math.inf or not points or Fraction(a) <= min(values)
            assert b == math.inf or not points or Fraction(b) >= max(values)
            if isinstance(operation, PiecewiseLinear) and max(-low, high) < 1e307:
                assert math.isclose(a, float(min(values)), rel_tol=1e-14, abs_tol=1e-320)
                assert math.isclose(b, float(max(values)), rel_tol=1e-14, abs_tol=1e-320)

    check()


@pytest.mark.parametrize("rule", LineRule)
@pytest.mark.parametrize("operation", ELEMENT_WISE, ids=str)
def test_infinite_ends_are_never_wrong(operation: ElementWise, rule: LineRule) -> None:
    """Lines and range on half-lines and the whole line hold, without NaN, as far as float64 reaches."""
    finite = sorted({0.0, -1.0, 1.0, 3.5, -1e30, 1e30, *operation.split_points})
    pairs = [(-math.inf, math.inf), *((-math.inf, f) for f in finite), *((f, math.inf) for f in finite)]
    z = Interval(column([p[0] for p in pairs]), column([p[1] for p in pairs]))
    lines, bounds = operation.lines(rule, z), operation.range(z)
    for t in (lines.lower_slopes[0], lines.lower_offset, lines.upper_slopes[0], lines.upper_offset):
        assert not t.isnan().any()
    assert lines.lower_slopes[0].isfinite().all()
    assert lines.upper_slopes[0].isfinite().all()
    reached = Interval(z.lower.clamp(min=-1e300), z.upper.clamp(max=1e300))
    assert not violations(operation, reached, lines)
    zero = torch.zeros_like(z.lower)
    assert not violations(operation, reached, Lines((zero,), bounds.lower, (zero,), bounds.upper))


def test_range_of_half_lines_is_exact() -> None:
    """A known side stays known where the other is infinite."""
    z = Interval(column([-1.0, 2.0, -math.inf]), column([math.inf, math.inf, 3.0]))
    relu, clip = ReLU().range(z), Clip(-0.5).range(z)
    assert relu.lower.tolist() == [0.0, 2.0, 0.0]
    assert relu.upper.tolist() == [math.inf, math.inf, 3.0]
    assert clip.lower.tolist() == [-0.5, 2.0, -0.5]


def test_relu_slopes_are_those_of_the_papers() -> None:
    """Fast-Lin's slope is u / (u - l) for both lines; CROWN's lower slope is 1 where u > -l and 0 elsewhere."""
    points = torch.rand(500, 2, dtype=torch.float64, generator=networks.random(3)) + 1e-3
    low = torch.cat([-points[:, 0], column([-1.0, -1.0, -1.0])])
    high = torch.cat([points[:, 1], column([1.0, 1.0 + 2**-52, 1 - 2**-53])])
    z = Interval(low, high)
    parallel, area = ReLU().lines(LineRule.PARALLEL, z), ReLU().lines(LineRule.AREA, z)
    chord = high / (high - low)
    torch.testing.assert_close(parallel.lower_slopes[0], chord, rtol=1e-15, atol=0)
    torch.testing.assert_close(area.upper_slopes[0], chord, rtol=1e-15, atol=0)
    torch.testing.assert_close(parallel.upper_offset, -chord * low, rtol=1e-14, atol=0)
    assert torch.equal(parallel.lower_offset, torch.zeros_like(low))
    assert torch.equal(area.lower_offset, torch.zeros_like(low))
    assert torch.equal(area.lower_slopes[0], (high > -low).double())


Array = npt.NDArray[np.float64]


def reference(operation: Nonlinearity, z: Array) -> Array:
    """The function in NumPy, from the ONNX standard's words."""
    if isinstance(operation, ReLU):
        return np.asarray(np.maximum(z, 0))
    if isinstance(operation, LeakyReLU):
        return np.where(z < 0, operation.alpha * z, z)
    if isinstance(operation, Clip):
        return np.asarray(np.minimum(np.maximum(z, operation.low), operation.high))
    pytest.skip(f"there is no reference for {operation}")


@pytest.mark.parametrize("operation", PIECEWISE, ids=str)
def test_evaluate_is_the_operator(operation: PiecewiseLinear) -> None:
    z = torch.cat([torch.linspace(-9, 9, 73, dtype=torch.float64), column(special(operation))])
    np.testing.assert_array_equal(operation.evaluate(z[None]).numpy(), reference(operation, z.numpy())[None])
    assert operation.shape((1, 3, 2)) == (1, 3, 2)


@pytest.mark.parametrize("operation", PIECEWISE, ids=str)
def test_pieces_are_the_function(operation: PiecewiseLinear) -> None:
    """The pieces meet at the knots exactly, and each is what ``evaluate`` computes where it holds."""
    knots, pieces = operation.knots, operation.pieces
    assert len(pieces) == len(knots) + 1
    assert list(knots) == sorted(knots)
    assert operation.split_points == knots
    for knot, (a, b), (c, d) in zip(knots, pieces, pieces[1:], strict=False):
        assert Fraction(a) * Fraction(knot) + Fraction(b) == Fraction(c) * Fraction(knot) + Fraction(d)
    for z in special(operation):
        slope, offset = pieces[sum(z >= k for k in knots)]
        assert operation.evaluate(column([z])).item() == pytest.approx(slope * z + offset, rel=1e-15)


@pytest.mark.parametrize("operation", ELEMENT_WISE, ids=str)
def test_gradients_are_finite(operation: ElementWise) -> None:
    """Attacks follow autograd through ``evaluate``, at kinks too."""
    usual = [p for p in special(operation) if not isinstance(operation, Smooth) or math.isfinite(operation.derivative(column([p])))]
    z = column(usual).requires_grad_()
    operation.evaluate(z).sum().backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("operation", EXAMPLES, ids=str)
def test_nonlinearities_are_values(operation: Nonlinearity) -> None:
    """Frozen, equal by their attributes, and registered by every name they state."""
    assert operation in type(operation).examples()
    assert hash(operation) == hash(type(operation).examples()[list(type(operation).examples()).index(operation)])
    with pytest.raises(AttributeError):
        operation.new_attribute = 1  # type: ignore[attr-defined]
    assert type(operation).onnx_names
    assert all(REGISTRY[name] is type(operation) for name in type(operation).onnx_names)


def test_the_registry_holds_what_this_version_promises() -> None:
    assert {"Relu": ReLU, "LeakyRelu": LeakyReLU, "Clip": Clip}.items() <= REGISTRY.items()


def test_two_nonlinearities_for_one_operator_are_refused() -> None:
    before = dict(REGISTRY)
    with pytest.raises(TypeError, match="Relu"):

        class Other(ReLU):
            onnx_names = ("Relu",)

    assert before == REGISTRY


def test_parameters_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="min"):
        Clip.from_onnx("Clip", {"min": 2.0, "max": 1.0}, [])
    with pytest.raises(ValueError, match="min"):
        Clip.from_onnx("Clip", {}, [np.array(np.nan, np.float32), None])
    with pytest.raises(ValueError, match="min"):
        Clip(math.inf, math.inf)
    with pytest.raises(ValueError, match="alpha"):
        LeakyReLU.from_onnx("LeakyRelu", {"alpha": math.inf}, [])
    with pytest.raises(ValueError, match="alpha"):
        LeakyReLU(math.nan)


def test_parameters_come_from_attributes_or_inputs() -> None:
    """Clip's limits moved from attributes to inputs at opset 11; LeakyRelu's default is a float32."""
    assert Clip.from_onnx("Clip", {"min": -1.0, "max": 2.0}, []) == Clip(-1.0, 2.0)
    assert Clip.from_onnx("Clip", {}, [None, np.array(6.0, np.float32)]) == Clip(high=6.0)
    assert Clip.from_onnx("Clip", {}, [np.array([0.5], np.float32)]) == Clip(0.5)
    assert Clip.from_onnx("Clip", {}, []) == Clip()
    assert LeakyReLU.from_onnx("LeakyRelu", {}, []).alpha == float(np.float32(0.01))
    assert LeakyReLU.from_onnx("LeakyRelu", {"alpha": 0.25}, []) == LeakyReLU(0.25)
    assert ReLU.from_onnx("Relu", {}, []) == ReLU()
