"""Questions about a ball around an image, from the command line: a verdict, or one line and no verdict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bourn.cli.main import run
from verify_models import mlp_bytes, vnnlib

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NET = str(EXAMPLES / "digits_mlp.onnx")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The only line that the command prints when it refuses."""
    assert run(["verify", NET, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("bourn: ")
    assert printed.err.count("\n") == 1
    return printed.err


def saved(folder: Path, images: object) -> str:
    path = folder / "images.npy"
    np.save(path, np.asarray(images), allow_pickle=True)
    return str(path)


def test_a_right_question_has_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", NET, "--image", saved(tmp_path, np.zeros((3, 64))), "--index", "2", "--radius", "0"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("unsat\n")
    assert "the network's prediction" in printed.err


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        (np.zeros((3, 64)), ["--index", "3", "--radius", "0.1"], "no image 3"),
        (np.zeros((3, 64)), ["--index", "-1", "--radius", "0.1"], "no image -1"),
        (np.zeros((3, 63)), ["--radius", "0.1"], "64 inputs"),
        (np.full((1, 64), np.nan), ["--radius", "0.1"], "NaN"),
        (np.full((1, 64), "a"), ["--radius", "0.1"], "not numbers"),
        (np.zeros(64, object), ["--radius", "0.1"], "no .npy or .npz file"),
        (np.zeros(64), [], "--radius"),
        (np.zeros(64), ["--radius", "-0.1"], "radius"),
        (np.zeros(64), ["--radius", "nan"], "radius"),
        (np.zeros(64), ["--radius", "0.1", "--clip", "1", "0"], "--clip"),
        (np.full(64, 5.0), ["--radius", "0.1"], "misses the clip range"),
    ],
)
def test_a_wrong_question_is_refused(
    images: object, options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(["--image", saved(tmp_path, images), *options], capsys)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 and no more")
    assert "broken.npz" in refused(["--image", str(broken), "--radius", "0.1"], capsys)
    assert "missing.npy" in refused(["--image", str(tmp_path / "missing.npy"), "--radius", "0.1"], capsys)
    assert "--image" in refused(["--radius", "0.1"], capsys)


def test_a_property_may_cut_the_box_to_a_polytope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """y = x_0 + x_1 of the unit box reaches 0.75, but not where a row of the inputs says x_0 + x_1 <= 0.5."""
    net, prop, cut = tmp_path / "sum.onnx", tmp_path / "box.vnnlib", tmp_path / "cut.vnnlib"
    net.write_bytes(mlp_bytes(([[1.0, 1.0]], [0.0])))
    prop.write_text(vnnlib([(0, 1), (0, 1)], 1, "(>= Y_0 0.75)"))
    cut.write_text(prop.read_text() + "(assert (<= (+ X_0 X_1) 0.5))\n")
    for file, status, greatest in ((prop, "sat", 2.0), (cut, "unsat", 0.5)):
        assert run(["verify", str(net), str(file), "-q"]) == 0
        assert capsys.readouterr().out.startswith(f"{status}\n")
        assert run(["bound", str(net), str(file)]) == 0
        assert float(capsys.readouterr().out.split()[-1]) == pytest.approx(greatest)
    assert run(["duality", str(net), str(cut), "--steps", "5", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["linear_program"] for row in rows if "Y_0" in row["row"]] == [pytest.approx(0.25)]
