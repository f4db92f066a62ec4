"""Duality for every nonlinearity: weak at any multipliers, strong at the optimum, and no method above the barrier."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch

import bourn
from bourn.cli.main import run
from bourn.network.affine import Dense
from bourn.network.graph import Graph
from bourn.problem.input_set import Box, box
from bourn.program.linear_bounds import Multipliers, back_substitute
from bourn.relaxations.base import ElementWise, Nonlinearity
from bourn.relaxations.elu import Elu
from bourn.relaxations.reciprocal import Reciprocal
from bourn.relaxations.relu import ReLU
from bourn.relaxations.smooth import Smooth
from bourn.relaxations.tanh import Tanh
from bourn.solvers.base import output_rows
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.methods import METHODS, method
from bourn.solvers.simplex import Optimised, Simplex
from networks import Layers, random, random_objectives
from test_nonlinearities import EXAMPLES

EXAMPLES_FOLDER = Path(__file__).resolve().parent.parent / "examples"


def mixed(operation: Nonlinearity, seed: int) -> tuple[Graph, Box]:
    """A network with the nonlinearity between a tanh and a ReLU, its intervals within what it is defined on."""
    layers = Layers((1, 4), random(seed))
    builder = layers.builder
    before = layers.act(layers.dense(0, 5), Tanh())
    positive = isinstance(operation, Smooth) and (operation.domain[0] >= 0 or isinstance(operation, Reciprocal))

    def source() -> int:
        shape = builder.shape(before)
        weight = layers.numbers(5, 5) * (0.15 if positive else 0.8)
        bias = torch.full((5,), 2.0 if positive else 0.1, dtype=torch.float64)
        return builder.add(Dense(in_shapes=(shape,), out_shape=(1, 5), weight=weight, bias=bias), before)

    inputs = 1 if isinstance(operation, ElementWise) else 2
    node = builder.add(operation, *(source() for _ in range(inputs)))
    node = layers.act(layers.dense(node, 4), ReLU())
    graph = builder.build(layers.dense(node, 3))
    center = torch.randn(1, 1, 4, dtype=torch.float64, generator=random(seed + 1))
    return graph, box(center - 0.3, center + 0.3)


OPERATIONS = {str(e): e for e in EXAMPLES}


@cache
def at_the_barrier(name: str, seed: int) -> tuple[Graph, Box, Optimised]:
    graph, question = mixed(OPERATIONS[name], seed)
    return graph, question, Simplex().prepare(graph, question)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OPERATIONS)
def test_strong_duality_at_the_optimum(name: str, seed: int) -> None:
    """The value at a feasible point of the relaxed program and the bound at the LP's multipliers are one number."""
    graph, _, prepared = at_the_barrier(name, seed)
    objectives = random_objectives(graph, random(seed), 4, inputs=True)
    solution, primal = prepared.both_sides(objectives)
    assert primal is not None
    bound = solution.bound[0]
    # The LPs that only give bounds are the same ones.
    assert bound.tolist() == pytest.approx(prepared.minimise(objectives).bound[0].tolist(), rel=1e-6, abs=1e-6)
    scale = 1 + bound.abs()
    assert bool((primal[0] >= bound - 1e-9 * scale).all())
    assert float(((primal[0] - bound) / scale).max()) <= 1e-6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OPERATIONS)
def test_weak_duality_at_any_multipliers(name: str, seed: int) -> None:
    """At random multipliers, small and large, the dual function is at most the relaxed optimum, and the exact one."""
    graph, question, prepared = at_the_barrier(name, seed)
    program = prepared.program
    objectives = random_objectives(graph, random(seed), 4, inputs=False)
    rows = output_rows(graph, objectives)
    _, optimum = prepared.both_sides(objectives)
    assert optimum is not None
    outputs = graph.evaluate(question.sample(500, random(seed))[0]).flatten(1)
    attained = (objectives.outputs[0] @ outputs.T).amin(1) + objectives.constant[0]
    for draw, scale in enumerate((0.0, 0.1, 1.0, 100.0)):
        chosen = {}
        for v in graph.nonlinear:
            free = program.free(v)
            mu = tuple(
                scale * torch.randn(1, 4, *free.shape[1:], dtype=torch.float64, generator=random(draw + k))
                for k in range(len(graph.nodes[v].inputs))
            )
            chosen[v] = Multipliers(free, mu=mu)
        found = back_substitute(program, rows, objectives.constant, multipliers=chosen).lower[0]
        assert bool((found <= optimum[0] + 1e-9 * (1 + optimum[0].abs())).all())
        assert bool((found <= attained).all())


@pytest.mark.parametrize("name", OPERATIONS)
def test_both_ascents_come_near_the_optimum_and_never_pass_it(name: str) -> None:
    graph, question, prepared = at_the_barrier(name, 0)
    objectives = random_objectives(graph, random(0), 4, inputs=False)
    optimum = prepared.minimise(objectives).bound[0]
    closed = DualAscent(steps=0).prepare(graph, question, inner=prepared.bounds).minimise(objectives).bound[0]
    for direct, left in ((False, 0.02), (True, 0.5)):
        solver = DualAscent(steps=150, decay=0.98, direct=direct)
        found = solver.prepare(graph, question, inner=prepared.bounds).minimise(objectives).bound[0]
        assert bool((found <= optimum + 1e-6 * (1 + optimum.abs())).all())
        operation = OPERATIONS[name]
        if isinstance(operation, Elu) and operation.kinks and not direct:
            continue  # between its slopes on both sides of a kink it has none
        if direct and float(optimum.abs().max()) > 100:  # where numbers differ by so much, its steps are too small or too large
            continue
        assert float((optimum - found).sum()) <= left * float((optimum - closed).sum()) + 1e-6 * float((1 + optimum.abs()).sum())


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_method_is_above_the_barrier(name: str) -> None:
    """For every nonlinearity a third of the methods, in turn; and the barrier is not above what the network does."""
    graph, question, prepared = at_the_barrier(name, 1)
    best = prepared.node(graph.output)
    for m in METHODS[list(OPERATIONS).index(name) % 3 :: 3]:
        found = m.prepare(graph, question).node(graph.output)
        scale = 1 + best.magnitude
        assert bool((found.lower <= best.lower + 1e-6 * scale).all()), m.name
        assert bool((found.upper >= best.upper - 1e-6 * scale).all()), m.name
    values = graph.evaluate(question.sample(2000, random(2))[0])
    assert bool((values >= best.lower).all() & (values <= best.upper).all())


def test_the_report_of_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    """``bourn duality``: the gap closes, slopes come nearer to it than the lines, as a table and as JSON."""
    arguments = ["duality", str(EXAMPLES_FOLDER / "digits_cnn.onnx"), "--image", str(EXAMPLES_FOLDER / "digits_images.npz")]
    arguments += ["--index", "6", "--radius", "0.115", "--steps", "30"]
    assert run(arguments) == 0
    assert "greatest gap" in capsys.readouterr().out
    assert run([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert abs(data["gap"]) <= 1e-6
    for row in data["rows"]:
        assert row["lines"] <= row["slopes"] <= row["primal"] + 1e-6
        assert row["lines"] <= row["multipliers"] <= row["primal"] + 1e-6


def test_the_report_from_python() -> None:
    found = bourn.duality(EXAMPLES_FOLDER / "digits_mlp.onnx", _question(), steps=20, inner="fast-lin")
    assert found.inner == method("fast-lin")
    assert len(found.views) == 9
    assert abs(found.gap) <= 1e-6


def _question() -> bourn.Question:
    from bourn.formats.vnnlib import load

    return load(EXAMPLES_FOLDER / "digits_robust_3.vnnlib")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give the question"),
        (["--label", "3"], "give the question"),
        (["nothing.vnnlib"], "nothing.vnnlib"),
        (["digits_robust_3.vnnlib", "--inner", "none"], "there is no method 'none'"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(EXAMPLES_FOLDER / a) if a == "digits_robust_3.vnnlib" else a for a in arguments]
    assert run(["duality", str(EXAMPLES_FOLDER / "digits_mlp.onnx"), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1]
