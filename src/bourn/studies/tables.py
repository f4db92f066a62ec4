"""Tables: a store's answers as the figures of a study, one row for every network and radius."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bourn.solvers.methods import MILP
from bourn.studies.competition import ANSWERS, COMPETITION, Answer
from bourn.studies.description import ATTACK, SPLITTING
from bourn.studies.store import Record, Store

Cell = str | int | float | None
Row = dict[str, Cell]


@dataclass(frozen=True)
class Table:
    """Figures by column, in the columns' order; None where there is none.  ``remarks``: what is to be known about them."""

    study: str
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for row in self.rows for name in row))

    def as_text(self) -> str:
        """For people: numbers to the right, with five digits."""
        lines = [list(self.columns), *([_shown(row.get(name)) for name in self.columns] for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        numeric = [all(isinstance(row.get(name), int | float | None) for row in self.rows) for name in self.columns]
        padded = [
            "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([self.study, *padded, *self.remarks])

    def as_csv(self) -> str:
        """A heading and a line for every row, all digits."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue().rstrip("\n")

    def as_data(self) -> dict[str, Any]:
        """As JSON."""
        return {"study": self.study, "rows": list(self.rows), "remarks": list(self.remarks)}


def tables(store: Store) -> list[Table]:
    """A table for every kind of study that the store has answers of."""
    found = []
    stated = [note for note in store.notes().values() if isinstance(note, dict)]
    for study, row_of in _ROWS.items():
        groups: dict[str, list[Record]] = {}
        for record in store.records(study):
            groups.setdefault(_group(record.task), []).append(record)
        if not groups:
            continue
        wanted = sum(note.get("tasks", 0) for note in stated if note.get("study") == study)
        there = sum(map(len, groups.values()))
        remarks = (f"incomplete: {there} of {wanted} answers",) if there < wanted else ()
        found.append(Table(study, tuple(row_of(group) for group in groups.values()), remarks))
    return found


def as_json(found: Sequence[Table]) -> str:
    """Tables as one JSON text."""
    return json.dumps([table.as_data() for table in found], indent=2, ensure_ascii=False)


def _group(task: Mapping[str, Any]) -> str:
    if "benchmark" in task:
        return str(task["benchmark"])
    return json.dumps([task[name] for name in ("network", "network_hash", "mode", "radius", "clip")])


def _heading(records: Sequence[Record]) -> Row:
    task = records[0].task
    row: Row = {"network": task["network"], "mode": task["mode"]} if task["mode"] else {"network": task["network"]}
    return row if task["radius"] is None else {**row, "radius": task["radius"]}


def _by_method(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Answers by method, and where one was asked with several options by these too."""
    found: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        own = found.setdefault(record.task["method"], {})
        own.setdefault(json.dumps(record.task["options"], sort_keys=True), []).append(record)
    return {name if len(own) == 1 else f"{name} {options}": some for name, own in found.items() for options, some in own.items()}


def _errors(records: Sequence[Record]) -> Row:
    """Percent of the images: wrong, attacked or wrong (a lower value), and not certified, method by method (upper values)."""
    row = _heading(records)
    by_method, exact, met = _by_method(records), (MILP, SPLITTING), ("wrong", "attacked")
    row["images"] = max(map(len, by_method.values()))
    row["error %"] = _percent(records, lambda r: _outcome(r) == "wrong")
    for name, own in by_method.items():
        first = next(iter(own[0].task["options"]["cascade"]), ATTACK)
        if first not in (ATTACK, *by_method):
            # What comes first in a cascade sees every image but the wrong ones, so its own figure can be told.
            row[f"{first} %"] = _percent(own, lambda r, first=first: r.result["decided_by"] != first)  # type: ignore[misc]
        if ATTACK in (*own[0].task["options"]["cascade"], own[0].task["method"]):
            row[f"{ATTACK} %"] = _percent(own, lambda r: _outcome(r) in met and r.result["decided_by"] not in exact)
        if own[0].task["method"] in exact:
            row[f"{name} lower %"] = _percent(own, lambda r: _outcome(r) in met)
        if own[0].task["method"] != ATTACK:
            row[f"{name} %"] = _percent(own, lambda r: _outcome(r) != "certified")
    outcomes: dict[int, set[str]] = {}
    for record in records:
        outcomes.setdefault(record.task["image"], set()).add(_outcome(record))
    row["beyond"] = sum("beyond" in own and "attacked" not in own for own in outcomes.values())
    row["undecided"] = sum(own == {"undecided"} for own in outcomes.values())
    return {**row, "seconds": round(sum(r.seconds for r in records), 2)}


def _distortions(records: Sequence[Record]) -> Row:
    """Mean radii, in thousandths, and their median gaps to the attack's, in percent, over the images that both have."""
    row = _heading(records)
    by_method = _by_method(records)
    row["images"] = max(map(len, by_method.values()))
    for name, own in by_method.items():
        radii = [r.result["radius"] for r in own if r.result["radius"] is not None]
        row[f"{name} 1e-3"] = 1e3 * statistics.fmean(radii) if radii else None
    attacked = {r.task["image"]: r.result["radius"] for r in records if r.task["method"] == ATTACK}
    for name, own in by_method.items():
        if attacked and own[0].task["method"] != ATTACK:
            pairs = [(r.result["radius"], attacked.get(r.task["image"])) for r in own]
            gaps = [100 * (1 - radius / least) for radius, least in pairs if least]
            row[f"{name} gap %"] = statistics.median(gaps) if gaps else None
    return {**row, "seconds": round(sum(r.seconds for r in records), 2)}


def _ladders(records: Sequence[Record]) -> Row:
    """The median over the images of the worst margin's bound, method by method, and of what the attack attained."""
    row = {**_heading(records), "images": len(records)}
    for name in dict.fromkeys(name for r in records for name in r.result["bounds"]):
        found = [r.result["bounds"][name] for r in records if name in r.result["bounds"]]
        middle = statistics.median(min(-math.inf if v is None else v for v in bounds) for bounds in found)
        row[name] = middle if math.isfinite(middle) else None
    met = [[v for v in r.result["attained"] if v is not None] for r in records]
    row["attained"] = statistics.median(min(values) for values in met if values) if any(met) else None
    return {**row, "seconds": round(sum(r.seconds for r in records), 2)}


def _competitions(records: Sequence[Record]) -> Row:
    return competition_row(records[0].task["benchmark"], [Answer(**r.result) for r in records])


def competition_row(benchmark: str, answers: Sequence[Answer]) -> Row:
    """How often each answer was given in a benchmark, and the seconds of whole processes."""
    counts = {result: sum(a.result == result for a in answers) for result in ANSWERS}
    seconds = [a.seconds for a in answers]
    solved, mean = counts["sat"] + counts["unsat"], round(statistics.fmean(seconds), 3)
    return {"benchmark": benchmark, "instances": len(answers), **counts, "solved": solved, "mean s": mean, "max s": max(seconds)}


_ROWS: dict[str, Callable[[Sequence[Record]], Row]] = {
    "adversarial-error": _errors,
    "minimum-distortion": _distortions,
    "ladder": _ladders,
    COMPETITION: _competitions,
}


def _outcome(record: Record) -> str:
    return str(record.result["outcome"])


def _percent(records: Sequence[Record], which: Callable[[Record], bool]) -> float:
    return round(100 * sum(map(which, records)) / len(records), 6)


def _shown(value: Cell) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
