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
from bourn.program.lagrangian import Evaluation, Lagrangian
from bourn.program.linear_bounds import Multipliers, RowBounds, back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.program.restrict import take_problems
from bourn.relaxations.base import LineRule
from bourn.solvers.back_substitution import BackSubstitution, coefficient_error
from bourn.solvers.base import Prepared, Solution, Solver, Status, output_rows
from bourn.solvers.combination import linear_weights
from bourn.solvers.tightening import refine, unstable, widest


@dataclass(frozen=True)
class DualAscent(Solver):
    """Projected supergradient ascent with Adam's steps; sound, and exact for the relaxed program in the limit.

    ``steps``: at most so many for every row, the first of length ``step`` (1: the whole range of a slope), each ``decay``
    times the one before.  A row stops early where its bound is above what is asked for.  ``chunk_bytes`` bounds the memory of
    one set of rows; some ten are alive at a time.  ``patience``: the share of the time left that may go into inner bounds;
    neurons that are not reached by then keep their bounds in closed form.  ``direct``: the multipliers themselves are improved,
    as Dvijotham et al. 2018 do, starting from those of the lines; slopes reach the optimum in fewer steps.
    """

    steps: int = 20
    step: float = 0.3
    decay: float = 0.98
    chunk_bytes: int = 1 << 23
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
    ) -> Ascended:
        program, soft = start(graph, box, LineRule.AREA), deadline.part(self.patience)
        for z in graph.pre_activations:
            known = None if begin is None else begin.get(z)
            bounds = inner[z] if inner is not None else self._pre_activation(program, z, known, deadline, soft)
            bounds = bounds if known is None else bounds.intersect(known)
            program = with_bounds(program, z, bounds, None if outside is None else outside.get(z))
        return Ascended(self, program, deadline)

    def _pre_activation(
        self, program: RelaxedProgram, node: int, known: Interval | None, deadline: Deadline, soft: Deadline
    ) -> Interval:
        """What is known or else closed-form bounds, and ascent where these leave a neuron open."""
        loose = self.start.pre_activation(program, node, deadline) if known is None else known
        deadline.check()
        return self.entries(program, node, loose, unstable(program.graph, node, loose), soft)

    def entries(self, program: RelaxedProgram, node: int, known: Interval, wanted: Tensor, deadline: Deadline) -> Interval:
        """Bounds of a node's entries, by ascent where ``wanted``; never worse than those ``known``."""
        if not _adjustable(program, node):
            return known

        def both(part: RelaxedProgram, rows: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
            (entry, own) = next(iter(rows.items()))
            count = own.shape[1]
            found = self.ascend(part, {entry: torch.cat([own, -own], dim=1)}, own.new_zeros(1, 2 * count), deadline).lower
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
        enough: float = math.inf,
        keep: Container[int] = (),
    ) -> RowBounds:
        """Lower bounds (B, M) of rows plus ``constant``; rows whose bound is above ``enough`` need no better one.

        Out of time it ends with what it has.
        """
        return back_substitute(program, rows, constant, keep, self.climb(program, rows, constant, deadline, enough))

    def climb(
        self,
        program: RelaxedProgram,
        rows: Mapping[int, Tensor],
        constant: Tensor,
        deadline: Deadline = NEVER,
        enough: float = math.inf,
    ) -> dict[int, Multipliers]:
        """The best multipliers found for every row, by nonlinear node."""
        dual = Lagrangian(program, rows, constant, direct=self.direct)
        run = _Run(self, dual)
        for step in range(self.steps + 1):
            found = dual.evaluate(run.choices)
            run.keep(found.value)
            if step == self.steps or not run.slopes or deadline.left <= 0 or bool((run.best > enough).all()):
                break
            run.move(found, step)
        return dual.multipliers(run.best_choices)


class _Run:
    """The iterates of one ascent: the slopes as shares of their ranges, Adam's moments, the best choice of every row."""

    def __init__(self, settings: DualAscent, dual: Lagrangian) -> None:
        self.settings, self.dual = settings, dual
        self.choices = dual.start()
        self.best_choices = self.choices
        self.best = dual.constant.new_full((dual.batch, dual.count), -math.inf)
        self.slopes = [(v, i) for v, choice in self.choices.items() for i in range(len(choice.tensors())) if self._moves(v, i)]
        self.first = {key: torch.zeros_like(self._tensor(key)) for key in self.slopes}
        self.second = {key: torch.zeros_like(self._tensor(key)) for key in self.slopes}

    def _range(self, node: int, which: int) -> tuple[Tensor, Tensor] | None:
        """Between what a parameter lies; None for a summand."""
        hull = self.dual.hulls[node]
        least, greatest = hull.below.least + hull.above.least, hull.below.greatest + hull.above.greatest
        return (least[which], greatest[which]) if which < len(least) else None

    def _moves(self, node: int, which: int) -> bool:
        limits = self._range(node, which)
        return limits is None or (not self.settings.direct and bool((limits[1] > limits[0]).any()))

    def _tensor(self, key: tuple[int, int]) -> Tensor:
        return self.choices[key[0]].tensors()[key[1]]

    def keep(self, value: Tensor) -> None:
        """Remember the choices of rows that are better than ever."""
        better = value > self.best
        self.best = torch.where(better, value, self.best)
        if bool(better.all()):
            self.best_choices = self.choices
        elif bool(better.any()):
            self.best_choices = {
                v: c.replaced([_where(better, *pair) for pair in zip(c.tensors(), self.best_choices[v].tensors(), strict=True)])
                for v, c in self.choices.items()
            }

    def move(self, found: Evaluation, step: int) -> None:
        """One step of every slope."""
        gradients = self.dual.gradient(found, self.choices)
        length = self.settings.step * self.settings.decay**step
        moved = {v: c.tensors() for v, c in self.choices.items()}
        for node, which in self.slopes:
            gradient = gradients[node][which]
            assert gradient is not None
            limits, key = self._range(node, which), (node, which)
            first = self.first[key].lerp_(gradient, 0.1)
            second = self.second[key].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            scale = 1 / (1 - 0.9 ** (step + 1))
            root = (second / (1 - 0.999 ** (step + 1))).sqrt_()
            # Entries whose gradient is nothing but rounding stay where they are.
            most = root.flatten(2).amax(2).reshape(*root.shape[:2], *(1,) * (root.dim() - 2))
            change = length * scale * first / (root + (1e-8 * most + 1e-300))
            old = moved[node][which]
            if limits is None:
                size = torch.stack([row.abs().flatten(2).amax(2) for row in found.rows.values()]).amax(0)
                reach = self.dual.hulls[node].reach[which - len(moved[node])]
                moved[node][which] = old + change * reach * size.reshape(*size.shape, *(1,) * (old.dim() - 2))
            else:
                least, greatest = limits
                moved[node][which] = (old + change * (greatest - least)).clamp(least, greatest)
        self.choices = {v: self.choices[v].replaced(tensors) for v, tensors in moved.items()}


def _where(better: Tensor, new: Tensor, old: Tensor) -> Tensor:
    if new is old:
        return old
    return torch.where(better.reshape(*better.shape, *(1,) * (new.dim() - 2)), new, old)


def _adjustable(program: RelaxedProgram, node: int) -> bool:
    """Whether anything before ``node`` is free to choose."""
    ancestors = set(program.graph.ancestors(node))
    return any(v in ancestors and bool(program.free(v).any()) for v in program.graph.nonlinear)


@dataclass(frozen=True, eq=False)
class Ascended(Prepared):
    """A relaxed program whose pre-activation bounds are all known; objectives are raised by ascent."""

    solver: DualAscent
    program: RelaxedProgram
    deadline: Deadline

    @property
    def graph(self) -> Graph:  # type: ignore[override]
        return self.program.graph

    @property
    def box(self) -> InputSet:  # type: ignore[override]
        return self.program.box

    @property
    def bounds(self) -> Mapping[int, Interval]:  # type: ignore[override]
        return self.program.bounds

    def node(self, number: int) -> Interval:
        loose = self.solver.start.entries(self.program, number, self.deadline)
        return self.solver.entries(self.program, number, loose, torch.ones_like(loose.lower, dtype=torch.bool), self.deadline)

    def trace(self, objectives: Objectives, keep: Container[int]) -> tuple[RelaxedProgram, RowBounds]:
        rows = output_rows(self.graph, objectives)
        return self.program, self.solver.ascend(self.program, rows, objectives.constant, self.deadline, keep=keep)

    def weights(self, objectives: Objectives) -> Tensor | None:
        return linear_weights(self.program, objectives)

    def minimise(self, objectives: Objectives, enough: float = math.inf) -> Solution:
        graph = self.graph
        size = max(widest(graph, graph.output), graph.nodes[0].size)
        at_once = max(1, self.solver.chunk_bytes // (8 * size * max(1, len(objectives))))
        bounds = []
        for first in range(0, self.program.batch, at_once):
            self.deadline.check()
            some = slice(first, first + at_once)
            part, wanted = take_problems(self.program, some), objectives.take(some)
            rows = output_rows(graph, wanted)
            closed = back_substitute(part, rows, wanted.constant).lower
            best = closed
            if len(wanted) and not bool((closed > enough).all()):
                best = torch.maximum(closed, self.solver.ascend(part, rows, wanted.constant, self.deadline, enough).lower)
            bounds.append(best - coefficient_error(part, rows, wanted))
        return Solution(torch.cat(bounds), Status.STOPPED)
