"""Networks whose large weights cancel: what real arithmetic proves and what float32 computes are both reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import bourn
from bourn.attacks.disagreeing import refuted
from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.certificates.evidence import Counterexample, Falsified, Unknown, Unreplayed, Verified, is_counterexample
from bourn.cli.main import run
from bourn.formats.vnnlib import parse
from bourn.plans import Plan
from bourn.problem.problem import problems
from verify_models import mlp, mlp_bytes, vnnlib

LARGE = 1e8
LAYERS = (([[LARGE], [LARGE]], [1.0, 0.0]), ([[1.0, -1.0]], [0.0]))
"""relu(LARGE x + 1) - relu(LARGE x): 1 for x >= 0; in float32 an even number, for there LARGE x has no odd ones next to it."""
BOX = [(0.2, 0.3)]
TOO_SMALL, AS_IT_IS = "(<= Y_0 0.5)", "(and (>= Y_0 0.5) (<= Y_0 1.5))"


def test_unsat_in_real_arithmetic_that_float32_breaks() -> None:
    found = bourn.verify(mlp(*LAYERS), parse(vnnlib(BOX, 1, TOO_SMALL)))
    assert found.status == "unsat"
    assert isinstance(found.verdict, Verified)
    own = found.verdict.by_rounding
    assert own is not None
    assert is_counterexample(found.question.cases[0], own.x, own.y)
    assert own.y[0] in (0.0, 2.0)
    (line,) = [line for line in str(found).splitlines() if line.startswith("warning: ")]
    assert line.startswith("warning: onnxruntime, which rounds, takes an input of the set for a counterexample: Y_0 - 0.5 <= 0")
    assert "holds in real arithmetic, weights as stored" in str(found)


def test_an_ordinary_proof_has_no_such_input() -> None:
    found = bourn.verify(mlp(([[1.0]], [0.0])), parse(vnnlib(BOX, 1, "(<= Y_0 0.1)")))
    assert isinstance(found.verdict, Verified)
    assert found.verdict.by_rounding is None
    assert "warning" not in str(found)


def test_a_real_counterexample_that_float32_does_not_show() -> None:
    """At every input; float32's 0 and 2 lie outside.  No time goes into a proof, for there is none."""
    found = bourn.verify(mlp(*LAYERS), parse(vnnlib(BOX, 1, AS_IT_IS)), timeout=60.0)
    assert isinstance(found.verdict, Unknown)
    assert found.seconds < 20
    own = found.verdict.unreplayed
    assert own is not None
    assert bool(found.question.cases[0].box.contains(torch.from_numpy(own.x)[None]))
    assert own.y[0] in (0.0, 2.0)
    assert found.verdict.reason.startswith("in real arithmetic an input of the set is a counterexample, but onnxruntime")
    assert "the counterexample in real arithmetic: input [" in str(found)
    skipped = [step.what for step in found.steps if step.skipped]
    assert "crown" in skipped
    assert "splitting the input" in skipped


def test_a_replayed_input_that_real_arithmetic_refutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that proposes it does not end the run: the proof comes first; without one it is sat, by rounding."""
    proposed = torch.full((1, 1), 0.25, dtype=torch.float64)

    def propose(_: ProjectedGradient, problem: object, accept: object, *others: object) -> tuple[bool, torch.Tensor, torch.Tensor]:
        assert callable(accept)
        return accept(proposed[0]), torch.tensor([1.0], dtype=torch.float64), proposed

    monkeypatch.setattr(ProjectedGradient, "run", propose)
    question = parse(vnnlib(BOX, 1, TOO_SMALL))
    found = bourn.verify(mlp(*LAYERS), question)
    assert isinstance(found.verdict, Verified)
    assert found.verdict.by_rounding is not None
    assert found.verdict.by_rounding.x.tolist() == [0.25]
    found = bourn.verify(mlp(*LAYERS), question, plan=Plan((ProjectedGradient(),)))
    assert isinstance(found.verdict, Falsified)
    assert found.status == "sat"
    assert found.verdict.by_rounding
    assert "replayed in onnxruntime only" in found.verdict.semantics
    assert str(found).splitlines()[-2] == "warning: by rounding only; in real arithmetic this input is proved to be none"


def test_what_real_arithmetic_refutes_at_a_point() -> None:
    """relu(x + 1) - relu(x) - 1/2 at 0: 1/2; a strict row is refuted by 0, another is not."""
    model = mlp(([[1.0], [1.0]], [1.0, 0.0]), ([[1.0, -1.0]], [-0.5]))
    for row, is_refuted in (("(<= Y_0 0.25)", True), ("(<= Y_0 0.5)", False), ("(< Y_0 0.5)", False), ("(<= Y_0 0.75)", False)):
        (problem,) = problems(model.graph, parse(_v2(row) if "< " in row else vnnlib(BOX, 1, row)))
        assert refuted(problem, np.zeros(1)) is is_refuted, row


def _v2(row: str) -> str:
    declared = "(vnnlib-version <2.0>)(declare-network f (declare-input X real [1,1]) (declare-output Y real [1,1]))"
    text = row.replace("Y_0", "Y[0,0]")
    return f"{declared}(assert (and (>= X[0,0] 0.0) (<= X[0,0] 1.0)))(assert {text})"


def test_an_unreplayed_point_is_none_in_the_replay() -> None:
    question = parse(vnnlib(BOX, 1, AS_IT_IS))
    with pytest.raises(ValueError, match="the replay agrees"):
        Unreplayed(question.cases[0], np.array([0.25]), np.array([1.0]), "test")
    with pytest.raises(ValueError, match="not a counterexample"):
        Counterexample(question.cases[0], np.array([0.25]), np.array([2.0]), "test")


def test_the_command_warns_even_when_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.onnx").write_bytes(mlp_bytes(*LAYERS))
    (tmp_path / "small.vnnlib").write_text(vnnlib(BOX, 1, TOO_SMALL))
    assert run(["verify", str(tmp_path / "net.onnx"), str(tmp_path / "small.vnnlib"), "-q"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "unsat\n"
    assert shown.err.startswith("warning: onnxruntime, which rounds, ")
    assert len(shown.err.splitlines()) == 1
