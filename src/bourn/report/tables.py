"""The report's tables: what a study's answers come to for every network, radius and method, beside figures given.

A count is a count of images; percentages are of the images that a method was asked about.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from bourn.report.beside import Given, is_attack
from bourn.report.names import NUMBER, family, mode_rank, rank
from bourn.studies.store import Record

POINTS, MEANS = 0.05, 0.02
"""From which difference on a figure is marked: percentage points, and means times 10^-3."""

Place = tuple[str, str, str, float | None]
"""A study, a network, its training mode, and a radius where there is one."""


@dataclass(frozen=True)
class Figure:
    """One figure, and what was given for it; either may be missing.  ``mark``: from which difference on they differ."""

    own: float | None
    given: float | None = None
    mark: float = POINTS

    @property
    def difference(self) -> float | None:
        """Own less given."""
        return None if self.own is None or self.given is None else self.own - self.given

    @property
    def differs(self) -> bool:
        """Whether the difference is above what is marked, figures taken to the two decimals that are shown."""
        return self.difference is not None and abs(round(self.difference, 2)) > self.mark + 1e-9


@dataclass(frozen=True)
class ErrorRow:
    """Adversarial error of a network at a radius, as one method leaves it, in percent of ``images``.

    ``lower``: images known to be wrong or attacked, by this method's answers or another's on as many images.  ``upper``: all that
    are not certified, so that both what was shown to lie ``beyond`` the barrier and what is ``undecided`` counts.
    ``within``: the method in whose cascade this one came first, and so saw every image; empty where it was asked itself.
    """

    network: str
    mode: str
    radius: float
    method: str
    images: int
    test: Figure
    lower: Figure
    upper: Figure
    beyond: int
    undecided: int
    within: str = ""


@dataclass(frozen=True)
class DistortionRow:
    """Minimum distortion as one method bounds it: the mean radius, times 10^-3, and the median gap to the attack in percent.

    Means are over the images for which the method found a radius; ``without`` counts the others, of which an attack may have some.
    """

    network: str
    mode: str
    method: str
    images: int
    without: int
    mean: Figure
    gap: Figure


@dataclass(frozen=True)
class TimeRow:
    """Processor seconds of one method, or one stage of it, for a question."""

    study: str
    network: str
    mode: str
    method: str
    stage: str
    seconds: list[float] = field(repr=False)

    @property
    def total(self) -> float:
        return sum(self.seconds)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def order(row: ErrorRow | DistortionRow | TimeRow) -> tuple[object, ...]:
    """Rows by network, then radius and method; a network's training modes beside each other."""
    return (
        family(row.network, row.mode).lower(),
        mode_rank(row.mode),
        row.network,
        getattr(row, "radius", 0.0),
        getattr(row, "study", ""),
        rank(row.method),
    )


class Errors:
    """Counts of outcomes, by network, mode, radius and method."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, float, str], Counter[str]] = defaultdict(Counter)
        self._first: dict[tuple[str, str, float, str], Counter[str]] = defaultdict(Counter)
        self._attacked: set[tuple[str, str, float, str]] = set()
        self._within: dict[tuple[str, str, float, str], str] = {}

    def add(self, record: Record) -> None:
        """Count one answer."""
        task = record.task
        key = (task["network"], task["mode"], float(task["radius"]), task["method"])
        outcome = record.result["outcome"]
        self._counts[key][outcome] += 1
        if is_attack(task["method"]) or any(map(is_attack, task["options"].get("cascade") or ())):
            self._attacked.add(key)
        first = next(iter(task["options"].get("cascade") or ()), None)
        if first is None or is_attack(first) or NUMBER in task["method"]:
            return
        # What comes first in a cascade sees every image, so its own figure can be told from the whole's.
        own = outcome if outcome == "wrong" or record.result["decided_by"] == first else "undecided"
        self._first[*key[:3], first][own] += 1
        self._within[*key[:3], first] = task["method"]

    def places(self) -> set[Place]:
        """The networks and radii asked about."""
        return {("adversarial-error", network, mode, radius) for network, mode, radius, _ in self._counts}

    def rows(self, given: Iterable[Given]) -> list[ErrorRow]:
        """All rows; figures given for methods that the study does not have follow as rows of their own."""
        given = list(given)
        found: list[ErrorRow] = []
        for (network, mode, radius, method), count in {**self._first, **self._counts}.items():
            beside = next((g for g in given if g.fits("adversarial-error", network, mode, radius)), None)
            key = (network, mode, radius, method)
            row = _error_row(key, count, key in self._attacked, beside)
            found.append(row if key in self._counts else replace(row, within=self._within[key]))
        found = [replace(r, lower=_best_lower(r, found)) for r in found]
        for network, mode, radius in sorted({(r.network, r.mode, r.radius) for r in found}):
            known = [r for r in found if (r.network, r.mode, r.radius) == (network, mode, radius)]
            beside = next((g for g in given if g.fits("adversarial-error", network, mode, radius)), None)
            found += [] if beside is None else _only_given(beside, known)
        return sorted(found, key=order)


def _best_lower(row: ErrorRow, rows: list[ErrorRow]) -> Figure:
    """The greatest lower bound of the same network and radius, on as many images."""
    same = (row.network, row.mode, row.radius, row.images)
    known = (r.lower for r in rows if (r.network, r.mode, r.radius, r.images) == same)
    return max(known, key=lambda f: (f.own or 0.0, f.given is not None))


def _error_row(key: tuple[str, str, float, str], count: Counter[str], attacked: bool, beside: Given | None) -> ErrorRow:
    """``attacked``: whether an attack was run; without one the lower bound is the test error, unlike an attack's figure."""
    method, images = key[3], count.total()

    def percent(*outcomes: str) -> float:
        return 100 * sum(count[o] for o in outcomes) / images

    def of(ending: str, name: str = method) -> float | None:
        return None if beside is None else beside.figure(name, ending)

    lower = Figure(percent("wrong", "attacked"), of("_lower_pct", "pgd") if attacked else None)
    test = Figure(percent("wrong"), None if beside is None else beside.figures.get("test_error_pct"))
    upper = Figure(None if is_attack(method) else 100 - percent("certified"), of("_upper_pct"))
    undecided = 0 if is_attack(method) else count["undecided"]
    return ErrorRow(*key, images, test, lower, upper, count["beyond"], undecided)


def _only_given(beside: Given, known: list[ErrorRow]) -> Iterator[ErrorRow]:
    """Rows for methods of which only figures given are known, the attack's aside."""
    first = known[0]
    missing = {m for end in ("_upper_pct", "_lower_pct") for m in beside.methods(end) if not is_attack(m)}
    for m in sorted(missing):
        if any(beside.figure(r.method, "_upper_pct") == beside.figure(m, "_upper_pct") for r in known):
            continue
        lower, upper = (Figure(None, beside.figure(m, ending)) for ending in ("_lower_pct", "_upper_pct"))
        yield ErrorRow(first.network, first.mode, first.radius, m, 0, Figure(None), lower, upper, 0, 0)


class Distortions:
    """Radii by network, mode, method and image."""

    def __init__(self) -> None:
        self.radii: dict[tuple[str, str], dict[str, dict[str, float | None]]] = defaultdict(lambda: defaultdict(dict))

    def add(self, record: Record) -> None:
        """Keep one answer's radius."""
        task, radius = record.task, record.result["radius"]
        kept = None if radius is None else float(radius)
        self.radii[task["network"], task["mode"]][task["method"]][str(task["image"])] = kept

    def places(self) -> set[Place]:
        """The networks asked about."""
        return {("minimum-distortion", network, mode, None) for network, mode in self.radii}

    def rows(self, given: Iterable[Given]) -> list[DistortionRow]:
        """All rows."""
        given = list(given)
        found = []
        for (network, mode), methods in self.radii.items():
            beside = next((g for g in given if g.fits("minimum-distortion", network, mode, None)), None)
            attack = next((radii for m, radii in methods.items() if is_attack(m)), {})
            for method, radii in methods.items():
                known = [r for r in radii.values() if r is not None]
                mean = 1000 * statistics.fmean(known) if known else None
                gaps = gaps_to_attack(radii, attack)
                gap = None if is_attack(method) or not gaps else statistics.median(gaps)
                ours = (_of(beside, method, "_mean_1e-3"), _of(beside, method, "_median_gap_pct"))
                counts = len(radii), len(radii) - len(known)
                found.append(DistortionRow(network, mode, method, *counts, Figure(mean, ours[0], MEANS), Figure(gap, ours[1])))
        return sorted(found, key=order)


def _of(beside: Given | None, method: str, ending: str) -> float | None:
    return None if beside is None else beside.figure(method, ending)


def gaps_to_attack(radii: dict[str, float | None], attack: dict[str, float | None]) -> list[float]:
    """By how many percent of the attack's smallest radius a method's largest falls short of it, for images with both."""
    both = [(r, attack[i]) for i, r in radii.items() if r is not None and attack.get(i)]
    return [100 * (a - r) / a for r, a in both if a]


class Times:
    """Processor seconds by study, network, method and stage."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str, str, str, str], list[float]] = defaultdict(list)

    def add(self, record: Record) -> None:
        """Keep one answer's times: of a ladder those of its methods, else its own and its stages'."""
        task = record.task
        where = task["study"], task["network"], task["mode"]
        if task["study"] == "ladder":
            for method, seconds in record.result.get("seconds", {}).items():
                self._seconds[*where, method, ""].append(float(seconds))
            return
        self._seconds[*where, task["method"], ""].append(record.seconds)
        for stage in record.result.get("stages", ()):
            self._seconds[*where, task["method"], stage["name"]].append(float(stage["seconds"]))

    def rows(self) -> list[TimeRow]:
        """All rows, every method followed by its stages where there are several."""
        rows = [TimeRow(*key, seconds) for key, seconds in self._seconds.items()]
        stages = Counter((r.study, r.network, r.mode, r.method) for r in rows if r.stage)
        kept = [r for r in rows if not r.stage or stages[r.study, r.network, r.mode, r.method] > 1]
        return sorted(kept, key=lambda r: (r.study, *order(r), bool(r.stage)))
