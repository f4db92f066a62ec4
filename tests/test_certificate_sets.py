"""Certificates on polytopes and balls."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest

import bourn
from bourn.plans import Bounding, Plan
from bourn.problem.polytopes import Polytope
from bourn.problem.problem import problems
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.value_splitting import ValueSplitting
from bourn_check import NotAProof, check
from certificate_files import Arrays, Chunks, Files, Manifest, changed, contents, mlp, specification
from test_checker_functions import composed

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
    high = float(loaded.graph.evaluate(problem.box.sample(300)[0]).flatten(1)[:, 0].min())
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


@pytest.mark.parametrize("method", ["ibp", "crown", "lp-all"])
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
