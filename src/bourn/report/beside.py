"""Figures given by the user, to stand beside a study's own: a paper's tables as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bourn.errors import UsageError
from bourn.report.names import ATTACKS, canonical, mode_title, plain, same_values

KINDS = {"adversarial-error": ("network", "epsilon"), "minimum-distortion": ("network", "training")}
"""By study the columns that name a row; all others but ``weights`` are figures."""


@dataclass(frozen=True)
class Given:
    """One row of a file: ``names`` that the network goes by, its radius or its training mode, and the figures by column."""

    study: str
    network: str
    mode: str
    radius: float | None
    figures: Mapping[str, float]
    names: frozenset[str] = field(repr=False)

    def fits(self, study: str, network: str, mode: str, radius: float | None) -> bool:
        """Whether the row is about this network at this radius."""
        if study != self.study or (self.radius is None) != (radius is None):
            return False
        if self.radius is not None and radius is not None and not math.isclose(self.radius, radius, rel_tol=1e-6):
            return False
        if {plain(network), plain(network + mode), plain(mode + network)} & self.names:
            return True
        return bool(self.mode) and plain(network) == plain(self.network) and mode_title(mode) == mode_title(self.mode)

    def figure(self, method: str, ending: str) -> float | None:
        """The figure of a method, or of one whose values are the same, in the column with this ending."""
        for column, value in self.figures.items():
            own = column.removesuffix(ending)
            if own != column and canonical(own.replace("_", "-")) in same_values(method):
                return value
        return None

    def methods(self, ending: str) -> list[str]:
        """The methods that have a column with this ending."""
        return [c.removesuffix(ending).replace("_", "-") for c in self.figures if c.endswith(ending)]


def read(paths: Iterable[Path]) -> list[Given]:
    """The rows of all files; raises :class:`UsageError` where one cannot be read or is no table of the kinds known."""
    return [row for path in paths for row in _rows(path)]


def _rows(path: Path) -> list[Given]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = [(reader.line_num, row) for reader in [csv.reader(stream, strict=True)] for row in reader if row]
    except OSError as error:
        raise UsageError(f"--beside {path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--beside {path}: is no CSV file of text: {error}") from None
    header = [name.strip() for name in lines[0][1]] if lines else []
    study = next((s for s, needed in KINDS.items() if set(needed) <= set(header)), None)
    if study is None or len(set(header)) != len(header):
        needed = " or ".join(", ".join(columns) for columns in KINDS.values())
        raise UsageError(f"--beside {path}: its first line must name columns, each once, and among them {needed}")
    return [_row(path, study, number, dict(zip(header, cells, strict=True))) for number, cells in _whole(path, header, lines[1:])]


def _whole(path: Path, header: list[str], lines: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    for number, cells in lines:
        if len(cells) != len(header):
            raise UsageError(f"--beside {path}, line {number}: has {len(cells)} cells where the first line has {len(header)}")
    return lines


def _row(path: Path, study: str, line: int, cells: dict[str, str]) -> Given:
    cells = {column: cell.strip() for column, cell in cells.items()}
    numbers = {}
    for column, cell in cells.items():
        if column in ("network", "training", "weights") or not cell:
            continue
        try:
            numbers[column] = float(cell)
        except ValueError:
            numbers[column] = math.nan
        if not math.isfinite(numbers[column]):
            raise UsageError(f"--beside {path}, line {line}: {cell!r} in column {column!r} is no number")
    mode, radius = cells.get("training", ""), numbers.pop("epsilon", None)
    if study == "adversarial-error" and radius is None:
        raise UsageError(f"--beside {path}, line {line}: no radius in column 'epsilon'")
    network = cells["network"]
    names = frozenset({plain(cells.get("weights", "")), plain(network + mode), plain(mode + network)} - {""})
    return Given(study, network, mode, radius, numbers, names)


def is_attack(method: str) -> bool:
    """Whether a store's method is an attack."""
    return canonical(method) in ATTACKS
