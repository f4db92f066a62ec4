"""bourn compete: a whole benchmark of VNN-COMP, every instance in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bourn.cli.main import plural
from bourn.errors import UsageError

if TYPE_CHECKING:
    from bourn.studies.competition import Answer, Instance, Progress


@click.command(name="compete", short_help="Run a whole benchmark of VNN-COMP.")
@click.argument("instances", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--store", "-o", type=click.Path(path_type=Path, dir_okay=False), default="compete.db", show_default=True)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="How many instances run at a time.")
@click.option("--timeout", type=float, metavar="SECONDS", help="For every instance, instead of the file's.")
@click.option("--only", metavar="TEXT", help="Only instances whose network or query has this in its name.")
@click.option("--expected", type=click.Path(path_type=Path, dir_okay=False), help="Known answers: benchmark,onnx,vnnlib,result.")
@click.option("--results", type=click.Path(path_type=Path, dir_okay=False), help="Also write VNN-COMP's results.csv.")
@click.option("-q", "--quiet", is_flag=True, help="Print the summary only.")
def command(
    instances: tuple[Path, ...],
    store: Path,
    workers: int,
    timeout: float | None,
    only: str | None,
    expected: Path | None,
    results: Path | None,
    quiet: bool,
) -> int:
    """Answer all instances of INSTANCES, files with lines network,query,seconds, or folders with an instances.csv.

    Every instance is a process of bourn verify, start-up counted, killed at its time limit.  Answers go to the store at once:
    however a run ends, the same command goes on.  An answer that contradicts a known one is printed, and the exit status is 1.

    \b
    bourn compete acasxu/instances.csv --workers 2
    bourn compete vnncomp2022/*/instances.csv --expected vnncomp2022/expected_results.csv --results results.csv
    """
    from bourn.studies.competition import compete, contradictions, read_expected, read_instances, vnncomp_results
    from bourn.studies.store import Store

    if timeout is not None and not 0 < timeout < float("inf"):
        raise UsageError(f"the timeout is {timeout:g} s; it must be above 0")
    for path in (p for p in (results,) if p is not None and not p.parent.is_dir()):
        raise UsageError(f"{path}: there is no folder {str(path.parent)!r}")
    known = {} if expected is None else read_expected(expected)
    asked = [i for i in read_instances(instances, timeout) if not only or only in i.name]
    if not asked:
        raise UsageError(f"--only {only}: no instance has that in its name")
    with Store(store) as answers:
        try:
            found = compete(asked, answers, workers, _show)
        except KeyboardInterrupt:
            click.echo(f"bourn: interrupted; what was answered is in {store}, and the same command goes on", err=True)
            return 130
    if results is not None:
        _write(results, vnncomp_results(found))
    if not quiet:
        click.echo("\n".join(_lines(found)) + "\n")
    click.echo(_summary(found))
    wrong = contradictions(found, known)
    if expected is not None:
        _compare(found, known, wrong)
    return 1 if wrong else 0


def _show(instance: Instance, answer: Answer, progress: Progress) -> None:
    where = f"{progress.answered}/{progress.total}, about {progress.left:.0f} s left"
    click.echo(f"[{where}] {answer.result} {answer.seconds:.1f} s {instance.name}", err=True)


def _lines(found: Sequence[tuple[Instance, Answer]]) -> list[str]:
    """One instance a line: answer, seconds, name, reason."""
    width = max(len(instance.name) for instance, _ in found)
    return [f"{a.result:8}{a.seconds:9.2f} s  {instance.name:{width}}  {a.reason}".rstrip() for instance, a in found]


def _summary(found: Sequence[tuple[Instance, Answer]]) -> str:
    """How many of each answer the benchmarks have."""
    from bourn.studies.competition import COMPETITION
    from bourn.studies.tables import Table, competition_row

    groups: dict[str, list[Answer]] = {}
    for instance, answer in found:
        groups.setdefault(instance.benchmark, []).append(answer)
    if len(groups) > 1:
        groups["all"] = [answer for _, answer in found]
    return Table(COMPETITION, tuple(competition_row(name, group) for name, group in groups.items())).as_text()


def _compare(
    found: Sequence[tuple[Instance, Answer]], known: dict[tuple[str, str, str], str], wrong: Sequence[tuple[Instance, str]]
) -> None:
    compared = sum(a.result in ("sat", "unsat") and (i.benchmark, i.onnx, i.vnnlib) in known for i, a in found)
    said = {instance: answer.result for instance, answer in found}
    for instance, truth in wrong:
        click.echo(f"WRONG: {instance.name}: {said[instance]}, but {truth} is known", err=True)
    count = plural(len(wrong), "CONTRADICTION", "CONTRADICTIONS") if wrong else "no contradiction"
    click.echo(f"{plural(compared, 'answer', 'answers')} compared with known ones: {count}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
