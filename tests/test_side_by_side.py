"""Trees of splits that go on from their open parts, here and in several processes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from threading import Timer

import pytest
import torch
from torch import Tensor

import bourn
from bourn.certificates.splits import Leaf, SplitTree
from bourn.cli.main import run
from bourn.deadline import NEVER, Deadline, Stop
from bourn.errors import UsageError
from bourn.plans import CHEAP_FIRST, in_processes
from bourn.problem.input_set import box
from bourn.problem.problem import Problem
from bourn.problem.specification import Conjunction, Row, Specification
from bourn.relaxations.relu import ReLU
from bourn.solvers.input_splitting import InputSplitting
from bourn.solvers.methods import method
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.side_by_side import SideBySide
from bourn.solvers.ways import Way
from networks import Layers, mlp, random

HOWS: dict[str, InputSplitting | NeuronSplitting] = {
    "input": InputSplitting(batch=4),
    "neurons": NeuronSplitting(batch=4, ways=(Way("babsr"),)),
    "neurons, inner bounds too": NeuronSplitting(batch=4),
}


def asked(gap: float) -> tuple[Problem, float]:
    """Two conjunctions that hold nowhere, by so much: each output is above its least value over a grid, less the gap."""
    graph = mlp(Layers((1, 2), random(7)), (10, 10), 2, (ReLU(),))
    ends = torch.linspace(-1, 1, 301, dtype=torch.float64)
    values = graph.evaluate(torch.cartesian_prod(ends, ends).reshape(-1, 1, 2)).flatten(1)
    least = [float(v) for v in values.amin(0)]
    rows = [Row.of({i: 1}, {}, -Fraction(v - gap)) for i, v in enumerate(least)]
    ones = torch.ones(1, *graph.input_shape, dtype=torch.float64)
    return Problem(graph, box(-ones, ones), Specification(tuple(Conjunction((r,)) for r in rows))), gap


def inner(problem: Problem) -> dict[int, bourn.Interval]:
    return dict(method("crown").prepare(problem.network, problem.box).bounds)


def never(x: Tensor) -> bool:
    return False


@pytest.mark.parametrize("name", HOWS)
def test_a_tree_goes_on_from_its_open_parts(name: str) -> None:
    """However often it is stopped: in the end the leaves of all runs are those of one tree, and bounds only rise."""
    how, (problem, _) = HOWS[name], asked(0.03)
    known = inner(problem)
    found = how.run(problem, [0, 1], known, never, NEVER, most=4)
    leaves: dict[int, list[Leaf]] = {k: list(own) for k, own in found.leaves.items()}
    refuted, runs = dict(found.refuted), 1
    least = min(found.bounds.values())
    while found.parts:
        assert found.left == len(found.parts)
        found = how.run(problem, [0, 1], known, never, NEVER, most=2 * len(found.parts) + 6, begin=found.parts)
        assert not found.refuted, "a part of the set refutes nothing on all of it"
        for k, own in found.leaves.items():
            leaves.setdefault(k, []).extend(own)
        if found.bounds:
            assert min(found.bounds.values()) >= least
            least = min(found.bounds.values())
        runs += 1
    assert runs > 1
    refuted |= {k: SplitTree(problem.conjunctions[k], tuple(own)) for k, own in leaves.items()}
    assert set(refuted) == {0, 1}


@pytest.mark.parametrize("name", ["input", "neurons, inner bounds too"])
def test_processes_prove_what_one_proves(name: str) -> None:
    problem, _ = asked(0.003)
    found = SideBySide(HOWS[name], workers=2, alone=6).run(problem, [0, 1], inner(problem), never, Deadline(100.0))
    assert set(found.refuted) == {0, 1}
    assert not found.parts
    assert found.subproblems > 6


def test_a_counterexample_that_a_process_meets_is_replayed_here() -> None:
    """One that the replay refuses is none, and the search goes on until it is asked to stop; its bounds are then kept."""
    problem, _ = asked(-0.01)
    known, stop, seen = inner(problem), Stop(), []
    how = SideBySide(InputSplitting(batch=1), workers=2, alone=2)

    def accept(x: Tensor) -> bool:
        seen.append(x)
        return len(seen) > 1

    found = how.run(problem, [0], known, accept, Deadline(100.0))
    assert found.found
    assert len(seen) == 2
    assert not found.refuted
    first = how.how.run(problem, [0], known, never, NEVER, most=2)
    timer = Timer(3.0, stop.ask, ["interrupted"])
    timer.start()
    stopped = how.run(problem, [0], known, never, Deadline(100.0, stop=stop))
    assert stopped.stopped == "interrupted"
    assert not stopped.refuted
    assert stopped.left == len(stopped.parts) > 0
    assert min(stopped.bounds.values()) >= min(first.bounds.values())


def test_the_plan_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dealt = [step.how for step in in_processes(CHEAP_FIRST, 3).steps if hasattr(step, "how")]
    assert any(isinstance(how, SideBySide) and how.workers == 3 for how in dealt)
    assert in_processes(CHEAP_FIRST, 1) is CHEAP_FIRST
    with pytest.raises(UsageError, match="at least 1"):
        in_processes(CHEAP_FIRST, 0)
    examples = Path(__file__).resolve().parent.parent / "examples"
    question = [str(examples / "digits_mlp.onnx"), str(examples / "digits_robust_3.vnnlib")]
    assert run(["verify", *question, "--workers", "2", "-q"]) == 0
    assert capsys.readouterr().out.startswith("unsat")
    assert run(["verify", *question, "--workers", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
