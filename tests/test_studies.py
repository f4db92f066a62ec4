"""Studies: descriptions, the figures they give, what a run leaves in the store, and the command."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bourn
from bourn.cli.main import run as command
from bourn.errors import UsageError
from bourn.formats.toml import read_toml
from bourn.problem.problem import label_margins
from bourn.studies.description import Description, ImageEntry
from bourn.studies.engines import InProcess
from bourn.studies.inputs import read_images
from bourn.studies.running import Progress, Study, run
from bourn.studies.store import Record, Store
from bourn.studies.tables import tables

ROOT = Path(__file__).resolve().parent.parent
DIGITS, EXAMPLES = ROOT / "studies" / "digits.toml", ROOT / "examples"


def digits(**changes: Any) -> Description:
    """The study of the digits, changed."""
    return Description.from_data({**read_toml(DIGITS), **changes}, "digits", DIGITS.parent)


def one_network(*radii: float) -> list[dict[str, Any]]:
    return [{"file": "../examples/digits_mlp.onnx", **({"radii": list(radii)} if radii else {})}]


def answers(description: Description, path: Path) -> tuple[list[Record], Progress]:
    with Store(path) as store:
        progress = run(Study.of(description), store, InProcess())
        return list(store.records()), progress


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "studies").glob("*.toml")))
def test_descriptions_that_come_along_are_read_and_survive_as_json(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOURN_DATA", "data")
    path = ROOT / "studies" / name
    found = Description.from_data(read_toml(path), str(path), path.parent)
    assert Description.from_data(json.loads(json.dumps(found.as_data())), "json") == found
    assert len(found.networks) == {"table_1.toml": 9, "table_2.toml": 23, "digits.toml": 2, "cifar10.toml": 9}[name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"radius": 0.1}, "unknown key 'radius'"),
        ({"images": {"file": "x", "lables": "y"}}, "unknown key 'images.lables'"),
        ({"networks": [{"file": "x", "radii": [0.1]}, {"file": "y", "radius": 0.1}]}, r"unknown key 'networks\[1\].radius'"),
        ({"attack": {"step": 0.1, "size": 2}}, "unknown key 'attack.size'"),
        ({"study": "error"}, "there are adversarial-error, minimum-distortion, ladder"),
        ({"methods": ["lp-most"]}, "there is no method 'lp-most'"),
        ({"methods": "lp-all"}, "is to be a list of texts"),
        ({"networks": [{"file": "x"}]}, "'x': it needs radii"),
        ({"networks": [{"file": "x", "radii": [-0.1]}]}, "at least 0"),
        ({"networks": [{"file": "x", "radii": [0.1]}, {"file": "x", "radii": [0.2]}]}, "two networks are called 'x'"),
        ({"study": "minimum-distortion"}, "takes no radii"),
        ({"study": "minimum-distortion", "attack": {"step": 0.1}}, "attack.step: steps follow the radius"),
        ({"bracket": "no"}, "is to be true or false"),
        ({"clip": [1]}, r"\[low, high\] or false"),
        ({"clip": [1, 0]}, "the first number must be at most the second"),
        ({"cascade": ["lp-all"]}, "is what it ends in"),
        ({"images": {"file": "x", "count": 2, "indices": [1]}}, "either indices or first and count"),
        ({"images": {"file": "${BOURN_NOWHERE}/x"}}, "the environment has no BOURN_NOWHERE"),
        ({"images": {}}, "images.file is missing"),
        ({"precision": 2}, "between 0 and 1"),
        ({"study": "ladder", "methods": ["branch-and-bound"]}, "branch-and-bound: only adversarial-error asks it"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_file_and_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        digits(**changes)
    assert str(error.value).startswith("digits: ")
    assert "\n" not in str(error.value)


def test_the_cascade_and_every_method_alone_give_the_same_figures(tmp_path: Path) -> None:
    names = ["fast-lin", "crown", "pgd", "lp-all"]
    networks = [{**entry, "radii": [0.1]} for entry in read_toml(DIGITS)["networks"]]
    alone, _ = answers(digits(networks=networks, cascade=False, methods=names), tmp_path / "alone.db")
    cascade, _ = answers(digits(networks=networks), tmp_path / "cascade.db")
    assert len(alone) == 4 * len(cascade) == 80
    by: dict[tuple[Any, ...], dict[str, str]] = {}
    for r in alone:
        by.setdefault((r.task["network"], r.task["radius"], r.task["image"]), {})[r.task["method"]] = r.result["outcome"]
    for r in cascade:
        own = by[r.task["network"], r.task["radius"], r.task["image"]]
        assert r.result["outcome"] == ("attacked" if own["pgd"] == "attacked" else own["lp-all"])
    with Store(tmp_path / "alone.db") as a, Store(tmp_path / "cascade.db") as b:
        (one,), (other,) = tables(a), tables(b)
    rows = {(row["network"], row["radius"]): row for row in one.rows}
    assert {r["network"] for r in other.rows} == {"digits_mlp", "digits_cnn"}
    for row in other.rows:
        same = rows[row["network"], row["radius"]]
        for column in ("images", "error %", "pgd %", "fast-lin %", "lp-all %", "beyond", "undecided"):
            assert row[column] == same[column], column
    assert any(r.result["outcome"] == "beyond" for r in cascade)
    assert {"fast-lin", "attack", "lp-all", "bracket"} <= {r.result["decided_by"] for r in cascade}


def test_outcomes_are_those_of_bound_and_of_the_network(tmp_path: Path) -> None:
    """Labels that are wrong, a radius of 0, and one at which everything is attacked."""
    saved = np.load(EXAMPLES / "digits_images.npz")
    np.savez(tmp_path / "images.npz", images=saved["image"], labels=(saved["label"] + (saved["label"] < 2)) % 10)
    images = {"file": str(tmp_path / "images.npz")}
    found, _ = answers(digits(images=images, networks=one_network(0.0, 0.1, 0.9)), tmp_path / "a.db")
    outcomes = {radius: [r.result["outcome"] for r in found if r.task["radius"] == radius] for radius in (0.0, 0.1, 0.9)}
    assert [o.count("wrong") for o in outcomes.values()] == [2, 2, 2]
    assert outcomes[0.0].count("certified") == 8
    assert outcomes[0.9].count("attacked") == 8
    middle = {r.task["image"]: r for r in found if r.task["radius"] == 0.1}
    for i, r in middle.items():
        if r.result["outcome"] not in ("beyond", "undecided"):
            continue
        ball = bourn.linf_ball(torch.from_numpy(saved["image"][i : i + 1]), 0.1, clip=(0, 1))
        bounds = bourn.bound(
            str(EXAMPLES / "digits_mlp.onnx"), ball, method="lp-all", objectives=label_margins(torch.tensor([r.task["label"]]), 10)
        ).objectives
        assert bounds is not None
        assert r.result["bound"] == pytest.approx(float(bounds.min()), abs=1e-9)
        assert r.result["bound"] <= 0 < r.result["attained"]
    assert all(r.result["attained"] <= 0 for r in found if r.result["outcome"] == "attacked")


def test_branch_and_bound_decides_as_a_milp_does(tmp_path: Path) -> None:
    """The same images certified and met, those beyond the barrier too; out of time they stay open with a bound."""
    own, radii = ["branch-and-bound", "milp"], [0.13, 0.2]
    records, _ = answers(digits(methods=own, networks=one_network(*radii), clip=False), tmp_path / "exact.db")
    splitting, searching = (
        {(r.task["radius"], r.task["image"]): r.result["outcome"] for r in records if r.task["method"] == name} for name in own
    )
    assert splitting == searching
    decided = {r.result["outcome"] for r in records if r.result["decided_by"] == own[0]}
    assert decided == {"certified", "attacked"}
    some = digits(methods=own[:1], networks=one_network(0.2), clip=False, limit=1e-3, cascade=["fast-lin"])
    outcomes_soon = [r.result for r in answers(some, tmp_path / "soon.db")[0]]
    assert {r["outcome"] for r in outcomes_soon} <= {"certified", "undecided", "attacked"}
    assert any(r["outcome"] == "undecided" for r in outcomes_soon)


def test_what_lies_beyond_the_barrier_has_a_ceiling_below_zero(tmp_path: Path) -> None:
    with_bracket, _ = answers(digits(networks=one_network(0.1)), tmp_path / "a.db")
    without, _ = answers(digits(networks=one_network(0.1), bracket=False), tmp_path / "b.db")
    outcomes = [(r.result["outcome"], other.result["outcome"]) for r, other in zip(with_bracket, without, strict=True)]
    assert {(a, b) for a, b in outcomes if a != b} == {("beyond", "undecided")}
    assert not {r.key for r in with_bracket} & {r.key for r in without}
    for r in with_bracket:
        if r.result["outcome"] == "beyond":
            assert r.result["bound"] <= r.result["ceiling"] <= 0 < r.result["attained"]
            assert [stage["name"] for stage in r.result["stages"]][-2:] == ["lp-all", "bracket"]
            assert r.result["decided_by"] == "bracket"
        else:
            assert r.result["ceiling"] is None


def test_a_study_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    class Ends(InProcess):
        def run(self, *arguments: Any) -> Iterator[Any]:
            for number, done in enumerate(super().run(*arguments)):
                if number == 3:
                    raise KeyboardInterrupt
                yield done

    study, path = Study.of(digits(networks=one_network(0.1), cascade=False)), tmp_path / "a.db"
    with Store(path) as store:
        with pytest.raises(KeyboardInterrupt):
            run(study, store, Ends())
        there = len(store)
        assert 0 < there < 10
        assert run(study, store, InProcess()) == Progress(10, 10, there)
        (before,) = {r.seconds for r in store.records() if r.task["image"] == 0}
        assert run(study, store, InProcess()) == Progress(10, 10, 10)
        assert [r.seconds for r in store.records() if r.task["image"] == 0] == [before]
        assert run(Study.of(digits(networks=one_network(0.1, 0.05), cascade=False)), store, InProcess()).before == 10


def test_distortions_are_certified_and_found_on_both_sides(tmp_path: Path) -> None:
    asked = digits(
        study="minimum-distortion",
        networks=one_network(),
        clip=False,
        cascade=False,
        methods=["fast-lin", "lp-all", "pgd"],
        images={"file": "../examples/digits_images.npz", "indices": [6, 3]},
        precision={"fast-lin": 1e-5, "": 0.01},
    )
    found, _ = answers(asked, tmp_path / "a.db")
    radii = {(r.task["image"], r.task["method"]): r for r in found}
    assert set(radii) == {(i, m) for i in (3, 6) for m in ("fast-lin", "lp-all", "pgd")}
    images = torch.from_numpy(np.load(EXAMPLES / "digits_images.npz")["image"])
    for (i, name), r in radii.items():
        result, precision = r.result, r.task["options"]["precision"]
        near, far = sorted((result["radius"], result["failed"]))
        assert 0 < near <= far <= near * (1 + 1.01 * precision)
        assert (result["radius"] == near) == (name != "pgd")
        if name != "pgd":
            question = bourn.robustness(images[i], r.task["label"], near, 10, clip=None)
            assert bourn.ladder(str(EXAMPLES / "digits_mlp.onnx"), question, methods=[name], attack=None).rungs[0].value > 0
    for i in (3, 6):
        assert radii[i, "fast-lin"].result["radius"] < radii[i, "lp-all"].result["failed"]
        assert radii[i, "lp-all"].result["radius"] < radii[i, "pgd"].result["radius"]


def test_ladders_hold_every_margin_of_every_method(tmp_path: Path) -> None:
    asked = digits(study="ladder", networks=one_network(0.1), methods=["ibp", "crown", "lp-all"], cascade=False)
    found, _ = answers(asked, tmp_path / "a.db")
    assert len(found) == 10
    for r in found:
        bounds, attained = r.result["bounds"], r.result["attained"]
        assert {name: len(own) for name, own in bounds.items()} == {"ibp": 9, "crown": 9, "lp-all": 9}
        assert r.result["others"] == [j for j in range(10) if j != r.task["label"]]
        for low, middle, high, met in zip(bounds["ibp"], bounds["crown"], bounds["lp-all"], attained, strict=True):
            assert max(low, middle) <= high + 1e-9
            assert high <= met
        assert set(r.result["seconds"]) == set(r.result["losses"]) == {"ibp", "crown", "lp-all"}
        worst = min(range(9), key=lambda i: attained[i])
        for name, layers in r.result["losses"].items():
            lost = sum(layer["relaxation"] + layer["inner"] for layer in layers)
            assert lost == pytest.approx(attained[worst] - bounds[name][worst], abs=1e-6)
    with Store(tmp_path / "a.db") as store:
        (table,) = tables(store)
    assert table.rows[0]["images"] == 10
    assert float(table.rows[0]["ibp"] or 0) < float(table.rows[0]["lp-all"] or 0) < float(table.rows[0]["attained"] or 0)


def test_images_of_every_format(tmp_path: Path) -> None:
    pixels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3) * 10
    idx = struct.pack(">BBBBIII", 0, 0, 8, 3, 4, 2, 3) + pixels.tobytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx))
    (tmp_path / "labels").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 4) + bytes([3, 2, 1, 0]))
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "a.npz", x=pixels, y=np.array([3, 2, 1, 0]))
    wanted = (pixels.reshape(4, 6).astype(np.float32) / np.float32(255)).astype(np.float64)
    for name, labels in (("a.gz", str(tmp_path / "labels")), ("a.npz", ""), ("a.npy", str(tmp_path / "labels"))):
        found = read_images(ImageEntry(str(tmp_path / name), labels, first=1, count=2))
        assert found.numbers == (1, 2)
        assert np.array_equal(found.pixels, wanted[1:3])
        assert found.labels is not None
        assert found.labels.tolist() == [2, 1]
    chosen = read_images(ImageEntry(str(tmp_path / "a.npy"), "predictions", indices=(3, 0)))
    assert chosen.labels is None
    assert np.array_equal(chosen.pixels, wanted[[3, 0]])


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (ImageEntry("none.npz"), "cannot be read"),
        (ImageEntry(str(DIGITS)), r"is no .npz, .npy or IDX file"),
        (ImageEntry(str(EXAMPLES / "digits_images.npz"), count=11), "there is no image 10; it holds 10"),
        (ImageEntry(str(EXAMPLES / "digits_images.npz"), first=10), "there is no image 10"),
        (ImageEntry(str(EXAMPLES / "digits_images.npz"), labels=str(DIGITS)), "is no .npz"),
    ],
)
def test_images_that_are_not_there_are_one_line(entry: ImageEntry, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_images(entry)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert command(["study", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if line.startswith("bourn: ")]
    return line


def test_the_command_runs_resumes_merges_and_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = ["study", "adversarial-error", str(DIGITS)]
    assert command([*error, "--only", "mlp", "--radius", "0.05", "--count", "3"]) == 0
    printed = capsys.readouterr()
    assert "3 of 3 answers" in printed.err
    assert printed.out.splitlines()[1].split()[:4] == ["network", "mode", "radius", "images"]
    assert command([*error, "-o", "b.db", "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("network,mode,radius,images,error %,fast-lin %,pgd %,lp-all %")
    assert len(lines) == 5
    assert command(["study", "merge", "digits.db", "b.db", "-o", "c.db"]) == 0
    assert "c.db: 40 answers" in capsys.readouterr().out
    assert command([*error, "-o", "c.db", "--json"]) == 0
    printed = capsys.readouterr()
    assert "40 answers, 40 of them from before" in printed.err
    (one,) = json.loads(printed.out)
    assert [row["images"] for row in one["rows"]] == [10] * 4
    flags = ["-n", f"net={EXAMPLES / 'digits_mlp.onnx'}", "--images", str(EXAMPLES / "digits_images.npz"), "--count", "1"]
    assert command(["study", "minimum-distortion", *flags, "-m", "crown", "-m", "pgd"]) == 0
    assert "crown gap %" in capsys.readouterr().out
    assert command(["study", "table", "minimum-distortion.db"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ["net", "1"]


def test_a_table_says_that_answers_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    answers(digits(networks=one_network(0.1)), path)
    with Store(path) as store:
        assert tables(store)[0].remarks == ()
        store.note("another", {**digits().as_data(), "tasks": 40})
        (table,) = tables(store)
    assert "incomplete: 10 of 50 answers" in table.as_text()


def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text("study = \n", encoding="utf-8")
    Path("key.toml").write_text(DIGITS.read_text(encoding="utf-8").replace("radii", "radius"), encoding="utf-8")
    digits_ = str(DIGITS)
    net = ["-n", str(EXAMPLES / "digits_mlp.onnx"), "--radius", "0.1"]
    for arguments, said in (
        (["adversarial-error"], "give a study's TOML file, or --network and --images"),
        (["adversarial-error", "none.toml"], "none.toml: cannot be read"),
        (["adversarial-error", "broken.toml"], "broken.toml: is no TOML file"),
        (["adversarial-error", "key.toml"], "key.toml: unknown key 'networks[0].radius'"),
        (["ladder", digits_], "study = 'adversarial-error', but the command is 'bourn study ladder'"),
        (["adversarial-error", digits_, "--only", "resnet"], "no network has that in its name"),
        (["adversarial-error", digits_, "-n", "none.onnx", "--radius", "0.1"], "none.onnx: cannot be read"),
        (["adversarial-error", digits_, "--workers", "0"], "there must be at least 1"),
        (["adversarial-error", digits_, "-o", "no/folder.db"], "there is no folder 'no'"),
        (["adversarial-error", digits_, "-o", "key.toml"], "key.toml: is no store of a study"),
        (["adversarial-error", *net, "--images", digits_], "is no .npz, .npy or IDX file"),
        (["table", "none.db"], "none.db: there is no such store"),
        (["merge", "none.db", "-o", "c.db"], "none.db: there is no such store"),
    ):
        assert said in refused(capsys, *arguments)
    assert not Path("c.db").exists()
