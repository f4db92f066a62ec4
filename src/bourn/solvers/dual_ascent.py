"""Dual ascent: the multipliers of the relaxed program are improved step by step, for many rows at once.

On slopes alone it is alpha-CROWN (Xu et al. 2021); where bounds were imposed from outside, every such bound has a multiplier
of its own.  Every step's multipliers are valid; the bound that is stated is that of the best ones, evaluated anew with its
rounding error.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.program.lagrangian import Lagrangian
from bourn.program.linear_bounds import Multipliers, RowBounds, back_substitute
from bourn.program.reduced import ReducedLagrangian, pays
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.program.restrict import take_problems
from bourn.relaxations.base import LineRule
from bourn.solvers.adam import SQUARES
from bourn.solvers.back_substitution import BackSubstitution, coefficient_error
from bourn.solvers.base import OnProgram, Solution, Solver, Status, output_rows
from bourn.solvers.climb import Settled, Steps, climb
from bourn.solvers.combination import linear_weights
from bourn.solvers.nearby import MARGINS, Nearby, Rows
from bourn.solvers.tightening import refine, unstable, widest


@dataclass(frozen=True)
class DualAscent(Solver):
    """Projected supergradient ascent with Adam's steps; sound, and exact for the relaxed program in the limit.

    ``steps`` and what follows: see :class:`bourn.solvers.climb.Steps`.  With a ``gap`` a row stops where steps gain little
    against it, so that its bound is about so near to the optimum of its program, relative to max(1, |optimum|); that is
    measured, not proved.  A row stops in any case where its bound is above what is asked for.

    ``chunk_bytes`` bounds the memory of one set of rows; some ten are alive at a time.  ``patience``: the share of the time left
    that may go into inner bounds; neurons that are not reached by then keep their bounds in closed form.  ``direct``: the
    multipliers themselves are improved, as Dvijotham et al. 2018 do, starting from those of the lines; slopes reach the optimum
    in fewer steps.
    """

    steps: int = 20
    step: float = 0.3
    decay: float = 0.96
    memory: float = 0.8
    squares: float = SQUARES
    gap: float = 0.0
    chunk_bytes: int = 1 << 21
    patience: float = 1.0
    direct: bool = False
    start: BackSubstitution = field(default=BackSubstitution(LineRule.AREA))

    @property
    def solved_by(self) -> str:  # type: ignore[override]
        return "dual ascent on multipliers" if self.direct else "dual ascent on slopes"

    @property
    def relaxation(self) -> str:
        return "hull"

    def prepare(
        self,
        graph: Graph,
        box: InputSet,
        *,
        inner: Mapping[int, Interval] | None = None,
        begin: Mapping[int, Interval] | None = None,
        outside: Mapping[int, Interval] | None = None,
        deadline: Deadline = NEVER,
        near: Nearby | None = None,
    ) -> Ascended:
        """As :meth:`bourn.solvers.base.Solver.prepare`; ``near``: slopes to begin with, and where those found are kept."""
        program, soft = start(graph, box, LineRule.AREA), deadline.part(self.patience)
        for z in graph.pre_activations:
            known = None if begin is None else begin.get(z)
            bounds = inner[z] if inner is not None else self._pre_activation(program, z, known, deadline, soft, near)
            bounds = bounds if known is None else bounds.intersect(known)
            program = with_bounds(program, z, bounds, None if outside is None else outside.get(z))
        return Ascended(self, program, deadline, near)

    def _pre_activation(
        self,
        program: RelaxedProgram,
        node: int,
        known: Interval | None,
        deadline: Deadline,
        soft: Deadline,
        near: Nearby | None,
    ) -> Interval:
        """What is known or else closed-form bounds, and ascent where these leave a neuron open."""
        loose = self.start.pre_activation(program, node, deadline) if known is None else known
        deadline.check()
        return self.entries(program, node, loose, unstable(program.graph, node, loose), soft, inner=True, near=near)

    def entries(
        self,
        program: RelaxedProgram,
        node: int,
        known: Interval,
        wanted: Tensor,
        deadline: Deadline,
        *,
        inner: bool = False,
        near: Nearby | None = None,
    ) -> Interval:
        """Bounds of a node's entries, by ascent where ``wanted``; never worse than those ``known``.

        Those of an ``inner`` node need not be better where they make it stable, for they enter nothing then.
        """
        if not _adjustable(program, node):
            return known

        def settled(best: Tensor) -> Tensor:
            count = best.shape[1] // 2
            # Values are not rounded outward: what is stable by a hair's breadth goes on.
            hair = 1e-5 * best.abs().clamp(min=1.0)
            low, high = (best - hair)[:, :count].to(torch.float64), (hair - best)[:, count:].to(torch.float64)
            stable = ~unstable(program.graph, node, Interval(torch.minimum(low, high), torch.maximum(low, high)))
            return torch.cat([stable, stable], dim=1)

        def both(part: RelaxedProgram, rows: dict[int, Tensor], problems: Tensor) -> tuple[Tensor, Tensor]:
            (entry, own) = next(iter(rows.items()))
            count, size = own.shape[1], own[0, 0].numel()
            pairs = {entry: torch.cat([own, -own], dim=1)}
            which = None
            if near is not None:
                numbers = own.flatten(2).argmax(2)
                numbers = torch.cat([numbers, size + numbers], dim=1)
                which = Rows(near, node, problems, numbers, 2 * size, known.lower[0].numel() // size)
            stop = settled if inner else None
            found = self.ascend(part, pairs, own.new_zeros(1, 2 * count), deadline, stop, which=which).lower
            return found[:, :count], -found[:, count:]

        size = self.chunk_bytes // 2
        found = refine(program, node, known, wanted, both, row_bytes=size, deadline=deadline, local=True, partial=True)
        return known.intersect(found)

    def ascend(
        self,
        program: RelaxedProgram,
        rows: Mapping[int, Tensor],
        constant: Tensor,
        deadline: Deadline = NEVER,
        settled: Settled | None = None,
        keep: Container[int] = (),
        which: Rows | None = None,
    ) -> RowBounds:
        """Lower bounds (B, M) of rows plus ``constant``; rows that are ``settled`` need no better one.

        ``which``: the rows by name, whose slopes are kept for the next ascent.  Out of time it ends with what it has.
        """
        return back_substitute(program, rows, constant, keep, self.climb(program, rows, constant, deadline, settled, which))

    def climb(
        self,
        program: RelaxedProgram,
        rows: Mapping[int, Tensor],
        constant: Tensor,
        deadline: Deadline = NEVER,
        settled: Settled | None = None,
        which: Rows | None = None,
    ) -> dict[int, Multipliers]:
        """The best multipliers found for every row, by nonlinear node."""
        dual: Lagrangian | ReducedLagrangian
        if not self.direct and pays(program, rows):
            # Float32 resolves a row's value to about 1e-6; no bound rests on it.
            coarse = (self.gap or self.decay**self.steps) >= 1e-5
            dual = ReducedLagrangian(program, rows, constant, torch.float32 if coarse else torch.float64)
        else:
            dual = Lagrangian(program, rows, constant, direct=self.direct)
        how = Steps(self.steps, self.step, self.decay, self.memory, self.gap, self.squares)
        if isinstance(dual, ReducedLagrangian):
            how = how.suited(sum(kept.count for kept in dual.kept.values()))
        begin = None if which is None else which.begin(dual)
        choices = climb(dual, how, settled=settled, deadline=deadline, direct=self.direct, begin=begin)
        if which is not None:
            which.keep(dual, choices)
        return dual.multipliers(choices)


def _adjustable(program: RelaxedProgram, node: int) -> bool:
    """Whether anything before ``node`` is free to choose."""
    ancestors = set(program.graph.ancestors(node))
    return any(v in ancestors and bool(program.free(v).any()) for v in program.graph.nonlinear)


@dataclass(frozen=True, eq=False)
class Ascended(OnProgram):
    """A relaxed program whose pre-activation bounds are all known; objectives are raised by ascent."""

    solver: DualAscent
    program: RelaxedProgram
    deadline: Deadline
    near: Nearby | None = None

    def node(self, number: int) -> Interval:
        loose = self.solver.start.entries(self.program, number, self.deadline)
        return self.solver.entries(self.program, number, loose, torch.ones_like(loose.lower, dtype=torch.bool), self.deadline)

    def trace(self, objectives: Objectives, keep: Container[int]) -> tuple[RelaxedProgram, RowBounds]:
        rows = output_rows(self.graph, objectives)
        closed = back_substitute(self.program, rows, objectives.constant, keep)
        found = self.solver.ascend(self.program, rows, objectives.constant, self.deadline, keep=keep)
        return self.program, found.or_better(closed)

    def weights(self, objectives: Objectives) -> Tensor | None:
        return linear_weights(self.program, objectives)

    def minimise(self, objectives: Objectives, enough: float = math.inf) -> Solution:
        graph, program = self.graph, self.program
        bound = program.box.lower.new_empty(program.batch, len(objectives))
        free = torch.zeros_like(bound[:, 0], dtype=torch.int64)
        for v in graph.nonlinear:
            free += program.free(v).flatten(1).sum(1)
        # Problems with about as many free entries go together: the reduced program is filled up to the most.
        order = torch.argsort(free, descending=True, stable=True)
        size = max(widest(graph, graph.output), graph.nodes[0].size)
        while len(order):
            self.deadline.check()
            rows_of_one = max(1, len(objectives), int(free[order[0]]))
            at_once = max(1, self.solver.chunk_bytes // (8 * size * rows_of_one))
            some, order = order[:at_once], order[at_once:]
            part, wanted = take_problems(program, some), objectives.take(some)
            rows = output_rows(graph, wanted)
            best = back_substitute(part, rows, wanted.constant).lower
            if len(wanted) and not bool((best > enough).all()):
                which = None
                if self.near is not None:
                    numbers = torch.arange(len(wanted), device=some.device).expand(len(some), -1)
                    which = Rows(self.near, MARGINS, some, numbers, len(wanted))
                found = self.solver.ascend(
                    part, rows, wanted.constant, self.deadline, lambda value: value > enough, which=which
                )
                best = torch.maximum(best, found.lower)
            bound[some] = best - coefficient_error(part, rows, wanted)
        return Solution(bound, Status.STOPPED)
