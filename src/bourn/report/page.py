"""The page: a store's answers read once, put into tables, figures and stories, and written as one HTML file.

The file needs nothing else: its style, script and data stand in it, and its content security policy forbids all connections.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bourn._version import __version__
from bourn.errors import UsageError
from bourn.report import names
from bourn.report.beside import Given
from bourn.report.charts import Ladders, distortion_chart, error_chart, time_axis
from bourn.report.figures import Axis, Box, minus, short
from bourn.report.stories import MOST, Ending, Stories
from bourn.report.tables import MEANS, POINTS, Distortions, Errors, Figure, TimeRow, Times
from bourn.studies.store import Record, Store

if TYPE_CHECKING:
    from jinja2 import Environment

STUDIES = ("adversarial-error", "minimum-distortion", "ladder")
"""The kinds of study that the page knows."""

Log = Callable[[int, int], None]
"""Called with how many answers were read, and of how many."""


class Content:
    """Everything that the page says of a store's answers."""

    def __init__(self) -> None:
        self.errors, self.distortions, self.ladders = Errors(), Distortions(), Ladders()
        self.times, self.stories = Times(), Stories()
        self._by_study = dict(zip(STUDIES, (self.errors.add, self.distortions.add, self.ladders.add), strict=True))
        self.settings: dict[tuple[str, str], list[str]] = {}
        self._weights: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()
        self.networks: set[str] = set()
        self.modes: set[str] = set()
        self.seconds = 0.0

    def add(self, record: Record) -> None:
        """Take in one answer; of a kind of study that the page does not know only its time and number."""
        self.counts[record.task["study"]] += 1
        self.seconds += record.seconds
        if record.task["study"] not in STUDIES:
            return
        record = replace(record, task=self._named(record.task))
        task = record.task
        self.networks.add(task["network"])
        self.modes.add(task["mode"])
        self._by_study[task["study"]](record)
        self.times.add(record)
        self.stories.add(record)

    def _named(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """The task with names that tell apart what is different: networks of one name, a method with several settings."""
        weights = self._weights.setdefault(task["network"], [])
        own = task["network"] + _numbered(weights, task["network_hash"])
        if task["study"] == "ladder":
            return {**task, "network": own}
        known = self.settings.setdefault((task["study"], task["method"]), [])
        settings = json.dumps({"clip": task["clip"], **task["options"]}, sort_keys=True)
        return {**task, "network": own, "method": task["method"] + _numbered(known, settings)}

    def variants(self) -> list[tuple[str, str, str]]:
        """Study, method with its number, and settings, where a method has several."""
        return [
            (study, names.title(method + _numbered(known, settings)), settings)
            for (study, method), known in self.settings.items()
            if len(known) > 1
            for settings in known
        ]

    def fitting(self, given: Iterable[Given]) -> int:
        """How many rows of figures given are about a network here."""
        places = self.errors.places() | self.distortions.places()
        return sum(any(g.fits(*place) for place in places) for g in given)


def _numbered(known: list[str], one: str) -> str:
    """Nothing for the first of what bears one name, " #2" and so on for the others, which are taken in."""
    if one not in known:
        known.append(one)
    return f"{names.NUMBER}{known.index(one) + 1}" if known.index(one) else ""


def read(store: Store, log: Log | None = None) -> Content:
    """All answers of a store.

    Raises :class:`UsageError` where it has none, or where an answer is not as a study writes it.
    """
    content, total = Content(), len(store)
    for number, record in enumerate(store.records(), 1):
        try:
            content.add(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise UsageError(f"{store.path}: answer {number} is not as 'bourn study' writes it ({what})") from None
        if log is not None:
            log(number, total)
    if not content.counts:
        raise UsageError(f"{store.path}: holds no answers yet; 'bourn study' puts them there")
    return content


def render(content: Content, title: str, given: Iterable[Given] = ()) -> str:
    """The page as HTML, with the figures ``given`` beside the store's own."""
    beside = list(given)
    errors, distortions = content.errors.rows(beside), content.distortions.rows(beside)
    times = content.times.rows()
    told, questions = content.stories.told()
    endings = content.stories.endings()
    modes = sorted({names.mode_title(m) for m in content.modes}, key=names.mode_rank)
    methods = {r.method for r in errors} | {r.method for r in distortions} | {r.method for r in times}
    asked = {names.title(m): names.rank(m) for m in methods}
    axis = time_axis(times)
    environment = _environment()
    return environment.get_template("template.html").render(
        title=title,
        version=__version__,
        content=content,
        errors=errors,
        error_chart=error_chart(errors),
        distortions=distortions,
        distortion_chart=distortion_chart(distortions),
        boxes=content.ladders.boxes(),
        stacks=content.ladders.stacks(),
        times=[(row, time_box(row, axis)) for row in times],
        time_axis=axis,
        stories=[s.as_data() for s in told],
        questions=questions,
        endings=[(e.name.lower(), e.word, endings[e]) for e in Ending if endings[e]],
        contradictions=endings[Ending.CONTRADICTION],
        networks=sorted(content.networks, key=str.lower),
        modes=modes,
        variants=content.variants(),
        methods=sorted(asked, key=lambda t: asked[t]),
        beside=bool(beside),
        marks=sum(f.differs for r in errors for f in (r.test, r.lower, r.upper))
        + sum(f.differs for d in distortions for f in (d.mean, d.gap)),
        matched=sum(any(f.given is not None for f in (r.test, r.lower, r.upper)) for r in errors)
        + sum(any(f.given is not None for f in (d.mean, d.gap)) for d in distortions),
        points=POINTS,
        means=MEANS,
        most=MOST,
    )


def time_box(row: TimeRow, axis: Axis) -> Box:
    """The times of one row as a box plot, in seconds."""
    return Box.of([max(s, axis.low) for s in row.seconds], axis, f"{names.title(row.method)} {row.stage}".strip())


def write(page: str, path: Path) -> None:
    """Write the page; raises :class:`UsageError` where that fails."""
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"-o {path}: cannot be written: {error.strerror or error}") from None


def _environment() -> Environment:
    # Imported here: only the page needs it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("bourn.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    found.filters.update(
        method=names.title,
        mode=names.mode_title,
        tone=tone,
        short=short,
        two=two,
        difference=difference,
        seconds=seconds,
        sortable=sortable,
    )
    return found


def tone(mode: str) -> int:
    """The number of a training mode's colour."""
    return names.mode_rank(mode)[0] % 6


def two(value: float | None) -> str:
    """A figure with two decimals, a dash where there is none."""
    return "\N{EN DASH}" if value is None else minus(f"{value:.2f}")


def sortable(value: float | None) -> str:
    """A figure as what a table is sorted by; empty, and last, where there is none."""
    return "" if value is None else repr(float(value))


def difference(figure: Figure) -> str:
    """Own less given, with its sign."""
    return "" if figure.difference is None else minus(f"{round(figure.difference, 2) + 0.0:+.2f}")


def seconds(value: float) -> str:
    """A time in a unit that suits it."""
    for size, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if value >= size * (1 if unit == "s" else 1.5):
            return f"{value / size:.3g} {unit}"
    return f"{1000 * value:.3g} ms"
