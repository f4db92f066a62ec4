"""Back-substitution: rows carried from the objective to the input through one lower and one upper line a neuron.

With parallel lines it is Fast-Lin (Weng et al. 2018), which Wong and Kolter 2018 reach from the dual; with
lines of least area it is CROWN (Zhang et al. 2018) and DeepPoly (Singh et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.program.linear_bounds import RowBounds, back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.program.restrict import after_node, receptive_fields, take_problems
from bourn.relaxations.base import LineRule, Nonlinearity
from bourn.relaxations.curves import PiecewiseLinear
from bourn.rounding import UNIT
from bourn.solvers.base import OnProgram, Solution, Solver, Status, identity_rows, output_rows, settle
from bourn.solvers.combination import linear_weights
from bourn.solvers.tightening import refine, unstable, widest, within_hull


@dataclass(frozen=True)
class BackSubstitution(Solver):
    """Closed-form solution of the relaxed problem with one pair of lines a neuron; sound, not complete.

    ``rule`` chooses the lines.  ``chunk_bytes`` bounds the memory of one set of rows; several are alive at a time.
    """

    rule: LineRule = LineRule.AREA
    chunk_bytes: int = 1 << 23
    solved_by = "back-substitution"

    @property
    def relaxation(self) -> str:
        return self.rule.value

    def prepare(
        self,
        graph: Graph,
        box: InputSet,
        *,
        inner: Mapping[int, Interval] | None = None,
        begin: Mapping[int, Interval] | None = None,
        outside: Mapping[int, Interval] | None = None,
        deadline: Deadline = NEVER,
    ) -> Substituted:
        program = start(graph, box, self.rule)
        for z in graph.pre_activations:
            bounds = inner[z] if inner is not None else self.pre_activation(program, z, deadline)
            bounds = settle(graph, z, bounds, None, begin, None)
            program = with_bounds(program, z, bounds, None if outside is None else outside.get(z))
        return Substituted(self, program, deadline)

    def entries(self, program: RelaxedProgram, node: int, deadline: Deadline) -> Interval:
        """Bounds (B, *shape) of every entry of a node whose predecessors' lines are known, in chunks that fit ``chunk_bytes``."""
        if node == 0:
            return program.box.interval
        graph = program.graph
        shape = graph.nodes[node].shape
        local_size = _local_size(program, node)
        channels = graph.nodes[node].size if local_size is None else shape[1]
        positions = 1 if local_size is None else shape[2] * shape[3]
        size = widest(graph, node) if local_size is None else local_size
        parts = []
        for part in self._chunks(program, channels * positions * size):
            local = part if local_size is None else receptive_fields(part, node)
            assert local is not None
            target = node if local_size is None else local.graph.output
            low, high = self._all_entries(local, target, deadline)
            if local_size is not None:
                low, high = (t.reshape(part.batch, positions, channels).mT for t in (low, high))
            parts.append((low.reshape(part.batch, *shape), high.reshape(part.batch, *shape)))
        lower, upper = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        found = Interval.between(lower, upper) if program.imposed else Interval(lower, upper)
        return within_range(program, node, found)

    def _chunks(self, program: RelaxedProgram, numbers: int) -> Iterator[RelaxedProgram]:
        """The program in parts of as many problems as fit, for ``numbers`` row entries a problem."""
        at_once = max(1, self.chunk_bytes // (8 * numbers))
        for first in range(0, program.batch, at_once):
            yield take_problems(program, slice(first, first + at_once))

    def _all_entries(self, program: RelaxedProgram, node: int, deadline: Deadline) -> tuple[Tensor, Tensor]:
        """Bounds (B, size) of a node's entries, a few entries at a time."""
        size = program.graph.nodes[node].size
        at_once = max(1, self.chunk_bytes // (8 * widest(program.graph, node) * program.batch))
        pieces = []
        for piece in torch.split(torch.arange(size, device=program.box.lower.device), at_once):
            deadline.check()
            pieces.append(bound_both(program, {node: identity_rows(program.graph, node, piece)}))
        return torch.cat([p[0] for p in pieces], dim=1), torch.cat([p[1] for p in pieces], dim=1)

    def pre_activation(self, program: RelaxedProgram, node: int, deadline: Deadline) -> Interval:
        """Bounds of a pre-activation; loose ones where already those prove it stable, for they enter nothing then.

        Rows that the last layer's bounds alone decide need not go back to the input.
        """
        graph = program.graph
        readers = [graph.nodes[v].operation for v in graph.readers(node)]
        before = max((z for z in graph.ancestors(node)[:-1] if z in program.bounds), default=None)
        short = None if before is None or _local_size(program, node) is not None else after_node(program, before, node)
        if short is None or not all(isinstance(r, PiecewiseLinear) for r in readers) or graph.moved[node]:
            return self.entries(program, node, deadline)
        loose = self.entries(short, short.graph.output, deadline)
        open_ = unstable(graph, node, loose)
        found = refine(program, node, loose, open_, bound_both, row_bytes=self.chunk_bytes, deadline=deadline)
        return within_range(program, node, found)


def within_range(program: RelaxedProgram, node: int, found: Interval) -> Interval:
    """Bounds of a node within what its hull says, where it is a nonlinear one."""
    operation = program.graph.nodes[node].operation
    if not isinstance(operation, Nonlinearity):
        return found
    return within_hull(operation, program.inputs_of(node), found, imposed=bool(program.imposed))


def coefficient_error(program: RelaxedProgram, rows: Mapping[int, Tensor], objectives: Objectives) -> Tensor | float:
    """What rounding the objectives' coefficients may have cost, (B, M); 0 where none was rounded."""
    if not objectives.inexact:
        return 0.0
    total = torch.zeros((), dtype=torch.float64, device=program.box.lower.device)
    for v, row in rows.items():
        total = total + 4 * UNIT * torch.matmul(row.abs().flatten(2), program.magnitudes[v].flatten(1)[..., None])[..., 0]
    return total


def bound_both(program: RelaxedProgram, rows: dict[int, Tensor], problems: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds (B, M) of rows, whatever problems these are; lines that are not parallel take a pass for each side."""
    count = next(iter(rows.values())).shape[1]
    zero = torch.zeros(1, count, dtype=torch.float64, device=program.box.lower.device)
    found = back_substitute(program, rows, zero)
    if not bool(torch.isinf(found.upper).any()):
        return found.lower, found.upper
    negated = back_substitute(program, {v: -row for v, row in rows.items()}, zero)
    return found.lower, torch.minimum(found.upper, -negated.lower)


def _local_size(program: RelaxedProgram, node: int) -> int | None:
    """Entries of the widest window where a node is bounded by receptive fields; None where it is not."""
    local = receptive_fields(take_problems(program, slice(0, 1)), node)
    return None if local is None else widest(local.graph, local.graph.output)


@dataclass(frozen=True, eq=False)
class Substituted(OnProgram):
    """A relaxed program whose pre-activation bounds are all known."""

    solver: BackSubstitution
    program: RelaxedProgram
    deadline: Deadline

    def node(self, number: int) -> Interval:
        return self.solver.entries(self.program, number, self.deadline)

    def trace(self, objectives: Objectives, keep: Container[int]) -> tuple[RelaxedProgram, RowBounds]:
        return self.program, back_substitute(self.program, output_rows(self.graph, objectives), objectives.constant, keep)

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
            bound = back_substitute(part, rows, wanted.constant).lower
            bounds.append(bound - coefficient_error(part, rows, wanted))
        return Solution(torch.cat(bounds), Status.CLOSED_FORM)
