"""Bounds by cases: a row has leaves, each assumes some entries to be at least or at most 0, and together they leave nothing out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bourn_check.arithmetic import Floats, Index
from bourn_check.certificate import Certificate, items
from bourn_check.errors import NotAProof


@dataclass(frozen=True, eq=False)
class Cases:
    """The leaves of some rows: ``row`` (L,), of each the row that it is about, and ``sides`` (L, K): 1, -1 or 0 of K ``places``."""

    row: Index
    sides: NDArray[np.int8]
    places: list[tuple[str, int]]

    def narrowed(self, ends: Mapping[str, Floats], of: Index, some: Index) -> dict[str, Floats]:
        """The ends on some leaves, of which each is in the part ``of`` of those given."""
        found = {name: known[:, of] for name, known in ends.items()}
        for (name, entry), sides in zip(self.places, self.sides[some].T, strict=True):
            lower, upper = found[name][..., entry]
            lower[sides > 0], upper[sides < 0] = np.maximum(lower[sides > 0], 0.0), np.minimum(upper[sides < 0], 0.0)
        return found


def read_cases(own: Certificate, stated: dict[str, Any], reads: Mapping[str, int], count: int, where: str) -> Cases:
    """The leaves of ``count`` rows; raises :class:`NotAProof` where those of one leave something out."""
    row = own.indices(items({"cases": [stated]}, "cases", where)[0].get("of"), where, count)
    places, found = [], []
    for sides in items(stated, "sides", where):
        name = str(sides.get("tensor"))
        if name not in reads:
            own.fail(where, f"no nonlinear node computes {name[:80]!r}")
        leaf, entries = own.indices(sides.get("leaf"), where, len(row)), own.integers(sides.get("entries"), where)
        if len(leaf) != len(entries) or (len(entries) and not (entries.max() < reads[name] and entries.min() >= -reads[name])):
            own.fail(where, "a leaf assumes the side of no entry")
        at, column = np.unique(np.where(entries < 0, -1 - entries, entries), return_inverse=True)
        matrix = np.zeros((len(row), len(at)), dtype=np.int8)
        np.add.at(matrix, (leaf, column), 1)
        if matrix.max(initial=0) > 1:
            own.fail(where, "a leaf assumes two sides of one entry")
        matrix[leaf, column] = np.where(entries < 0, -1, 1)
        found.append(matrix)
        places += [(name, int(e)) for e in at]
    all_ = np.concatenate([np.zeros((len(row), 0), dtype=np.int8), *found], 1)
    order = np.argsort(row, kind="stable")
    for number, leaves in enumerate(np.split(all_[order], np.searchsorted(row[order], np.arange(1, count)))):
        if not _cover(leaves):
            raise NotAProof(f"{where}: the leaves of row {number} leave something out")
    return Cases(row, all_, places)


def _cover(leaves: NDArray[np.int8]) -> bool:
    """Whether leaves fill everything: one assumes nothing, or all assume sides of one entry, and those of each side fill that."""
    pending = [leaves]
    while pending:
        some = pending.pop()
        if len(some) and not some.any(1).all():
            continue
        common = np.flatnonzero((some != 0).all(0))
        if not len(some) or not len(common):
            return False
        side, rest = some[:, common[0]], np.delete(some, common[0], 1)
        pending += [rest[side < 0], rest[side > 0]]
    return True
