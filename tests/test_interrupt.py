"""Ctrl-C, SIGTERM, too little memory, and a reader that goes away: what is known is said, with the right exit status."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bourn
from bourn.certificates.evidence import Unknown
from bourn.deadline import Deadline, Stop
from bourn.errors import UsageError
from bourn.plans import CHEAP_FIRST, Bounding, Plan, within_memory
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.tree_bounds import TreeBounds
from bourn.verification import verify

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
COMMAND = [sys.executable, "-c", "from bourn.cli import main; main()"]
QUESTION = ["verify", str(EXAMPLES / "digits_mlp.onnx"), str(EXAMPLES / "digits_robust_3.vnnlib")]
HARD = ["verify", str(EXAMPLES / "digits_cnn.onnx"), "--image", str(EXAMPLES / "digits_images.npz"), "--index", "6"]
HARD += ["--radius", "0.16", "--timeout", "60"]
"""Splitting takes 731 subproblems."""

STUCK = """
import sys, time
import bourn.verification
def never(*_, **__):
    print("working", file=sys.stderr, flush=True)
    while True:
        time.sleep(0.01)
bourn.verification.Run.work = never
from bourn.cli import main
main()
"""
"""Work that does not look at the time: no wish to stop ends it."""

SPLITTING = """
import os, signal, sys
from bourn.solvers.neuron_splitting import _Run
before = _Run._halves
def halves(run, *arguments):
    if run.done > 8:
        os.kill(os.getpid(), signal.{name})
    return before(run, *arguments)
_Run._halves = halves
from bourn.cli import main
main()
"""
"""A signal comes in the middle of splitting."""

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


@posix
def test_ctrl_c_twice_ends_without_a_verdict() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, *QUESTION], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for awaited in ("working", "once more ends at once"):
            while awaited not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.split("\n")[-2:-1] == ["bourn: interrupted; no verdict"]
    assert "Traceback" not in err


@posix
@pytest.mark.parametrize(("name", "word", "status"), [("SIGINT", "interrupted", 130), ("SIGTERM", "terminated", 0)])
def test_a_signal_while_splitting_keeps_what_is_known(name: str, word: str, status: int, tmp_path: Path) -> None:
    result = tmp_path / "result.txt"
    command = [sys.executable, "-c", SPLITTING.format(name=name), *HARD, "--result", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    first, second = done.stdout.splitlines()[:2]
    assert first == "unknown"
    assert second.startswith(f"unknown: {word} after ")
    assert "; splitting neurons: " in second
    assert " open parts, least bound -" in second
    assert result.read_text() == "unknown\n"
    assert "Traceback" not in done.stderr


@posix
def test_a_closed_pipe_ends_quietly() -> None:
    with subprocess.Popen([*COMMAND, "methods"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        status = process.wait(timeout=60)
    assert status == 141
    assert err == ""


class _Later(Stop):
    """Asks to stop when it was looked at so many times."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def reason(self) -> str:  # type: ignore[override]
        self.looks -= 1
        return "interrupted" if self.looks < 0 else ""


def _hard() -> tuple[bourn.Model, bourn.Question]:
    images, model = np.load(EXAMPLES / "digits_images.npz")["image"], bourn.load(EXAMPLES / "digits_cnn.onnx")
    return model, bourn.robustness(images[6], int(np.argmax(model.run(images[6]))), 0.16, 10)


def test_interrupted_in_any_phase_what_is_known_is_valid() -> None:
    model, question = _hard()
    verdicts: list[Unknown] = []
    for looks in (0, 10, 100, 300):
        found = verify(model, question, timeout=Deadline(20.0, stop=_Later(looks)))
        assert isinstance(found.verdict, Unknown)
        assert found.status == "unknown"
        assert not found.verdict.timed_out
        assert "interrupted after " in found.verdict.reason
        assert all(o.bound <= o.attained for o in found.verdict.open)
        verdicts.append(found.verdict)
    assert any(math.isfinite(o.bound) for o in verdicts[-1].open)


def test_a_memory_budget_stops_a_tree_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it is the tree's.  A tree of neurons whose budget is used up leaves the bound that it has."""
    model, question = _hard()
    with pytest.raises(UsageError, match="100,000 bytes is too small; the least is 1,000,000"):
        verify(model, question, memory=1e5)
    monkeypatch.setattr("bourn.plans.LEAST_MEMORY", 1.0)
    plan = Plan((*CHEAP_FIRST.steps[:3], BranchAndBound(NeuronSplitting())))
    found = verify(model, question, plan=plan, memory=1.5e5, timeout=30.0)
    assert isinstance(found.verdict, Unknown)
    assert found.status == "unknown"
    assert "; splitting neurons: out of its memory budget of 0.075 MB: " in found.verdict.reason
    assert all(-math.inf < o.bound <= o.attained for o in found.verdict.open)
    tree = found.steps[-1].tree
    assert tree is not None
    assert 0 < tree.left < tree.subproblems
    assert tree.least == min(bound for _, bound in found.steps[-1].bounds) == min(o.bound for o in found.verdict.open)


def test_a_step_that_memory_is_not_enough_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000000000 bytes")

    monkeypatch.setattr("bourn.solvers.input_splitting.InputSplitting.refusal", greedy)
    monkeypatch.setattr("bourn.solvers.neuron_splitting.NeuronSplitting.refusal", greedy)
    model, question = _hard()
    plan = Plan((*CHEAP_FIRST.steps[:3], BranchAndBound(NeuronSplitting())))
    found = verify(model, question, plan=plan)
    assert isinstance(found.verdict, Unknown)
    assert found.verdict.reason.endswith("; memory was not enough for splitting neurons")
    assert all(o.bound > -math.inf for o in found.verdict.open)


def test_a_memory_budget_reaches_every_step() -> None:
    """Sets of rows, trees of splits, trees of inner bounds and the attack's points are smaller, in each step that has some."""
    model, _ = _hard()
    small = within_memory(CHEAP_FIRST, 2e6, model.graph)
    for before, after in zip(CHEAP_FIRST.steps, small.steps, strict=True):
        if isinstance(after, BranchAndBound):
            assert after.how.memory == 1_000_000  # type: ignore[attr-defined]
        elif isinstance(after, Bounding) and isinstance(after.method.solver, TreeBounds):
            assert after.method.solver.trees.memory <= 1_000_000
            assert after.method.solver.ascent.chunk_bytes <= 1_000_000 / 8
        elif isinstance(after, Bounding):
            assert getattr(after.method.solver, "chunk_bytes", 0) <= 1_000_000 / 8
        assert type(after) is type(before)
        assert after.name == before.name
