"""bourn report: what the page says of a store, what it refuses, and in a browser what clicks do."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bourn.cli.main import run
from bourn.report.beside import read as read_beside
from bourn.report.figures import Axis, Box, stack
from bourn.report.names import family, mode_title, title
from bourn.report.page import read, render, seconds
from bourn.report.stories import Ending, Stories
from bourn.report.tables import Distortions, ErrorRow, Errors, Figure
from bourn.studies.store import Record, Store
from report_samples import error_result, records, sample_store, task

ERRORS = """network,weights,epsilon,test_error_pct,pgd_lower_pct,milp_lower_pct,milp_upper_pct,lp_all_upper_pct,lp_greedy_upper_pct
Net,net_NOR,0.1,10.0,30.04,31,52,60.0,79.5
Net,net_NOR,0.2,1,2,3,4,5,6
"""
DISTORTIONS = """network,training,lp_greedy_mean_1e-3,lp_all_mean_1e-3,pgd_mean_1e-3,lp_greedy_median_gap_pct,lp_all_median_gap_pct
net,ADV,52.25,60,104.5,50,40.04
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sample store, figures to stand beside, and the page of both."""
    place = tmp_path_factory.mktemp("report")
    sample_store(place / "sample.db")
    (place / "errors.csv").write_text(ERRORS, encoding="utf-8")
    (place / "distortions.csv").write_text(DISTORTIONS, encoding="utf-8")
    beside = ["--beside", str(place / "errors.csv"), "--beside", str(place / "distortions.csv")]
    assert run(["report", str(place / "sample.db"), "-o", str(place / "report.html"), *beside, "--title", "<Sample>"]) == 0
    return place


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def error_rows(given: Path | None = None) -> dict[tuple[str, str], ErrorRow]:
    errors = Errors()
    for record in records():
        if record.task["study"] == "adversarial-error":
            errors.add(record)
    return {(r.network, r.method): r for r in errors.rows([] if given is None else read_beside([given]))}


def test_the_page_needs_nothing_else(page: str) -> None:
    assert page.count("<!DOCTYPE html>") == 1
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "url(" not in page
    assert len(page) < 400_000
    assert "<h1>&lt;Sample&gt;</h1>" in page


def test_errors_count_what_is_undecided() -> None:
    rows = error_rows()
    whole, alone = rows["net_ADV", "lp-all"], rows["net_ADV", "fast-lin"]
    assert (whole.images, whole.test.own, whole.lower.own, whole.upper.own) == (10, 10, 30, 60)
    assert (whole.beyond, whole.undecided) == (2, 1)
    # Fast-Lin's own answers hold no attack, but the images that are known to be attacked stay so.
    assert (alone.lower.own, alone.upper.own, alone.undecided) == (30, 80, 7)


def test_figures_given_stand_beside_and_differences_are_marked(folder: Path) -> None:
    rows = error_rows(folder / "errors.csv")
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
    found = {(r.network, r.method): r for r in distortions.rows(read_beside([folder / "distortions.csv"]))}
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


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command which fails prints."""
    assert run(["report", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def test_a_store_that_is_none_is_said_to_be(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["-o", str(tmp_path / "out.html")]
    assert "there is no such store" in refused([str(tmp_path / "missing.db"), *out], capsys)
    (tmp_path / "text.db").write_text("no database, but a text that is long enough to be taken for a header of SQLite's, " * 9)
    assert "is no store of a study" in refused([str(tmp_path / "text.db"), *out], capsys)
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    assert "no store of a study" in refused([str(tmp_path / "other.db"), *out], capsys)
    Store(tmp_path / "empty.db").close()
    assert "holds no answers yet" in refused([str(tmp_path / "empty.db"), *out], capsys)
    with Store(tmp_path / "odd.db") as store:
        store.put(replace(next(records()), result={"outcomes": 3}))
    assert "answer 1 is not as 'bourn study' writes it" in refused([str(tmp_path / "odd.db"), *out], capsys)
    store_file = str(folder / "sample.db")
    assert "there is no folder" in refused([store_file, "-o", str(tmp_path / "no" / "out.html")], capsys)
    assert "is a folder" in refused([store_file, "-o", str(tmp_path)], capsys)
    assert "is the store itself" in refused([store_file, "-o", store_file], capsys)
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file"),
        ("", "its first line must name columns"),
        ("a,b\n1,2\n", "its first line must name columns"),
        ("network,epsilon,network\nx,1,y\n", "each once"),
        ("network,epsilon,lp_all_upper_pct\nx,0.1\n", "line 2: has 2 cells where the first line has 3"),
        ("network,epsilon,lp_all_upper_pct\nx,0.1,many\n", "line 2: 'many' in column 'lp_all_upper_pct' is no number"),
        ("network,epsilon,lp_all_upper_pct\nx,,1\n", "line 2: no radius in column 'epsilon'"),
        ("network,training,lp_all_mean_1e-3\nx,ADV,nan\n", "is no number"),
        ('network,epsilon\n"x,0.1\n', "is no CSV file of text"),
        (b"\xff\xfe\x00n", "is no CSV file of text"),
    ],
)
def test_a_wrong_csv_is_said_to_be(
    text: str | bytes | None, said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "given.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refused([str(folder / "sample.db"), "-o", str(tmp_path / "out.html"), "--beside", str(path)], capsys)
    assert said in line
    assert str(path) in line


def test_figures_that_fit_nothing_are_said_to(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "given.csv"
    path.write_text("network,epsilon,lp_all_upper_pct\nanother,0.1,3\n", encoding="utf-8")
    arguments = ["report", str(folder / "sample.db"), "-o", str(tmp_path / "out.html"), "--beside", str(path)]
    assert run(arguments) == 0
    assert "none of its 1 row is about a network" in capsys.readouterr().err


# In a browser.


@pytest.fixture(scope="module")
def browser(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window, on the page."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium with chromedriver is installed here")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = binary
    for argument in (
        *("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "disable-quic", f"user-data-dir={tmp_path_factory.mktemp('profile')}"),
        "host-resolver-rules=MAP * ~NOTFOUND",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found: Any = Chrome(options=options, service=ChromeService(driver))
    try:
        found.set_window_size(1200, 900)
        found.get((folder / "report.html").as_uri())
        yield found
        # Neither a script's error nor a connection that the page's policy refused.
        assert found.get_log("browser") == []
    finally:
        found.quit()


def shown(browser: Any, selector: str) -> list[str]:
    """Texts of all that is to be seen of what a selector finds."""
    script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map(e => e.textContent.trim())"
    return list(browser.execute_script(script, selector))


def click(browser: Any, selector: str) -> None:
    element = browser.find_element("css selector", selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def choose(browser: Any, selector: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("css selector", selector)).select_by_visible_text(text)


def test_a_click_sorts_a_table_and_another_turns_it_around(browser: Any) -> None:
    column = "#distortions tbody td:nth-child(5)"
    click(browser, "#distortions thead th:nth-child(5) button")
    up = [float(text) for text in shown(browser, column)]
    assert up == sorted(up)
    assert len(up) == 9
    click(browser, "#distortions thead th:nth-child(5) button")
    assert [float(text) for text in shown(browser, column)] == up[::-1]
    # What has no figure stays last, whichever way.
    for _ in range(2):
        click(browser, "#distortions thead th:nth-child(8) button")
        assert shown(browser, "#distortions tbody td:nth-child(8)")[-3:] == ["\N{EN DASH}"] * 3


def test_a_mode_and_a_network_can_be_left_out(browser: Any) -> None:
    lanes, rows = "#ladder .lane[data-mode]", "#errors tbody tr"
    before = len(shown(browser, lanes)), len(shown(browser, rows))
    assert before == (3 * 7, 7)
    click(browser, "#filters input[value=normal]")
    assert (len(shown(browser, lanes)), len(shown(browser, rows))) == (2 * 7, 4)
    assert len(shown(browser, "#ladder figure:not([hidden]) .lane.starts .name")) == 7
    assert not any("net_NOR" in text for text in shown(browser, "#question option"))
    choose(browser, "#filters select[name=network]", "net_LPD")
    assert set(shown(browser, "#errors tbody th")) == {"net_LPD"}
    choose(browser, "#filters select[name=method]", "LP-ALL")
    assert len(shown(browser, rows)) == 1
    choose(browser, "#filters select[name=method]", "all")
    choose(browser, "#filters select[name=network]", "all")
    click(browser, "#filters input[value=normal]")
    assert (len(shown(browser, lanes)), len(shown(browser, rows))) == before


def test_the_ladder_turns_to_the_attack(browser: Any) -> None:
    titles = "#ladder .axis-title"
    assert shown(browser, titles) == ["gap to the barrier (LP-ALL), in units of the margin"]
    click(browser, "#target input[value=attack]")
    assert shown(browser, titles) == ["gap to the attack's value, in units of the margin"]
    assert len(shown(browser, "#ladder .lane[data-mode]")) == 3 * 8
    click(browser, "#target input[value=barrier]")


def test_a_question_tells_its_story(browser: Any) -> None:
    choose(browser, "#ending", "beyond the barrier")
    assert shown(browser, "#told h3") == ["No: no layer-wise method can."]
    first = shown(browser, "#told .asked")
    click(browser, "#next")
    assert shown(browser, "#told .asked") != first
    choose(browser, "#ending", "proved")
    choose(browser, "#question", "net_NOR: image 2 keeps class 2 within 0.05")
    assert shown(browser, "#told h3") == ["Yes. It was proved."]
    assert "Proved by" in shown(browser, "#told p")[1]
    assert shown(browser, "#told .name")[-2:] == ["LP-ALL", "attack"]
    choose(browser, "#ending", "any")


def test_marks_say_what_they_are_and_nothing_is_fetched(browser: Any) -> None:
    assert shown(browser, "#tip") == []
    click(browser, "#losses rect.inner")
    assert re.fullmatch(r"second: bound loss: [\d.]+ \([\d.]+ %\)", shown(browser, "#tip")[0])
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_is_cut_off_or_lies_on_something_else(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    script = """
      const boxes = [...document.querySelectorAll('.lane .name, .lane .note, .lane > svg, .ticks span, h2, p, .axis-title')]
        .filter(e => e.checkVisibility() && e.textContent.trim() && !e.closest('.scroll') && !e.closest('#tip'))
        .map(e => [e.textContent.trim().slice(0, 40), e.getBoundingClientRect()]);
      const found = [];
      for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
        const [a, b] = [boxes[i][1], boxes[j][1]];
        const x = Math.min(a.right, b.right) - Math.max(a.left, b.left), y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (x > 2 && y > 3) found.push([boxes[i][0], boxes[j][0]]);
      }
      return found;"""
    assert browser.execute_script(script) == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_stories_data_is_what_python_told(page: str) -> None:
    data = re.search(r'<script type="application/json" id="stories">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    found = json.loads(data.group(1))
    assert len(found) == 33
    assert found[0]["ending"] == "beyond"
