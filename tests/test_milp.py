"""MILP: the network's exact minimum, from below; and what it claims where it is stopped, relaxed or unsure."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import bourn
from bourn.cli.main import run
from bourn.deadline import Deadline, OutOfTime, Stop
from bourn.network.graph import Graph
from bourn.plans import Bounding, Plan
from bourn.problem.input_set import Box, box, linf_ball
from bourn.problem.problem import Objectives
from bourn.relaxations.absolute import Absolute
from bourn.relaxations.base import ElementWise
from bourn.relaxations.clip import Clip
from bourn.relaxations.leaky_relu import LeakyReLU
from bourn.relaxations.maximum import Maximum
from bourn.relaxations.relu import ReLU
from bourn.relaxations.sigmoid import Sigmoid
from bourn.solvers import integers
from bourn.solvers.base import Solution, Status
from bourn.solvers.methods import BEYOND, METHODS, MILP, method
from bourn.solvers.milp import Searching
from networks import Exact, Layers, at_most, mlp, random, random_objectives, residual, small_box

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
KINDS: dict[str, tuple[ElementWise, ...]] = {
    "relu": (ReLU(),),
    "leaky": (LeakyReLU(0.1), LeakyReLU(1.5)),
    "falling": (LeakyReLU(-0.25),),
    "clip": (Clip(-0.5, 0.5),),
    "abs": (Absolute(),),
    "mixed": (ReLU(), Clip(0.0, 0.75), Absolute()),
}


def searching(graph: Graph, question: Box) -> Searching:
    prepared = method(MILP).prepare(graph, question)
    assert isinstance(prepared, Searching)
    return prepared


def near(bound: float, exact: Fraction, scale: float) -> bool:
    """Not above, and less below than the slack for HiGHS's tolerances explains."""
    return at_most(bound, exact) and float(exact) - bound <= 1e-6 * scale


@pytest.mark.parametrize("kind", KINDS)
def test_the_minimum_is_exact(kind: str) -> None:
    beyond = 0
    for seed in range(3):
        generator = random(seed)
        layers = Layers((1, 2), generator, grid=seed % 2 == 0)
        make = residual if seed == 2 else mlp
        graph = make(layers, 3, 2, 2, KINDS[kind]) if make is residual else mlp(layers, (3, 3), 2, KINDS[kind])
        question = small_box(graph, generator, 2, 6)
        objectives = random_objectives(graph, generator, 2, inputs=seed > 0)
        met = searching(graph, question).extremes(objectives)
        assert met.solution.status is Status.OPTIMAL
        assert met.solution.trusts == "HiGHS"
        barrier = method("lp-all").prepare(graph, question).minimise(objectives).bound[0]
        for m, exact in enumerate(Exact(graph, question).minima(objectives)):
            bound = float(met.solution.bound[0, m])
            assert near(bound, exact, 100.0)
            assert float(exact) <= float(met.values[0, m]) + 1e-9
            beyond += bound > float(barrier[m]) + 1e-3
    assert beyond > 0  # else the linear program could have said it


def test_a_great_constant_is_rounded_downwards() -> None:
    for seed in (1, 5):
        generator = random(seed)
        graph = mlp(Layers((1, 2), generator, grid=True), (3, 3), 2, (ReLU(),))
        question = small_box(graph, generator, 2, 6)
        objectives = random_objectives(graph, generator, 2, inputs=False)
        objectives = replace(objectives, constant=objectives.constant + 1e12)
        bounds = searching(graph, question).minimise(objectives).bound[0].tolist()
        for bound, exact in zip(bounds, Exact(graph, question).minima(objectives), strict=True):
            assert Fraction(bound) <= exact


def test_a_maximum_is_exact() -> None:
    """Against the least over a fine grid, which is above the minimum by what a step can cost at most."""
    for seed in range(2):
        layers = Layers((1, 2), random(seed))
        z = [layers.dense(0, 3) for _ in range(3)]
        top = layers.builder.add(Maximum(), *z)
        graph = layers.builder.build(layers.dense(layers.act(top, ReLU()), 1))
        question = box(torch.full((1, 1, 2), -1.0, dtype=torch.float64), torch.full((1, 1, 2), 1.0, dtype=torch.float64))
        met = searching(graph, question).extremes(one_output())
        grid = torch.cartesian_prod(*(torch.linspace(-1, 1, 201, dtype=torch.float64),) * 2).reshape(-1, 1, 2)
        least = float(graph.evaluate(grid).min())
        bound, value = float(met.solution.bound), float(met.values)
        assert met.solution.status is Status.OPTIMAL
        assert bound <= least + 1e-12
        assert value - bound <= 1e-4
        assert abs(float(graph.evaluate(met.points[0])) - value) < 1e-12


def one_output(count: int = 1) -> Objectives:
    return Objectives(torch.eye(count, dtype=torch.float64)[None], None, torch.zeros(1, count, dtype=torch.float64))


def hard(width: int = 40) -> tuple[Graph, Box]:
    """A network and a ball of which no search comes to an end in a second."""
    layers = Layers((1, 10), random(0))
    graph = mlp(layers, (width, width), 1, (ReLU(),))
    return graph, linf_ball(torch.zeros(1, 1, 10, dtype=torch.float64), 1.0)


def test_a_limit_leaves_a_valid_bound() -> None:
    graph, ball = hard()
    inner = method("crown").prepare(graph, ball).bounds
    prepared = method(MILP).prepare(graph, ball, inner=inner, deadline=Deadline(0.8))
    found = prepared.minimise(one_output())
    linear = method("lp-last").solver.prepare(graph, ball, inner=inner).minimise(one_output()).bound
    attained = float(graph.evaluate(ball.sample(20_000, random(1))[0]).min())
    assert found.status is Status.STOPPED
    assert float(linear) - 1e-6 <= float(found.bound) <= attained
    with pytest.raises(OutOfTime):
        method(MILP).prepare(graph, ball, deadline=Deadline(1e-9)).minimise(one_output())


def test_a_wish_to_stop_ends_a_search_with_a_valid_bound() -> None:
    graph, ball = hard()
    inner = method("crown").prepare(graph, ball).bounds
    stop = Stop()
    prepared = method(MILP).prepare(graph, ball, inner=inner, deadline=Deadline(30.0, stop=stop))
    timer = threading.Timer(0.4, stop.ask, ["interrupted"])
    timer.start()
    began = time.monotonic()
    found = prepared.minimise(one_output())
    timer.join()
    assert time.monotonic() - began < 20
    assert found.status is Status.STOPPED
    assert -math.inf < float(found.bound) <= float(graph.evaluate(ball.sample(20_000, random(1))[0]).min())


def test_a_search_ends_where_enough_is_known() -> None:
    graph, ball = hard(8)
    whole = searching(graph, ball)
    least = float(whole.minimise(one_output()).bound)
    early = searching(graph, ball)
    assert float(early.minimise(one_output(), enough=least - 1.0).bound) > least - 1.0
    assert early.nodes <= whole.nodes
    stopped = searching(graph, ball).extremes(one_output(), target=math.inf)
    assert stopped.solution.status is Status.STOPPED
    assert math.isfinite(float(stopped.values))
    assert ball.contains(stopped.points[0]).all()


def test_what_is_not_piecewise_linear_keeps_its_hull() -> None:
    layers = Layers((1, 2), random(5))
    graph = mlp(layers, (3, 3), 1, (ReLU(), Sigmoid()))
    question = linf_ball(torch.zeros(1, 1, 2, dtype=torch.float64), 2.0)
    found = searching(graph, question).minimise(one_output())
    attained = float(graph.evaluate(question.sample(20_000, random(1))[0]).min())
    assert found.status is Status.RELAXED
    assert float(method("lp-all").prepare(graph, question).minimise(one_output()).bound) - 1e-6 <= float(found.bound) <= attained


def test_an_infinite_end_has_no_search() -> None:
    """The arrays leave such entries out, so that their optimum bounds nothing."""
    layers = Layers((1, 2), random(5))
    graph = mlp(layers, (3,), 1, (ReLU(),))
    ends = torch.full((1, 1, 2), math.inf, dtype=torch.float64)
    found = searching(graph, box(-ends, ends)).minimise(one_output())
    assert found.status is Status.STOPPED
    assert float(found.bound) <= float(graph.evaluate(torch.zeros(1, 1, 2, dtype=torch.float64)))


def test_a_bound_that_a_point_refutes_is_dropped(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    graph, ball = hard(8)
    true = integers.MixedInteger.minimise

    def lie(self: integers.MixedInteger, *arguments: object) -> integers.Searched:
        found = true(self, *arguments)  # type: ignore[arg-type]
        return integers.Searched(found.bound + 1.0, found.closed)

    honest = float(searching(graph, ball).minimise(one_output()).bound)
    monkeypatch.setattr(integers.MixedInteger, "minimise", lie)
    with caplog.at_level(logging.WARNING):
        found = searching(graph, ball).minimise(one_output())
    assert float(found.bound) <= honest
    assert "its word is dropped" in caplog.text


def test_every_entry_of_a_node_is_bounded() -> None:
    generator = random(2)
    graph = mlp(Layers((1, 2), generator), (3, 3), 2, (ReLU(),))
    question = small_box(graph, generator, 2, 6)
    prepared, extremes = searching(graph, question), Exact(graph, question).extremes
    for number in (*graph.pre_activations, graph.output):
        found = prepared.node(number)
        for i, (low, high) in enumerate(zip(*extremes[number], strict=True)):
            assert near(float(found.lower.flatten()[i]), low, 100.0)
            assert near(-float(found.upper.flatten()[i]), -high, 100.0)


def test_it_is_outside_the_class() -> None:
    assert method("MILP") in BEYOND
    assert not {m.name for m in METHODS} & {m.name for m in BEYOND}
    assert "trusted" in method("MILP").soundness
    assert not any(m.trusts for m in METHODS)


def test_a_proof_says_whom_it_trusts() -> None:
    image = np.load(EXAMPLES / "digits_images.npz")["image"][0].reshape(1, 64)
    proved = bourn.verify(
        EXAMPLES / "digits_mlp.onnx",
        bourn.robustness(image, label=7, radius=0.08, classes=10),
        plan=Plan((Bounding(method("ibp")), Bounding(method(MILP)))),
    )
    assert proved.status == "unsat"
    assert "trusting HiGHS" in str(proved)


def test_its_solutions_are_replayed() -> None:
    """A radius at which the class is lost: the search's points are the only attack of this plan."""
    image = np.load(EXAMPLES / "digits_images.npz")["image"][0].reshape(1, 64)
    question = bourn.robustness(image, label=7, radius=0.2, classes=10)
    found = bourn.verify(EXAMPLES / "digits_mlp.onnx", question, plan=Plan((Bounding(method(MILP)),)), timeout=3)
    assert found.status == "sat"


def test_commands_say_whom_they_trust(capsys: pytest.CaptureFixture[str]) -> None:
    question = [str(EXAMPLES / "digits_mlp.onnx"), "--image", str(EXAMPLES / "digits_images.npz"), "--radius", "0.06"]
    assert run(["bound", *question, "-m", "milp", "-n", "scores"]) == 0
    assert "if HiGHS is right" in capsys.readouterr().err
    assert run(["ladder", *question, "-m", "milp", "-m", "lp-all"]) == 0
    assert "proved, if HiGHS is right" in capsys.readouterr().out
    assert run(["methods"]) == 0
    assert "trusted: HiGHS" in capsys.readouterr().out


def test_solution_is_checked() -> None:
    nothing: Tensor = torch.tensor([[math.nan]])
    with pytest.raises(ValueError, match="NaN"):
        Solution(nothing, Status.OPTIMAL, "HiGHS")
