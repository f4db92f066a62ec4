"""bourn report: the page of a sample store, what the command refuses, and in a browser what clicks do."""

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
from bourn.studies.store import Store
from report_samples import figures_given, records, sample_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sample store, figures to stand beside, and the page of both."""
    place = tmp_path_factory.mktemp("report")
    sample_store(place / "sample.db")
    beside = [argument for path in figures_given(place) for argument in ("--beside", str(path))]
    assert run(["report", str(place / "sample.db"), "-o", str(place / "report.html"), *beside, "--title", "<Sample>"]) == 0
    return place


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(page: str) -> None:
    assert page.count("<!DOCTYPE html>") == 1
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "url(" not in page
    assert len(page) < 400_000
    assert "<h1>&lt;Sample&gt;</h1>" in page


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
