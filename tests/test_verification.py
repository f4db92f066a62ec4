"""Verdicts of verify: ties, conjunctions refuted only together, cases, overflow, limits, and the benchmarks' known answers."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import bourn
from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.certificates.account import Step
from bourn.certificates.evidence import Falsified, Refutation, Unknown, Verified
from bourn.deadline import Deadline
from bourn.errors import BournError, UsageError
from bourn.formats.model import Model
from bourn.formats.vnnlib import parse
from bourn.plans import Bounding, Plan, Stand
from bourn.problem.problem import Case, Question, problems
from bourn.problem.specification import Row, Specification
from bourn.solvers.methods import method
from bourn.verification import Result, verify
from quick import UP_TO_LP_ALL
from verify_models import EXAMPLES, IDENTITY, RELU_IDENTITY, Reading, mlp, run_onnx, vnnlib

INF = math.inf



def ask(model: Model, low: Sequence[float], high: Sequence[float], *conjunctions: Sequence[Row], outputs: int = 1) -> Result:
    return verify(model, bourn.region(bourn.box([low], [high]), Specification.of(*conjunctions), outputs))


def at_most(bound: float | Fraction, strict: bool = False, output: int = 0) -> list[Row]:
    """y <= bound, or y < bound."""
    return [Row.of({output: 1}, {}, -Fraction(bound), strict)]


# Ties


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("layers", [(IDENTITY,), RELU_IDENTITY], ids=["affine", "relu"])
def test_ties(layers: tuple[tuple[list[list[float]], list[float]], ...], single: bool) -> None:
    """y = x on [0, 1]: x = 0 is a counterexample to y > 0 and none to y >= 0."""
    model = mlp(*layers, single=single)
    found = ask(model, [0.0], [1.0], at_most(0))
    assert found.status == "sat"
    assert isinstance(found.verdict, Falsified)
    assert found.verdict.counterexample.y[0] == 0.0
    assert ask(model, [0.0], [1.0], at_most(-1e-9)).status == "unsat"
    # A bound of 0 would suffice for y < 0; outward rounding of a sum puts it a few 1e-15 below, so its tie stays open.
    assert ask(model, [0.0], [1.0], at_most(0, strict=True)).status == ("unsat" if len(layers) == 1 else "unknown")
    assert ask(model, [0.0], [1.0], at_most(-1e-13, strict=True)).status == "unsat"
    assert ask(model, [0.0], [1.0], at_most(1e-9, strict=True)).status == "sat"


def test_rows_without_variables_are_decided_exactly() -> None:
    model = mlp(IDENTITY)
    for constant, strict, status in ((0, True, "unsat"), (0, False, "sat"), (1e-300, False, "unsat"), (-1, True, "sat")):
        assert ask(model, [0.0], [1.0], [Row.of({}, {}, constant, strict)]).status == status


def test_rows_on_the_input_alone() -> None:
    model = mlp(IDENTITY)
    assert ask(model, [0.0], [1.0], [Row.of({}, {0: 1}, 0.5)]).status == "unsat"
    assert ask(model, [0.0], [1.0], [Row.of({}, {0: 1}, -0.5)]).status == "sat"


# Conjunctions and cases


def test_conjunctions_that_only_weights_refute() -> None:
    """y0 = x and y1 = 1 - x on [-1, 2]: each can be at most 0.4, both together cannot, for they add up to 1."""
    model = mlp(([[1.0], [-1.0]], [0.0, 1.0]))
    rows = [*at_most(0.4), *at_most(0.4, output=1)]
    assert ask(model, [-1.0], [2.0], rows[:1], outputs=2).status == "sat"
    assert ask(model, [-1.0], [2.0], rows[1:], outputs=2).status == "sat"
    found = ask(model, [-1.0], [2.0], rows, outputs=2)
    assert found.status == "unsat"
    assert isinstance(found.verdict, Verified)
    ((refutation,),) = found.verdict.refutations
    assert isinstance(refutation, Refutation)
    assert all(w > 0.4 for w in refutation.weights)
    assert 0 < refutation.bound <= 0.1
    # At 0.5 both rows meet in one point.
    met = ask(model, [-1.0], [2.0], [*at_most(0.5), *at_most(0.5, output=1)], outputs=2)
    assert met.status == "sat"


def test_weights_through_a_relu_and_five_rows() -> None:
    """Three outputs with sum 3 cannot all be below 0.9; rows that hold everywhere change nothing."""
    layers = (([[1.0], [-1.0]], [5.0, 5.0]), ([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [0.0, 0.0, 3.0]))
    rows = [row for k in range(3) for row in at_most(0.9, output=k)] + [Row.of({}, {0: 1}, -9), Row.of({0: 1}, {}, -99)]
    assert ask(mlp(*layers), [-1.0], [1.0], rows, outputs=3).status == "unsat"


def test_tiny_and_huge_coefficients_do_not_stop_a_conjunction() -> None:
    model = mlp(([[1.0], [-1.0]], [0.0, 1.0]), single=False)
    rows = [Row.of({0: 1e-300}, {}, -0.4e-300), Row.of({1: 1e300}, {}, -0.4e300)]
    assert ask(model, [-1.0], [2.0], rows, outputs=2).status in ("unsat", "unknown")


def test_every_box_is_its_own_case() -> None:
    """|x| in [1, 2]: y = x is at most -1 in one box only."""
    asserts = "(or (and (>= X_0 1) (<= X_0 2)) (and (>= X_0 -2) (<= X_0 -1)))"
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert {})(assert (<= Y_0 {}))"
    model = mlp(*RELU_IDENTITY)
    found = verify(model, parse(text.format(asserts, -1.5)))
    assert isinstance(found.verdict, Falsified)
    assert -2 <= found.verdict.counterexample.x[0] <= -1
    safe = verify(model, parse(text.format(asserts, -2.5)))
    assert isinstance(safe.verdict, Verified)
    assert len(safe.verdict.refutations) == len(safe.question.cases) == 2
    # Between the boxes lies what no case asks about.
    assert verify(model, parse(text.format(asserts, 0) + "(assert (>= Y_0 -0.5))")).status == "unsat"


def test_any_input_is_a_counterexample_of_an_empty_conjunction() -> None:
    for layers in ((IDENTITY,), (([[0.0]], [1.0]),), RELU_IDENTITY):
        found = ask(mlp(*layers), [0.0], [1.0], [])
        assert found.status == "sat"
        assert "any input there is a counterexample" in str(found)


def test_no_conjunction_means_no_counterexample() -> None:
    found = ask(mlp(IDENTITY), [0.0], [1.0])
    assert found.status == "unsat"
    assert found.steps == ()
    assert "no counterexample in any network" in str(found)


def test_a_network_that_ignores_its_input() -> None:
    model = mlp(([[0.0]], [1.0]))
    assert ask(model, [0.0], [1.0], at_most(0.5)).status == "unsat"
    assert ask(model, [0.0], [1.0], at_most(1)).status == "sat"


# Overflow and infinity: no verdict comes from what is no number

HUGE = (([[1e200], [-1e200]], [0.0, 0.0]), ([[1e200, 1e200], [1e200, -1e200]], [0.0, 0.0]), ([[1.0, -1.0]], [0.0]))
SUM = (([[1.0, 1.0], [1.0, -1.0]], [0.0, 0.0]), ([[1.0, -1.0]], [0.0]))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (1.0, 2.0), (-1e308, 1e308), (-INF, INF), (0.0, INF), (10.0, 10.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_overflow_is_no_verdict(low: float, high: float, sign: int) -> None:
    """The middle layer overflows float64 away from 0; there every evaluation is infinite or NaN."""
    for model in (mlp(*HUGE, single=False), mlp(([[1e308]], [1e308]), single=False)):
        found = ask(model, [low], [high], [Row.of({0: sign}, {}, 1)])
        if isinstance(found.verdict, Falsified):
            assert np.isfinite(found.verdict.counterexample.y).all()
        assert found.status != "unsat"
        assert "nan" not in str(found)


@pytest.mark.parametrize(("low", "high"), [(-INF, INF), (0.0, INF), (-1e308, 1e308), (1e39, 1e40), (3.4e38, 3.5e38)])
@pytest.mark.parametrize("single", [True, False])
def test_boxes_beyond_the_element_type(low: float, high: float, single: bool) -> None:
    """y = relu(a + b) - relu(a - b): attained values decide, float32's infinities do not."""
    model = mlp(*SUM, single=single)
    for row in (Row.of({0: 1}, {}, 1), Row.of({0: -1}, {}, 0), Row.of({0: -1}, {}, -1000)):
        found = ask(model, [low] * 2, [high] * 2, [row])
        assert "nan" not in str(found)
        if single and low >= 1e39:
            assert found.status != "sat"
        if isinstance(found.verdict, Falsified):
            assert row.holds(found.verdict.counterexample.x.tolist(), found.verdict.counterexample.y.tolist())


def test_unbounded_input_sets_are_named() -> None:
    found = ask(mlp(*SUM), [0.0, 0.0], [INF, INF], at_most(-1))
    assert found.status == "unknown"
    assert "unbounded" in str(found)


def test_coefficients_beyond_float64_are_an_error() -> None:
    for coefficient in (Fraction(10) ** 400, Fraction(1, 10**400)):
        with pytest.raises(BournError, match="beyond the range of float64"):
            ask(mlp(IDENTITY), [0.0], [1.0], [Row.of({0: coefficient})])
    assert ask(mlp(IDENTITY), [0.0], [1.0], at_most(Fraction(10) ** 400)).status == "sat"
    assert ask(mlp(IDENTITY), [0.0], [1.0], at_most(-(Fraction(10) ** 400))).status == "unsat"


# Boxes whose ends float32 does not hold


def test_witness_lies_in_the_box_as_written() -> None:
    """0.1 and 0.7 are no float32 numbers: the nearest ones lie outside on one side each."""
    text = vnnlib([("0.1", "0.7")], 1, "(or (<= Y_0 0.1000001) (>= Y_0 0.6999999))")
    found = verify(mlp(IDENTITY), parse(text))
    assert isinstance(found.verdict, Falsified)
    x = found.verdict.counterexample.x
    assert float(np.float32(x[0])) == x[0]
    assert Fraction(1, 10) <= Fraction(float(x[0])) <= Fraction(7, 10)


def test_a_box_without_a_representable_point_is_decided_in_real_arithmetic() -> None:
    """The nearest number is replayed, and says so; it alone decides nothing."""
    point = vnnlib([("0.1", "0.1")], 1, "(<= Y_0 1)")
    for single in (True, False):  # 0.1 is no float64 either
        found = verify(mlp(IDENTITY, single=single), parse(point))
        assert isinstance(found.verdict, Falsified)
        counterexample = found.verdict.counterexample
        assert counterexample.real is not None
        lower, upper = (Fraction(float(end[0])) for end in counterexample.real)
        assert lower <= Fraction(1, 10) <= upper
        assert 0 <= counterexample.off <= 2.0**-27
        assert "real arithmetic" in str(found)
        assert "lies in the input set" not in str(found)
        assert "real arithmetic" in found.verdict.semantics
    # The nearest float32 number is 0.100000001490...: a counterexample, but none of the set.
    assert verify(mlp(IDENTITY), parse(vnnlib([("0.1", "0.1")], 1, "(>= Y_0 0.1000000001)"))).status == "unsat"
    # 0.1 is a counterexample, but the nearest number is none.
    assert verify(mlp(IDENTITY), parse(vnnlib([("0.1", "0.1")], 1, "(<= Y_0 0.1000000001)"))).status == "unknown"
    assert verify(mlp(IDENTITY), parse(vnnlib([("0.1", "0.1")], 1, "(<= Y_0 0.05)"))).status == "unsat"
    assert verify(mlp(IDENTITY), parse(vnnlib([("0.125", "0.125")], 1, "(<= Y_0 1)"))).status == "sat"
    mixed = verify(mlp(*SUM), parse(vnnlib([("0.1", "0.1"), ("0", "1")], 1, "(<= Y_0 1)")))
    assert isinstance(mixed.verdict, Falsified)


# Limits


@pytest.mark.parametrize("timeout", [0, -1.0, math.nan])
def test_a_timeout_must_be_above_0(timeout: float) -> None:
    with pytest.raises(UsageError, match="must be above 0"):
        verify(EXAMPLES / "digits_mlp.onnx", EXAMPLES / "digits_robust_3.vnnlib", timeout=timeout)


def test_out_of_time_is_unknown_with_its_reason() -> None:
    for timeout in (1e-9, Deadline(1e-9)):
        found = verify(EXAMPLES / "digits_mlp.onnx", EXAMPLES / "digits_robust_3.vnnlib", timeout=timeout)
        assert found.status == "timed-out"
        assert isinstance(found.verdict, Unknown)
        assert found.verdict.timed_out
        assert "out of time after 1e-09 s, 9 of 9 conjunctions open" in str(found)
    assert verify(EXAMPLES / "digits_mlp.onnx", EXAMPLES / "digits_robust_3.vnnlib", timeout=INF).status == "unsat"


def test_steps_are_logged_as_they_end() -> None:
    steps: list[Step] = []
    found = verify(EXAMPLES / "digits_mlp.onnx", EXAMPLES / "digits_robust_3.vnnlib", log=steps.append)
    assert tuple(steps) == found.steps
    assert [s.what for s in steps] == ["attack", "ibp", "crown"]
    assert steps[-1].open == 0


def test_unknown_says_what_is_open_and_where_it_is_lost() -> None:
    images = np.load(EXAMPLES / "digits_images.npz")["image"]
    model = bourn.load(EXAMPLES / "digits_mlp.onnx")
    found = verify(model, bourn.robustness(images[8], int(np.argmax(model.run(images[8]))), 0.1, 10), plan=UP_TO_LP_ALL)
    assert isinstance(found.verdict, Unknown)
    (opened,) = found.verdict.open
    assert opened.bound < 0 < opened.attained
    # The losses make up the whole difference between the point's value and the bound.
    assert sum(loss.amount for loss in opened.losses) == pytest.approx(opened.attained - opened.bound, rel=1e-6)
    assert all(loss.amount >= -1e-9 for loss in opened.losses)
    text = str(found)
    assert "best bound -" in text
    assert "at hidden_1" in text


def test_cases_that_do_not_fit_are_refused() -> None:
    model = mlp(IDENTITY)
    for question, message in (
        (parse(vnnlib([(0, 1)] * 2, 1, "(<= Y_0 0)")), "declares 2 inputs, but the network has 1"),
        (parse(vnnlib([(0, 1)], 2, "(<= Y_1 0)")), "declares 2 outputs, but the network has 1"),
    ):
        with pytest.raises(BournError, match=message):
            verify(model, question)
    with pytest.raises(UsageError, match="not a int"):
        verify(model, 3)


def test_a_question_without_cases_is_refused() -> None:
    with pytest.raises(BournError, match="no input set"):
        verify(mlp(IDENTITY), Question((), 1, 1))


def test_cases_share_nothing() -> None:
    """Two cases with the same box and different specifications keep their own rows."""
    box = bourn.box([[0.0]], [[1.0]])
    cases = (Case(box, Specification.of(at_most(-1))), Case(box, Specification.of(at_most(-2), at_most(-3))))
    found = verify(mlp(IDENTITY), Question(cases, 1, 1))
    assert isinstance(found.verdict, Verified)
    assert [len(r) for r in found.verdict.refutations] == [1, 2]


# The benchmarks' known answers


def expected(folder: Path) -> dict[tuple[str, str, str], str]:
    with (folder / "expected_results.csv").open() as file:
        return {(r["benchmark"], r["onnx"], r["vnnlib"]): r["result"] for r in csv.DictReader(file)}


def checked(network: Path, question: Path, timeout: float = 20.0) -> str:
    """The status; a witness is replayed and read anew."""
    found = verify(network, question, timeout=timeout)
    if isinstance(found.verdict, Falsified):
        data = question.read_bytes()
        text = (gzip.decompress(data) if question.suffix == ".gz" else data).decode()
        x = found.verdict.counterexample.x
        y = run_onnx(network, x)
        assert np.array_equal(y, found.verdict.counterexample.y)
        assert Reading(text).holds(x, y)
    return found.status


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn"])
def test_examples(name: str) -> None:
    assert checked(EXAMPLES / f"{name}.onnx", EXAMPLES / "digits_robust_3.vnnlib") == "unsat"
    assert checked(EXAMPLES / f"{name}.onnx", EXAMPLES / "digits_attackable.vnnlib") == "sat"


@pytest.mark.parametrize(
    ("network", "question", "status"),
    [
        # By hand: relu(x / 2) <= -1, relu(x) >= 100, and 78.5 >= 100 at the greatest.
        ("test_nano.onnx", "test_nano.vnnlib", "unsat"),
        ("test_tiny.onnx", "test_tiny.vnnlib", "unsat"),
        ("test_small.onnx", "test_small.vnnlib", "unsat"),
        ("test_sat.onnx", "test_prop.vnnlib", "sat"),
        ("test_unsat.onnx", "test_prop.vnnlib", "unsat"),
    ],
)
def test_vnncomp_test_folder(data_folder: Path, network: str, question: str, status: str) -> None:
    folder = data_folder / "vnncomp2022" / "test"
    found = checked(folder / network, folder / question)
    assert found == status or (network == "test_unsat.onnx" and found == "unknown")


@pytest.mark.parametrize(
    ("benchmark", "network", "question", "status"),
    [
        ("acasxu", "ACASXU_run2a_3_9_batch_2000", "prop_2", "sat"),
        ("acasxu", "ACASXU_run2a_2_1_batch_2000", "prop_2", "sat"),
        ("acasxu", "ACASXU_run2a_5_7_batch_2000", "prop_4", "unsat"),
        ("mnist_fc", "mnist-net_256x2", "prop_2_0.05", "sat"),
        ("mnist_fc", "mnist-net_256x2", "prop_0_0.03", "unsat"),
        ("mnist_fc", "mnist-net_256x6", "prop_4_0.03", "unsat"),
        ("oval21", "cifar_wide_kw", "cifar_wide_kw-img1909-eps0.0033986928104575162", "sat"),
        ("oval21", "cifar_wide_kw", "cifar_wide_kw-img9062-eps0.0014379084967320263", "unsat"),
        ("reach_prob_density", "gcas", "gcas_1", "sat"),
        ("rl_benchmarks", "cartpole", "cartpole_case_unsafe_29", "sat"),
        ("rl_benchmarks", "cartpole", "cartpole_case_unsafe_23", "unsat"),
    ],
)
def test_vnncomp_answers(data_folder: Path, benchmark: str, network: str, question: str, status: str) -> None:
    folder = data_folder / "vnncomp2022"
    assert expected(folder)[benchmark, f"onnx/{network}.onnx", f"vnnlib/{question}.vnnlib"] == status
    place = folder / benchmark
    assert checked(place / "onnx" / f"{network}.onnx.gz", place / "vnnlib" / f"{question}.vnnlib.gz") == status


def test_a_corner_where_no_gradient_leads_is_found_by_random_points() -> None:
    """y = 1 - relu(x_0 + x_1 + x_2 - 2.999) * 1e6 is flat but in a corner, at which no descent begins or arrives."""
    model = mlp(([[1.0, 1.0, 1.0]], [-2.999]), ([[-1e6]], [1.0]))
    asked = parse(vnnlib([("0", "1")] * 3, 1, "(<= Y_0 0)"))
    problem = problems(model.graph, asked)[0]

    def satisfies(x: torch.Tensor) -> bool:
        return float(problem.network.evaluate(x[None])) <= 0

    for samples, expected in ((0, False), (5000, True)):
        attack = ProjectedGradient(steps=20, restarts=20, samples=samples)
        found, best, _ = attack.run(problem, satisfies, Deadline(None))
        assert found == expected
        assert (float(best) <= 0) == expected
    assert not ProjectedGradient(steps=1, restarts=1, samples=5000, few=2).run(problem, satisfies, Deadline(None))[0]


def test_steps_that_would_gain_little_are_skipped() -> None:
    """Better inner bounds that close none of the gap are not tried with more leaves; the reason is in the record."""
    question = parse(vnnlib([(-1, 1)], 1, "(<= Y_0 1)"))  # |x| as a sum, of which all is a counterexample
    cheap = Bounding(method("alpha-crown-all"), Stand.ON_TOP)
    plan = Plan((Bounding(method("crown")), cheap, replace(cheap, after_gain=0.25), cheap))
    steps = verify(mlp(([[1.0], [-1.0]], [0.0, 0.0]), ([[1.0, 1.0]], [0.0])), question, plan=plan, timeout=20.0).steps
    assert [bool(step.skipped) for step in steps] == [False, False, True, False]
    assert "of the gap only" in steps[2].skipped
