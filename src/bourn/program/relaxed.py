"""The relaxed program: a graph, an input set, and for every nonlinear node its lines on its pre-activation bounds.

It grows layer by layer: :func:`start` knows the input only, :func:`with_bounds` adds one pre-activation's
bounds and, with them, the lines of the nodes that read it.  Nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bourn.errors import UsageError
from bourn.interval import Interval
from bourn.network.affine import Affine
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.relaxations.base import Intervals, LineRule, Lines, Nonlinearity


@dataclass(frozen=True, eq=False)
class RelaxedProgram:
    """A relaxed program for B problems, as far as its pre-activation bounds are known.

    ``bounds``: node number to the bounds of a pre-activation.  ``lines``: nonlinear node to its lines.
    ``magnitudes``: node to an upper bound of its absolute value, (B or 1, *shape), for the rounding
    errors; for an affine node it is |A| |x| + |b|, never less than what its sums are made of.  ``imposed``:
    pre-activation to the entries whose bounds come from outside, so that the program itself need not imply them.
    """

    graph: Graph
    box: InputSet
    rule: LineRule
    bounds: Mapping[int, Interval]
    lines: Mapping[int, Lines]
    magnitudes: Mapping[int, Tensor]
    imposed: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return self.box.batch

    def inputs_of(self, node: int) -> Intervals:
        """The bounds of what a nonlinear node reads, one an input."""
        return tuple(self.bounds[z] for z in self.graph.nodes[node].inputs)

    def free(self, node: int) -> Tensor:
        """Where a nonlinear node keeps a multiplier of its own (bool, (B, *shape)).

        It does where it is not affine on its interval, and where its bounds were imposed.  Entries with an infinite end
        keep their lines, which have one multiplier for all.  A node made as lines alone (a mask) has no bounds to be free in.
        """
        operation = self.graph.nodes[node].operation
        assert isinstance(operation, Nonlinearity)
        if any(z not in self.bounds for z in self.graph.nodes[node].inputs):
            return torch.zeros_like(self.lines[node].lower_offset, dtype=torch.bool)
        bounds = self.inputs_of(node)
        open_ = ~operation.stable(*bounds)
        for z in self.graph.nodes[node].inputs:
            if z in self.imposed:
                open_ = open_ | self.imposed[z]
        for own in bounds:
            open_ = open_ & torch.isfinite(own.magnitude)
        lines = self.lines[node]  # infinite where the interval leaves what the function is defined on
        return open_ & torch.isfinite(lines.lower_offset) & torch.isfinite(lines.upper_offset)


def start(graph: Graph, box: InputSet, rule: LineRule) -> RelaxedProgram:
    """The program in which only the input's bounds are known."""
    return _advance(RelaxedProgram(graph, box, rule, {}, {}, {0: box.interval.magnitude}))


def with_bounds(program: RelaxedProgram, node: int, bounds: Interval, outside: Interval | None = None) -> RelaxedProgram:
    """The program that also knows the bounds of pre-activation ``node``, (B, *shape).

    ``outside``: bounds of the same entries that the program need not imply; where they are tighter or as tight they are
    imposed.  Raises :class:`UsageError` where both contradict each other.
    """
    imposed = dict(program.imposed)
    if outside is not None:
        tighter = (outside.lower >= bounds.lower) & torch.isfinite(outside.lower)
        tighter |= (outside.upper <= bounds.upper) & torch.isfinite(outside.upper)
        imposed[node] = tighter
        bounds = intersect_outside(program.graph, node, bounds, outside)
    known = {**program.bounds, node: bounds}
    for moved in program.graph.moved[node]:
        operation, source = program.graph.nodes[moved].operation, program.graph.nodes[moved].inputs[0]
        assert isinstance(operation, Affine)
        known[moved] = Interval(operation.linear(known[source].lower), operation.linear(known[source].upper))
        if source in imposed:
            imposed[moved] = operation.linear(imposed[source].to(torch.float64)) > 0
    return _advance(replace(program, bounds=known, imposed=imposed))


def intersect_outside(graph: Graph, node: int, bounds: Interval, outside: Interval) -> Interval:
    """Bounds of ``node`` within those from outside; raises :class:`UsageError` where they contradict each other."""
    try:
        return bounds.intersect(outside)
    except UsageError:
        raise UsageError(
            f"the bounds from outside contradict node {graph.nodes[node].name!r}: its values on the input set lie outside them"
        ) from None


def _advance(program: RelaxedProgram) -> RelaxedProgram:
    """Add lines and magnitudes of all nodes whose inputs are known by now."""
    lines, magnitudes = dict(program.lines), dict(program.magnitudes)
    for number, node in enumerate(program.graph.nodes):
        if number in magnitudes or any(i not in magnitudes for i in node.inputs):
            continue
        operation = node.operation
        if isinstance(operation, Affine):
            magnitudes[number] = affine_magnitude(operation, [magnitudes[i] for i in node.inputs])
        elif isinstance(operation, Nonlinearity) and all(i in program.bounds for i in node.inputs):
            z = tuple(program.bounds[i] for i in node.inputs)
            lines[number] = operation.lines(program.rule, *z)
            magnitudes[number] = operation.range(*z).magnitude
    return replace(program, lines=lines, magnitudes=magnitudes)


def affine_magnitude(operation: Affine, magnitudes: list[Tensor]) -> Tensor:
    """|A| |x| + |b| for inputs of these magnitudes, the stated errors of A and b included, (B or 1, *shape)."""
    bias = torch.zeros((), dtype=torch.float64) if operation.bias is None else operation.bias.abs()
    if operation.bias_error is not None:
        bias = bias + operation.bias_error
    if not magnitudes:
        return bias.expand(1, *operation.out_shape)
    batch = max(len(m) for m in magnitudes)
    value = operation.absolute(*(m.expand(batch, *m.shape[1:]) for m in magnitudes))
    return value * (1 + operation.weight_error) + bias.to(value.device)
