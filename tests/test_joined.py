"""Questions about several networks and about hidden nodes: joined over shared inputs, replayed one by one, or refused in a line."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bourn
from bourn.certificates.evidence import Falsified, Verified
from bourn.cli.main import run
from bourn.errors import BournError, SpecificationError, UsageError
from bourn.formats.joined import model_for
from bourn.formats.vnnlib import parse
from bourn.formats.witness import standard_v2
from bourn.problem.problem import Shared
from verify_models import mlp_bytes, run_onnx

VERSION = "(vnnlib-version <2.0>)"
F = "(declare-network f (declare-input X float32 [1,2]) {} (declare-output Y float32 [1,2]))"
G = "(declare-network g ({} f) (declare-input U float32 [1,2]) (declare-output V float32 [1,2]))"
UNIT = "".join(f"(assert (and (>= X[0,{i}] 0.0) (<= X[0,{i}] 1.0)))" for i in range(2))
SAME = "(assert (== X[0,0] U[0,0]))(assert (== U[0,1] X[0,1]))"
SUM = ([[1.0, 1.0], [1.0, -1.0]], [0.0, 0.0]), ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
"""(relu(a + b), relu(a - b))."""
SHIFTED = ([[1.0, 1.0], [1.0, -1.0]], [0.125, 0.0]), ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
"""The same with 1/8 more on the first one."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "f.onnx").write_bytes(mlp_bytes(*SUM))
    (tmp_path / "g.onnx").write_bytes(mlp_bytes(*SHIFTED))
    (tmp_path / "one.onnx").write_bytes(mlp_bytes(([[1.0]], [0.0])))
    return tmp_path


def text(*assertions: str, relation: str = "isomorphic-to", hidden: str = "", networks: int = 2) -> str:
    second = G.format(relation) if networks > 1 else ""
    return VERSION + F.format(hidden) + second + UNIT + "".join(f"(assert {row})" for row in assertions)


def files(folder: Path) -> dict[str, Path]:
    return {"f": folder / "f.onnx", "g": folder / "g.onnx"}


# Equal inputs


def test_equal_inputs_become_one() -> None:
    question = parse(text("(<= Y[0,0] V[0,1])") + SAME)
    assert (question.inputs, question.outputs, question.shared) == (2, 4, Shared((0, 1, 0, 1), (0, 1, 2, 3)))
    (case,) = question.cases
    assert [str(c) for c in case.specification.conjunctions] == ["Y_0 - Y_3 <= 0"]
    assert case.box.upper.tolist() == [[1.0, 1.0]]
    assert question.declared(np.array([3.0, 4.0]), np.zeros(4))[0].tolist() == [3.0, 4.0, 3.0, 4.0]
    crossed = parse(text("(<= Y[0,0] V[0,1])") + "(assert (== X[0,0] U[0,1]))(assert (== U[0,0] X[0,1]))")
    assert crossed.shared is not None
    assert crossed.shared.inputs == (0, 1, 1, 0)


@pytest.mark.parametrize(
    "assertion", ["(<= X[0,0] U[0,0])", "(or (== X[0,0] U[0,0]) (<= Y[0,0] 3.0))", "(== X[0,0] (* 2.0 U[0,0]))", "(== X[0,0] 0.5)"]
)
def test_other_rows_share_nothing(assertion: str) -> None:
    question = parse(text(assertion))
    assert (question.inputs, question.shared) == (4, Shared((0, 1, 2, 3), (0, 1, 2, 3)))


def test_one_network_keeps_its_inputs() -> None:
    question = parse(text("(== X[0,0] X[0,1])", networks=1))
    assert (question.inputs, question.shared, question.joined) == (2, None, False)


# Answers, by hand


@pytest.mark.parametrize(
    ("row", "status"),
    [
        ("(>= (- V[0,0] Y[0,0]) 0.1251)", "unsat"),
        ("(>= (- V[0,0] Y[0,0]) 0.1249)", "sat"),
        ("(< V[0,0] Y[0,0])", "unsat"),
        ("(or (>= (- V[0,1] Y[0,1]) 0.001) (<= (- V[0,1] Y[0,1]) -0.001))", "unsat"),
    ],
)
def test_two_networks_on_one_input(folder: Path, row: str, status: str) -> None:
    """V_0 - Y_0 = 1/8 wherever a + b >= 0, and V_1 = Y_1."""
    question = parse(text(row) + SAME)
    found = bourn.verify(files(folder), question, timeout=30.0)
    assert found.status == status
    if isinstance(found.verdict, Falsified):
        own = found.verdict.counterexample
        assert own.replayed_in == "onnxruntime"
        expected = np.concatenate([run_onnx(path, own.x) for path in files(folder).values()])
        assert np.array_equal(own.y, expected)
    if status == "unsat":
        with pytest.raises(bourn.BournError, match="no certificate can be written yet for questions about several networks"):
            bourn.write_certificate(found, folder / "proof.bourn")


@pytest.mark.parametrize(("least", "status"), [(0.21, "unsat"), (0.19, "sat")])
def test_one_network_on_two_inputs(folder: Path, least: float, status: str) -> None:
    """relu(a + b) moves by at most 0.2 where both move by at most 0.1: a polytope over both inputs."""
    near = [f"(<= (- {one}[0,{i}] {other}[0,{i}]) 0.1)" for i in range(2) for one, other in ("XU", "UX")]
    question = parse(text(*near, f"(>= (- Y[0,0] V[0,0]) {least})", relation="equal-to") + UNIT.replace("X", "U"))
    assert question.inputs == 4
    found = bourn.verify({"f": folder / "f.onnx"}, question, timeout=30.0)
    assert found.status == status


def test_equal_networks_on_equal_inputs_are_one(folder: Path) -> None:
    question = parse(text("(!= Y[0,0] V[0,0])", relation="equal-to") + SAME)
    assert (question.outputs, question.shared) == (2, Shared((0, 1, 0, 1), (0, 1, 0, 1)))
    model = model_for(folder / "f.onnx", question)
    assert len(model.graph.nonlinear) == 1
    assert bourn.verify(model, question).status == "unsat"
    apart = parse(text("(!= Y[0,0] V[0,0])", relation="equal-to"))
    assert len(model_for(folder / "f.onnx", apart).graph.nonlinear) == 2
    reached = parse(text("(>= Y[0,0] 0.5)", relation="equal-to") + SAME)
    found = bourn.verify(folder / "f.onnx", reached)
    assert isinstance(found.verdict, Falsified)
    own = found.verdict.counterexample
    lines = standard_v2(reached, own.x, own.y).splitlines()
    assert lines[1:3] == lines[7:9]
    assert lines[4:6] == lines[10:12]
    assert lines[9] == "V float32 [1,2]"


@pytest.mark.parametrize(
    ("hidden", "row", "status"),
    [
        ('(declare-hidden H float32 [1,2] "dense_0")', "(and (<= H[0,1] -0.5) (>= Y[0,1] 0.0001))", "unsat"),
        ('(declare-hidden H float32 [1,2] "dense_0")', "(and (<= H[0,1] -0.5) (>= Y[0,0] 0.5))", "sat"),
        ('(declare-hidden H float32 [1,2] "relu_0")', "(< H[0,0] 0.0)", "unsat"),
        ('(declare-hidden H float32 [1,2] "y")', "(>= H[0,0] (+ Y[0,0] 0.001))", "unsat"),
        ('(declare-hidden H float32 [1,2] "dense_0")', "(< Y[0,1] (- H[0,1] 0.001))", "unsat"),
        ('(declare-hidden H float32 [1,2] "x")', "(>= H[0,0] 1.5)", "unsat"),
    ],
)
def test_hidden_nodes(folder: Path, hidden: str, row: str, status: str) -> None:
    """Of (relu(a + b), relu(a - b)) the sums before, the values behind, the output and the input themselves."""
    question = parse(text(row, hidden=hidden, networks=1))
    assert question.joined
    found = bourn.verify(folder / "f.onnx", question, timeout=30.0)
    assert found.status == status
    if isinstance(found.verdict, Falsified):
        own = found.verdict.counterexample
        a, b = own.x
        assert own.y[:2] == pytest.approx([a + b, a - b])
        assert own.y[2:] == pytest.approx([max(a + b, 0), max(a - b, 0)])


def test_the_joined_graph_is_what_is_replayed(folder: Path) -> None:
    question = parse(text("(<= Y[0,0] V[0,0])", hidden='(declare-hidden H float32 [1,2] "relu_0")'))
    model = model_for(files(folder), question)
    points = np.random.default_rng(0).uniform(-2, 2, (20, 4)).astype(np.float32).astype(np.float64)
    for x in points:
        y = model.graph.evaluate(torch.from_numpy(x).reshape(1, *model.graph.input_shape)).reshape(-1).numpy()
        assert y == pytest.approx(model.run(x), abs=1e-5)
        assert model.run(x)[2:4] == pytest.approx(run_onnx(folder / "f.onnx", x[:2]))
        assert model.run(x)[4:] == pytest.approx(run_onnx(folder / "g.onnx", x[2:]))
    assert model.representable(np.full(4, 0.1), np.zeros(4), np.ones(4)).tolist() == [float(np.float32(0.1))] * 4


# The command


def ask(folder: Path, query: str, *arguments: Any) -> list[str]:
    (folder / "q.vnnlib").write_text(query)
    return ["verify", *(str(folder / a) if a in ("f.onnx", "g.onnx", "q.vnnlib") else str(a) for a in arguments)]


def test_both_forms_of_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = text("(>= (- V[0,0] Y[0,0]) 0.1)", hidden='(declare-hidden H float32 [1,2] "relu_0")') + SAME
    named = ["--network", f"f={folder / 'f.onnx'}", "--network", f"g={folder / 'g.onnx'}"]
    witnesses = []
    for arguments in (ask(folder, query, "q.vnnlib", *named), ask(folder, query, "f.onnx", "g.onnx", "q.vnnlib", "-q")):
        assert run(arguments) == 0
        witnesses.append(capsys.readouterr().out.splitlines())
    assert witnesses[0] == witnesses[1]
    status, *lines = witnesses[0]
    assert status == "sat"
    headers = [line for line in lines if " " in line]
    assert headers == ["X float32 [1,2]", "H float32 [1,2]", "Y float32 [1,2]", "U float32 [1,2]", "V float32 [1,2]"]
    values = np.array([float(line) for line in lines if " " not in line]).reshape(5, 2)
    assert np.array_equal(values[0], values[3])
    assert np.array_equal(values[4], run_onnx(folder / "g.onnx", values[3]))
    assert np.array_equal(values[2], run_onnx(folder / "f.onnx", values[0]))


def test_assignments_of_all_networks_are_serialised(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from onnx import TensorProto, numpy_helper

    query = text("(>= (- V[0,0] Y[0,0]) 0.1)") + SAME
    assert run([*ask(folder, query, "f.onnx", "g.onnx", "q.vnnlib", "--serialise-assignments"), str(folder / "out")]) == 0
    assert capsys.readouterr().out == "sat\n"
    read = {}
    for name in "XYUV":
        tensor = TensorProto()
        tensor.ParseFromString((folder / "out" / f"{name}.pb").read_bytes())
        read[name] = numpy_helper.to_array(tensor)
    assert np.array_equal(read["X"], read["U"])
    assert read["V"][0, 0] > read["Y"][0, 0]


@pytest.mark.parametrize(
    ("query", "arguments", "message"),
    [
        (text("(<= Y[0,0] V[0,0])"), ["q.vnnlib", "--network", "f=f.onnx"], "no file is given for network 'g'"),
        (text("(<= Y[0,0] V[0,0])"), ["q.vnnlib", "--network", "f=f.onnx", "--network", "h=f.onnx"], "is given for network 'h'"),
        (text("(<= Y[0,0] V[0,0])"), ["q.vnnlib", "--network", "f=f.onnx", "--network", "f=g.onnx"], "--network names 'f' twice"),
        (text("(<= Y[0,0] V[0,0])"), ["f.onnx", "q.vnnlib"], "1 network is given, but q.vnnlib wants files for f, g"),
        (text("(<= Y[0,0] 0.0)", networks=1), ["f.onnx", "g.onnx", "q.vnnlib"], "2 networks are given, but q.vnnlib wants"),
        (
            text("(<= Y[0,0] V[0,0])", relation="equal-to"),
            ["q.vnnlib", "--network", "f=f.onnx", "--network", "g=g.onnx"],
            "network 'g' is declared equal to 'f' but given another file; leave it out",
        ),
        (text("(<= Y[0,0] V[0,0])"), ["one.onnx", "g.onnx", "q.vnnlib"], "network 'f' is declared with 2 inputs but"),
        (
            text("(<= H[0,0] 0.0)", hidden='(declare-hidden H float32 [1,2] "nowhere")', networks=1),
            ["f.onnx", "q.vnnlib"],
            "f.onnx has no tensor and no node 'nowhere'; tensors in it are dense_0, relu_0, y",
        ),
        (
            text("(<= H[0,0] 0.0)", hidden='(declare-hidden H float32 [1,3] "relu_0")', networks=1),
            ["f.onnx", "q.vnnlib"],
            "network 'f' is declared with 5 outputs, hidden nodes included, but",
        ),
        (text("(<= Y[0,0] V[0,0])"), ["f.onnx", "none.onnx", "q.vnnlib"], "none.onnx: cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(
    folder: Path, query: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(folder, query)
    with contextlib.chdir(folder):
        assert run(["verify", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1


def test_an_equal_network_may_be_given_the_same_file(folder: Path) -> None:
    question = parse(text("(!= Y[0,0] V[0,0])", relation="equal-to") + SAME)
    (folder / "copy.onnx").write_bytes((folder / "f.onnx").read_bytes())
    assert bourn.verify({"f": folder / "f.onnx", "g": folder / "copy.onnx"}, question).status == "unsat"


def test_sizes_of_outputs_that_cancel_out_are_noticed(folder: Path) -> None:
    query = VERSION + '(declare-network f (declare-input X float32 [1,2]) (declare-hidden H float32 [1] "relu_0") '
    query += f"(declare-output Y float32 [1,3])){UNIT}(assert (<= H[0] 0.0))"
    with pytest.raises(SpecificationError, match="H of network 'f' is declared with 1 entries, but has 2"):
        model_for(folder / "f.onnx", parse(query))


def test_other_commands_refuse_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hidden = text("(<= H[0,0] 0.0)", hidden='(declare-hidden H float32 [1,2] "relu_0")', networks=1)
    arguments = ask(folder, hidden, "f.onnx", "q.vnnlib")[1:]
    for command in ("ladder", "duality", "bound"):
        assert run([command, *arguments]) == 2
        assert "several networks or hidden nodes" in capsys.readouterr().err
    proof = str(folder / "p.bourn")
    query = text("(< H[0,0] 0.0)", hidden='(declare-hidden H float32 [1,2] "relu_0")', networks=1)
    assert run([*ask(folder, query, "f.onnx", "q.vnnlib", "--certificate"), proof]) == 2
    shown = capsys.readouterr()
    assert shown.out.startswith("unsat\n")
    assert "no certificate can be written yet for questions about several networks or hidden nodes" in shown.err


def test_a_model_that_is_not_joined_is_refused(folder: Path) -> None:
    question = parse(text("(<= Y[0,0] V[0,0])"))
    for model in (bourn.load(folder / "f.onnx"), folder / "f.onnx", {"f": folder / "f.onnx"}):
        with pytest.raises(BournError):
            bourn.verify(model, question)
    with pytest.raises(UsageError, match="give a mapping from these names"):
        model_for(folder / "f.onnx", question)
    verdict = bourn.verify(files(folder), parse(text("(<= V[0,0] -1.0)") + UNIT.replace("X", "U"))).verdict
    assert isinstance(verdict, Verified)


def test_a_query_in_the_wrong_place_is_pointed_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["q.vnnlib", "f.onnx"], ["f.onnx", "--network", "f=f.onnx"]):
        assert run(["verify", *arguments]) == 2
        assert capsys.readouterr().err.startswith("bourn: f.onnx is a network; the query comes last")
    assert run(["verify", str(folder / "none.onnx"), str(folder / "q.vnnlib")]) == 2
    assert "Errno" not in capsys.readouterr().err
