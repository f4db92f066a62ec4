"""Forward linear bounds (symbolic intervals): every value between two linear functions of the input.

Each pre-activation is bounded over the input set on the way, and its lines are put on its own two linear
functions, so that what two neurons share is forgotten: weaker than back-substitution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.affine import Affine
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet, dot
from bourn.problem.problem import Objectives
from bourn.relaxations.base import LineRule, Nonlinearity
from bourn.rounding import TINY, UNIT, down, gamma, up
from bourn.solvers.base import Inner, Prepared, Solution, Solver, Status, join, output_rows, settle, take
from bourn.solvers.tightening import within_hull


@dataclass(frozen=True, eq=False)
class Functions:
    """lower(x) - error <= value <= upper(x) + error, with lower(x) = lower_matrix . x + lower_constant.

    Matrices (B, n, *shape) over the n flat inputs, constants and ``error`` (B, *shape).
    """

    lower_matrix: Tensor
    lower_constant: Tensor
    upper_matrix: Tensor
    upper_constant: Tensor
    error: Tensor

    def size(self, box: InputSet) -> Tensor:
        """An upper bound of the sum of all absolute terms of either function, (B, *shape)."""
        x = box.interval.magnitude.flatten(1)
        matrix = torch.maximum(self.lower_matrix.abs(), self.upper_matrix.abs())
        constant = torch.maximum(self.lower_constant.abs(), self.upper_constant.abs())
        spread = torch.matmul(x[:, None], matrix.flatten(2))[:, 0].reshape(constant.shape)
        return spread * (1 + gamma(x.shape[1] + 4)) + constant + self.error

    def interval(self, box: InputSet) -> Interval:
        """Bounds over the box, rounded outward."""
        low, _, below = box.extremes(_as_rows(self.lower_matrix, box))
        _, high, above = box.extremes(_as_rows(self.upper_matrix, box))
        shape = self.error.shape
        low, high, rounding = low.reshape(shape), high.reshape(shape), torch.maximum(below, above).reshape(shape)
        slack = (self.error + rounding) * (1 + 8 * UNIT)
        lower, upper = low + self.lower_constant, high + self.upper_constant
        slack = slack + 4 * UNIT * (low.abs() + high.abs() + self.lower_constant.abs() + self.upper_constant.abs())
        return Interval(down(lower - slack), up(upper + slack))


@dataclass(frozen=True)
class ForwardLinear(Solver):
    """Symbolic intervals as in Neurify (Wang et al. 2018); sound, not complete.

    ``chunk_bytes`` bounds the memory of one node's matrices.
    """

    rule: LineRule = LineRule.PARALLEL
    chunk_bytes: int = 1 << 26
    solved_by = "forward, concretized on the way"

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
    ) -> Forward:
        at_once = max(1, self.chunk_bytes // (16 * graph.nodes[0].size * max(n.size for n in graph.nodes)))
        parts = []
        for first in range(0, box.batch, at_once):
            some = slice(first, first + at_once)
            known = take(inner, some), take(begin, some), take(outside, some)
            parts.append(self._propagate(graph, box[some], known, deadline))
        return Forward(graph, box, parts)

    def _propagate(self, graph: Graph, box: InputSet, known: tuple[Inner, Inner, Inner], deadline: Deadline) -> _Part:
        last_reader = {i: number for number, node in enumerate(graph.nodes) for i in node.inputs}
        found: dict[int, Functions] = {}
        intervals: dict[int, Interval] = {}
        for number, node in enumerate(graph.nodes):
            deadline.check()
            if isinstance(node.operation, Affine):
                found[number] = _affine(node.operation, [found[i] for i in node.inputs], box)
            elif isinstance(node.operation, Nonlinearity):
                arguments = [(found[z], intervals[z]) for z in node.inputs]
                found[number] = _nonlinear(node.operation, arguments, self.rule, box)
            else:
                found[number] = _input(box)
            bounds = found[number].interval(box)
            if isinstance(node.operation, Nonlinearity):
                bounds = within_hull(node.operation, tuple(intervals[z] for z in node.inputs), bounds)
            intervals[number] = settle(graph, number, bounds, *known)
            for i in set(node.inputs):
                if last_reader[i] == number and i != graph.output:
                    del found[i]
        return _Part(box, intervals, found[graph.output])


def _as_rows(matrix: Tensor, box: InputSet) -> Tensor:
    """(B, n, *shape) to one row on the input for every entry: (B, size, *input_shape)."""
    flat = matrix.flatten(2).mT
    return flat.reshape(*flat.shape[:2], *box.shape)


def _input(box: InputSet) -> Functions:
    identity = torch.eye(box.lower[0].numel(), dtype=torch.float64, device=box.lower.device)
    identity = identity.reshape(1, -1, *box.shape).expand(box.batch, -1, *box.shape)
    zero = torch.zeros_like(box.lower)
    return Functions(identity, zero, identity, zero, zero)


def _affine(operation: Affine, arguments: list[Functions], box: InputSet) -> Functions:
    """A x = A (l + u) / 2 + |A| (u - l) / 2 for both ends at once, which is what the signs of A choose."""
    if not arguments:
        value = operation.constant(box.batch)
        matrix = value.new_zeros(box.batch, box.lower[0].numel(), *operation.out_shape)
        error = torch.zeros_like(value) if operation.bias_error is None else operation.bias_error.expand_as(value)
        return Functions(matrix, value, matrix, value, error)
    batch, inputs = arguments[0].lower_matrix.shape[:2]
    middles = [(f.lower_matrix / 2 + f.upper_matrix / 2).flatten(0, 1) for f in arguments]
    halves = [(f.upper_matrix / 2 - f.lower_matrix / 2).flatten(0, 1) for f in arguments]
    middle, half = operation.linear(*middles), operation.absolute(*halves)
    lower, upper = (t.reshape(batch, inputs, *operation.out_shape) for t in (middle - half, middle + half))
    center = operation.forward(*(f.lower_constant / 2 + f.upper_constant / 2 for f in arguments))
    spread = operation.absolute(*(f.upper_constant / 2 - f.lower_constant / 2 for f in arguments))
    terms = operation.forward_terms
    size = operation.absolute(*(f.size(box) for f in arguments))
    if operation.bias is not None:
        size = size + operation.bias.abs()
    relative = 4 * gamma(terms + 8) + operation.weight_error
    error = operation.absolute(*(f.error for f in arguments)) * (1 + relative) + relative * size
    if operation.bias_error is not None:
        error = error + operation.bias_error
    error = error + TINY * (1 + terms) * (1 + inputs)
    return Functions(lower, center - spread, upper, center + spread, error)


def _nonlinear(operation: Nonlinearity, arguments: list[tuple[Functions, Interval]], rule: LineRule, box: InputSet) -> Functions:
    """Each line on the ends of the pre-activations that its slopes' signs ask for."""
    lines = operation.lines(rule, *(interval for _, interval in arguments))

    def put(slopes: tuple[Tensor, ...], constant: Tensor, own: bool) -> tuple[Tensor, Tensor]:
        matrix = constant.new_zeros(())
        for slope, (z, _) in zip(slopes, arguments, strict=True):
            up_first = (slope >= 0) == own
            matrix = matrix + slope[:, None] * torch.where(up_first[:, None], z.lower_matrix, z.upper_matrix)
            constant = constant + slope * torch.where(up_first, z.lower_constant, z.upper_constant)
        return matrix, constant

    lower_matrix, lower_constant = put(lines.lower_slopes, lines.lower_offset, True)
    upper_matrix, upper_constant = put(lines.upper_slopes, lines.upper_offset, False)
    size = torch.maximum(lines.lower_offset.abs(), lines.upper_offset.abs())
    error = torch.zeros_like(size)
    for below, above, (z, _) in zip(lines.lower_slopes, lines.upper_slopes, arguments, strict=True):
        slope = torch.maximum(below.abs(), above.abs())
        size, error = size + slope * z.size(box), error + slope * z.error
    terms = 4 + 4 * len(arguments)
    error = error * (1 + terms * UNIT) + terms * UNIT * size + TINY * lower_matrix.shape[1]
    return Functions(lower_matrix, lower_constant, upper_matrix, upper_constant, error)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some problems of the batch: bounds of every node, functions of the output."""

    box: InputSet
    intervals: Mapping[int, Interval]
    output: Functions


@dataclass(frozen=True, eq=False)
class Forward(Prepared):
    """Bounds of every node and the linear functions of the output."""

    graph: Graph
    box: InputSet
    parts: list[_Part]

    @property
    def bounds(self) -> Mapping[int, Interval]:  # type: ignore[override]
        return {z: self.node(z) for z in self.graph.pre_activations}

    def node(self, number: int) -> Interval:
        return join([part.intervals[number] for part in self.parts])

    def minimise(self, objectives: Objectives, enough: float = math.inf) -> Solution:
        bounds, first = [], 0
        for part in self.parts:
            bounds.append(self._minimise_part(part, objectives.take(slice(first, first + part.box.batch))))
            first += part.box.batch
        return Solution(torch.cat(bounds), Status.CLOSED_FORM)

    def _minimise_part(self, part: _Part, objectives: Objectives) -> Tensor:
        rows = output_rows(self.graph, objectives)
        y = part.output
        if self.graph.output == 0:
            y = _input(part.box)
        row = rows[self.graph.output].flatten(2)
        positive, negative = row.clamp(min=0), row.clamp(max=0)
        matrix = dot(positive, y.lower_matrix.flatten(2).mT) + dot(negative, y.upper_matrix.flatten(2).mT)
        constant = dot(positive, y.lower_constant.flatten(1)[..., None]) + dot(negative, y.upper_constant.flatten(1)[..., None])
        size = dot(row.abs(), y.size(part.box).flatten(1)[..., None])[..., 0]
        error = dot(row.abs(), y.error.flatten(1)[..., None])[..., 0]
        if 0 in rows and self.graph.output != 0:
            on_input = rows[0].flatten(2)
            matrix = matrix + on_input
            size = size + dot(on_input.abs(), part.box.interval.magnitude.flatten(1)[..., None])[..., 0]
        low, rounding = part.box.minimise_linear(matrix.reshape(*matrix.shape[:2], *part.box.shape))
        total = low + constant[..., 0] + objectives.constant
        terms = row.shape[2] + matrix.shape[2]
        relative = 4 * gamma(terms + 16) + (4 * UNIT if objectives.inexact else 0.0)
        slack = error * (1 + relative) + relative * (size + objectives.constant.abs()) + rounding + TINY * terms
        slack = slack + 8 * UNIT * (low.abs() + constant[..., 0].abs() + objectives.constant.abs())
        return down(total - slack * (1 + 2.0**-20)).expand(part.box.batch, len(objectives))
