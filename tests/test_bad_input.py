"""Bad input gives one clear line, an exit status other than 0 and no verdict."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from bourn.cli.main import run

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NET, PROP = str(EXAMPLES / "digits_mlp.onnx"), str(EXAMPLES / "digits_robust_3.vnnlib")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line that the command prints when it refuses."""
    status = run(arguments)
    printed = capsys.readouterr()
    assert status not in (0, 70)
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if line.startswith("bourn: ")]
    assert len(lines) == 1
    assert "Traceback" not in printed.err
    return lines[0]


def specification(folder: Path, constraints: str) -> str:
    """A file about two inputs and one output."""
    declared = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "Y_0"))
    path = folder / "question.vnnlib"
    path.write_text(declared + constraints)
    return str(path)


def network(folder: Path, operator: str = "Relu", weight: float = 1.0) -> str:
    """A file with two inputs and one output."""
    matrix = helper.make_tensor("w", TensorProto.FLOAT, [2, 1], [weight, 1.0])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node(operator, ["z"], ["y"], name="last")]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k]) for n, k in (("x", 2), ("y", 1)))
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [matrix]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = folder / "net.onnx"
    onnx.save(model, str(path))
    return str(path)


BOX = "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 0)) (assert (<= X_1 1))\n"


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        ("(assert (>= X_0 1)) (assert (<= X_0 0)) (assert (<= Y_0 0))", "X_0"),
        (BOX + "(assert (<= (* Y_0 Y_0) 0))", "linear"),
        (BOX + "(assert (<= Y_7 0))", "Y_7"),
        (BOX + "(assert (<= Y_0 0)", "question.vnnlib"),
        ("", "question.vnnlib"),
    ],
)
def test_a_bad_specification(tmp_path: Path, constraints: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = specification(tmp_path, constraints) if constraints else str(tmp_path / "question.vnnlib")
    if not constraints:
        Path(path).write_text("")
    assert said in refused(["verify", network(tmp_path), path], capsys)


def test_a_bad_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = specification(tmp_path, BOX + "(assert (<= Y_0 -1))")
    message = refused(["verify", network(tmp_path, "Det"), question], capsys)
    assert "Det" in message
    assert "last" in message
    assert "net.onnx" in refused(["verify", network(tmp_path, weight=float("nan")), question], capsys)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(Path(NET).read_bytes()[:200])
    assert "broken.onnx" in refused(["verify", str(broken), question], capsys)
    assert "64" in refused(["verify", NET, question], capsys)
    assert refused(["verify", str(tmp_path), question], capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "missing.onnx", PROP],
        ["verify", NET, "missing.vnnlib"],
        ["verify", NET, PROP, "--timeout", "0"],
        ["verify", NET, PROP, "--timeout", "-1"],
        ["verify", NET, PROP, "--timeout", "nan"],
        ["verify", NET, PROP, "--device", "nowhere"],
        ["verify", NET],
        ["bound", NET, PROP, "--method", "magic"],
        ["bound", NET, PROP, "--node", "nobody"],
        ["supports"],
    ],
)
def test_a_bad_argument(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(arguments, capsys)


def test_a_truncated_gzip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gzip

    path = tmp_path / "question.vnnlib.gz"
    path.write_bytes(gzip.compress(Path(PROP).read_bytes())[:-20])
    assert "question.vnnlib.gz" in refused(["verify", NET, str(path)], capsys)


def test_a_limit_is_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", NET, PROP, "--timeout", "0.0001"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "timed-out"


def test_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", NET, PROP]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "unsat"
    assert run(["verify", NET, str(EXAMPLES / "digits_attackable.vnnlib")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "sat"
