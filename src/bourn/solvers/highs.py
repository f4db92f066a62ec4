"""HiGHS: one model of a relaxed program for many objectives.

It is not trusted.  Of what it returns only the row duals are used, as multipliers at which the dual function is evaluated anew
with its rounding error; whatever the status, the bound is valid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import highspy
import numpy as np
from scipy import sparse

from bourn.deadline import Deadline
from bourn.program.cuts import Matrix
from bourn.program.sparse import Entries, SparseProgram

_MOST_CUTS = 30
"""How often one objective may be cut."""

# The binding itself: the class around it writes a banner to stdout when the first one is made, and runs in a thread.
_Highs: Any = getattr(highspy, "_Highs", highspy.Highs)


def new_highs() -> Any:
    """A HiGHS that says nothing."""
    found = _Highs()
    found.setOptionValue("output_flag", False)
    return found


class Model:
    """One HiGHS model of the part of a program that some rows depend on; only the objective changes."""

    def __init__(self, lp: SparseProgram, costs: Matrix, tolerance: float | None = None) -> None:
        """For rows ``costs``; ``tolerance``: how far points may leave the program, by default HiGHS's own 1e-7."""
        masks, used = lp.needed(costs.indices)
        self._lp, self._masks = lp, masks
        self._columns = np.flatnonzero(used)
        self._renumber = np.full(lp.count, -1)
        self._renumber[self._columns] = np.arange(len(self._columns))
        widths = np.concatenate(lp.widths)
        nothing = Matrix((0, lp.count))
        equal, right, most, limits = [nothing], [np.zeros(0)], [nothing], [np.zeros(0)]
        for e, mask in zip(lp.entries, masks, strict=True):
            for rows, positions, base in zip(e.rows, e.positions, e.base[0], strict=True):
                position = self._placed(e, positions[mask])
                own = rows.matrix[mask]
                own.resize(position.shape)
                equal.append(position - own)
                right.append(rows.constant[mask] - base[mask])
            if e.hull is not None:
                for cuts in e.hull.pool:
                    wanted = mask[cuts.owners]
                    most.append(self._placed(e, cuts.matrix[wanted]))
                    limits.append(cuts.limit[wanted])
                continue
            share = Matrix((1 / e.widths, (e.owners, np.arange(len(e.owners)))), shape=(len(e.numbers), len(e.owners)))
            several = np.bincount(e.owners, minlength=len(e.numbers)) > 1
            most.append(self._placed(e, share[mask & several]))
            limits.append(np.ones(most[-1].shape[0]))
        own = Matrix(lp.half_spaces.matrix)
        own.resize((own.shape[0], lp.count))
        most.append(own)
        limits.append(lp.half_spaces.limits)
        self._equalities = sum(len(r) for r in right)
        self._cuts = any(e.hull is not None for e in lp.entries)
        self.count = lp.count
        # A line that is met by less than the tolerance would be found again and again.
        self._tolerance = min((t for t in (tolerance, 1e-9 if self._cuts else None) if t is not None), default=None)
        matrix = sparse.vstack([*equal, *most], format="csr")[:, self._columns]
        self._pass(matrix, np.concatenate(right), np.concatenate(limits), widths[self._columns])

    def _placed(self, entries: Entries, own: Matrix) -> Matrix:
        """Rows on a node's own columns as rows on all."""
        block = sparse.coo_array(own)
        return Matrix((block.data, (block.coords[0], block.coords[1] + entries.first_column)), shape=(own.shape[0], self._lp.count))

    def _pass(self, matrix: Matrix, right: np.ndarray, limits: np.ndarray, widths: np.ndarray) -> None:
        model = highspy.HighsLp()
        model.num_row_, model.num_col_ = matrix.shape
        model.col_cost_, model.col_lower_, model.col_upper_ = np.zeros(len(widths)), np.zeros(len(widths)), widths
        model.row_lower_ = np.concatenate([right, np.full(len(limits), -highspy.kHighsInf)])
        model.row_upper_ = np.concatenate([right, limits])
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
        self._highs = new_highs()
        # Measured: the dual simplex without presolve, warm, beats the primal fourfold and presolve tenfold.
        options = [("threads", 1), ("presolve", "off"), ("solver", "simplex"), ("simplex_strategy", 1)]
        if self._tolerance is not None:
            options += [("primal_feasibility_tolerance", self._tolerance)]
        for option, value in options:
            self._highs.setOptionValue(option, value)
        self._highs.passModel(model)
        self._all = np.arange(len(widths), dtype=np.int32)
        self._added: list[int] = []

    def minimise(self, cost: Matrix, deadline: Deadline) -> bool:
        """Solve for one objective (1, columns); whether the optimum was reached.

        Hulls are cut along their sides' lines, and an l2 ball along its tangents, where the LP's points leave them; later
        objectives profit from that too.
        """
        own = np.zeros(len(self._all))
        own[self._renumber[cost.indices]] = cost.data
        self._highs.changeColsCost(len(own), self._all, own)
        inputs = self._columns[self._columns < self._lp.inputs]
        stable = np.zeros(len(inputs))
        for rounds in range(_MOST_CUTS + 1):
            if math.isfinite(deadline.left):
                self._highs.setOptionValue("time_limit", self._highs.getRunTime() + max(0.01, deadline.left))
            self._highs.run()
            if self._highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
                return False
            if self._lp.sphere is None and not self._cuts:
                return True
            values = np.array(self._highs.getSolution().col_value)
            cut = None if self._lp.sphere is None else self._lp.sphere.tangent(inputs, values[: len(inputs)], stable)
            left = self._cut_hulls(rounds < _MOST_CUTS)
            if cut is None and not left:
                return True
            if cut is not None and rounds < _MOST_CUTS:
                normal, limit, stable = cut
                self._highs.addRow(-highspy.kHighsInf, limit, len(inputs), np.arange(len(inputs), dtype=np.int32), normal)
            if deadline.left <= 0:
                break
        return False

    def _cut_hulls(self, add: bool) -> bool:
        """Whether the last solution's point leaves a hull; its lines there are added where that is asked for."""
        found = False
        everything = self.point()
        for e, mask in zip(self._lp.entries, self._masks, strict=True):
            if e.hull is None or not mask.any():
                continue
            for cuts in e.hull.separate(everything[e.columns].reshape(len(e.numbers), -1), mask):
                found = True
                if add:
                    rows = self._placed(e, cuts.matrix)[:, self._columns]
                    start, index = rows.indptr[:-1].astype(np.int32), rows.indices.astype(np.int32)
                    lower = np.full(len(cuts.limit), -highspy.kHighsInf)
                    self._highs.addRows(len(cuts.limit), lower, cuts.limit, rows.nnz, start, index, rows.data)
        return found

    def add(self, rows: Matrix, limits: np.ndarray) -> np.ndarray:
        """Rows on the program's columns, at most ``limits``, from now on; which of them (a mask): those on columns that it has."""
        missing = np.ones(self._lp.count)
        missing[self._columns] = 0.0
        taken: np.ndarray = (abs(rows) @ missing) == 0
        own = rows[taken][:, self._columns]
        first, count = self._highs.getNumRow(), int(taken.sum())
        start, index = own.indptr[:-1].astype(np.int32), own.indices.astype(np.int32)
        self._highs.addRows(count, np.full(count, -highspy.kHighsInf), limits[taken], own.nnz, start, index, own.data)
        self._added += range(first, first + count)
        return taken

    def drop(self, which: np.ndarray) -> None:
        """Take rows that were added away again (a mask)."""
        gone = np.array(self._added, dtype=np.int32)[which]
        if len(gone):
            self._highs.deleteRows(len(gone), gone)
            kept = np.array(self._added, dtype=np.int64)[~which]
            self._added = (kept - np.searchsorted(gone, kept)).tolist()

    def weights(self) -> np.ndarray:
        """What each row added takes part in the last objective's bound with, at least 0; 0 where HiGHS has nothing to say."""
        solution = self._highs.getSolution()
        duals = np.array(solution.row_dual) if solution.dual_valid else np.zeros(0)
        own = -duals[self._added] if len(duals) > max(self._added, default=-1) else np.zeros(len(self._added))
        return np.where(np.isfinite(own) & (own > 0), own, 0.0)

    @property
    def value(self) -> float:
        """The last objective's value as HiGHS has it: for choices only, no bound."""
        return float(self._highs.getInfo().objective_function_value)

    def greatest(self, rows: Matrix, constant: np.ndarray, deadline: Deadline) -> np.ndarray | None:
        """Weights with sum 1, the duals of minimising the greatest of these rows; None where there is no optimum."""
        highs, count = self._highs, len(self._all)
        highs.changeColsCost(count, self._all, np.zeros(count))
        highs.addCol(1.0, -highspy.kHighsInf, highspy.kHighsInf, 0, np.zeros(0, dtype=np.int32), np.zeros(0))
        for number in range(rows.shape[0]):
            own = rows[[number]]
            index = np.append(self._renumber[own.indices], count).astype(np.int32)
            taken = highs.addRow(-highspy.kHighsInf, -constant[number], len(index), index, np.append(own.data, -1.0))
            if taken == highspy.HighsStatus.kError:  # numbers beyond what HiGHS takes
                return None
        if math.isfinite(deadline.left):
            highs.setOptionValue("time_limit", highs.getRunTime() + max(0.01, deadline.left))
        highs.run()
        solution = highs.getSolution()
        if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal or not solution.dual_valid:
            return None
        weights = np.clip(-np.array(solution.row_dual[-rows.shape[0] :]), 0.0, None)
        return weights / weights.sum() if weights.sum() > 0 else None

    def point(self) -> np.ndarray:
        """The columns of the program at the last objective's solution; 0 where it has none or does not depend on them."""
        return self.spread(np.array(self._highs.getSolution().col_value))

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values of the model's columns, and of more behind them, as values of the program's; 0 where there are none."""
        found = np.zeros(self._lp.count)
        if len(values) >= len(self._columns):
            found[self._columns] = np.nan_to_num(values[: len(self._columns)])
        return found

    def places(self, columns: np.ndarray) -> np.ndarray:
        """Where columns of the program are in the model."""
        found: np.ndarray = self._renumber[columns]
        return found

    @property
    def columns(self) -> np.ndarray:
        """The program's columns that the model has."""
        return self._columns

    @property
    def masks(self) -> list[np.ndarray]:
        """Which entries of each node it has."""
        return self._masks

    @property
    def cut(self) -> bool:
        """Whether it grows by cuts while objectives are minimised."""
        return self._cuts or self._lp.sphere is not None

    @property
    def linear(self) -> Any:
        """HiGHS's own copy of it, with the cuts so far."""
        return self._highs.getLp()

    def multipliers(self) -> Iterator[tuple[int, np.ndarray, list[np.ndarray]]]:
        """(node, mask of its free entries, their multipliers, one array an input) of the last objective; 0 where HiGHS has none."""
        solution = self._highs.getSolution()
        duals = np.array(solution.row_dual[: self._equalities]) if solution.dual_valid else np.zeros(self._equalities)
        duals[~np.isfinite(duals)] = 0.0
        first = 0
        for e, mask in zip(self._lp.entries, self._masks, strict=True):
            count, inputs = int(mask.sum()), len(e.rows)
            yield e.node, mask, list(duals[first : first + inputs * count].reshape(inputs, count))
            first += inputs * count
