"""bourn study: the same question about many networks, images and radii, kept in a store from which the same command goes on."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bourn.cli.main import plural
from bourn.errors import UsageError

if TYPE_CHECKING:
    from bourn.studies.description import Description
    from bourn.studies.engines import Engine
    from bourn.studies.running import Progress, Study
    from bourn.studies.store import Store

_EVERY = 10.0
"""Seconds between lines of progress where stderr is no terminal."""


@click.group(name="study", short_help="Ask one question about many networks, images and radii.")
def command() -> None:
    """Studies over many networks, images and radii, after Salman et al. 2019.

    A study is described by a TOML file or by flags (which win over the file).  Its answers go to a store, at once and each once:
    however a run ends, the same command goes on where it ended.

    \b
    bourn study adversarial-error studies/digits.toml --workers 2
    bourn study minimum-distortion -n net.onnx --images digits.npz -m fast-lin -m lp-all
    bourn study table digits.db --csv
    """


_OPTIONS = (
    click.argument("study", required=False, type=click.Path(path_type=Path, dir_okay=False)),
    click.option("--network", "-n", "networks", multiple=True, metavar="[NAME=]FILE", help="A network, instead of the file's."),
    click.option("--only", metavar="TEXT", help="Only networks whose name holds this."),
    click.option("--images", metavar="FILE", help="Images: .npz, .npy or IDX."),
    click.option("--labels", metavar="FILE", help="Their labels: a file, or 'predictions'."),
    click.option("--first", type=int, help="The first image's number."),
    click.option("--count", type=int, help="How many images."),
    click.option("--clip", type=(float, float), metavar="LOW HIGH", help="Range that every entry stays in."),
    click.option("--no-clip", is_flag=True, help="Let entries leave every range."),
    click.option("--method", "-m", "methods", multiple=True, help="A method, instead of the file's; 'pgd' is the attack."),
    click.option("--store", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Where answers are kept: a .db file."),
    click.option("--workers", type=int, default=1, show_default=True, help="Processes on this machine."),
    click.option("--dask", metavar="ADDRESS", help="A Dask scheduler, or 'local' for a cluster of --workers here."),
    click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda."),
    click.option("--csv", "form", flag_value="csv", help="Print the table as CSV."),
    click.option("--json", "form", flag_value="json", help="Print the table as JSON."),
)

_CERTIFICATES = click.option(
    "--certificates", is_flag=True, help="Also write a proof of every certified image, to STORE's .certificates."
)
_RADII = click.option("--radius", "radii", multiple=True, type=float, help="A radius, instead of the file's.")


def _study(name: str, *own: Callable[..., Any], help: str) -> None:
    """Add the command of one kind of study."""

    def asked(**values: Any) -> int:
        return _run(name, **values)

    asked.__doc__ = help
    for option in reversed((*_OPTIONS, *own)):
        asked = option(asked)
    command.command(name)(asked)


_study(
    "adversarial-error",
    _RADII,
    click.option("--cascade/--no-cascade", default=None, help="Let cheaper methods and the attack decide what they can first."),
    click.option("--bracket/--no-bracket", default=None, help="Show which images lie beyond every layer-wise method."),
    _CERTIFICATES,
    click.option("--limit", type=float, metavar="SECONDS", help="For milp, branch-and-bound: seconds an image.  [default: 60]"),
    help="For how many images does a method prove that the class stays on the ball of a given radius?",
)
_study(
    "minimum-distortion",
    click.option("--precision", type=float, help="Relative precision of the radii.  [default: 0.001]"),
    _CERTIFICATES,
    help="Up to which radius does a method prove that the class stays, and where does an attack succeed?",
)
_study(
    "ladder",
    _RADII,
    click.option("--losses/--no-losses", default=None, help="Say by layer where bounds are lost.  [default: losses]"),
    help="How far does every method get on every image?",
)


@command.command("merge")
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--store", "-o", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Where they are put together.")
def merge(stores: tuple[Path, ...], store: Path) -> None:
    """Put the answers of several STORES together, each once."""
    from bourn.studies.store import Store

    for path in stores:
        Store(path, create=False).close()  # all are looked at before anything is written
    with Store(store) as target:
        for path in stores:
            click.echo(f"{path}: {plural(target.merge(path), 'answer', 'answers')} taken over")
        click.echo(f"{store}: {plural(len(target), 'answer', 'answers')}")


@command.command("table")
@click.argument("store", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--csv", "form", flag_value="csv", help="Print CSV.")
@click.option("--json", "form", flag_value="json", help="Print JSON.")
def table(store: Path, form: str | None) -> None:
    """Print the figures of a STORE."""
    from bourn.studies.store import Store

    with Store(store, create=False) as source:
        _print_tables(source, form)


def _print_tables(store: Store, form: str | None) -> None:
    from bourn.studies.tables import as_json, tables

    found = tables(store)
    if form == "json":
        click.echo(as_json(found))
    elif form == "csv":
        click.echo("\n\n".join(one.as_csv() for one in found))
    else:
        click.echo("\n\n".join(one.as_text() for one in found) or f"{store.path}: holds no answer yet")


def _run(name: str, study: Path | None, store: Path | None, form: str | None, **flags: Any) -> int:
    place = {key: flags.pop(key) for key in ("workers", "dask", "device")}
    certificates = flags.pop("certificates", False)
    with _engine(place) as engine:  # first, for its processes start while files are read here
        description = _description(name, study, flags)
        from bourn.studies.running import Study, run
        from bourn.studies.store import Store

        path = store or Path(f"{study.stem if study else name}.db")
        prepared = Study.of(description)
        last: list[Progress] = []
        with Store(path) as answers:
            try:
                with shown(description.name) as show:

                    def report(progress: Progress) -> None:
                        last[:] = [progress]
                        show(progress)

                    run(prepared, answers, engine, place["device"], report)
                engine.close()
                if certificates:
                    _certify(prepared, answers, place["workers"])
            except KeyboardInterrupt:
                there = f"all {last[0].answered} answers of {last[0].total} are" if last else "what was answered is"
                click.echo(f"bourn: interrupted; {there} in {path}, and the same command goes on", err=True)
                return 130
            click.echo(f"{path}: {plural(last[0].answered, 'answer', 'answers')}, {last[0].before} of them from before", err=True)
            _print_tables(answers, form)
    return 0


def _certify(study: Study, answers: Store, workers: int) -> None:
    """Write the certificates that are missing, and say how many there are."""
    from bourn.studies.certificates import WRITTEN, folder_of, write_all

    told = list(write_all(study, answers, workers))
    written = sum(t.outcome == WRITTEN for t in told)
    click.echo(f"{folder_of(answers.path)}: {plural(written, 'certificate', 'certificates')} written", err=True)
    for t in (t for t in told if t.outcome != WRITTEN):
        click.echo(f"{t.files.certificate.name}: {t.reason}", err=True)


def _description(name: str, study: Path | None, flags: dict[str, Any]) -> Description:
    from bourn.formats.toml import read_toml
    from bourn.studies.description import Description

    data = {"study": name} if study is None else read_toml(study)
    if data.get("study") != name:
        raise UsageError(f"{study}: study = {data.get('study')!r}, but the command is 'bourn study {name}'")
    _override(data, flags)
    if study is None and not ("networks" in data and "images" in data):
        raise UsageError(f"give a study's TOML file, or --network and --images (see 'bourn study {name} --help')")
    source = "the flags" if study is None else str(study)
    return Description.from_data(data, source, None if study is None else study.absolute().parent)


def _override(data: dict[str, Any], flags: dict[str, Any]) -> None:
    """Put flags in the place of what the file says."""
    images = dict(data.get("images", {}))
    for key in ("images", "labels"):
        if flags[key]:
            own = flags[key] if flags[key] == "predictions" else str(Path(flags[key]).absolute())
            images["file" if key == "images" else key] = own
    if flags["first"] is not None or flags["count"] is not None:
        images.pop("indices", None)
        images.update({key: flags[key] for key in ("first", "count") if flags[key] is not None})
    if images:
        data["images"] = images
    if flags["networks"]:
        data["networks"] = [_network(text) for text in flags["networks"]]
    if flags.get("radii"):
        data["networks"] = [{**entry, "radii": list(flags["radii"])} for entry in data.get("networks", [])]
    if flags["only"]:
        data["networks"] = [
            entry for entry in data.get("networks", []) if flags["only"] in str(entry.get("name", entry.get("file")))
        ]
        if not data["networks"]:
            raise UsageError(f"--only {flags['only']}: no network has that in its name")
    if flags["clip"] or flags["no_clip"]:
        data["clip"] = False if flags["no_clip"] else list(flags["clip"])
    if flags["methods"]:
        data["methods"] = list(flags["methods"])
    data.update({key: flags[key] for key in ("cascade", "bracket", "limit", "precision", "losses") if flags.get(key) is not None})


def _network(text: str) -> dict[str, Any]:
    name, equals, file = text.partition("=")
    return {"name": name, "file": str(Path(file).absolute())} if equals else {"file": str(Path(text).absolute())}


def _engine(place: dict[str, Any]) -> Engine:
    from bourn.studies.engines import Dask, InProcess, Processes

    if place["dask"]:
        return Dask(place["dask"], place["workers"])
    return InProcess() if place["workers"] == 1 else Processes(place["workers"])


@contextmanager
def shown(title: str) -> Iterator[Callable[[Progress], None]]:
    """Shows progress on stderr: a bar on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=60) as bar:
        number = bar.add_task(title, total=None)
        yield lambda p: bar.update(number, total=p.total, completed=p.answered)


class _Lines:
    """Progress as lines, with the time left at the speed of the last minute."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.said = -1e9
        self.points: deque[tuple[float, int]] = deque()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        self.points.append((now, progress.answered))
        while len(self.points) > 2 and self.points[1][0] < now - 60:
            self.points.popleft()
        if now - self.said < _EVERY and progress.answered < progress.total:
            return
        self.said = now
        (then, before), left = self.points[0], progress.total - progress.answered
        estimate = ""
        if left and progress.answered > before:
            seconds = left * (now - then) / (progress.answered - before)
            estimate = f", some {seconds / 60:.0f} min left" if seconds > 90 else f", some {seconds:.0f} s left"
        click.echo(f"{self.title}: {progress.answered} of {progress.total} answers{estimate}", err=True)
