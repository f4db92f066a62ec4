"""HiGHS's branch and cut: a relaxed program whose unstable entries keep to one piece, for many objectives.

Here HiGHS is trusted: no multipliers prove what its tree of subproblems says.  Only its dual bound is taken, never the value of
a solution, less a slack for its tolerances.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from highspy import cb

from bourn.deadline import Deadline
from bourn.program.cuts import Matrix
from bourn.program.pieces import Pieces
from bourn.solvers.highs import Model, new_highs

TOLERANCE = 1e-9
"""How far HiGHS may leave a row, a bound or an integer."""

_GAP = 1e-7
"""Where the search ends, absolute."""

_PROVED = {highspy.HighsModelStatus.kOptimal}
_LIMITS = {
    highspy.HighsModelStatus.kTimeLimit,
    highspy.HighsModelStatus.kInterrupt,
    highspy.HighsModelStatus.kObjectiveTarget,
    highspy.HighsModelStatus.kSolutionLimit,
}

_CALLBACKS = (cb.HighsCallbackType.kCallbackMipInterrupt, cb.HighsCallbackType.kCallbackMipImprovingSolution)


@dataclass(frozen=True)
class Searched:
    """How a search ended: its dual bound, -inf where HiGHS has none; whether it closed; branch-and-bound nodes."""

    bound: float
    closed: bool
    nodes: int = 0


class MixedInteger:
    """One HiGHS model with binaries, built from a linear one with all the cuts that it has by now; only the objective changes."""

    def __init__(self, model: Model, pieces: Pieces) -> None:
        self._model, self._binaries = model, pieces.binaries
        self._highs = new_highs()
        options = [
            ("threads", 1),
            ("mip_feasibility_tolerance", TOLERANCE),
            ("primal_feasibility_tolerance", TOLERANCE),
            ("dual_feasibility_tolerance", TOLERANCE),
            ("small_matrix_value", 1e-12),
            ("mip_rel_gap", 0.0),
            ("mip_abs_gap", _GAP),
        ]
        for option, value in options:
            self._highs.setOptionValue(option, value)
        self.usable = self._pass(pieces)

    def _pass(self, pieces: Pieces) -> bool:
        """Hand the model over; False where HiGHS refuses a part of it."""
        highs, kept, count = self._highs, self._model.columns, pieces.binaries
        first = len(kept)
        which = np.concatenate([kept, self._model.count + np.arange(count)])
        rows = pieces.matrix[:, which].tocsr()
        binaries = np.arange(first, first + count, dtype=np.int32)
        done = [
            highs.passModel(self._model.linear),
            highs.addVars(count, np.zeros(count), np.ones(count)),
            highs.changeColsIntegrality(count, binaries, np.full(count, int(highspy.HighsVarType.kInteger), dtype=np.uint8)),
        ]
        if rows.shape[0]:
            start, index = rows.indptr[:-1].astype(np.int32), rows.indices.astype(np.int32)
            done.append(highs.addRows(rows.shape[0], pieces.lower, pieces.upper, rows.nnz, start, index, rows.data))
        return highspy.HighsStatus.kError not in done

    def minimise(
        self, cost: Matrix, deadline: Deadline, enough: float = math.inf, seen: Callable[[np.ndarray], bool] | None = None
    ) -> Searched:
        """Search for one objective (1, columns) until its dual bound is above ``enough`` or ``seen`` has seen enough.

        ``seen`` is called with the columns of every better solution and says whether to stop.
        """
        if not self.usable:
            return Searched(-math.inf, False)
        highs, count = self._highs, len(self._model.columns) + self._binaries
        own = np.zeros(count)
        own[self._model.places(cost.indices)] = cost.data
        highs.changeColsCost(count, np.arange(count, dtype=np.int32), own)
        raised: list[BaseException] = []

        def heard(kind: Any, message: str, said: Any, answer: Any, _: object) -> None:
            # What is raised in here would pass through HiGHS: Ctrl-C too is raised behind it.
            try:
                stop = bool(raised) or said.mip_dual_bound > enough or deadline.left <= 0
                if not stop and seen is not None and int(kind) == int(_CALLBACKS[1]):
                    stop = seen(self._model.spread(np.array(said.mip_solution)))
                if stop:
                    answer.user_interrupt = True
            except BaseException as error:
                raised.append(error)
                answer.user_interrupt = True

        highs.setCallback(heard, None)
        for kind in _CALLBACKS:
            highs.startCallback(kind)
        if math.isfinite(deadline.left):
            highs.setOptionValue("time_limit", highs.getRunTime() + max(0.01, deadline.left))
        highs.run()
        if raised:
            raise raised[0]
        status, info = highs.getModelStatus(), highs.getInfo()
        bound = info.mip_dual_bound if status in _PROVED | _LIMITS else -math.inf
        # A dual bound of +inf says that there is no point at all, which is never so.
        return Searched(bound if math.isfinite(bound) else -math.inf, status in _PROVED, int(info.mip_node_count))
