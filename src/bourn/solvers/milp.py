"""Mixed-integer linear programs: the network itself instead of its relaxation, where it is piecewise linear, by HiGHS.

Beyond the class of layer-wise relaxations, and so beyond its barrier.  The program is the linear one with a binary for every
piece of every unstable entry (:mod:`bourn.program.pieces`); nodes that are not piecewise linear keep their hull, so that the
bound is sound and not exact.  *HiGHS is trusted*: what its search says of its subproblems has no multipliers that bourn could
evaluate anew.  The bound is its dual bound, never a solution's value, less :func:`slack`; and it is dropped where a point of the
network lies below it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.program.relaxed import RelaxedProgram
from bourn.solvers.back_substitution import coefficient_error
from bourn.solvers.base import OnProgram, Solution, Solver, Status, identity_rows, output_rows
from bourn.solvers.simplex import Optimised, Simplex

if TYPE_CHECKING:
    from bourn.program.cuts import Matrix
    from bourn.program.sparse import SparseProgram
    from bourn.solvers.integers import MixedInteger

_log = logging.getLogger(__name__)

_SLACK = 1e-7
"""Taken off a dual bound, relative to 1 and to how far the objective can vary; the search ends at gaps of this size."""

_ROUNDED = 1e-12
"""Of an objective's constant, taken off for rounding: thousands of units roundoff."""

_WIDEST = 1e7
"""Where a column is wider than this, HiGHS's absolute tolerances mean nothing."""

_AT_ONCE = 32
"""Rows on a node that have one model together."""


@dataclass(frozen=True)
class Milp(Solver):
    """The exact minimum of piecewise linear networks up to :func:`slack`, by HiGHS's branch and cut; trusts HiGHS.

    ``relaxed`` solves the linear programs, which decide what they can first.  Sound as far as HiGHS is right, complete without
    a time limit where the network is piecewise linear and the input set a polyhedron.
    """

    relaxed: Simplex = field(default=Simplex())
    solved_by = "MILP (branch and cut)"
    trusts = "HiGHS"

    @property
    def relaxation(self) -> str:
        return "none where piecewise linear, else hull"

    def prepare(
        self,
        graph: Graph,
        box: InputSet,
        *,
        inner: Mapping[int, Interval] | None = None,
        begin: Mapping[int, Interval] | None = None,
        outside: Mapping[int, Interval] | None = None,
        deadline: Deadline = NEVER,
    ) -> Searching:
        return Searching(self.relaxed.prepare(graph, box, inner=inner, begin=begin, outside=outside, deadline=deadline), deadline)


@dataclass(frozen=True, eq=False)
class Extremes:
    """``solution``: lower bounds (B, M); ``values`` (B, M): the least values of the network's that were met, +inf without any,
    and ``points`` (B, M, *input_shape) where.

    The points lie in the input sets; the values are float64's, and no verdict rests on them before the points are replayed.
    """

    solution: Solution
    values: Tensor
    points: Tensor


@dataclass(eq=False)
class Searching(OnProgram):
    """The linear programs of a batch of problems, and the searches that start from them."""

    linear: Optimised
    deadline: Deadline
    searches: int = 0
    nodes: int = 0
    met: list[Tensor] = field(default_factory=list)

    @property
    def program(self) -> RelaxedProgram:  # type: ignore[override]
        return self.linear.program

    @property
    def lps(self) -> int:  # type: ignore[override]
        return self.linear.lps

    def weights(self, objectives: Objectives) -> Tensor | None:
        return self.linear.weights(objectives)

    def candidates(self) -> Sequence[Tensor]:
        return self.met

    def node(self, number: int) -> Interval:
        """Bounds of every entry of a node: two searches each, as far as the time goes."""
        loose = self.linear.node(number)
        lower, upper = loose.lower.flatten(1).clone(), loose.upper.flatten(1).clone()
        for b in range(len(lower)):
            for numbers in torch.split(torch.arange(lower.shape[1], device=lower.device), _AT_ONCE):
                rows = identity_rows(self.graph, number, numbers)
                for sign, own in ((1.0, lower), (-1.0, upper)):
                    search = _Search(self, b, {number: sign * rows}, rows.new_zeros(len(numbers)))
                    search.run(sign * own[b, numbers], math.inf, -math.inf)
                    own[b, numbers] = sign * search.bounds
        return Interval(lower.reshape(loose.shape), upper.reshape(loose.shape))

    def minimise(self, objectives: Objectives, enough: float = math.inf) -> Solution:
        return self.extremes(objectives, enough).solution

    def extremes(self, objectives: Objectives, enough: float = math.inf, target: float = -math.inf) -> Extremes:
        """Bounds from below, and the points that the searches met.

        A search ends once its bound is above ``enough``; all searches of a problem end once a value of at most ``target`` was
        met.  Raises :class:`bourn.deadline.OutOfTime` where no time is left at the start; a limit on the way leaves valid bounds.
        """
        solved = self.linear.minimise(objectives, enough)
        batch, count = solved.bound.shape
        bounds, ended = solved.bound.clone(), Status.OPTIMAL
        values = torch.full_like(bounds, math.inf)
        points = self.box.middle[:, None].repeat(1, count, *(1,) * len(self.box.shape))
        for b in range(batch):
            wanted = objectives.take(slice(b, b + 1))
            rows = output_rows(self.graph, wanted)
            search = _Search(self, b, rows, wanted.constant[0], wanted)
            status = search.run(bounds[b], enough, target)
            bounds[b], values[b], points[b] = search.bounds, search.values, search.points
            self.met.extend(search.points[torch.isfinite(search.values)])
            ended = max(ended, status, key=_WORSE.index)
        return Extremes(Solution(bounds, ended, Milp.trusts), values, points)


_WORSE = (Status.OPTIMAL, Status.RELAXED, Status.STOPPED)


class _Search:
    """Some rows on one problem of the batch: their bounds, and what was met on the way."""

    def __init__(
        self, searching: Searching, problem: int, rows: dict[int, Tensor], constant: Tensor, objectives: Objectives | None = None
    ) -> None:
        self.of, self.rows, self.constant, self.objectives = searching, rows, constant, objectives
        self.lp, self.program = searching.linear.models.single(problem)
        self.set = searching.box[problem : problem + 1]
        count = next(iter(rows.values())).shape[1]
        self.bounds = constant.new_full((count,), -math.inf)
        self.values = torch.full_like(self.bounds, math.inf)
        self.points = self.set.middle.repeat(count, *(1,) * len(self.set.shape))

    def run(self, known: Tensor, enough: float, target: float) -> Status:
        """From the bounds ``known`` (M,) on, the hardest row first."""
        self.bounds = known.clone()
        open_ = torch.nonzero(known <= enough)[:, 0]
        if not len(open_):
            return Status.OPTIMAL
        ready = self._ready(open_)
        if isinstance(ready, Status):
            return ready
        search, costs, constants, exact = ready
        # What rounding the objectives' coefficients may have cost is not in the arrays.
        rounded = 0.0 if self.objectives is None else coefficient_error(self.program, self.rows, self.objectives)
        rounded = torch.as_tensor(rounded, dtype=torch.float64).expand(1, len(known))[0]
        ended = Status.OPTIMAL if exact else Status.RELAXED
        for i in torch.argsort(known[open_]).tolist():
            m, cost = int(open_[i]), costs[[i]]
            assert self.lp is not None
            off = slack(self.lp, cost, constants[i]) + float(rounded[m])
            limit = enough - constants[i] + off
            found = search.minimise(cost, self.of.deadline, limit, lambda columns: self._seen(columns, target))
            self.of.searches, self.of.nodes = self.of.searches + 1, self.of.nodes + found.nodes
            self._take(m, found.bound + constants[i] - off)
            if self.values.min() <= target:
                return Status.STOPPED
            if not found.closed and not self.bounds[m] > enough:
                ended = Status.STOPPED
            if self.of.deadline.left <= 0:
                return Status.STOPPED
        return ended

    def _ready(self, open_: Tensor) -> tuple[MixedInteger, Matrix, list[float], bool] | Status:
        """A model for the open rows, their costs and constants, and whether it is exact; a status where there is no search."""
        from bourn.program.pieces import magnitude, only_affine_left_out, pieces
        from bourn.solvers.highs import Model
        from bourn.solvers.integers import MixedInteger

        if self.lp is None or not only_affine_left_out(self.program) or magnitude(self.lp) > _WIDEST:
            return Status.STOPPED
        try:
            reduced = self.lp.rows({v: row[:, open_] for v, row in self.rows.items()})
        except ValueError:
            return Status.STOPPED
        model = Model(self.lp, reduced.matrix)
        if model.cut:
            for i in range(len(open_)):
                model.minimise(reduced.matrix[[i]], self.of.deadline)
        added = pieces(self.lp, model.masks)
        if not added.binaries:  # the linear program has said all
            return Status.OPTIMAL if added.exact else Status.RELAXED
        constants = (self.constant[open_].cpu() + torch.from_numpy(reduced.constant)).tolist()
        return MixedInteger(model, added), reduced.matrix, constants, added.exact

    def _take(self, m: int, bound: float) -> None:
        """A better bound of row m, unless a point of the network refutes it."""
        if not bound > float(self.bounds[m]):
            return
        if bound > float(self.values[m]):
            _log.warning(
                "HiGHS says that a row is at least %r, but a point has %r: its word is dropped", bound, float(self.values[m])
            )
            return
        self.bounds[m] = bound

    def _seen(self, columns: np.ndarray, target: float) -> bool:
        """Evaluate the network at a solution's input; whether a row is at most ``target`` there."""
        assert self.lp is not None
        x = self.set.project(self.lp.point(columns[None])[0])
        if self.set.inner is not None:
            low, high = self.set.inner
            x = torch.minimum(torch.maximum(x, low), torch.maximum(low, high))
        nodes = self.of.graph.values(x)
        found = self.constant.clone()
        for v, row in self.rows.items():
            found = found + (row[0] * nodes[v]).flatten(1).sum(1)
        better = found < self.values  # which NaN is not
        self.values = torch.where(better, found, self.values)
        self.points[better] = x
        return bool((found <= target).any())


def slack(lp: SparseProgram, cost: Matrix, constant: float) -> float:
    """What is taken off HiGHS's dual bound for its tolerances.

    1e-7 of how far the objective can vary over its columns, for the gap at which the search ends and what it rounds; the
    tolerance of a reduced cost for every column's width; and what adding the ``constant`` up rounds.
    """
    from bourn.solvers.integers import TOLERANCE

    widths = np.concatenate(lp.widths)
    varies = float(np.abs(cost.data) @ widths[cost.indices])
    return _SLACK * (1 + varies) + TOLERANCE * float(widths.sum()) + _ROUNDED * abs(constant)
