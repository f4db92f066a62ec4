"""How input splitting bounds a batch of boxes: condensed where that applies, else through the network's own operators."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bourn.deadline import NEVER
from bourn.interval import Interval
from bourn.network.affine import Affine
from bourn.network.graph import Graph
from bourn.problem.input_set import Box
from bourn.program.linear_bounds import back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.relaxations.base import LineRule, Nonlinearity
from bourn.solvers.back_substitution import bound_both
from bourn.solvers.base import output_rows
from bourn.solvers.box_ascent import BoxClimb
from bourn.solvers.condensed import Condensed, applies
from bourn.solvers.subproblems import WeightedRows
from bourn.solvers.tightening import refine, unstable


class BoundedBoxes(ABC):
    """B boxes, bounded by CROWN with bounds of their pre-activations begun from known ones.

    ``inner`` (B, 2, N): bounds of all pre-activations; ``open`` (B,): of how many entries these leave a nonlinear reader open.
    ``bounds`` (B, M) of the rows, and ``on_input`` (B, M, n), the linear functions below them.
    """

    inner: Tensor
    open: Tensor
    bounds: Tensor
    on_input: Tensor

    def _note(self, graph: Graph, bounds: Mapping[int, Interval], box: Box) -> None:
        nothing = box.lower.new_zeros(box.batch, 0)  # all that an affine network has
        own = [bounds[z] for z in graph.pre_activations]
        lower, upper = ([nothing, *(getattr(b, end).flatten(1) for b in own)] for end in ("lower", "upper"))
        self.inner = torch.stack([torch.cat(lower, 1), torch.cat(upper, 1)], 1)
        counts = (unstable(graph, z, b).flatten(1).sum(1) for z, b in zip(graph.pre_activations, own, strict=True))
        self.open = sum(counts, torch.zeros(box.batch, dtype=torch.int64, device=box.lower.device))

    @abstractmethod
    def together(self, weights: Tensor) -> Tensor:
        """Lower bounds (B,) of sums of the rows by weights (B, M)."""

    def climbed(self, weights: Tensor, group: Sequence[int], which: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds (A,) of better sums of a group's rows on the A boxes numbered ``which``, and their weights (A, M).

        ``weights`` (A, M) to begin with.  Where nothing is tried the bounds are -inf.
        """
        return weights.new_full((len(weights),), -math.inf), weights

    @abstractmethod
    def losses(self, weights: Tensor) -> Tensor:
        """What the bounds of these sums lose at all neurons, divided among the sides by how much they move these, (B, n)."""


def bounded(graph: Graph, box: Box, known: Mapping[int, Interval], rows: WeightedRows, row_bytes: int) -> BoundedBoxes:
    """Bounds of B boxes, at most those ``known``."""
    return _Condensed(graph, box, known, rows) if applies(graph) else _ByOperators(graph, box, known, rows, row_bytes)


class _Condensed(BoundedBoxes):
    """Through what is unstable only."""

    climb = BoxClimb()

    def __init__(self, graph: Graph, box: Box, known: Mapping[int, Interval], rows: WeightedRows) -> None:
        self.program, self.objectives = Condensed(graph, box, known), rows.objectives
        self.rows = output_rows(graph, rows.objectives)
        every = self.program.rows(self.rows, self.objectives.constant)
        self.on, self.carried = every.on, self.program.carry(every)
        self.bounds, self.on_input = self.carried.bounds, self.carried.on_input
        self._note(graph, self.program.bounds, box)

    def together(self, weights: Tensor) -> Tensor:
        rows = self.program.rows(self.rows, self.objectives.constant, weights[:, None])
        return self.program.carry(rows).bounds[:, 0]

    def climbed(self, weights: Tensor, group: Sequence[int], which: Tensor) -> tuple[Tensor, Tensor]:
        own, index = self.program, torch.tensor(group, device=weights.device)
        slopes, found = self.climb.run(own, self.on[which][:, index], weights[:, index], which)
        weights = torch.zeros_like(weights).index_copy(1, index, found)
        every = self.bounds.new_zeros(self.bounds.shape).index_copy(0, which, weights)
        below = {v: own.symbols[v].below.index_copy(0, which, slope) for v, slope in slopes.items()}
        return own.carry(own.rows(self.rows, self.objectives.constant, every[:, None]), below).bounds[which, 0], weights

    def losses(self, weights: Tensor) -> Tensor:
        return self.program.losses(self.carried, weights)


class _ByOperators(BoundedBoxes):
    """Through the whole network."""

    def __init__(self, graph: Graph, box: Box, known: Mapping[int, Interval], rows: WeightedRows, row_bytes: int) -> None:
        self.graph, self.weighted = graph, rows
        program = start(graph, box, LineRule.AREA)
        for z in graph.pre_activations:
            open_ = unstable(graph, z, known[z])
            fresh = refine(program, z, known[z], open_, bound_both, row_bytes=row_bytes, deadline=NEVER)
            program = with_bounds(program, z, known[z].intersect(fresh))
        self.program, self.moves = program, _moves(program)
        objectives = rows.objectives
        found = back_substitute(program, output_rows(graph, objectives), objectives.constant, keep=(0, *self.moves))
        identity = torch.eye(len(rows), dtype=torch.float64, device=box.lower.device)
        self.bounds = found.lower - torch.cat([rows.error(program, w.expand(box.batch, -1)) for w in identity[:, None]], 1)
        nothing = box.lower.new_zeros(box.batch, len(rows), box.lower[0].numel())
        self.on_input = found.kept[0].flatten(2).expand(box.batch, -1, -1) if 0 in found.kept else nothing
        self.kept = found.kept
        self._note(graph, program.bounds, box)

    def together(self, weights: Tensor) -> Tensor:
        return self.weighted.state(self.program, weights)

    def losses(self, weights: Tensor) -> Tensor:
        lost = torch.zeros_like(self.on_input[:, 0])
        for v, move in self.moves.items():
            if v in self.kept:
                row = (weights[:, None] @ self.kept[v].flatten(2).expand(len(weights), -1, -1))[:, 0]
                lines = self.program.lines[v]
                height = (row.clamp(max=0).abs() + 0.5 * row.clamp(min=0)) * lines.upper_offset.flatten(1).abs()
                lost += (move @ height[..., None])[..., 0]
        return lost


def _moves(program: RelaxedProgram) -> dict[int, Tensor]:
    """By which share every side of a box moves the pre-activation of every nonlinear entry, {node: (B, n, N)}.

    Along the mean of both lines; a heuristic, for which one that reads several inputs has no share.
    """
    lower, upper = program.box.lower, program.box.upper
    count, size = len(lower), lower[0].numel()
    width = (upper - lower).flatten(1)
    values: list[Tensor] = []
    shares = {}
    for number, node in enumerate(program.graph.nodes):
        operation, arguments = node.operation, [values[i] for i in node.inputs]
        if isinstance(operation, Affine):
            value = operation.linear(*arguments) if arguments else width.new_zeros(count * size, *node.shape)
        elif isinstance(operation, Nonlinearity):
            lines = program.lines[number]
            value = width.new_zeros(())
            for low, high, own in zip(lines.lower_slopes, lines.upper_slopes, arguments, strict=True):
                value = value + ((low + high) / 2).repeat_interleave(size, 0) * own
            if len(arguments) == 1:
                moved = arguments[0].reshape(count, size, -1).abs()
                shares[number] = moved / moved.sum(1, keepdim=True).clamp(min=1e-30)
        else:
            value = torch.diag_embed(width).reshape(count * size, *node.shape)
        values.append(value)
    return shares
