"""What keeps an LP's points on the graphs of its nonlinear functions: binary variables and their rows, for a MILP.

A free entry of a piecewise linear node has one binary for each of its pieces, one of which is 1: only the vertices at that
piece's ends may have weight.  For a ReLU these are the bounds z <= u d, t <= -l (1 - d), whose relaxation is the triangle.  A
maximum has one binary for each input that may be the greatest.  Stable entries have none.  What is not piecewise linear keeps
its hull.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from bourn.program.cuts import CutHull, Matrix
from bourn.program.relaxed import RelaxedProgram
from bourn.program.sparse import Entries, SparseProgram
from bourn.relaxations.base import Nonlinearity
from bourn.relaxations.curves import PiecewiseLinear
from bourn.relaxations.maximum import Maximum

_OUTWARD = 1 + 1e-12
"""A factor that covers the rounding of a big M."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """Rows ``lower`` <= ``matrix`` @ (columns, binaries) <= ``upper`` with ``binaries`` variables that are 0 or 1.

    ``exact``: whether they leave nothing but the points of the network, so that no hull is left.
    """

    binaries: int
    matrix: Matrix
    lower: np.ndarray
    upper: np.ndarray
    exact: bool


@dataclass(eq=False)
class _Rows:
    """Rows as they come, {variable: coefficient} each, over ``columns`` and the binaries behind them."""

    columns: int
    binaries: int = 0
    rows: list[dict[int, float]] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)

    def choose(self, count: int) -> list[int]:
        """So many new binaries, of which one is 1."""
        first = self.columns + self.binaries
        self.binaries += count
        found = list(range(first, first + count))
        self.add(dict.fromkeys(found, 1.0), 1.0, 1.0)
        return found

    def add(self, row: dict[int, float], lower: float, upper: float) -> None:
        self.rows.append(row)
        self.lower.append(lower)
        self.upper.append(upper)

    def done(self, exact: bool) -> Pieces:
        where = [(i, j, value) for i, row in enumerate(self.rows) for j, value in row.items()]
        rows, columns, values = (np.array(part) for part in zip(*where, strict=True)) if where else (np.zeros(0, dtype=int),) * 3
        shape = (len(self.rows), self.columns + self.binaries)
        matrix = Matrix((values.astype(np.float64), (rows, columns)), shape=shape)
        return Pieces(self.binaries, matrix, np.array(self.lower), np.array(self.upper), exact)


def pieces(lp: SparseProgram, masks: list[np.ndarray]) -> Pieces:
    """The binaries and rows of the entries in ``masks``, one a node of ``lp.entries``."""
    rows, exact = _Rows(lp.count), lp.whole and lp.sphere is None
    nodes = lp.program.graph.nodes
    for e, mask in zip(lp.entries, masks, strict=True):
        operation = nodes[e.node].operation
        if isinstance(operation, PiecewiseLinear):
            _keep_to_pieces(rows, e, mask)
        elif isinstance(operation, Maximum) and e.hull is not None:
            _keep_to_greatest(rows, e, e.hull, mask)
        else:
            exact &= not bool(mask.any())
    return rows.done(exact)


def only_affine_left_out(program: RelaxedProgram) -> bool:
    """Whether every entry without columns of its own is affine on its bounds, so that the arrays hold every point of the network.

    Where it is not, because an end is infinite, an LP still gives multipliers, but its value is no bound.
    """
    for v in program.lines:
        operation = program.graph.nodes[v].operation
        assert isinstance(operation, Nonlinearity)
        if not bool((program.free(v) | operation.stable(*program.inputs_of(v))).all()):
            return False
    return all(v in program.lines for v in program.graph.nonlinear)


def _keep_to_pieces(rows: _Rows, e: Entries, mask: np.ndarray) -> None:
    """Weight at the ends of one piece only."""
    own = e.positions[0].tocoo()
    signs = np.zeros(len(e.owners))
    signs[own.coords[1]] = own.data
    for columns in _columns_of(e, mask):
        # From left to right, the base between those below it and those above it.
        below = [int(c) for c in columns if signs[c] < 0]
        above = [int(c) for c in columns if signs[c] > 0]
        vertices: list[int | None] = [*below, None, *above]
        if len(vertices) < 3:
            continue  # a single piece
        chosen = rows.choose(len(vertices) - 1)
        for place, column in enumerate(vertices):
            beside = chosen[max(0, place - 1) : place + 1]
            if column is not None:
                at = e.first_column + column
                rows.add({at: 1.0, **dict.fromkeys(beside, -float(e.widths[column]))}, -np.inf, 0.0)
            elif len(vertices) > 3:  # of two pieces the base is an end of both
                others = {e.first_column + int(c): 1 / float(e.widths[c]) for c in columns}
                rows.add({**others, **dict.fromkeys(beside, 1.0)}, 1.0, np.inf)


def _columns_of(e: Entries, mask: np.ndarray) -> Iterator[np.ndarray]:
    """The columns of every entry marked, numbered within the node."""
    order = np.argsort(e.owners, kind="stable")
    ends = np.searchsorted(e.owners[order], np.arange(len(e.numbers) + 1))
    for entry in np.flatnonzero(mask):
        yield order[ends[entry] : ends[entry + 1]]


def _keep_to_greatest(rows: _Rows, e: Entries, hull: CutHull, mask: np.ndarray) -> None:
    """The value is one of the inputs, and none is above it."""
    lower, value = hull.inputs, hull.value
    inputs = len(lower)
    upper = lower + e.widths.reshape(-1, inputs + 1).T[:inputs]
    for entry in np.flatnonzero(mask):
        first = e.first_column + int(entry) * (inputs + 1)
        ends, floor = upper[:, entry], lower[:, entry].max()
        rivals = [k for k in range(inputs) if ends[k] >= floor]
        chosen = dict(zip(rivals, rows.choose(len(rivals)), strict=True))
        for k in range(inputs):
            apart = float(lower[k, entry] - value[entry])
            rows.add({first + inputs: 1.0, first + k: -1.0}, apart, np.inf)
            if k in chosen:
                others = max((float(ends[i]) for i in range(inputs) if i != k), default=float(ends[k]))
                big = max(0.0, others - float(lower[k, entry])) * _OUTWARD
                rows.add({first + inputs: 1.0, first + k: -1.0, chosen[k]: big}, -np.inf, apart + big)


def magnitude(lp: SparseProgram) -> float:
    """The greatest width of a column: what a solver's absolute tolerances are to be small against."""
    return max((float(np.max(w, initial=0.0)) for w in lp.widths), default=0.0)
