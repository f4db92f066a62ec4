"""The linear programs of a batch of problems, with the planes that cut them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from bourn.deadline import Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.program.cuts import Matrix
from bourn.program.feasible import relaxed_values
from bourn.program.multi_input_hulls import MultiInputHulls
from bourn.program.pair_hulls import PairHulls
from bourn.program.planes import Finder, Planes
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.program.sparse import SparseProgram
from bourn.relaxations.base import LineRule
from bourn.rounding import down
from bourn.solvers.back_substitution import coefficient_error
from bourn.solvers.base import OnProgram, Solution, Status, identity_rows, output_rows
from bourn.solvers.cutting_planes import CuttingPlanes, Kind
from bourn.solvers.highs import Model
from bourn.solvers.linear_programs import LinearPrograms, by_support
from bourn.solvers.plane_ascent import climbs, tighten
from bourn.solvers.simplex import Optimised
from bourn.solvers.tightening import unstable, widest

FINDERS: dict[Kind, type[Finder]] = {Kind.INPUTS: MultiInputHulls, Kind.PAIRS: PairHulls}
"""What finds the planes of each kind."""

_ABOVE = 1e-6
"""How far HiGHS's value must be above what is enough, relative to 1 and that, for no more planes to be looked for."""

_IDLE = 2
"""For how many bounds in a row a plane may have no part before it is taken away: measured, with all planes kept LPs take thrice as
long."""

Rows = tuple[dict[int, Tensor], Tensor]
"""Rows {node: (1, M, *shape)} and their constant (1, M)."""


@dataclass(eq=False)
class Cut(OnProgram):
    """Linear programs whose pre-activation bounds are all known, and the finders of their planes, a set a problem.

    ``planes``: how many were added so far.
    """

    solver: CuttingPlanes
    linear: Optimised
    deadline: Deadline
    finders: list[list[Finder]] = field(default_factory=list)
    planes: int = 0
    converged: bool = True

    def __post_init__(self) -> None:
        while len(self.finders) < self.program.batch:
            self.finders.append([FINDERS[kind](self.solver.chunk_bytes) for kind in self.solver.kinds])

    @property
    def program(self) -> RelaxedProgram:  # type: ignore[override]
        return self.linear.program

    @property
    def lps(self) -> int:  # type: ignore[override]
        return self.linear.lps

    def weights(self, objectives: Objectives) -> Tensor | None:
        return self.linear.weights(objectives)

    def node(self, number: int) -> Interval:
        loose = self.linear.node(number)
        return self.entries(number, loose, torch.ones_like(loose.lower, dtype=torch.bool), self.solver.rounds)

    def entries(self, node: int, known: Interval, wanted: Tensor, rounds: int) -> Interval:
        """Bounds of a node's entries where ``wanted``, never worse than those ``known``; those of a sign are good enough."""
        ends = known.lower.clone(), -known.upper
        graph, at_once = self.graph, max(1, self.solver.chunk_bytes // (8 * widest(self.graph, node)))
        for b in range(self.program.batch):
            numbers = torch.nonzero(wanted[b].flatten())[:, 0]
            if not len(numbers) or not self.linear.models.helps(b, node):
                continue
            for sign, end in zip((1.0, -1.0), ends, strict=True):
                parts = []
                for piece in torch.split(numbers, at_once):
                    rows = sign * identity_rows(graph, node, piece)
                    parts.append(self._bound(b, ({node: rows}, rows.new_zeros(1, len(piece))), 0.0, rounds))
                own = end[b].flatten()
                own[numbers] = torch.maximum(own[numbers], torch.cat(parts))
                end[b] = own.reshape(end[b].shape)
        return Interval(ends[0], -ends[1])

    def minimise(self, objectives: Objectives, enough: float = math.inf) -> Solution:
        solved = self.linear.minimise(objectives, enough)
        best, self.converged = solved.bound.clone(), True
        for b in range(len(best)):
            open_ = torch.nonzero(best[b] <= enough)[:, 0]
            wanted = objectives.take(slice(b, b + 1))
            all_rows = output_rows(self.graph, wanted)
            rows = {v: row[:, open_] for v, row in all_rows.items()}
            if not len(open_) or not self.linear.models.helps(b, self.graph.output):
                continue
            found = self._bound(b, (rows, wanted.constant[:, open_]), enough, self.solver.rounds)
            rounded = coefficient_error(self.program, all_rows, objectives)
            found = found - (rounded[b, open_] if isinstance(rounded, Tensor) else rounded)
            best[b, open_] = torch.maximum(best[b, open_], found)
        optimal = solved.status is Status.OPTIMAL and self.converged
        return Solution(best, Status.OPTIMAL if optimal else Status.STOPPED)

    def _bound(self, problem: int, rows: Rows, enough: float, rounds: int) -> Tensor:
        """Lower bounds (M,) of rows on one problem, with planes; -inf where the time did not suffice or there is no LP for them."""
        lp, _ = self.linear.models.single(problem)
        assert lp is not None
        found = torch.full_like(rows[1][0], -math.inf)
        try:
            reduced = lp.rows(rows[0])
        except ValueError:
            return found
        constants = reduced.constant + rows[1][0].cpu().numpy()
        for group in by_support(reduced.matrix):
            cutting = _Cutting(self, problem, lp, reduced.matrix[group])
            for m in group:
                if self.deadline.left <= 0:
                    self.converged = False
                    return found
                cutting.solve(reduced.matrix[[m]], enough - constants[m], rounds)
                own = {v: row[:, [m]] for v, row in rows[0].items()}, rows[1][:, [m]]
                found[m] = cutting.state(own)
        return found


class _Cutting:
    """One model of the part of a problem's LP that some rows depend on, and the planes that it was cut with so far."""

    def __init__(self, of: Cut, problem: int, lp: SparseProgram, costs: Matrix) -> None:
        self.of, self.lp, self.model = of, lp, Model(lp, costs)
        self.program, self.finders = of.linear.models.single(problem)[1], of.finders[problem]
        self.wanted = {e.node: mask for e, mask in zip(lp.entries, self.model.masks, strict=True)}
        self.planes = Planes({}, np.zeros(0))
        self.idle = np.zeros(0, dtype=np.int64)

    def solve(self, cost: Matrix, enough: float, rounds: int) -> None:
        """Add planes until the point breaks none, a round gains little, or the value is more than ``enough``.

        Planes that took part in none of the last bounds are taken away first.
        """
        self._clear()
        solver, values = self.of.solver, []
        for _ in range(rounds + 1):
            if not self.model.minimise(cost, self.of.deadline):
                break
            values.append(self.model.value)
            self.of.linear.models.solved += 1
            if values[-1] > enough + _ABOVE * (1 + abs(enough)):
                return
            gains = np.diff(values)
            if len(gains) > 1 and gains[-1] < solver.least * gains.sum():
                break
            if len(values) <= rounds and not self._cut():
                return
        self.of.converged = False

    def _clear(self) -> None:
        used = self.model.weights() > 0
        self.idle = np.where(used, 0, self.idle + 1)
        gone = self.idle > _IDLE
        self.model.drop(gone)
        self.planes, self.idle = self.planes.take(~gone), self.idle[~gone]

    def _cut(self) -> bool:
        """Whether the last solution's point breaks planes, which are added."""
        x, wanted = self.lp.point(self.model.point()[None])
        last = max((e.node for e in self.lp.entries), default=0)
        values = relaxed_values(self.program, x, wanted, last)
        parts = [planes for finder in self.finders for planes in finder.find(self.program, values, self.wanted)]
        found = Planes.join(parts, self.program)
        rows = found.on_columns(self.lp, self.of.solver.chunk_bytes)
        taken = self.model.add(rows.matrix, found.limits - rows.constant)
        self.planes = Planes.join([self.planes, found.take(taken)], self.program)
        self.idle = np.append(self.idle, np.zeros(int(taken.sum()), dtype=np.int64))
        self.of.planes += int(taken.sum())
        return bool(taken.any())

    def state(self, rows: Rows) -> float:
        """The bound of a row at the last solution's multipliers and planes' weights."""
        mus = {e.node: np.zeros((len(e.rows), 1, len(e.numbers))) for e in self.lp.entries}
        for v, mask, values in self.model.multipliers():
            mus[v][:, 0, mask] = np.stack(values)
        weights = self.model.weights()[None]
        for e in self.lp.entries:
            if e.node in self.planes.before:
                mus[e.node][0] -= self.planes.shifts(weights)[e.node][:, e.numbers]
        total, constant, rounded = self.planes.joined(self.program, *rows, weights)
        which = torch.zeros(1, dtype=torch.int64, device=constant.device)
        return float(down(self.of.linear.models.evaluate(self.program, total, constant, mus, which).lower - rounded))


def tightened(
    solver: CuttingPlanes,
    graph: Graph,
    box: InputSet,
    begin: Mapping[int, Interval] | None,
    outside: Mapping[int, Interval] | None,
    deadline: Deadline,
) -> Cut:
    """Inner bounds layer after layer, with planes where none leave a neuron open.

    The relaxed program need not imply what planes alone show; a neuron of which they show the sign is affine all the same.
    """
    program, soft = start(graph, box, LineRule.AREA), deadline.part(solver.patience)
    models = LinearPrograms(program, solver.chunk_bytes)
    cut = Cut(solver, Optimised(solver.relaxed, program, models, deadline), soft)
    for z in graph.pre_activations:
        deadline.check()
        bounds = solver.relaxed.start.pre_activation(program, z, deadline)
        bounds = bounds.intersect(begin[z]) if begin is not None and z in begin else bounds
        if soft.left > 0:
            bounds = _tighter(cut, z, bounds, soft)
        program = with_bounds(program, z, bounds, None if outside is None else outside.get(z))
        models.grow(program)
        cut = replace(cut, linear=Optimised(solver.relaxed, program, models, deadline))
    return replace(cut, deadline=deadline)


def _tighter(cut: Cut, z: int, known: Interval, deadline: Deadline) -> Interval:
    """Better bounds of a pre-activation: without planes first, then with planes what is still open."""
    solver, program, graph = cut.solver, cut.program, cut.graph
    if climbs(program, z):
        bounds = solver.begin.entries(program, z, known, unstable(graph, z, known), deadline, inner=True)
        return tighten(solver.climb, program, z, bounds, unstable(graph, z, bounds), cut.finders, solver.chunk_bytes, deadline)
    bounds = cut.linear.models.entries(z, known, unstable(graph, z, known), deadline)
    return cut.entries(z, bounds, unstable(graph, z, bounds), solver.inner_rounds)
