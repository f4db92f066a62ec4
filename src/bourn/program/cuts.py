"""Hulls that are no polyhedra with few vertices, in an LP: their sides' lines, added where the LP's point leaves them.

An entry has one column for each of its inputs and one for its value; the lines are rows on these.  Every line holds (up to
rounding, from which the statement of bounds is free), so that an LP with some of them is a relaxation of the program.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from bourn.interval import Interval
from bourn.relaxations.base import Nonlinearity, Side

if TYPE_CHECKING:  # scipy has no types
    Matrix = Any
else:
    Matrix = sparse.csr_array

_FIRST = (0.0, 0.2, 0.5, 0.8, 1.0)
"""Shares of every interval at whose points lines are there from the start."""

_TOLERANCE = 1e-8
"""How far a point may be beyond a side, relative to 1 and its value."""


@dataclass(frozen=True, eq=False)
class Cuts:
    """Rows matrix @ columns <= limit on an entry's columns, K for the inputs and one for the value each; ``owners`` says whose."""

    matrix: Matrix
    limit: np.ndarray
    owners: np.ndarray


@dataclass(frozen=True, eq=False)
class CutHull:
    """The sides of n entries' hulls, from given base points of their columns, and the lines in use so far."""

    sides: tuple[Side, Side]
    inputs: np.ndarray
    value: np.ndarray
    pool: list[Cuts] = field(default_factory=list)

    @classmethod
    def of(cls, operation: Nonlinearity, z: tuple[Interval, ...], numbers: Tensor) -> tuple[CutHull, np.ndarray]:
        """The hull of the entries ``numbers`` of a node of a batch of one; and the columns' widths, (n, K + 1)."""
        below, above = (side.mapped(lambda t: t.flatten()[numbers]) for side in operation.sides(*z))
        lower, upper = (np.stack([getattr(own, end).flatten()[numbers].cpu().numpy() for own in z]) for end in ("lower", "upper"))
        bounds = operation.range(*z)
        least, most = (t.flatten()[numbers].cpu().numpy() for t in (bounds.lower, bounds.upper))
        found = cls((below, above), lower, least)
        everyone = np.arange(len(least))
        for share in _FIRST:
            point = np.clip(lower + share * (upper - lower), lower, upper)
            for side in (0, 1):
                found.pool.append(found._cuts(side, *found._best(side, point), everyone))
        return found, np.concatenate([upper - lower, (most - least)[None]]).T

    def _cuts(self, side: int, slopes: np.ndarray, offset: np.ndarray, owners: np.ndarray) -> Cuts:
        """Lines of a side, slopes (K, n) and offset (n,), as rows, of the entries ``owners``."""
        count, width = len(owners), len(self.inputs) + 1
        sign = 1.0 if side == 0 else -1.0
        # Below: sum of slopes * z + offset <= x, in columns from their bases; above the other way round.
        values = np.concatenate([sign * slopes[:, owners], np.full((1, count), -sign)]).T
        limit = sign * (self.value - offset - (slopes * self.inputs).sum(0))[owners]
        columns = owners[:, None] * width + np.arange(width)
        rows = np.repeat(np.arange(count), width)
        matrix = Matrix((values.ravel(), (rows, columns.ravel())), shape=(count, width * len(self.value)))
        return Cuts(matrix, limit, owners)

    def _best(self, side: int, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slopes (K, n) and offset (n,) of a side's best lines at the points z (K, n)."""
        chosen = self.sides[side]
        points = tuple(torch.from_numpy(own).to(chosen.least[0].device) for own in z)
        slopes, offset = chosen.line(chosen.at(points))
        return np.stack([s.cpu().numpy() for s in slopes]), offset.cpu().numpy()

    def separate(self, columns: np.ndarray, mask: np.ndarray) -> list[Cuts]:
        """Lines that the point with these columns (n, K + 1) violates, of the entries marked; they join the pool."""
        z, x = self.inputs + columns[:, :-1].T, self.value + columns[:, -1]
        found = []
        for side in (0, 1):
            slopes, offset = self._best(side, z)
            line = (slopes * z).sum(0) + offset
            beyond = line - x if side == 0 else x - line
            owners = np.flatnonzero(mask & (beyond > _TOLERANCE * (1 + np.abs(x))))
            if len(owners):
                found.append(self._cuts(side, slopes, offset, owners))
        self.pool.extend(found)
        return found
