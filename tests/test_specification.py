"""Specifications as sets of counterexamples, and boxes with their two roundings, held to rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bourn.errors import EmptyInputSetError, SpecificationError, UsageError
from bourn.problem.input_set import box, linf_ball
from bourn.problem.problem import Objectives
from bourn.problem.specification import Conjunction, Row, Specification, class_margins

# --- Rows and their combinations ---------------------------------------------------------------------------

coefficients = st.dictionaries(st.integers(0, 2), st.fractions(-2, 2, max_denominator=7), max_size=3)
built_rows = st.builds(Row.of, coefficients, coefficients, st.fractions(-2, 2, max_denominator=7), st.booleans())
specifications = st.lists(st.lists(built_rows, max_size=2), max_size=3).map(lambda parts: Specification.of(*parts))
flat = st.lists(st.integers(-4, 4).map(lambda n: n / 2), min_size=3, max_size=3)


@given(coefficients, coefficients, st.fractions(-2, 2, max_denominator=7), st.booleans(), flat, flat)
def test_a_row_is_its_linear_inequality(
    c: dict[int, Fraction], e: dict[int, Fraction], d: Fraction, strict: bool, x: list[float], y: list[float]
) -> None:
    row = Row.of(c, e, d, strict)
    value = d + sum(k * Fraction(y[i]) for i, k in c.items()) + sum(k * Fraction(x[i]) for i, k in e.items())
    assert row.value(x, y) == value
    assert row.holds(x, y) == (value < 0 if strict else value <= 0)


def test_terms_are_normal() -> None:
    row = Row.of([(2, 1), (0, 0.5), (2, -3), (1, 1), (1, -1)], {4: 0})
    assert row.outputs == ((0, Fraction(1, 2)), (2, Fraction(-2)))
    assert row.inputs == ()
    assert row == Row.of({2: Fraction(-2), 0: Fraction(1, 2)})


def test_rows_are_exact_where_floats_are_not() -> None:
    tenth = Row.of({0: 1}, constant=-Fraction(1, 10))
    assert not tenth.holds([], [0.1])
    assert tenth.holds([], [math.nextafter(0.1, 0.0)])
    assert Row.of({0: 1, 1: 1, 2: -1}, strict=True).holds([], [1e16, -1.0, 1e16])
    assert not Row.of({0: 1, 1: 1}, strict=True).holds([], [1.0, -1.0])


@given(specifications, specifications, flat, flat)
def test_combinations_are_those_of_sets(a: Specification, b: Specification, x: list[float], y: list[float]) -> None:
    assert (a | b).holds(x, y) == (a.holds(x, y) or b.holds(x, y))
    assert (a & b).holds(x, y) == (a.holds(x, y) and b.holds(x, y))


def test_nothing_and_everything() -> None:
    nothing, everything = Specification(()), Specification.of([])
    assert not nothing.holds([], [])
    assert everything.holds([], [])
    assert (nothing & everything) == nothing == (nothing & nothing)
    assert (nothing | everything) == everything == (everything & everything)
    assert (str(nothing), str(everything)) == ("false", "(true)")


@given(st.integers(0, 4), st.lists(st.integers(-3, 3), min_size=5, max_size=5))
def test_class_margins_are_the_other_classes(label: int, y: list[int]) -> None:
    best_other = max(v for j, v in enumerate(y) if j != label)
    assert class_margins(label, 5).holds([], y) == (best_other >= y[label])


@pytest.mark.parametrize("label", [-1, 5])
def test_class_margins_refuse_other_labels(label: int) -> None:
    with pytest.raises(SpecificationError, match=f"label {label} is not one of the 5 classes"):
        class_margins(label, 5)


def test_indices_are_checked() -> None:
    Specification.of([Row.of({2: 1}, {1: 1})]).check_indices(2, 3)
    with pytest.raises(SpecificationError, match="names Y_3, but the network has 3 outputs"):
        Specification.of([], [Row.of({3: 1})]).check_indices(2, 3)
    with pytest.raises(SpecificationError, match="names X_-1, but the network has 2 inputs"):
        Specification.of([Row.of({0: 1}, {-1: 1})]).check_indices(2, 3)


def test_rows_are_shown_as_they_are_read() -> None:
    row = Row.of({1: 2, 0: -1}, {3: 1}, -0.25, strict=True)
    assert str(row) == "- Y_0 + 2 Y_1 + X_3 - 0.25 < 0"
    assert str(Row.of()) == "0 <= 0"
    assert str(Conjunction((row, row))) == f"{row} and {row}"
    assert str(Row.of({0: 10**400}, constant=-(10**5000))) == "1.00000e+400 Y_0 - 1.00000e+5000 <= 0"


def test_rows_as_arrays() -> None:
    made = Objectives.from_rows([Row.of({1: 2}, {0: -1}, Fraction(1, 10)), Row.of({0: 1})], 2, 3)
    assert made.outputs.tolist() == [[[0, 2, 0], [1, 0, 0]]]
    assert made.inputs is not None
    assert made.inputs.tolist() == [[[-1, 0], [0, 0]]]
    assert Fraction(made.constant[0, 0].item()) < Fraction(1, 10)
    assert not made.inexact
    assert Objectives.from_rows([Row.of({0: Fraction(1, 3)})], 2, 3).inexact


@pytest.mark.parametrize("coefficient", [Fraction(10) ** 400, -(Fraction(10) ** 400), Fraction(1, 10**400), Fraction(1, 10**310)])
def test_coefficients_beyond_float64_are_refused(coefficient: Fraction) -> None:
    with pytest.raises(SpecificationError, match="beyond the range of float64 in row"):
        Objectives.from_rows([Row.of({0: coefficient})], 1, 1)


# --- Boxes -------------------------------------------------------------------------------------------------

ends = st.floats(-1e9, 1e9)
radii = st.floats(0, 1e3)


@given(ends, radii)
def test_a_ball_is_rounded_to_the_nearest_floats_on_both_sides(center: float, radius: float) -> None:
    ball = linf_ball([[center]], radius)
    assert ball.inner is not None
    low, high = Fraction(center) - Fraction(radius), Fraction(center) + Fraction(radius)
    for exact, below, above in ((low, ball.lower, ball.inner[0]), (high, ball.inner[1], ball.upper)):
        assert Fraction(below.item()) <= exact <= Fraction(above.item())
        assert above.item() in (below.item(), math.nextafter(below.item(), math.inf))
        assert (below.item() == above.item()) == (Fraction(below.item()) == exact)


@given(ends, radii, st.floats(-1, 1))
def test_a_ball_contains_what_is_in_it_exactly(center: float, radius: float, share: float) -> None:
    ball = linf_ball([[center]], radius)
    for x in (ball.lower, ball.upper, torch.tensor([[center + share * radius]], dtype=torch.float64)):
        inside = abs(Fraction(x.item()) - Fraction(center)) <= Fraction(radius)
        assert bool(ball.contains(x)) == inside


def test_a_clipped_ball() -> None:
    ball = linf_ball(torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float32), 0.25, clip=(0, 1))
    assert ball.lower.tolist() == [[0, 0.25, 0.75]]
    assert ball.upper.tolist() == [[0.25, 0.75, 1]]
    assert ball.contains(torch.tensor([[0.0, 0.25, 1.0]], dtype=torch.float64)).all()
    assert not ball.contains(torch.tensor([[0.0, 0.25, 1.1]], dtype=torch.float64)).any()
    with pytest.raises(EmptyInputSetError):
        linf_ball([[2.0]], 0.5, clip=(0, 1))


@pytest.mark.parametrize("radius", [-0.1, math.inf, math.nan])
def test_radii_must_be_at_least_zero_and_finite(radius: float) -> None:
    with pytest.raises(UsageError, match="the radius is"):
        linf_ball([[0.0]], radius)


def test_boxes_are_checked() -> None:
    with pytest.raises(EmptyInputSetError, match=r"lower bound 1.0 above upper bound 0.0 at index \(0, 1\)"):
        box([[0.0, 1.0]], [[0.0, 0.0]])
    with pytest.raises(UsageError, match="the upper bound holds NaN"):
        box([[0.0]], [[math.nan]])
    with pytest.raises(UsageError, match="both need"):
        box([[0.0]], [0.0])
    assert box([[-math.inf]], [[math.inf]]).contains(torch.tensor([[1e300]], dtype=torch.float64)).all()
