"""The bracket: LP-ALL's exact value lies between its bound and its ceiling, and both are near it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

import bourn
from bourn.certificates.describe import describe
from bourn.certificates.evidence import Unknown
from bourn.cli.main import run
from bourn.deadline import Deadline, OutOfTime
from bourn.interval import Interval
from bourn.network.affine import Dense
from bourn.network.graph import Graph
from bourn.problem.input_set import Box, InputSet, box, linf_ball
from bourn.problem.problem import Objectives
from bourn.relaxations.base import Nonlinearity
from bourn.relaxations.relu import ReLU
from bourn.relaxations.step import Step
from bourn.solvers import bracket as brackets
from bourn.solvers import enclosures, highs
from bourn.solvers.bracket import Bracket, InnerProgram, bracket, ceilings
from bourn.solvers.enclosures import Attained, Enclosures
from bourn.solvers.methods import method
from networks import RELU, Layers, convolutional, fractions, random, random_objectives, residual
from quick import QUICK, UP_TO_LP_ALL
from test_duality import mixed
from test_nonlinearities import EXAMPLES
from test_solvers import OBJECTIVES, network
from test_theory import textbook

EXAMPLES_FOLDER = Path(__file__).resolve().parent.parent / "examples"


def ball_of(graph: Graph, radius: float = 0.4) -> Box:
    return linf_ball(torch.zeros(1, *graph.input_shape, dtype=torch.float64), radius)


def negated(graph: Graph) -> Graph:
    """The graph with its last, dense node negated."""
    last = graph.nodes[graph.output]
    assert isinstance(last.operation, Dense)
    assert last.operation.bias is not None
    turned = dataclasses.replace(last.operation, weight=-last.operation.weight, bias=-last.operation.bias)
    return Graph((*graph.nodes[:-1], dataclasses.replace(last, operation=turned)), graph.output)


def barrier(graph: Graph, ball: Box) -> Tensor:
    """LP-ALL's exact values, to the tolerance of scipy's solver: textbook programs, layer after layer, nothing left out."""
    bounds: dict[int, Interval] = {}
    for z in graph.pre_activations:
        part = graph.cut(z)
        if not part.nonlinear:  # affine in the input: any method is exact
            bounds[z] = method("crown").prepare(graph, ball).bounds[z]
            continue
        least, most = (torch.tensor(textbook(g, ball, bounds), dtype=torch.float64) for g in (part, negated(part)))
        bounds[z] = Interval(least.reshape(1, *graph.nodes[z].shape), -most.reshape(1, *graph.nodes[z].shape))
    return torch.tensor([textbook(graph, ball, bounds)], dtype=torch.float64)


def holds(seed: int) -> Bracket:
    """The bracket of a small network, checked to hold LP-ALL's exact values."""
    graph = network(seed, (3, 5, 5, 5, 3))
    found, wanted = bracket(graph, ball_of(graph), OBJECTIVES), barrier(graph, ball_of(graph))
    assert bool((found.lower <= wanted + 1e-6).all())
    assert bool((found.ceiling >= wanted - 1e-6).all())
    return found


def test_the_exact_value_lies_between_and_the_gap_is_small() -> None:
    for seed in range(5):
        found = holds(seed)
        assert bool((found.lower <= found.ceiling).all() & (found.ceiling - found.lower <= 1e-8).all())
        assert found.seconds > 0


def test_an_interval_that_is_not_attained_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: with intervals a little too wide ceilings are too low."""
    right = Attained.of

    def wide(least: Tensor, most: Tensor) -> Attained:
        found = right(least, most)
        return Attained(Interval(found.interval.lower - 0.01, found.interval.upper + 0.01), found.known)

    monkeypatch.setattr(Attained, "of", wide)
    with pytest.raises(AssertionError):
        all(holds(seed) for seed in range(5))


def in_fractions(points: Enclosures, attained: Mapping[int, Attained], m: int) -> list[Fraction]:
    """The output of a point of a dense ReLU network, exactly; that it is in the program is asserted."""
    graph, values = points.graph, []
    for number, node in enumerate(graph.nodes):
        lower, upper = (fractions(t[m]) for t in (points.values[number].lower, points.values[number].upper))
        if number == 0:
            assert lower == upper
            values.append(lower)
        elif isinstance(node.operation, Dense):
            assert node.operation.bias is not None
            weights, bias = node.operation.weight, fractions(node.operation.bias)
            before = values[node.inputs[0]]
            rows = ([a * b for a, b in zip(fractions(w), before, strict=True)] for w in weights)
            values.append([sum(terms, start=b) for terms, b in zip(rows, bias, strict=True)])
        else:
            known = attained[node.inputs[0]].interval
            ends = zip(fractions(known.lower), fractions(known.upper), strict=True)
            values.append([])
            for z, (low, high), (a, b) in zip(values[node.inputs[0]], zip(lower, upper, strict=True), ends, strict=True):
                own = max(z, Fraction(0))
                l_, u_ = min(a, z), max(b, z)
                first, last = max(l_, Fraction(0)), max(u_, Fraction(0))
                chord = own if u_ == l_ else first + (last - first) * (z - l_) / (u_ - l_)
                value = low if low == high else own
                assert own <= value <= chord, (number, float(z), float(value))
                values[-1].append(value)
        assert all(a <= v <= b for a, v, b in zip(lower, values[number], upper, strict=True))
    return values[graph.output]


def test_points_are_in_the_program_in_rational_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point that counts, of every layer, lies in the hulls on what was attained, and is worth no more than stated."""
    seen: list[tuple[Enclosures, dict[int, Attained]]] = []
    right = enclosures.enclose

    def watched(
        graph: Graph, ball: InputSet, attained: Mapping[int, Attained], x: Tensor, wanted: Mapping[int, Tensor], target: int
    ) -> Enclosures:
        found = right(graph, ball, attained, x, wanted, target)
        if target == graph.output:
            seen.append((found, dict(attained)))
        return found

    monkeypatch.setattr(brackets, "enclose", watched)
    checked = chosen = 0
    for seed in range(5):
        graph = network(seed, (4, 8, 8, 3))
        ceilings(graph, ball_of(graph), method("crown").prepare(graph, ball_of(graph)).bounds, OBJECTIVES)
    for points, attained in seen:
        assert bool(points.valid.all())
        for m, stated in enumerate(points.rows(OBJECTIVES).tolist()):
            exact = in_fractions(points, attained, m)
            assert all(value <= Fraction(top) <= value + Fraction(1, 10**9) for value, top in zip(exact, stated, strict=True))
            checked += 1
        for z in points.graph.nonlinear:
            chosen += int((points.values[z].lower == points.values[z].upper).sum())
    assert checked > 30
    assert chosen > 300


@pytest.mark.parametrize("seed", range(2))
def test_no_method_passes_the_ceiling_on_graphs_of_all_kinds(seed: int) -> None:
    """Residual and convolutional networks, rows on the input, ones that stand on inexact numbers."""
    deep = residual(Layers((1, 4), random(seed)), 5, 2, 3, RELU)
    wide = convolutional(Layers((1, 1, 4, 3), random(seed)), 3, RELU)
    for graph in (deep, wide):
        objectives = random_objectives(graph, random(seed), 3, inputs=True)
        for asked in (objectives, dataclasses.replace(objectives, inexact=True)):
            found = bracket(graph, ball_of(graph, 0.3), asked)
            assert bool((found.ceiling - found.lower).amax() <= 1e-8)
            assert bool((found.ceiling >= found.lower).all())
        for m in QUICK:
            assert bool((m.prepare(graph, ball_of(graph, 0.3)).minimise(objectives).bound <= found.ceiling).all()), m.name


@pytest.mark.parametrize("operation", EXAMPLES, ids=str)
def test_every_nonlinearity_has_a_ceiling(operation: Nonlinearity) -> None:
    """By points in closed form, which is quick: above what cheap methods prove, and below the value at the middle."""
    graph, question = mixed(operation, 1)
    prepared = method("crown").prepare(graph, question)
    found, _ = InnerProgram(graph, question, prepared.bounds, exact=False).ceilings(OBJECTIVES)
    assert bool((prepared.minimise(OBJECTIVES).bound[0] <= found).all())
    assert bool((method("ibp").prepare(graph, question).minimise(OBJECTIVES).bound[0] <= found).all())
    middle = graph.evaluate(question.middle).reshape(3)
    assert bool((found <= middle + 1e-9 * (1 + middle.abs())).all())
    assert bool((found < middle - 1e-3).any()) or str(operation) == "Clip(low=0.25, high=0.25)"  # a constant


KINDS = [e for e in EXAMPLES if str(e) in ("Tanh()", "Step(below=0.0, at=0.0, above=1.0)", "Maximum()", "Product()")]
"""One of every base class but that of ReLU."""


@pytest.mark.parametrize("operation", KINDS, ids=str)
def test_every_kind_of_nonlinearity_has_a_tight_ceiling(operation: Nonlinearity) -> None:
    graph, question = mixed(operation, 1)
    found = bracket(graph, question, OBJECTIVES)
    assert bool((found.ceiling >= found.lower).all())
    if not isinstance(operation, Step):  # a jump's hull has points that are no values
        assert float(((found.ceiling - found.lower) / (1 + found.lower.abs())).max()) <= 1e-6
    assert bool((method("alpha-crown-all").prepare(graph, question).minimise(OBJECTIVES).bound <= found.ceiling).all())


# --- conjunctions, sets, batches ------------------------------------------------------------------------


def test_of_a_conjunction_the_greatest_row_counts() -> None:
    """The ceiling of rows together is what the best weights reach: by strong duality, at a point of the same program."""
    several = 0
    for seed in range(6):
        graph = network(seed, (3, 5, 5, 3))
        prepared = method("lp-all").prepare(graph, ball_of(graph))
        objectives = Objectives(OBJECTIVES.outputs, None, -prepared.minimise(OBJECTIVES).bound - 0.5)
        found = bracket(graph, ball_of(graph), objectives, outer=prepared, groups=[(0, 1, 2), (1,), (0, 2)])
        weights = prepared.weights(objectives)
        assert weights is not None
        rows, constant = weights @ objectives.outputs[0], weights @ objectives.constant[0]
        joint = prepared.minimise(Objectives(rows[None, None], None, constant[None, None])).bound
        assert 0 <= float(found.together[0, 0] - joint) <= 1e-8
        assert float(found.together[0, 1]) == float(found.ceiling[0, 1])
        assert bool(found.together[0, 0] >= found.together[0, 2])
        several += int(float(joint) > float(found.ceiling.max()) + 1e-3)
    assert several > 0  # no row alone says as much


def test_input_sets_of_all_kinds() -> None:
    graph = network(3)
    center = torch.full((1, 1, 4), 0.1, dtype=torch.float64)
    half = torch.tensor([[1.0, 1.0, -1.0, 0.5]], dtype=torch.float64)
    sets = {
        "l1": (bourn.lp_ball(center, 0.5, norm=1), 1e-7),
        "l2": (bourn.lp_ball(center, 0.4, norm=2), 1e-3),
        "point": (box(center, center), 1e-7),
        "polytope": (bourn.polytope(center - 0.4, center + 0.4, half[:, None, None], torch.tensor([[0.2]])), 1e-7),
    }
    for name, (chosen, gap) in sets.items():
        found = bracket(graph, chosen, OBJECTIVES)
        assert bool((found.ceiling >= found.lower).all()), name
        assert float((found.ceiling - found.lower).max()) <= gap, name


def test_a_box_between_two_floats_and_one_rounded_outward() -> None:
    """An entry whose ends, as written, have no float64 between them: it is known up to both, and that is enough."""
    graph = network(4)
    middle = torch.full((1, 1, 4), 0.1, dtype=torch.float64)
    above = torch.nextafter(middle, middle.new_tensor(1.0))
    low, high = middle.clone(), above.clone()
    low[..., 1:], high[..., 1:] = -0.2, 0.3
    inner_low, inner_high = low.clone(), high.clone()
    inner_low[..., 0], inner_high[..., 0] = above[..., 0], middle[..., 0]
    inner_high[..., 1] = math.nextafter(0.3, 0.0)
    found = bracket(graph, Box(Interval(low, high), (inner_low, inner_high)), OBJECTIVES)
    assert bool((found.ceiling >= found.lower).all())
    assert float((found.ceiling - found.lower).max()) <= 1e-8


def test_a_batch_is_its_problems() -> None:
    graph = network(5)
    centers = torch.randn(2, 1, 4, dtype=torch.float64, generator=random(0))
    both = bracket(graph, linf_ball(centers, 0.2), OBJECTIVES, groups=[(0, 1)])
    assert both.lower.shape == both.ceiling.shape == both.beyond.shape == (2, 3)
    for b in range(2):
        one = bracket(graph, linf_ball(centers[b : b + 1], 0.2), OBJECTIVES, groups=[(0, 1)])
        torch.testing.assert_close(one.ceiling[0], both.ceiling[b], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(one.together[0], both.together[b], rtol=1e-8, atol=1e-8)


def test_an_unbounded_input_has_a_point_all_the_same() -> None:
    graph = network(1)
    inf = torch.full((1, 1, 4), math.inf, dtype=torch.float64)
    outer = method("crown").prepare(graph, box(-inf, inf)).bounds
    found, _ = ceilings(graph, box(-inf, inf), outer, OBJECTIVES)
    assert bool((found <= graph.evaluate(torch.zeros(1, 1, 4, dtype=torch.float64)).reshape(3) + 1e-9).all())


@pytest.mark.parametrize("fault", ["nonsense", "nan", "nothing"])
def test_whatever_highs_returns_the_ceiling_holds(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network(2)
    factor, shift = {"nonsense": (-7.0, 3.0), "nan": (math.nan, 0.0), "nothing": (0.0, 0.0)}[fault]
    prepared = method("lp-all").prepare(graph, ball_of(graph))
    lower, right = prepared.minimise(OBJECTIVES).bound[0], highs.Model.point
    monkeypatch.setattr(highs.Model, "point", lambda self: factor * right(self) + shift)
    found, _ = InnerProgram(graph, ball_of(graph), prepared.bounds).ceilings(OBJECTIVES)
    assert bool((found >= lower).all())
    assert bool((found > lower + 1e-6).any())


def test_wrong_outer_bounds_cost_nothing_but_tightness() -> None:
    """Outer bounds say where it is worth looking, no more: with nonsense for them the ceiling still holds."""
    graph = network(6)
    lower = method("lp-all").prepare(graph, ball_of(graph)).minimise(OBJECTIVES).bound[0]
    bounds = method("crown").prepare(graph, ball_of(graph)).bounds
    stable = {z: Interval(torch.ones_like(b.lower), torch.ones_like(b.upper) * 2) for z, b in bounds.items()}
    found, _ = ceilings(graph, ball_of(graph), stable, OBJECTIVES)
    assert bool((found >= lower).all())


def test_limits() -> None:
    graph = network(7)
    bounds = method("crown").prepare(graph, ball_of(graph)).bounds
    found, together = ceilings(graph, ball_of(graph), bounds, OBJECTIVES, [(0, 1)], deadline=Deadline(1e-9))
    assert bool(found.isinf().all() & together.isinf().all())
    with pytest.raises(OutOfTime):
        bracket(graph, ball_of(graph), OBJECTIVES, deadline=Deadline(1e-9))
    first = InnerProgram(graph, ball_of(graph), bounds, exact=False).ceilings(OBJECTIVES)[0]
    best = InnerProgram(graph, ball_of(graph), bounds).ceilings(OBJECTIVES)[0]
    assert bool((first >= best).all())
    assert bool((first > best + 1e-6).any())
    soon, _ = ceilings(graph, ball_of(graph), bounds, OBJECTIVES, enough=float(first.min()))
    assert torch.equal(soon, first)


def test_a_neuron_of_one_value_is_no_obstacle() -> None:
    """Entries that nothing moves attain a single value: behind them there is the function, and no interval to stand on."""
    layers = Layers((1, 3), random(0))
    first = layers.dense(0, 4)
    operation = layers.builder.node(first).operation
    assert isinstance(operation, Dense)
    operation.weight[0], operation.weight[1] = 0.0, 0.0
    assert operation.bias is not None
    operation.bias[0], operation.bias[1] = 0.0, 0.3
    graph = layers.builder.build(layers.dense(layers.act(layers.dense(layers.act(first, ReLU()), 4), ReLU()), 3))
    found = bracket(graph, ball_of(graph), OBJECTIVES)
    assert bool((found.ceiling >= found.lower).all())
    assert float((found.ceiling - found.lower).max()) <= 1e-8


# --- what users see -------------------------------------------------------------------------------------


def digits(radius: float) -> tuple[bourn.Model, bourn.Question]:
    from bourn.cli.questions import Ball

    model = bourn.load(EXAMPLES_FOLDER / "digits_mlp.onnx")
    return model, Ball(str(EXAMPLES_FOLDER / "digits_images.npz"), 0, radius, (0.0, 1.0)).robustness(model, None)


def test_verify_says_that_no_layer_wise_method_can_do_it() -> None:
    verdict = bourn.verify(*digits(0.1), plan=UP_TO_LP_ALL).verdict
    assert isinstance(verdict, Unknown)
    assert verdict.barrier is not None
    assert verdict.barrier <= 0
    assert any(o.beyond for o in verdict.open)
    assert all(o.ceiling >= o.bound for o in verdict.open)
    assert f"no layer-wise method can prove this: the barrier is at most {verdict.barrier:.6g}" in describe(verdict)
    unknown = Unknown(verdict.reason, open=tuple(dataclasses.replace(o, ceiling=math.inf) for o in verdict.open))
    assert unknown.barrier is None
    assert not any("layer-wise" in line for line in describe(unknown))


def test_the_ladder_shows_the_ceiling(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["ladder", str(EXAMPLES_FOLDER / "digits_mlp.onnx"), "--image", str(EXAMPLES_FOLDER / "digits_images.npz")]
    asked += ["--radius", "0.09", "-m", "crown", "-m", "lp-all", "--bracket"]
    assert run(asked) == 0
    assert "no layer-wise method can prove this" in capsys.readouterr().out
    assert run([*asked, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert 0 <= found["ceiling"] - found["barrier"] <= 1e-8
