"""What the report says of answers: tables beside figures given, figures as numbers, stories of single questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bourn.report.beside import read as read_beside
from bourn.report.figures import Axis, Box, stack
from bourn.report.names import family, mode_title, title
from bourn.report.page import read, render, seconds
from bourn.report.stories import Ending, Stories
from bourn.report.tables import Distortions, ErrorRow, Errors, Figure
from bourn.studies.store import Record, Store
from report_samples import error_result, figures_given, records, task


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of figures to stand beside."""
    return figures_given(tmp_path_factory.mktemp("given"))


def error_rows(given: Path | None = None) -> dict[tuple[str, str], ErrorRow]:
    errors = Errors()
    for record in records():
        if record.task["study"] == "adversarial-error":
            errors.add(record)
    return {(r.network, r.method): r for r in errors.rows([] if given is None else read_beside([given]))}


def test_errors_count_what_is_undecided() -> None:
    rows = error_rows()
    whole, alone = rows["net_ADV", "lp-all"], rows["net_ADV", "fast-lin"]
    assert (whole.images, whole.test.own, whole.lower.own, whole.upper.own) == (10, 10, 30, 60)
    assert (whole.beyond, whole.undecided) == (2, 1)
    # Fast-Lin's own answers hold no attack, but the images that are known to be attacked stay so.
    assert (alone.lower.own, alone.upper.own, alone.undecided) == (30, 80, 7)


def test_figures_given_stand_beside_and_differences_are_marked(given: list[Path]) -> None:
    rows = error_rows(given[0])
    greedy, whole, milp = rows["net_NOR", "fast-lin"], rows["net_NOR", "lp-all"], rows["net_NOR", "milp"]
    assert (greedy.upper.given, greedy.upper.differs) == (79.5, True)
    assert (whole.upper.given, whole.upper.differs) == (60.0, False)
    assert (whole.lower.given, whole.lower.differs) == (30.04, False)
    assert (milp.images, milp.lower.given, milp.upper.given) == (0, 31.0, 52.0)
    assert rows["net_ADV", "lp-all"].upper.given is None
    distortions = Distortions()
    for record in records():
        if record.task["study"] == "minimum-distortion":
            distortions.add(record)
    found = {(r.network, r.method): r for r in distortions.rows(read_beside(given[1:]))}
    own = found["net_ADV", "lp-all"]
    assert own.mean.own == pytest.approx(62.7)
    assert (own.mean.given, own.mean.differs) == (60.0, True)
    assert own.gap.own == pytest.approx(40.0)
    assert (own.gap.given, own.gap.differs) == (40.04, False)
    assert found["net_ADV", "pgd"].mean.given == 104.5
    assert found["net_ADV", "pgd"].gap.own is None


def test_the_papers_tables_are_read(data_folder: Path) -> None:
    tables = [data_folder / "tables" / f"{name}.csv" for name in ("adversarial_error", "minimum_distortion")]
    given = read_beside(tables)
    assert len(given) == 11 + 27
    (row,) = [g for g in given if g.fits("adversarial-error", "ADV_MLP_B_0.05", "ADV", 0.05)]
    assert (row.figure("lp-all", "_upper_pct"), row.figure("wong-kolter", "_upper_pct")) == (23.29, 33.09)
    (row,) = [g for g in given if g.fits("minimum-distortion", "mnist_cnn_wide_1_LPD", "LPD", None)]
    assert (row.figure("pgd", "_mean_1e-3"), row.figure("lp-last", "_median_gap_pct")) == (183.66, 30.59)
    assert not any(g.fits("minimum-distortion", "mnist_cnn_wide_1", "IBP", None) for g in given)


def test_the_first_of_a_cascade_has_a_row_of_its_own() -> None:
    asked = task("adversarial-error", "ADV", 0, "lp-all", 0.1)
    errors = Errors()
    for image, by in enumerate(("fast-lin", "fast-lin", "crown", "lp-all", "attack")):
        result = {**error_result(2 if by != "attack" else 1, "lp-all"), "decided_by": by}
        options = {"cascade": ["fast-lin", "crown", "pgd"]}
        errors.add(Record.of({**asked, "image": image, "options": options}, result, 1.0))
    whole, first = sorted(errors.rows([]), key=lambda r: r.method, reverse=True)
    assert (whole.method, whole.upper.own, whole.within) == ("lp-all", 20.0, "")
    assert (first.method, first.upper.own, first.undecided, first.within) == ("fast-lin", 60.0, 3, "lp-all")
    # One that was asked itself needs no such row.
    errors.add(Record.of({**asked, "method": "fast-lin"}, error_result(2, "fast-lin"), 1.0))
    assert [(r.method, r.images) for r in errors.rows([])] == [("fast-lin", 1), ("lp-all", 5)]


def test_a_gap_of_rounding_is_no_difference() -> None:
    assert not Figure(10.05, 10.0).differs
    assert Figure(10.06, 10.0).differs
    assert not Figure(None, 10.0).differs


def stories(*found: Record) -> Stories:
    collected = Stories()
    for record in found:
        collected.add(record)
    return collected


def told(outcome: int, *more: Record) -> Any:
    asked = task("adversarial-error", "ADV", outcome, "lp-all", 0.1)
    (story,), count = stories(Record.of(asked, error_result(outcome, "lp-all"), 1.0), *more).told()
    assert count == 1
    return story


@pytest.mark.parametrize(
    ("image", "ending", "said"),
    [
        (0, Ending.WRONG, ""),
        (1, Ending.ATTACKED, "another class scores as much"),
        (2, Ending.CERTIFIED, "Proved by LP-ALL."),
        (5, Ending.BEYOND, "margin is \N{MINUS SIGN}0.25: not above 0, so no method that relaxes layer by layer"),
        (7, Ending.OPEN, "it was not shown that no layer-wise method can"),
    ],
)
def test_every_ending_has_its_story(image: int, ending: Ending, said: str) -> None:
    story = told(image)
    assert story.ending is ending
    assert said in " ".join(story.sentences)


def test_a_ladder_says_who_proved_it_and_who_did_not() -> None:
    bounds = {"ibp": [-3.0, -1.0], "crown": [0.5, -0.5], "lp-all": [0.75, 0.25]}
    climbed = Record.of(task("ladder", "ADV", 2, "ladder", 0.1), {"bounds": bounds, "attained": [2.0, 1.0], "seconds": {}}, 1.0)
    story = told(2, climbed)
    assert story.sentences[0] == "Proved by LP-ALL; not by IBP (box) and CROWN (DeepPoly)."
    assert story.values == (
        ("IBP (box)", -3.0, "bound"),
        ("CROWN (DeepPoly)", -0.5, "bound"),
        ("LP-ALL", 0.25, "barrier"),
        ("attack", 1.0, "attack"),
    )


def test_a_bound_is_that_of_the_stage_that_found_it() -> None:
    # Points showed the question to lie beyond every layer-wise method before LP-ALL was asked.
    stages = [{"name": name, "seconds": 0.1} for name in ("prediction", "crown", "points")]
    result = {**error_result(5, "lp-all"), "decided_by": "points", "bound": -7.0, "stages": stages}
    (story,), _ = stories(Record.of(task("adversarial-error", "ADV", 5, "lp-all", 0.1), result, 1.0)).told()
    assert story.values[0] == ("CROWN (DeepPoly)", -7.0, "bound")
    assert not any("LP-ALL's lower bound" in sentence for sentence in story.sentences)


def test_a_contradiction_is_said_aloud(tmp_path: Path) -> None:
    asked = task("adversarial-error", "ADV", 2, "fast-lin", 0.1)
    proof = Record.of(asked, error_result(2, "fast-lin"), 1.0)
    broken = Record.of({**asked, "method": "pgd"}, {**error_result(1, "lp-all"), "decided_by": "attack"}, 1.0)
    assert stories(proof, broken).endings() == {Ending.CONTRADICTION: 1}
    with Store(tmp_path / "s.db") as store:
        store.put_all([proof, broken])
        assert "1 question with both a proof and a counterexample" in render(read(store), "t")


def test_methods_with_several_settings_and_networks_of_one_name_stand_apart(tmp_path: Path) -> None:
    asked = task("adversarial-error", "ADV", 2, "lp-all", 0.1)
    result = error_result(2, "lp-all")
    other = {**asked, "network_hash": "another", "options": {"cascade": ["fast-lin"]}}
    with Store(tmp_path / "s.db") as store:
        store.put_all([Record.of(asked, result, 1.0), Record.of({**asked, "options": {"cascade": ["fast-lin"]}}, result, 1.0)])
        store.put(Record.of(other, result, 1.0))
        content = read(store)
    rows = content.errors.rows([])
    assert [(r.network, r.method, r.images) for r in rows] == [
        ("net_ADV", "lp-all", 1),
        ("net_ADV", "lp-all #2", 1),
        ("net_ADV #2", "lp-all #2", 1),
    ]
    assert "LP-ALL #2 (adversarial error): <code>{&#34;cascade&#34;: [&#34;fast-lin&#34;]" in render(content, "t")


def test_a_network_that_studies_give_different_modes_can_be_shown_in_all(tmp_path: Path) -> None:
    """What no box is ticked for would stay hidden."""
    asked, result = task("adversarial-error", "ADV", 2, "lp-all", 0.1), error_result(2, "lp-all")
    with Store(tmp_path / "s.db") as store:
        store.put_all([Record.of(asked, result, 1.0), Record.of({**asked, "mode": "", "radius": 0.2}, result, 1.0)])
        page = render(read(store), "t")
    for mode in ("adversarial", "other"):
        assert f'value="{mode}"' in page


def test_many_questions_are_told_of_by_a_few() -> None:
    found = [Record.of(task("adversarial-error", "ADV", i, "lp-all", 0.1), error_result(2, "lp-all"), 1.0) for i in range(100)]
    some, count = stories(*found).told()
    assert (len(some), count) == (25, 100)


def test_axes_and_boxes_stand_where_their_values_do() -> None:
    axis = Axis.linear([0.0, 47.0], "")
    assert (axis.low, axis.high) == (0.0, 50.0)
    assert axis.ticks[0] == (0.0, "0")
    assert axis.ticks[-1] == (100.0, "50")
    powers = Axis.powers([0.0, 0.02, 3.0], "")
    assert (powers.low, powers.high) == pytest.approx((0.01, 10.0))
    assert powers.at(0.1) == pytest.approx(100 / 3, abs=1e-3)
    assert [text for _, text in powers.ticks] == ["≤ 0.01", "0.1", "1", "10"]
    box = Box.of([1.0, 2.0, 3.0, 4.0, 5.0, 40.0], Axis.linear([0.0, 50.0], ""), "x")
    assert (box.low, box.high) == (2.0, 10.0)
    assert box.outliers == (80.0,)
    assert Box.of([2.0], Axis.linear([0.0, 10.0], ""), "x").median == 20.0


def test_stacked_shares_sum_to_the_whole() -> None:
    axis = Axis.linear([], "", -50.0, 150.0)
    found = stack([("a", "relaxation", 3.0, 0.0), ("b", "inner", 2.0, 0.5), ("c", "inner", -1.0, 1.0)], 4.0, axis)
    assert [(s.at, s.width) for s in found] == [(25.0, 37.5), (62.5, 25.0), (12.5, 12.5)]
    assert found[0].width + found[1].width - found[2].width == pytest.approx(50.0)


def test_names() -> None:
    assert family("mnist_cnn_small_NOR", "NOR") == family("mnist_cnn_small_ADV", "adversarial") == "mnist_cnn_small"
    assert family("digits_mlp.onnx", "") == "digits_mlp"
    assert family("NOR", "NOR") == "NOR"
    assert (mode_title("LPD"), mode_title(""), mode_title("mine")) == ("dual-bound", "other", "mine")
    assert (title("lp-greedy"), title("milp"), title("pgd #2")) == ("Wong-Kolter (LP-GREEDY)", "MILP", "attack (PGD) #2")
    assert [seconds(s) for s in (0.0123, 5.0, 600.0, 7200.0)] == ["12.3 ms", "5 s", "10 min", "2 h"]
