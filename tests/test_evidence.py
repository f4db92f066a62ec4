"""Evidence that does not show what a verdict says is refused where it is made."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from bourn.certificates.evidence import Counterexample, Refutation, Verified
from bourn.problem.input_set import box
from bourn.problem.problem import Case
from bourn.problem.specification import Conjunction, Row, Specification


def row(constant: float = 0.0, *, strict: bool = False) -> Row:
    """y_0 + constant <= 0."""
    return Row(outputs=((0, Fraction(1)),), inputs=(), constant=Fraction(constant), strict=strict)


LOOSE, STRICT = Conjunction((row(), row(1.0))), Conjunction((row(), row(1.0, strict=True)))


@pytest.mark.parametrize("bound", [math.nan, math.inf, -math.inf, -1.0, 0.0, -0.0])
def test_a_bound_that_is_not_above_zero_refutes_nothing(bound: float) -> None:
    with pytest.raises(ValueError, match="does not refute"):
        Refutation(LOOSE, (1.0, 0.0), bound, "test")


@pytest.mark.parametrize("weights", [(math.nan, 1.0), (math.inf, 1.0), (-1.0, 2.0), (1.0,), (1.0, 0.0, 0.0), ()])
def test_weights_are_finite_and_one_for_each_row(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="one finite weight"):
        Refutation(LOOSE, weights, 1.0, "test")


def test_weights_of_zero_refute_nothing() -> None:
    with pytest.raises(ValueError, match="does not refute"):
        Refutation(LOOSE, (0.0, 0.0), 1.0, "test")


def test_zero_suffices_where_a_strict_row_has_weight() -> None:
    assert Refutation(STRICT, (0.0, 1.0), 0.0, "test").bound == 0
    with pytest.raises(ValueError, match="does not refute"):
        Refutation(STRICT, (1.0, 0.0), 0.0, "test")
    with pytest.raises(ValueError, match="does not refute"):
        Refutation(STRICT, (0.0, 1.0), -5e-324, "test")


def case(*conjunctions: Conjunction) -> Case:
    ends = torch.tensor([[0.0]], dtype=torch.float64), torch.tensor([[0.1]], dtype=torch.float64)
    return Case(box(*ends), Specification(conjunctions))


def test_a_proof_refutes_every_conjunction_of_every_case_in_order() -> None:
    one, two = (Refutation(c, (1.0, 0.0), 1.0, "test") for c in (LOOSE, STRICT))
    asked = case(LOOSE, STRICT)
    assert Verified(((one, two),), (asked,)).methods == ("test",)
    for wrong in (((one,),), ((two, one),), ((one, two, two),), ((),), (), ((one, two), (one, two))):
        with pytest.raises(ValueError, match="proof"):
            Verified(wrong, (asked,))
    with pytest.raises(ValueError, match="proof"):
        Verified((), ())


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (math.nextafter(0.1, 1), -1.0),
        (-5e-324, -1.0),
        (math.nan, -1.0),
        (0.0, math.nan),
        (0.0, -math.inf),
        (0.0, 5e-324),
    ],
)
def test_a_point_outside_or_not_satisfying_is_no_counterexample(x: float, y: float) -> None:
    with pytest.raises(ValueError, match="not a counterexample"):
        Counterexample(case(Conjunction((row(),))), np.array([x]), np.array([y]), "test")


def test_strict_rows_are_not_satisfied_by_equality() -> None:
    at_zero = np.array([0.1]), np.array([0.0])
    assert Counterexample(case(Conjunction((row(),))), *at_zero, "test").y[0] == 0
    with pytest.raises(ValueError, match="not a counterexample"):
        Counterexample(case(Conjunction((row(strict=True),))), *at_zero, "test")
