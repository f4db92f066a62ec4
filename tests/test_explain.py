"""--explain: a record of every step of the plan, done, skipped or not reached, and the words made of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import bourn
from bourn.certificates.account import Kind, Tree
from bourn.certificates.evidence import Verified
from bourn.cli.main import run
from bourn.plans import CHEAP_FIRST
from bourn.verification import Result, verify

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def split() -> Result:
    """Bounds do not decide it; splitting neurons does."""
    images, model = np.load(EXAMPLES / "digits_images.npz")["image"], bourn.load(EXAMPLES / "digits_cnn.onnx")
    return verify(model, bourn.robustness(images[0], int(np.argmax(model.run(images[0]))), 0.12, 10), timeout=60.0)


def test_the_record_holds_every_step_of_the_plan(split: Result) -> None:
    names = [step.what for step in split.steps]
    assert [*names, *split.unreached] == [step.name for step in CHEAP_FIRST.steps]
    assert isinstance(split.verdict, Verified)
    open_ = len(split.verdict.refutations[0])
    for step in split.steps:
        open_ -= step.decided
        assert step.open == open_, step
        assert step.decided == 0 or step.bounds
        assert not (step.skipped and (step.bounds or step.decided))
    assert open_ == 0


def test_its_bounds_are_those_of_the_proof(split: Result) -> None:
    assert isinstance(split.verdict, Verified)
    (refutations,) = split.verdict.refutations
    last = split.steps[-1]
    assert last.kind is Kind.SPLITTING
    assert last.tree is not None
    assert last.tree.left == 0
    assert last.tree.subproblems == 1 + sum(way.subproblems for way in last.tree.ways)
    for k, bound in last.bounds:
        assert bound == refutations[k].bound > 0
    bounding = [step for step in split.steps if step.kind is Kind.BOUNDS]
    assert [step.unstable for step in bounding] == sorted([step.unstable or 0 for step in bounding], reverse=True)
    assert all(list(values) == sorted(values) for values in ([b for _, b in s.bounds if b <= 0] for s in bounding))


def test_skipped_steps_say_why(split: Result) -> None:
    (skipped,) = [step for step in split.steps if step.skipped]
    assert skipped.what == "splitting the input"
    assert skipped.skipped.startswith("there are 64 inputs, and of more than 20 ")


def test_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", str(EXAMPLES / "digits_cnn.onnx"), "--image", str(EXAMPLES / "digits_images.npz"), "-q", "--explain"]
    assert run([*arguments, "--radius", "0.12"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "unsat\n"
    text = " ".join(shown.err.split())
    assert "1 attack " in text
    assert "splitting the input: skipped, because there are 64 inputs" in text
    assert "splitting neurons, on the inner bounds of alpha-crown-all" in text
    assert "way babsr: " in text
    assert "all closed" in text
    assert "0 conjunctions open" in text
    assert "not needed: " in text


def test_the_words_for_a_counterexample(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(EXAMPLES / "digits_mlp.onnx"), str(EXAMPLES / "digits_attackable.vnnlib"), "--explain"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("sat\n")
    assert "a counterexample was met, which ended it" in shown.err
    assert "not needed: ibp; crown; " in " ".join(shown.err.split())


def test_several_input_sets_are_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = "".join(f"(declare-const X_{i} Real)\n(assert (>= X_{i} 0.4))\n" for i in range(64))
    outputs = "".join(f"(declare-const Y_{i} Real)\n" for i in range(10))
    parts = "(assert (or (and (<= X_0 0.41)) (and (<= X_0 0.405) (<= X_1 0.405))))\n"
    ends = "".join(f"(assert (<= X_{i} 0.41))\n" for i in range(64))
    question = tmp_path / "two.vnnlib"
    question.write_text(f"{pixels}{ends}{outputs}{parts}(assert (<= Y_0 -1000))\n")
    assert run(["verify", str(EXAMPLES / "digits_mlp.onnx"), str(question), "--explain"]) == 0
    text = " ".join(capsys.readouterr().err.split())
    assert "2 input sets: attack: 2 times, " in text
    assert "the one that took longest: 1 attack" in text


def test_a_tree_in_words() -> None:
    tree = Tree(12_345, 17, 9, -0.25, "out of time")
    assert str(tree) == "out of time: 12,345 subproblems, 9 splits deep, 17 open parts, least bound -0.25"
    assert str(Tree(1, 0, 0, math.inf)) == "1 subproblem, 0 splits deep, all closed"
