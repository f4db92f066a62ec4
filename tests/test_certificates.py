"""Certificates: what bourn proves is confirmed by the independent checker, in each of its arithmetics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bourn
import bourn_check
from bourn.certificates.evidence import Refutation, Verified
from bourn.certificates.splits import Leaf, Part, Split, SplitTree
from bourn.cli.main import run
from bourn.plans import Bounding, Plan
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.input_splitting import InputSplitting
from bourn_check.trees import Tree
from certificate_files import Arrays, Chunks, Files, Manifest, changed, contents, convolutional, mlp, proved, specification
from onnx_models import model, node, numbers

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ARITHMETICS = ("float", "ball", "rational")


@pytest.mark.parametrize(
    ("network", "question"),
    [
        ("digits_mlp.onnx", "digits_robust_3.vnnlib"),
        ("digits_cnn.onnx", "digits_robust_3_cnn.v2.vnnlib"),
        ("digits_mlp.onnx", "digits_attackable.vnnlib"),
    ],
)
def test_the_examples_certificates_check(tmp_path: Path, network: str, question: str) -> None:
    result = bourn.verify(EXAMPLES / network, EXAMPLES / question)
    bourn.write_certificate(result, tmp_path / "proof.bourn")
    for arithmetic in ARITHMETICS:
        report = bourn_check.check(tmp_path / "proof.bourn", EXAMPLES / network, EXAMPLES / question, arithmetic)
        assert report.verdict == result.status
        assert arithmetic in str(report)
    assert [p.name for p in tmp_path.iterdir()] == ["proof.bourn"]


@pytest.mark.parametrize("method", ["ibp", "fast-lin", "crown", "alpha-crown", "alpha-crown-all", "lp-all"])
def test_every_kind_of_multipliers_checks(tmp_path: Path, method: str) -> None:
    for seed, activation in enumerate(("Relu", "LeakyRelu", "Abs")):
        files = proved(tmp_path / activation, mlp(seed, activation=activation), method, seed=seed)
        for arithmetic in ARITHMETICS:
            assert bourn_check.check(*files.arguments, arithmetic).verdict == "unsat"


def test_a_network_of_many_operators(tmp_path: Path) -> None:
    files = proved(tmp_path, convolutional(3), "crown", radius=0.1)
    assert bourn_check.check(*files.arguments).rows > 100
    bourn_check.check(*files.arguments, "ball")
    with pytest.raises(bourn_check.NotAProof, match="square root"):
        bourn_check.check(*files.arguments, "rational")


def test_linear_programs_multipliers_are_kept(tmp_path: Path) -> None:
    # Some neuron is open, and CROWN's bound is below that of the LP.
    files = proved(tmp_path, mlp(1, (8, 8, 8)), "lp-all", radius=0.5)
    _, _, (chunk,) = contents(files.certificate)
    parts = [p["multipliers"] for p in chunk["bounds"]]
    assert any("mu" in m for own in parts if not isinstance(own, str) for m in own.values())
    assert bourn_check.check(*files.arguments).verdict == "unsat"


def test_several_boxes_several_rows_and_rows_on_inputs(tmp_path: Path) -> None:
    network = tmp_path / "net.onnx"
    network.write_bytes(mlp(4).SerializeToString())
    question = tmp_path / "prop.vnnlib"
    question.write_text(
        specification(np.full(3, -1.0), np.full(3, 1.0), 2)
        + "(assert (or (and (<= X_0 0.1) (> Y_0 90) (<= Y_1 3)) (and (>= X_0 0.1) (>= (+ Y_0 (* 2 X_1)) 80.5))))"
        + "(assert (or (< Y_1 -200) (not (< Y_0 99))))"
    )
    result = bourn.verify(network, question)
    assert len(result.question.cases) == 2
    bourn.write_certificate(result, tmp_path / "proof.bourn")
    assert bourn_check.check(tmp_path / "proof.bourn", network, question, "rational").verdict == "unsat"


def test_what_nothing_refutes_is_found_to_be_missing(tmp_path: Path) -> None:
    files = proved(tmp_path, mlp(2), "crown")

    def dropped(manifest: Manifest, _: Arrays, chunks: Chunks) -> None:
        manifest["cases"][0]["conjunctions"].pop()
        chunks[0]["refuted"].pop()

    with pytest.raises(bourn_check.NotAProof, match="nothing refutes"):
        bourn_check.check(*changed(files, dropped).arguments)


def test_nodes_that_compute_nothing(tmp_path: Path) -> None:
    """A Relu is called by the tensor that it computes, whatever passes that on."""
    nodes = [node("Gemm", "x W", "z", transB=1), node("Relu", "z", "a"), node("Dropout", "a", "d"), node("Identity", "d", "i")]
    network = model([*nodes, node("Gemm", "i V", "y", transB=1)], {"x": [1, 3]}, {"W": numbers(4, 3), "V": numbers(2, 4, seed=1)})
    files = proved(tmp_path, network, "crown")
    assert bourn_check.check(*files.arguments, "rational").verdict == "unsat"


def test_large_weights_that_cancel(tmp_path: Path) -> None:
    # y = relu(1e8 x + 1) - relu(1e8 x) is 1 for x >= 0; float32 sums of the parts lose the 1.
    constants = {"W": np.array([[1e8], [1e8]], np.float32), "b": np.array([1, 0], np.float32), "V": np.array([[1, -1]], np.float32)}
    nodes = [node("Gemm", "x W b", "z", transB=1), node("Relu", "z", "a"), node("Gemm", "a V", "y", transB=1)]
    network, question = tmp_path / "net.onnx", tmp_path / "prop.vnnlib"
    network.write_bytes(model(nodes, {"x": [1, 1]}, constants).SerializeToString())
    for threshold, expected in ((0.5, "unsat"), (1.5, None)):
        question.write_text(specification(np.zeros(1), np.ones(1), 1, f"(assert (<= Y_0 {threshold}))"))
        result = bourn.verify(network, question, plan=Plan((Bounding(bourn.method("lp-all")),)))
        assert result.status == expected or (expected is None and result.status != "unsat")
    question.write_text(specification(np.zeros(1), np.ones(1), 1, "(assert (<= Y_0 0.5))"))
    result = bourn.verify(network, question)
    bourn.write_certificate(result, tmp_path / "proof.bourn")
    for arithmetic in ARITHMETICS:
        bourn_check.check(tmp_path / "proof.bourn", network, question, arithmetic)


def test_what_cannot_be_certified_is_said(tmp_path: Path) -> None:
    nodes = [node("Gemm", "x W", "z", transB=1), node("Sign", "z", "y")]
    network, question = tmp_path / "net.onnx", tmp_path / "prop.vnnlib"
    network.write_bytes(model(nodes, {"x": [1, 2]}, {"W": numbers(2, 2)}).SerializeToString())
    question.write_text(specification(np.zeros(2), np.ones(2), 2, "(assert (>= Y_0 2.0))"))
    with pytest.raises(bourn.BournError, match="no certificate can be written yet for Sign node 'y'"):
        bourn.write_certificate(bourn.verify(network, question), tmp_path / "proof.bourn")
    asked = bourn.robustness(np.zeros((1, 2)), label=0, radius=0.1, classes=2)
    result = bourn.verify(network, asked, timeout=5)
    with pytest.raises(bourn.BournError, match="is no file"):
        bourn.write_certificate(replace(result, model=replace(result.model, source="")), tmp_path / "proof.bourn")
    assert not (tmp_path / "proof.bourn").exists()


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, question, proof = EXAMPLES / "digits_mlp.onnx", EXAMPLES / "digits_robust_3.vnnlib", tmp_path / "proof.bourn"

    def ran(*arguments: str | Path) -> tuple[int, str, str]:
        return run([str(a) for a in arguments]), *capsys.readouterr()

    status, _, err = ran("verify", network, question, "--certificate", proof)
    assert status == 0
    assert "certificate written" in err
    status, out, _ = ran("check", proof, network, question, "--arithmetic", "rational")
    assert status == 0
    assert out.startswith("proved: unsat")
    assert "trusted: " in out
    other = tmp_path / "other.vnnlib"
    other.write_text(question.read_text() + "\n; another question\n")
    status, out, _ = ran("check", proof, network, other)
    assert (status, out) == (1, "not a proof: it is about another specification: the SHA-256 differs\n")
    status, _, err = ran("check", tmp_path / "nothing", network, question)
    assert (status, err.count("\n")) == (2, 1)
    assert ran("verify", network, question, "--certificate", tmp_path / "no" / "folder")[0] == 2
    assert ran("verify", network, "--image", "x", "--radius", "0.1", "--certificate", proof)[0] == 2


def test_boxes_that_ascent_refutes_are_not_halved_further(tmp_path: Path) -> None:
    """Slopes and weights of their own are written for them; the tree has as many parts as the run's."""
    files = Files(tmp_path / "net.onnx", tmp_path / "prop.vnnlib", tmp_path / "proof.bourn")
    files.network.write_bytes(mlp(0, (12, 10, 8), inputs=2, outputs=3).SerializeToString())
    graph = bourn.load(files.network).graph
    x = torch.rand(5000, *graph.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    least = float(graph.evaluate(x).flatten(1).amax(1).min()) - 0.05
    asked = (f"(assert (<= Y_{j} {least!r}))" for j in range(3))
    files.specification.write_text(specification(-np.ones(2), np.ones(2), 3, *asked))
    plan = Plan((Bounding(bourn.method("crown")), BranchAndBound(InputSplitting())))
    result = bourn.verify(files.network, files.specification, plan=plan, timeout=60.0)
    assert isinstance(result.verdict, Verified)
    ((tree,),) = result.verdict.refutations
    assert isinstance(tree, SplitTree)
    bourn.write_certificate(result, files.certificate)
    assert bourn_check.check(*files.arguments).parts == 2 * len(tree.leaves) - 1
    refuted = [own["multipliers"] for chunk in contents(files.certificate)[2] for own in chunk.get("refuted", [])]
    assert any(isinstance(own, dict) for own in refuted)
    assert "lines" in refuted


def test_trees_of_splits_prove_more_than_any_bound(tmp_path: Path) -> None:
    """y = relu(x) - relu(-x) + relu(x_1 - 1) + 2 is at least x + 2: beyond the barrier, and within reach of one split."""
    constants = {"W": np.array([[1, 0], [-1, 0], [0, 1]], np.float32), "b": np.array([0, 0, -1], np.float32)}
    constants |= {"V": np.array([[1, -1, 1]], np.float32), "P": np.eye(1, dtype=np.float32), "q": np.array([2], np.float32)}
    nodes = [node("Gemm", "x W b", "z", transB=1), node("Relu", "z", "a"), node("Gemm", "a V", "s", transB=1)]
    nodes += [node("Gemm", "s P q", "t"), node("Relu", "t", "r"), node("Gemm", "r P", "y")]
    network, question = tmp_path / "net.onnx", tmp_path / "prop.vnnlib"
    network.write_bytes(model(nodes, {"x": [1, 2]}, constants).SerializeToString())
    question.write_text(specification(np.array([-1.0, 0.0]), np.array([1.0, 2.0]), 1, "(assert (<= (+ Y_0 (* -1 X_0)) 1.8))"))
    result = bourn.verify(network, question)
    (case,) = result.question.cases
    (conjunction,) = case.specification.conjunctions

    def leaf(*splits: tuple[str, int, float, Part]) -> Leaf:
        return Leaf(tuple(Split(*s) for s in splits), (1.0,), 0.1, "a test")

    sides = [(("z", 0, 0.0, one), ("z", 1, 0.0, other)) for one in Part for other in Part]
    by_neurons = tuple(leaf(*path) for path in sides)
    by_input = leaf(("x", 0, 0.0, Part.BELOW)), leaf(("x", 0, 0.0, Part.ABOVE))
    # Neither a tree that is too coarse, nor what has no multipliers at all, is written as it is: it is split on.
    for leaves in (by_neurons, by_input, (leaf(),)):
        tree = SplitTree(conjunction, leaves)
        verdict = Verified(((tree,),), (case,))
        bourn.write_certificate(replace(result, verdict=verdict), tmp_path / "proof.bourn")
        for arithmetic in ARITHMETICS:
            assert bourn_check.check(tmp_path / "proof.bourn", network, question, arithmetic).verdict == "unsat"
    trusted = Refutation(conjunction, (1.0,), 0.1, "milp, trusting HiGHS")
    bourn.write_certificate(replace(result, verdict=Verified(((trusted,),), (case,))), tmp_path / "proof.bourn")
    assert bourn_check.check(tmp_path / "proof.bourn", network, question).parts > 1


def quarters(*neurons: int) -> list[tuple[Split, ...]]:
    return [tuple(Split("z", i, 0.0, part) for i, part in zip(neurons, parts, strict=True)) for parts in product(Part, Part)]


def apart(folder: Path) -> tuple[Files, Chunks]:
    """Two outputs x_k + 1 = relu(x_k) - relu(-x_k) + 1, each refuted by a tree of its own, of splits of its own neurons."""
    constants = {"W": np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)}
    constants |= {"V": np.array([[1, -1, 0, 0], [0, 0, 1, -1]], np.float32), "b": np.ones(2, np.float32)}
    nodes = [node("Gemm", "x W", "z", transB=1), node("Relu", "z", "a"), node("Gemm", "a V b", "y", transB=1)]
    files = Files(folder / "net.onnx", folder / "prop.vnnlib", folder / "proof.bourn")
    files.network.write_bytes(model(nodes, {"x": [1, 2]}, constants).SerializeToString())
    lower, upper = np.full(2, -0.9), np.ones(2)
    asked = " ".join(f"(<= (+ Y_{k} (* -1 X_{k})) 0.8)" for k in range(2))
    files.specification.write_text(specification(lower, upper, 2, f"(assert (or {asked}))"))
    result = bourn.verify(files.network, files.specification)
    (case,) = result.question.cases
    trees = tuple(
        SplitTree(c, tuple(Leaf(path, (1.0,), 0.05, "a test") for path in quarters(2 * k, 2 * k + 1)))
        for k, c in enumerate(case.specification.conjunctions)
    )
    bourn.write_certificate(replace(result, verdict=Verified((trees,), (case,))), files.certificate)
    return files, contents(files.certificate)[2]


def test_conjunctions_that_are_split_apart_share_the_whole(tmp_path: Path) -> None:
    files, (whole, *_) = apart(tmp_path)
    assert [set(own) for own in whole["splits"]] == [{"tensor", "of", "entry", "at", "conjunctions"}] * 2
    for arithmetic in ARITHMETICS:
        assert bourn_check.check(*files.arguments, arithmetic).parts == 13


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        (lambda splits, arrays: splits.pop(), bourn_check.NotAProof, "in part 0 nothing refutes conjunction"),
        (lambda splits, arrays: splits[0].pop("conjunctions"), bourn_check.NotAProof, "nothing refutes conjunction"),
        (lambda splits, arrays: splits[0].update(conjunctions=splits[1]["conjunctions"]), bourn_check.NotAProof, "conjunction"),
        (lambda splits, arrays: arrays.update({splits[0]["conjunctions"]: np.array([7])}), bourn_check.Unreadable, "does not hold"),
        (lambda splits, arrays: splits[0].update(conjunctions=[0]), bourn_check.Unreadable, "names no array"),
    ],
)
def test_a_conjunction_that_no_split_is_for_is_missing(
    tmp_path: Path, change: Callable[[Any, Arrays], object], error: type[Exception], why: str
) -> None:
    files, _ = apart(tmp_path)
    other = changed(files, lambda manifest, arrays, chunks: change(chunks[0]["splits"], arrays))
    with pytest.raises(error, match=why):
        bourn_check.check(*other.arguments)


def test_what_is_not_true_has_no_certificate(tmp_path: Path) -> None:
    """However it is split: some part holds a counterexample."""
    network, question = tmp_path / "net.onnx", tmp_path / "prop.vnnlib"
    network.write_bytes(mlp(1, (4,)).SerializeToString())
    question.write_text(specification(np.full(3, -1.0), np.full(3, 1.0), 2, "(assert (<= Y_0 3.0))"))
    result = bourn.verify(network, question)
    assert result.status == "sat"
    (case,) = result.question.cases
    (conjunction,) = case.specification.conjunctions
    untrue = replace(result, verdict=Verified(((Refutation(conjunction, (1.0,), 0.1, "a fault"),),), (case,)))
    with pytest.raises(bourn.BournError, match="no certificate was written"):
        bourn.write_certificate(untrue, tmp_path / "none.bourn", timeout=5)
    assert not (tmp_path / "none.bourn").exists()


def halves(name: str, lower: list[float], upper: list[float], depth: int, path: tuple[Split, ...] = ()) -> list[tuple[Split, ...]]:
    """The paths to the leaves of a tree that halves all sides in turn."""
    if len(path) == depth:
        return [path]
    side = len(path) % len(lower)
    middle = (lower[side] + upper[side]) / 2
    low, high = list(lower), list(upper)
    low[side] = high[side] = middle
    below = halves(name, lower, high, depth, (*path, Split(name, side, middle, Part.BELOW)))
    return below + halves(name, low, upper, depth, (*path, Split(name, side, middle, Part.ABOVE)))


def test_large_trees_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tree of 8,192 leaves few parts are open at a time, and hardly more than the tree is stored."""
    network, question = tmp_path / "net.onnx", tmp_path / "prop.vnnlib"
    network.write_bytes(mlp(3, (6, 6)).SerializeToString())
    question.write_text(specification(np.full(3, -1.0), np.full(3, 1.0), 2, "(assert (<= Y_0 -60))"))
    result = bourn.verify(network, question)
    (case,) = result.question.cases
    (conjunction,) = case.specification.conjunctions
    paths = halves(result.model.graph.nodes[0].name, [-1.0] * 3, [1.0] * 3, 13)
    tree = SplitTree(conjunction, tuple(Leaf(path, (1.0,), 0.1, "a test") for path in paths))
    bourn.write_certificate(replace(result, verdict=Verified(((tree,),), (case,))), tmp_path / "proof.bourn")
    most, chunk = [0], Tree.chunk

    def counted(own: Tree, stated: dict[str, object], where: str) -> None:
        chunk(own, stated, where)
        most.append(len(own.pending))

    monkeypatch.setattr(Tree, "chunk", counted)
    assert bourn_check.check(tmp_path / "proof.bourn", network, question).parts == 16383
    assert max(most) <= 2000
    assert (tmp_path / "proof.bourn").stat().st_size < 40 * 16383
