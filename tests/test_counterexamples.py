"""Several counterexamples: distinct, of different kinds first, each replayed; the nearest one; all of them as files."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import bourn
from bourn.attacks.images import around
from bourn.attacks.several import APART, apart, kind_of
from bourn.certificates.evidence import Falsified, is_counterexample
from bourn.cli.counterexample_pictures import image_shape
from bourn.cli.main import run
from bourn.errors import UsageError
from bourn.formats.vnnlib import load, parse
from verify_models import EXAMPLES, mlp, run_onnx, vnnlib, witness_v1

IMAGES = EXAMPLES / "digits_images.npz"
ASK_WIDELY = ["--image", str(IMAGES), "--index", "1", "--radius", "0.35"]


def test_other_classes_come_first() -> None:
    image, model = np.load(IMAGES)["image"][1], bourn.load(EXAMPLES / "digits_cnn.onnx")
    question = bourn.robustness(image, 6, 0.35, 10)
    several = bourn.counterexamples(model, question, 6, timeout=30.0)
    assert len(several) == 6
    for own in several:
        assert is_counterexample(question.cases[0], own.x, own.y)
        assert np.array_equal(run_onnx(EXAMPLES / "digits_cnn.onnx", own.x), own.y)
    assert len({kind_of(own, 0) for own in several}) == 6
    assert len({int(own.y.argmax()) for own in several}) == 6
    assert all(apart(one, other) > APART for one, other in combinations(several, 2))


def test_regions_far_from_each_other_are_both_found() -> None:
    """|x| >= 0.9 on [-1, 1]: at either end.  The one that is known stays first."""
    model = mlp(([[1.0], [-1.0]], [0.0, 0.0]), ([[1.0, 1.0]], [0.0]))
    question = parse(vnnlib([(-1, 1)], 1, "(>= Y_0 0.9)"))
    verdict = bourn.verify(model, question).verdict
    assert isinstance(verdict, Falsified)
    several = bourn.counterexamples(model, question, 2, first=[verdict.counterexample])
    assert several[0] is verdict.counterexample
    assert sorted(np.sign(own.x[0]) for own in several) == [-1, 1]


def test_a_single_point_is_one_counterexample() -> None:
    model = mlp(([[1.0]], [0.0]))
    several = bourn.counterexamples(model, parse(vnnlib([(1, 1)], 1, "(>= Y_0 1)")), 5)
    assert [own.x.tolist() for own in several] == [[1.0]]
    assert bourn.counterexamples(model, parse(vnnlib([(0, 1)], 1, "(>= Y_0 3)")), 5) == ()
    with pytest.raises(UsageError, match="0 counterexamples were asked for"):
        bourn.counterexamples(model, parse(vnnlib([(1, 1)], 1, "(>= Y_0 1)")), 0)


def test_cases_are_kinds_of_their_own() -> None:
    """Two boxes of one question: one counterexample in each, however far others are apart."""
    question = parse(vnnlib([(0, 10)], 1, "(or (<= X_0 1) (and (>= X_0 9) (<= X_0 9.001)))", "(>= Y_0 -1)"))
    several = bourn.counterexamples(mlp(([[1.0]], [0.0])), question, 2)
    assert sorted(own.x[0] > 5 for own in several) == [False, True]


# The image that is asked about


def test_the_image_is_read_off_the_box() -> None:
    model, question = bourn.load(EXAMPLES / "digits_mlp.onnx"), load(EXAMPLES / "digits_attackable.vnnlib")
    about = around(model, question)
    assert about is not None
    own, radius = about
    assert radius == pytest.approx(0.15)
    assert (own.label, own.clip) == (3, (0.0, 1.0))
    images = np.load(IMAGES)["image"].reshape(-1, 64)
    assert np.abs(images - own.image.numpy()).max(1).min() < 1e-12


def test_other_questions_are_about_no_image() -> None:
    model = mlp(([[1.0, 1.0], [1.0, -1.0]], [0.0, 0.0]))
    sides, rows = [(0, 1), (0, 1)], "(<= Y_0 Y_1)"
    assert around(model, parse(vnnlib(sides, 2, rows))) is not None
    for box, row in (([(0, 1), (0, 3)], rows), (sides, "(<= Y_0 1)"), (sides, "(<= (* 2.0 Y_0) Y_1)"), ([(0, 0), (1, 1)], rows)):
        about = around(model, parse(vnnlib(box, 2, row)))
        if (box, row) == ([(0, 1), (0, 3)], rows):  # the narrow side may have been cut
            assert about is not None
            assert about[1] == 1.5
        else:
            assert about is None, (box, row)
    assert around(model, parse(vnnlib([(-1, 1), (-4, 4)], 2, rows))) is None


# Files


def test_everything_is_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made" / "here"
    arguments = ["verify", str(EXAMPLES / "digits_cnn.onnx"), *ASK_WIDELY, "--all-counterexamples", "2", "--save", str(folder)]
    assert run(arguments) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("sat\n")
    assert "2 counterexamples, each replayed" in shown.err
    assert "nearest: at 0.17" in shown.err
    names = ["counterexample_1", "counterexample_2", "nearest"]
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*(f"{n}.txt" for n in names), *(f"{n}.png" for n in names), "counterexamples.npz"]
    )
    question = bourn.robustness(np.load(IMAGES)["image"][1], 6, 0.35, 10)
    with np.load(folder / "counterexamples.npz") as saved:
        assert saved["name"].tolist() == names
        assert saved["x"].shape == (3, *bourn.load(EXAMPLES / "digits_cnn.onnx").graph.input_shape)
        moves = np.abs(saved["x"] - saved["original"]).reshape(3, -1).max(1)
        assert moves.argmin() == 2
        assert moves[2] < 0.18
        for name, x, y in zip(names, saved["x"], saved["y"], strict=True):
            assert is_counterexample(question.cases[0], x.reshape(-1), y.reshape(-1))
            assert np.array_equal(run_onnx(EXAMPLES / "digits_cnn.onnx", x.reshape(-1)), y.reshape(-1))
            witness_x, witness_y = witness_v1((folder / f"{name}.txt").read_text())
            assert np.array_equal(witness_x, x.reshape(-1))
            assert np.array_equal(witness_y, y.reshape(-1))
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_proof_has_nothing_to_save(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = str(EXAMPLES / "digits_robust_3.vnnlib")
    assert run(["verify", str(EXAMPLES / "digits_mlp.onnx"), question, "--save", str(tmp_path)]) == 0
    assert "no counterexample: unsat" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    assert run(["verify", str(EXAMPLES / "digits_mlp.onnx"), question, "--save", str(tmp_path / "file" / "under")]) == 2
    assert capsys.readouterr().err.startswith("bourn: --save ")


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((1, 1, 28, 28), ((28, 28), -1)),
        ((1, 28, 28, 1), ((28, 28), -1)),
        ((1, 3, 32, 32), ((3, 32, 32), 0)),
        ((1, 32, 32, 3), ((32, 32, 3), 2)),
        ((1, 784), ((28, 28), -1)),
        ((1, 784, 1, 1), ((28, 28), -1)),
        ((1, 1, 784), ((28, 28), -1)),
        ((1, 3072), ((3, 32, 32), 0)),
        ((1, 5), None),
        ((1, 1, 1, 5), None),
        ((1, 20, 9), ((20, 9), -1)),
        ((1, 6), None),
        ((1, 2, 8, 8), None),
    ],
)
def test_which_inputs_are_images(shape: tuple[int, ...], image: tuple[tuple[int, ...], int] | None) -> None:
    assert image_shape(shape) == image
