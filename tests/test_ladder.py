"""bourn ladder and bounds from outside: what is printed, drawn and handed in."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

import bourn
from bourn.cli.main import run
from bourn.problem.specification import Row, Specification
from bourn.solvers.methods import BARRIER, METHODS

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NET, PROP, IMAGES = (str(EXAMPLES / name) for name in ("digits_mlp.onnx", "digits_robust_3.vnnlib", "digits_images.npz"))
CNN = str(EXAMPLES / "digits_cnn.onnx")
BALL = ["--image", IMAGES, "--index", "6", "--radius", "0.115"]


@pytest.fixture(scope="module", autouse=True)
def drawing() -> None:
    """Before the clock of a test runs: the first picture on a machine waits for the list of all its fonts."""
    import matplotlib.font_manager  # noqa: F401


def out(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that succeeds prints on stdout."""
    assert run(arguments) == 0
    return str(capsys.readouterr().out)


def test_every_method_is_on_the_ladder_sorted_by_value(capsys: pytest.CaptureFixture[str]) -> None:
    lines = out(["ladder", CNN, *BALL], capsys).splitlines()
    assert lines[0] == "image 6 keeps class 4 within 0.115"
    names = [line.split()[0] for line in lines[2:-1]]
    values = [float(line.split()[1]) for line in lines[2:-1]]
    assert set(names) == {m.name for m in METHODS}
    assert values == sorted(values)
    assert names[-1] == BARRIER
    assert "the barrier, proved" in lines[-2]
    assert lines[-1].startswith("attack")
    assert float(lines[-1].split()[1]) >= values[-1]


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = json.loads(out(["ladder", CNN, *BALL, "--json"], capsys))
    by_name = {m["method"]: m for m in found["methods"]}
    assert found["radius"] == 0.115
    assert found["conjunctions"] == 9
    assert found["barrier"] == by_name["lp-all"]["bound"] == max(m["bound"] for m in found["methods"])
    assert by_name["lp-all"]["refuted"] == 9
    assert by_name["lp-all"]["linear_programs"] > 9
    assert by_name["lp-last"]["linear_programs"] == 9
    assert by_name["crown"]["linear_programs"] == 0
    assert found["attack"] > found["barrier"]


def test_a_range_of_radii_is_a_ladder_each(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "radii.svg"
    question = [NET, "--image", IMAGES, "--radius", "0.02:0.1:3", "-m", "ibp", "-m", "lp-all"]
    found = json.loads(out(["ladder", *question, "--json", "--plot", str(picture)], capsys))
    assert [f["radius"] for f in found] == pytest.approx([0.02, 0.06, 0.1])
    barriers = [f["barrier"] for f in found]
    assert barriers == sorted(barriers, reverse=True)
    assert "lp-all (the barrier)" in picture.read_text()


def test_pictures_are_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    png, svg = tmp_path / "ladder.png", tmp_path / "ladder.svg"
    for path in (png, svg):
        out(["ladder", NET, PROP, "-m", "ibp", "-m", "crown", "-m", "lp-all", "--plot", str(path)], capsys)
    assert png.read_bytes().startswith(b"\x89PNG")
    text = "".join(ElementTree.parse(svg).getroot().itertext())
    for shown in ("IBP (box)", "CROWN (DeepPoly)", "LP-ALL (the barrier)", "no layer-wise method gets further", Path(PROP).name):
        assert shown in text


def test_a_method_out_of_time_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    text = out(["ladder", NET, PROP, "-m", "lp-all", "--timeout", "1e-6"], capsys)
    assert "out of time" in text
    (found,) = json.loads(out(["ladder", NET, PROP, "-m", "lp-all", "--timeout", "1e-6", "--json"], capsys))
    assert found["barrier"] is None
    assert found["methods"][0]["bound"] is None
    assert not found["methods"][0]["finished"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([NET], "give the question"),
        ([NET, PROP, *BALL], "give the question"),
        ([NET, PROP, "--label", "3"], "--label needs --image"),
        ([NET, *BALL[:-1], "0.1:0.05:3"], "LOW < HIGH"),
        ([NET, *BALL[:-1], "much"], "neither a radius nor"),
        ([NET, *BALL[:-1], "0:1:1"], "COUNT from 2"),
        ([NET, PROP, "--plot", "ladder.jpg"], ".png or .svg"),
        ([NET, PROP, "--plot", "no-such-folder/ladder.png"], "no folder"),
        ([NET, PROP, "-m", "best"], "there is no method 'best'"),
        ([NET, "no-such-file.vnnlib"], "no-such-file.vnnlib"),
        (["no-such-file.onnx", PROP], "no-such-file.onnx"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ladder", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if line.startswith("bourn: ")]
    assert said in line


def test_rows_together_count_on_the_ladder() -> None:
    """y0 <= 0 and y1 <= 0, with y0 + y1 = 1: no row alone is refuted, their sum is, and the LP finds the weights."""
    from bourn.network.affine import Dense
    from bourn.network.graph import GraphBuilder
    from bourn.relaxations.relu import ReLU

    builder = GraphBuilder((1, 2))
    weight = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    first = builder.add(Dense(in_shapes=((1, 2),), out_shape=(1, 2), weight=weight, bias=None), 0)
    last = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    bias = torch.tensor([0.5, 0.5], dtype=torch.float64)
    second = Dense(in_shapes=((1, 2),), out_shape=(1, 2), weight=last, bias=bias)
    graph = builder.build(builder.add(second, builder.add(ReLU(), first)))
    ball = bourn.linf_ball(torch.zeros(1, 1, 2, dtype=torch.float64), 1.0)
    question = bourn.region(ball, Specification.of([Row.of({0: 1}), Row.of({1: 1})]), 2)
    found = {r.method.name: r.value for r in bourn.ladder(graph, question).rungs}
    assert found["ibp"] < 0
    for name in ("crown", "fast-lin", "alpha-crown", "lp-last", "lp-all"):
        assert found[name] == pytest.approx(0.5, abs=1e-3), name
    assert bourn.verify(graph, question).status == "unsat"


# --- bounds from outside --------------------------------------------------------------------------------


def test_bounds_are_taken_out_and_handed_in(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """LP-ALL's inner bounds make CROWN tighter, and never better than LP-ALL itself."""
    ball = ["--image", IMAGES, "--radius", "0.1"]
    tight, mixed = tmp_path / "tight.npz", tmp_path / "mixed.npz"
    out(["bound", NET, *ball, "-m", "lp-all", "--save", str(tight)], capsys)
    own = bourn.bound(NET, _box(0.1), method="crown")["scores"]
    assert run(["bound", NET, *ball, "-m", "crown", "--with", str(tight), "--save", str(mixed)]) == 0
    assert "what follows holds where they hold" in capsys.readouterr().err
    found, best = bourn.read_bounds(mixed)["scores"], bourn.read_bounds(tight)["scores"]
    assert bool((found.lower >= own.lower - 1e-12).all() & (found.upper <= own.upper + 1e-12).all())
    assert bool((found.lower > own.lower + 1e-6).any())
    assert bool((found.lower <= best.lower + 1e-7).all() & (found.upper >= best.upper - 1e-7).all())


def _box(radius: float) -> bourn.Box:
    image = np.load(IMAGES)["image"][:1]
    return bourn.linf_ball(image.reshape(1, 1, 64), radius, clip=(0, 1))


@pytest.mark.parametrize("m", METHODS, ids=lambda m: m.name)
def test_every_method_takes_bounds_from_outside(m: bourn.Method) -> None:
    """Bounds of half the box, handed in for the whole: what comes out holds on that half, and is tighter."""
    whole, half = _box(0.1), _box(0.02)
    given = dict(bourn.bound(NET, half, method="lp-all", nodes=["hidden_1_in", "hidden_2_in"]).nodes)
    found = bourn.bound(NET, whole, method=m, outside=given)
    without = bourn.bound(NET, whole, method=m)
    assert bool((found["scores"].upper - found["scores"].lower < without["scores"].upper - without["scores"].lower).all())
    for z in given:
        assert bool((found[z].lower >= given[z].lower).all() & (found[z].upper <= given[z].upper).all())
    graph = bourn.load(NET).graph
    for y in graph.evaluate(half.sample(100)[0]):
        assert bool((y >= found["scores"].lower).all() & (y <= found["scores"].upper).all())


def test_wrong_bounds_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def refused(**arrays: np.ndarray) -> str:
        path = tmp_path / "given.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        assert run(["bound", NET, "--image", IMAGES, "--radius", "0.01", "--with", str(path)]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bourn: ")]
        return line

    zero = np.zeros((1, 1, 32))
    name = "hidden_1_in"
    assert "no array 'hidden_1_in.upper'" in refused(**{f"{name}.lower": zero})
    assert "no node 'nowhere'" in refused(**{"nowhere.lower": zero, "nowhere.upper": zero})
    assert "not at most" in refused(**{f"{name}.lower": zero + 1, f"{name}.upper": zero})
    assert "not at most" in refused(**{f"{name}.lower": zero + np.nan, f"{name}.upper": zero})
    assert "shape" in refused(**{f"{name}.lower": zero[..., :3], f"{name}.upper": zero[..., :3]})
    assert "contradict node 'hidden_1_in'" in refused(**{f"{name}.lower": zero + 1e6, f"{name}.upper": zero + 1e7})
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 and no more")
    for file in (str(broken), str(tmp_path / "missing.npz"), PROP):
        assert run(["bound", NET, "--image", IMAGES, "--radius", "0.01", "--with", file]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bourn: ")]
        assert file in line
    scores = bourn.Interval(torch.zeros(1, 1, 10, dtype=torch.float64), torch.ones(1, 1, 10, dtype=torch.float64))
    with pytest.raises(bourn.BournError, match="no pre-activation"):
        bourn.bound(NET, _box(0.1), outside={"scores": scores})
