"""bourn report: a study's store as one page."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from bourn.cli.main import plural
from bourn.errors import UsageError


@click.command(name="report", short_help="Write a study's answers as one page: tables, figures, single questions.")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="The page to write."
)
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Figures to stand beside, a paper's say; repeatable.",
)
@click.option("--title", help="The page's title; by default the store's name.")
def command(store: Path, output: Path, beside: tuple[Path, ...], title: str | None) -> None:
    """Write what 'bourn study' put into STORE as one HTML page that needs nothing else, not even the network.

    The tables of adversarial error and minimum distortion, the ladder's gaps by method and training mode, where bounds are lost
    by layer, times, and for single questions whether any layer-wise method could have proved them.

    A file of figures to stand beside has the columns network and epsilon (optional weights, test_error_pct, METHOD_lower_pct,
    METHOD_upper_pct), or network and training (METHOD_mean_1e-3, METHOD_median_gap_pct).

    \b
    bourn report study.db -o report.html
    bourn report study.db --beside adversarial_error.csv --beside minimum_distortion.csv
    """
    # What can be wrong is said before the store is read, which may take a while.
    if not output.parent.is_dir():
        raise UsageError(f"-o {output}: there is no folder {str(output.parent)!r}")
    if output.is_dir():
        raise UsageError(f"-o {output}: is a folder; give the page's name")
    if output.exists() and store.exists() and output.samefile(store):
        raise UsageError(f"-o {output}: is the store itself; give another name")
    from bourn.report.beside import read as read_beside
    from bourn.report.page import read, render, write
    from bourn.studies.store import Store

    given = read_beside(beside)
    with Store(store, create=False) as opened:
        content = read(opened, _Progress())
    page = render(content, title or store.stem, given)
    write(page, output)
    answers = plural(content.counts.total(), "answer", "answers")
    click.echo(f"{output}: {answers}, {len(page.encode()) / 1e6:.1f} MB", err=True)
    if given and not content.fitting(given):
        rows = plural(len(given), "row", "rows")
        click.echo(f"--beside: none of its {rows} is about a network and radius of the store; names must agree", err=True)


class _Progress:
    """How far reading is, on a terminal, a few times a second."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said < 0.5 or not sys.stderr.isatty():
            return
        self._said = now
        left = (now - self._began) * (total - done) / done
        click.echo(f"\r{done:,} of {total:,} answers read, {left:.0f} s left ", err=True, nl=done >= total)
