"""Certificates on polytopes and balls."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import bourn
from bourn.cli.main import run
from bourn.formats.vnnlib import parse
from bourn.formats.vnnlib_writing import as_vnnlib
from bourn.plans import Bounding, Plan
from bourn.problem.polytopes import Polytope
from bourn.problem.problem import problems
from bourn.problem.specification import Conjunction, Specification
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.value_splitting import ValueSplitting
from bourn_check import NotAProof, check
from bourn_check.readers.vnnlib import read_specification
from certificate_files import Arrays, Chunks, Files, Manifest, changed, contents, mlp, rewritten, specification
from test_checker_functions import composed

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CUTS = "(assert (<= (+ X_0 X_1) 0.1))", "(assert (>= (- X_2 (* 0.3 X_0)) 0.2))"


def on_polytope(folder: Path, network: onnx.ModelProto, method: str, *more: BranchAndBound, share: float) -> Files:
    """A network, and a question on a box that half-spaces cut: ``share`` of the way from what is proved to what is attained."""
    files = Files(folder / "net.onnx", folder / "prop.vnnlib", folder / "proof.bourn")
    files.network.write_bytes(network.SerializeToString())
    loaded, ends, own = bourn.load(files.network), (np.full(3, -0.8), np.full(3, 0.8)), bourn.method(method)
    files.specification.write_text(specification(*ends, 2, *CUTS, "(assert (<= Y_0 0))"))
    plan = Plan((Bounding(own),))
    (problem,) = problems(loaded.graph, bourn.verify(loaded, files.specification, plan=plan).question)
    assert isinstance(problem.box, Polytope)
    low = float(own.prepare(loaded.graph, problem.box).minimise(problem.objectives([bourn.Row.of({0: 1})])).bound)
    high = float(loaded.graph.evaluate(problem.box.sample(100, torch.Generator().manual_seed(0))[0]).flatten(1)[:, 0].min())
    files.specification.write_text(specification(*ends, 2, *CUTS, f"(assert (<= Y_0 {low + share * (high - low)!r}))"))
    result = bourn.verify(files.network, files.specification, plan=Plan((*plan.steps, *more)), timeout=20.0)
    assert result.status == "unsat", result
    bourn.write_certificate(result, files.certificate)
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return on_polytope(tmp_path_factory.mktemp("polytope"), mlp(3, (6, 6)), "alpha-crown-all", share=-0.01)


@pytest.mark.parametrize("arithmetic", ["float", "ball", "rational"])
def test_half_spaces_weigh_in_on_every_bound(files: Files, arithmetic: str) -> None:
    assert check(*files.arguments, arithmetic).verdict == "unsat"
    manifest, arrays, chunks = contents(files.certificate)
    assert len(manifest["cases"][0]["given"]) == 2
    assert any((arrays[own["given"]] > 0).any() for own in chunks[0]["bounds"])


@pytest.mark.parametrize("method", ["ibp", "lp-all"])
def test_methods_on_polytopes(tmp_path: Path, method: str) -> None:
    assert check(*on_polytope(tmp_path, mlp(3, (6, 6)), method, share=-0.01).arguments).parts == 1


@pytest.mark.parametrize(
    ("network", "how", "share"),
    [(mlp(3, (6, 6)), NeuronSplitting(), 0.5), (composed("mul"), ValueSplitting(), 0.1)],
    ids=["neurons", "values"],
)
def test_trees_on_polytopes(tmp_path: Path, network: onnx.ModelProto, how: NeuronSplitting | ValueSplitting, share: float) -> None:
    files = on_polytope(tmp_path, network, "alpha-crown-all", BranchAndBound(how), share=share)
    assert check(*files.arguments).parts > 1


def without_weights(manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    for own in (*chunks[0]["bounds"], *chunks[0]["refuted"]):
        del own["given"]


def below_0(manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    name = chunks[0]["refuted"][0]["given"]
    arrays[name] = arrays[name] - 1.0


def other_half_space(manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    """A tighter half-space than the question's: all is proved, but of something else."""
    row = manifest["cases"][0]["given"][0]
    row["constant"] = str(Fraction(row["constant"]) + Fraction(1, 1000))


def unasked_half_space(manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    """A row that the question does not have."""
    manifest["cases"][0]["given"].append({"inputs": [[0, "1"]], "constant": "1"})
    for own in (*chunks[0]["bounds"], *chunks[0]["refuted"]):
        arrays[own["given"]] = np.pad(arrays[own["given"]], ((0, 0), (0, 1)))


FAULTS: dict[Callable[[Manifest, Arrays, Chunks], None], str] = {
    without_weights: "does not refute conjunction 0",
    below_0: "a weight is below 0",
    other_half_space: "nothing refutes conjunction 0 of the specification",
    unasked_half_space: "nothing refutes conjunction 0 of the specification",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_faults_with_half_spaces_are_caught(files: Files, fault: Callable[[Manifest, Arrays, Chunks], None]) -> None:
    with pytest.raises(NotAProof, match=FAULTS[fault]):
        check(*changed(files, fault).arguments)


def test_several_polytopes_of_one_question(tmp_path: Path) -> None:
    files = Files(tmp_path / "net.onnx", tmp_path / "prop.vnnlib", tmp_path / "proof.bourn")
    files.network.write_bytes(mlp(3, (6, 6)).SerializeToString())
    cuts = "(assert (or (and (<= (+ X_0 (* 0.1 X_1)) 0.1) (<= Y_0 -9.5)) (and (>= (+ X_0 X_2) 0.3) (<= Y_0 -9.4) (<= Y_1 2))))"
    files.specification.write_text(specification(np.full(3, -0.8), np.full(3, 0.8), 2, cuts))
    result = bourn.verify(files.network, files.specification, timeout=20.0)
    assert result.status == "unsat"
    bourn.write_certificate(result, files.certificate)
    assert check(*files.arguments).verdict == "unsat"
    assert len(contents(files.certificate)[0]["cases"]) == 2


# Balls, and questions that are no file


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_questions_about_images_are_written_beside_their_certificates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], norm: float
) -> None:
    network, images, proof = EXAMPLES / "digits_mlp.onnx", EXAMPLES / "digits_images.npz", tmp_path / "proof.bourn"
    radius = {1: "0.5", 2: "0.25", math.inf: "0.02"}[norm]
    ball = ["--image", str(images), "--index", "3", "--radius", radius, "--norm", str(norm)]
    assert run(["verify", str(network), *ball, "--certificate", str(proof)]) == 0
    question = tmp_path / "proof.vnnlib"
    assert f"about the question in {question}" in capsys.readouterr().err
    for arithmetic in ("float", "ball", "rational"):
        assert check(proof, network, question, arithmetic).verdict == "unsat"
    # A greater ball is another question, even for what the file proves.
    text = question.read_text()
    larger = text.replace(f" {radius} {radius})", " 0.9 0.9)") if norm == 2 else text.replace(f") {radius}))", ") 0.9))")
    question.write_text(larger if norm < math.inf else text.replace("(assert (<= X_0 ", "(assert (<= X_0 1"))
    assert question.read_text() != text
    with pytest.raises(NotAProof, match="another specification"):
        check(proof, network, question)
    manifest, arrays, chunks = contents(proof)
    manifest["specification"]["sha256"] = hashlib.sha256(question.read_bytes()).hexdigest()
    rewritten(proof, manifest, arrays, chunks)
    with pytest.raises(NotAProof):
        check(proof, network, question)
    assert run(["verify", str(network), *ball, "--certificate", str(proof), "-q"]) == 2
    assert "is there and asks something else" in capsys.readouterr().err


def on_ball(folder: Path) -> Files:
    """A network, and a question on an l2 ball that splitting neurons proves."""
    files = Files(folder / "net.onnx", folder / "proof.vnnlib", folder / "proof.bourn")
    files.network.write_bytes(mlp(3, (6, 6)).SerializeToString())
    model, method = bourn.load(files.network), bourn.method("alpha-crown-all")
    ball = bourn.lp_ball(np.array([[0.3, -0.2, 0.1]]), 0.9, norm=2)

    def asked(limit: float) -> bourn.Question:
        return bourn.region(ball, Specification((Conjunction((bourn.Row.of({0: 1}, constant=-limit),)),)), 2)

    (problem,) = problems(model.graph, asked(0.0))
    low = float(method.prepare(model.graph, problem.box).minimise(problem.objectives()).bound)
    high = float(model.graph.evaluate(problem.box.sample(1000, torch.Generator().manual_seed(0))[0]).flatten(1)[:, 0].min())
    plan = Plan((Bounding(method), BranchAndBound(NeuronSplitting())))
    result = bourn.verify(model, asked(low + 0.2 * (high - low)), plan=plan, timeout=20.0)
    assert result.status == "unsat"
    bourn.write_certificate(result, files.certificate)
    return files


def test_trees_on_balls(tmp_path: Path) -> None:
    files = on_ball(tmp_path)
    for arithmetic in ("float", "rational"):
        assert check(*files.arguments, arithmetic).parts > 1


def test_written_questions_ask_what_was_asked(tmp_path: Path) -> None:
    rows = (bourn.Row.of({0: 1, 1: -2}, {2: Fraction(1, 3)}, Fraction(-5, 8)), bourn.Row.of({1: Fraction(1, 10)}, strict=True))
    conjunctions = (Conjunction(rows), Conjunction(rows[1:]))
    matrix = np.array([[1.0, 0.1, 0.0], [0.0, -1.0, 2.0]])
    for box in (
        bourn.box(np.array([[0.1, -np.inf, 1e-20]]), np.array([[0.1, 2.0, np.inf]])),
        bourn.polytope(np.full((1, 3), -1.0), np.full((1, 3), 1.0), matrix, np.array([0.3, 0.7])),
    ):
        asked = bourn.region(box, Specification(conjunctions), 2)
        text = as_vnnlib(asked)
        (case,) = parse(text).cases
        assert [set(c.rows) & set(rows) for c in case.specification.conjunctions] == [set(c.rows) for c in conjunctions]
        for ours, theirs in zip((case.box.lower, case.box.upper), (box.lower, box.upper), strict=True):
            assert bool((ours == theirs).all())
        read = read_specification(text.encode(), "the text")
        assert [len(d.rows) for d in read.disjuncts] == [len(c.rows) for c in case.specification.conjunctions]


def test_polytopes_made_in_python(tmp_path: Path) -> None:
    files = Files(tmp_path / "net.onnx", tmp_path / "proof.vnnlib", tmp_path / "proof.bourn")
    files.network.write_bytes(mlp(3, (6, 6)).SerializeToString())
    matrix = np.array([[1.0, 1.0, 0.0], [0.3, 0.0, -1.0]])
    box = bourn.polytope(np.full((1, 3), -0.8), np.full((1, 3), 0.8), matrix, np.array([0.1, -0.2]))
    asked = bourn.region(box, Specification((Conjunction((bourn.Row.of({0: 1}, constant=1),)),)), 2)
    result = bourn.verify(files.network, asked, timeout=20.0)
    assert result.status == "unsat"
    bourn.write_certificate(result, files.certificate)
    for arithmetic in ("float", "rational"):
        assert check(*files.arguments, arithmetic).verdict == "unsat"
