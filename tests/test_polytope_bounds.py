"""What stands on polytopes: every method's bounds, receptive fields, verdicts and rows of files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch

import bourn
from bourn.deadline import NEVER
from bourn.formats.vnnlib import parse
from bourn.network.graph import Graph
from bourn.problem.input_set import Box
from bourn.problem.polytopes import Polytope
from bourn.problem.problem import Objectives
from bourn.program.relaxed import start
from bourn.program.restrict import receptive_fields
from bourn.relaxations.base import LineRule
from bourn.solvers.back_substitution import BackSubstitution
from bourn.solvers.methods import METHODS, method
from networks import Layers, random, random_objectives
from samples import mlp as dense_network
from samples import numbers, passed
from test_restrict import plain
from verify_models import RELU_IDENTITY, mlp, vnnlib


def sets_of(seed: int, count: int) -> Iterator[tuple[Graph, Polytope, Objectives]]:
    """Networks on a batch of two polytopes, with objectives on output and input."""
    graph, generator = dense_network(seed), random(seed)
    matrix = numbers(generator, 2, count, *graph.input_shape)
    limits = matrix.flatten(2) @ torch.full((5,), 0.4, dtype=torch.float64) + 0.05
    low, high = torch.zeros(2, *graph.input_shape), torch.ones(2, *graph.input_shape)
    objectives = random_objectives(graph, generator, 3, inputs=bool(seed % 3), batch=2)
    yield graph, bourn.polytope(low, high, matrix, limits), objectives


@pytest.mark.parametrize("chosen", METHODS, ids=lambda m: m.name)
def test_every_method_is_sound(chosen: bourn.Method) -> None:
    for seed in range(4):
        for graph, sets, objectives in sets_of(seed, 1 + 2 * seed):
            assert not passed(chosen, graph, sets, objectives, seed), seed


@pytest.mark.parametrize("name", ["ibp", "crown", "alpha-crown", "deepz", "forward", "lp-all"])
def test_bounds_are_no_worse_than_on_the_enclosing_box(name: str) -> None:
    """On the same inner bounds, for CROWN's lines are not monotone; interval bounds and LP-ALL are on their own."""
    better = 0
    for seed in range(5):
        for graph, sets, objectives in sets_of(seed, 3):
            around = Box(sets.interval)
            inner = None if name in ("ibp", "lp-all") else method("crown").prepare(graph, around).bounds
            own, outer = (
                method(name).solver.prepare(graph, s, inner=inner).minimise(objectives).bound
                if inner is not None
                else method(name).prepare(graph, s).minimise(objectives).bound
                for s in (sets, around)
            )
            slack = 5e-3 if name == "alpha-crown" else 1e-7  # ascent ends short of the optimum
            assert bool((own >= outer - slack).all()), seed
            better += int((own > outer + 1e-3).sum())
    assert (better > 0) == (name != "deepz")


def test_the_lp_is_not_below_ascent() -> None:
    for seed in range(4):
        for graph, sets, objectives in sets_of(seed, 3):
            inner = method("crown").prepare(graph, sets).bounds
            ascent = method("alpha-crown").solver.prepare(graph, sets, inner=inner).minimise(objectives).bound
            optimum = method("lp-all").solver.prepare(graph, sets, inner=inner).minimise(objectives).bound
            assert bool((optimum >= ascent - 1e-7).all())


@pytest.mark.parametrize("count", [1, 4])
def test_receptive_fields_see_a_set_around_the_projection(count: int) -> None:
    graph = plain(Layers((1, 2, 13, 13), random(5)))
    generator = random(6)
    matrix = numbers(generator, count, *graph.input_shape)
    limits = matrix.flatten(1).sum(1) * 0.5 - 3.0
    sets = bourn.polytope(torch.zeros(2, *graph.input_shape), torch.ones(2, *graph.input_shape), matrix, limits)
    program = start(graph, sets, LineRule.AREA)
    first = graph.pre_activations[0]
    assert receptive_fields(program, first) is not None
    local = BackSubstitution().pre_activation(program, first, NEVER)
    corners = sets.minimiser(numbers(generator, 1, 30, *graph.input_shape))[0]
    samples = graph.values(torch.cat([sets.sample(50, random(7))[0], corners]))[first]
    assert bool((samples >= local.lower[0] - 1e-9).all() & (samples <= local.upper[0] + 1e-9).all())
    window = sets.map(lambda t: t[:, :, :, :3, :3])
    points = sets.sample(50, random(8))[0][:, :, :, :3, :3]
    assert bool(window[:1].contains(points).all())


def test_a_verdict_needs_the_half_space() -> None:
    """y = relu(a + b - 1): above 0.2 somewhere in the square, nowhere where a + b <= 1.1."""
    network = mlp(([[1.0, 1.0]], [-1.0]), ([[1.0]], [0.0]))
    above = bourn.Specification.of([bourn.Row.of({0: -1}, {}, 0.2)])
    low, high = [[0.0, 0.0]], [[1.0, 1.0]]
    assert bourn.verify(network, bourn.region(bourn.box(low, high), above, 1), timeout=30).status == "sat"
    small = bourn.polytope(low, high, [[1.0, 1.0]], [1.1])
    assert bourn.verify(network, bourn.region(small, above, 1), timeout=30).status == "unsat"
    found = bourn.verify(network, bourn.region(bourn.polytope(low, high, [[1.0, 1.0]], [1.3]), above, 1), timeout=30)
    assert found.status == "sat"
    x = found.verdict.counterexample.x  # type: ignore[union-attr]
    assert sum(map(Fraction, x.tolist())) <= Fraction(1.3)
    assert sum(map(Fraction, x.tolist())) >= Fraction(1.19)


def test_rows_on_inputs_of_a_file_cut_its_box() -> None:
    text = vnnlib([(0, 1), (0, 1)], 1, "(<= (+ X_0 X_1) 1.1)", "(or (>= Y_0 0.2) (and (>= Y_0 0.15) (>= X_0 (* 0.1 X_1))))")
    question = parse(text)
    assert [type(case.box).__name__ for case in question.cases] == ["Polytope", "Polytope"]
    assert all(any(not row.outputs for row in c.rows) for case in question.cases for c in case.specification.conjunctions)
    network = mlp(([[1.0, 1.0]], [-1.0]), ([[1.0]], [0.0]))
    assert bourn.verify(network, question, timeout=30).status == "unsat"
    nothing = parse(vnnlib([(0, 1), (0, 1)], 1, "(>= (+ X_0 X_1) 2.5)", "(>= Y_0 0)"))
    assert isinstance(nothing.cases[0].box, Box)
    assert bourn.verify(network, nothing, timeout=30).status == "unsat"
    equal = parse(vnnlib([(0, 1), (0, 1)], 1, "(= X_0 X_1)", "(>= Y_0 0)"))
    assert bourn.verify(network, equal, timeout=30).status == "sat"


def test_an_unbounded_box_can_be_asked() -> None:
    network = mlp(*RELU_IDENTITY)
    sets = bourn.polytope([[-math.inf]], [[math.inf]], [[2.0], [-1.0]], [3.0, 1.0])
    small = bourn.Specification.of([bourn.Row.of({0: -1}, {}, 1.6)])
    assert bourn.verify(network, bourn.region(sets, small, 1), timeout=30).status == "unsat"
    assert 1.5 <= float(sets.upper) <= 1.5 + 1e-14


def test_long_decimals_in_a_file_are_met_exactly() -> None:
    """The set is a hair wider than what is written, the conjunction's rows are not."""
    digits = "0." + "3" * 40
    question = parse(vnnlib([(0, 1), (0, 1)], 1, f"(<= (+ (* {digits} X_0) X_1) {digits})", "(>= Y_0 0)"))
    (case,) = question.cases
    assert isinstance(case.box, Polytope)
    _, high, error = case.box.extremes(torch.tensor([[[0.0, 1.0], [1.0, 3.0]]], dtype=torch.float64))
    exact = Fraction(digits)
    assert all(Fraction(float(h)) + Fraction(float(e)) >= m for h, e, m in zip(high[0], error[0], (exact, 3 * exact), strict=True))
    network = mlp(([[1.0, 1.0]], [-1.0]), ([[1.0]], [0.0]))
    found = bourn.verify(network, question, timeout=30).verdict.counterexample.x.tolist()  # type: ignore[union-attr]
    assert exact * Fraction(found[0]) + Fraction(found[1]) <= exact
