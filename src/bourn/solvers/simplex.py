"""Linear programs: the relaxed program solved by HiGHS's dual simplex, one model for many objectives.

HiGHS is not trusted.  Of what it returns only the row duals are used, as multipliers at which the dual function is evaluated
anew with its rounding error; whatever the status, the bound is valid, and never below the one in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.program.linear_bounds import RowBounds, back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.relaxations.base import LineRule
from bourn.solvers.back_substitution import BackSubstitution, coefficient_error
from bourn.solvers.base import OnProgram, Solution, Solver, Status, output_rows
from bourn.solvers.tightening import unstable

if TYPE_CHECKING:
    from bourn.solvers.linear_programs import LinearPrograms


@dataclass(frozen=True)
class Simplex(Solver):
    """The optimum of the relaxed program, by HiGHS; sound, and exact for the relaxation up to rounding.

    On an l2 ball, which is no polyhedron, it is exact only where a limited number of cuts gets there.

    ``chunk_bytes`` bounds the memory of one set of rows.  ``patience``: the share of the time left that may go into inner
    bounds; neurons that are not reached by then keep their bounds in closed form.
    """

    chunk_bytes: int = 1 << 23
    patience: float = 1.0
    start: BackSubstitution = field(default=BackSubstitution(LineRule.AREA))
    solved_by = "LP (dual simplex)"

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
    ) -> Optimised:
        # Imported here: scipy and HiGHS take a tenth of a second, which no other method needs.
        from bourn.solvers.linear_programs import LinearPrograms

        program, soft = start(graph, box, LineRule.AREA), deadline.part(self.patience)
        lps = LinearPrograms(program, self.chunk_bytes)
        for z in graph.pre_activations:
            known = None if begin is None else begin.get(z)
            bounds = inner[z] if inner is not None else self._pre_activation(program, lps, z, known, deadline, soft)
            bounds = bounds if known is None else bounds.intersect(known)
            program = with_bounds(program, z, bounds, None if outside is None else outside.get(z))
            lps.grow(program)
        return Optimised(self, program, lps, deadline)

    def _pre_activation(
        self, program: RelaxedProgram, lps: LinearPrograms, node: int, known: Interval | None, deadline: Deadline, soft: Deadline
    ) -> Interval:
        """What is known or else closed-form bounds, and the LP where these leave a neuron open."""
        loose = self.start.pre_activation(program, node, deadline) if known is None else known
        deadline.check()
        return lps.entries(node, loose, unstable(program.graph, node, loose), soft)


@dataclass(frozen=True, eq=False)
class Optimised(OnProgram):
    """A relaxed program whose pre-activation bounds are all known, as LPs."""

    solver: Simplex
    program: RelaxedProgram
    models: LinearPrograms
    deadline: Deadline

    @property
    def lps(self) -> int:  # type: ignore[override]
        return self.models.solved

    def node(self, number: int) -> Interval:
        loose = self.solver.start.entries(self.program, number, self.deadline)
        return self.models.entries(number, loose, torch.ones_like(loose.lower, dtype=torch.bool), self.deadline)

    def trace(self, objectives: Objectives, keep: Container[int]) -> tuple[RelaxedProgram, RowBounds]:
        return self.program, self.models.trace(objectives, keep, self.deadline)

    def both_sides(self, objectives: Objectives) -> tuple[Solution, Tensor | None]:
        """Lower bounds (1, M) of objectives and, from the same LPs, their values (1, M) at feasible points of the relaxed program.

        For a batch of one; no values without an LP.  They are upper bounds of the relaxed optimum, up to rounding: no verdict
        rests on them.
        """
        self.deadline.check()
        closed = back_substitute(self.program, output_rows(self.graph, objectives), objectives.constant).lower
        best, values = self.models.both_sides(objectives, closed, self.deadline)
        return self._solution(objectives, best), values

    def points(self, objectives: Objectives) -> Tensor | None:
        """The inputs (M, *input_shape) of the LPs' solutions, for a batch of one; None where there is no LP."""
        return self.models.points(objectives, self.deadline)

    def weights(self, objectives: Objectives) -> Tensor | None:
        return self.models.weights(objectives, self.deadline)

    def minimise(self, objectives: Objectives, enough: float = math.inf) -> Solution:
        self.deadline.check()
        closed = back_substitute(self.program, output_rows(self.graph, objectives), objectives.constant).lower
        return self._solution(objectives, self.models.minimise(objectives, closed, enough, self.deadline))

    def _solution(self, objectives: Objectives, bound: Tensor) -> Solution:
        status = Status.OPTIMAL if self.models.optimal else Status.STOPPED
        return Solution(bound - coefficient_error(self.program, output_rows(self.graph, objectives), objectives), status)
