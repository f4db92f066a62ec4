"""Interval propagation (IBP, the box domain): constants for lines, forward through every node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.affine import Affine
from bourn.network.graph import Graph
from bourn.problem.input_set import Box, InputSet
from bourn.problem.problem import Objectives
from bourn.program.relaxed import affine_magnitude, start
from bourn.relaxations.base import LineRule, Nonlinearity
from bourn.rounding import TINY, UNIT, down, gamma, up
from bourn.solvers.back_substitution import BackSubstitution
from bourn.solvers.base import Prepared, Solution, Solver, Status, output_rows, settle


@dataclass(frozen=True)
class IntervalPropagation(Solver):
    """Gowal et al. 2018, *On the Effectiveness of Interval Bound Propagation*; sound, not complete.

    A set that is no box is one to the first nonlinear layer only: pre-activations that are affine in the input have their
    exact extremes over it; objectives on the input itself are minimised over the enclosing box.
    """

    solved_by = "interval propagation"

    @property
    def relaxation(self) -> str:
        return "constants"

    def prepare(
        self,
        graph: Graph,
        box: InputSet,
        *,
        inner: Mapping[int, Interval] | None = None,
        begin: Mapping[int, Interval] | None = None,
        outside: Mapping[int, Interval] | None = None,
        deadline: Deadline = NEVER,
    ) -> Intervals:
        known: dict[int, Interval] = {}
        direct = [] if isinstance(box, Box) else _affine_in_input(graph)
        for number, node in enumerate(graph.nodes):
            deadline.check()
            arguments = [known[i] for i in node.inputs]
            if isinstance(node.operation, Affine):
                known[number] = affine_interval(node.operation, arguments, box.batch)
                if number in direct:
                    known[number] = known[number].intersect(_extremes(graph, box, number, deadline))
            elif isinstance(node.operation, Nonlinearity):
                known[number] = node.operation.range(*arguments)
            else:
                known[number] = box.interval
            known[number] = settle(graph, number, known[number], inner, begin, outside)
        return Intervals(graph, box, known)


@dataclass(frozen=True, eq=False)
class Intervals(Prepared):
    """Bounds of every node."""

    graph: Graph
    box: InputSet
    nodes: Mapping[int, Interval]

    @property
    def bounds(self) -> Mapping[int, Interval]:  # type: ignore[override]
        return {z: self.nodes[z] for z in self.graph.pre_activations}

    def node(self, number: int) -> Interval:
        return self.nodes[number]

    def minimise(self, objectives: Objectives, enough: float = math.inf) -> Solution:
        count = len(objectives)
        low, error = objectives.constant, 4 * UNIT * objectives.constant.abs()
        for node, row in output_rows(self.graph, objectives).items():
            x = self.nodes[node]
            part, rounding = Box(x).minimise_linear(row)
            if objectives.inexact:
                rounding = rounding + 4 * UNIT * Box(Interval(-x.magnitude, x.magnitude)).extremes(row)[1]
            low, error = low + part, error + rounding + 4 * UNIT * part.abs()
        return Solution(down(low - error * (1 + 2.0**-20)).expand(self.box.batch, count), Status.CLOSED_FORM)


def _affine_in_input(graph: Graph) -> list[int]:
    """Pre-activations, and the output, before which there is nothing nonlinear."""
    ends = {*graph.pre_activations, graph.output}
    return [v for v in ends if v and not set(graph.ancestors(v)) & set(graph.nonlinear)]


def _extremes(graph: Graph, box: InputSet, node: int, deadline: Deadline) -> Interval:
    return BackSubstitution().entries(start(graph, box, LineRule.AREA), node, deadline)


def affine_interval(operation: Affine, arguments: list[Interval], batch: int) -> Interval:
    """Bounds of an affine node for inputs in these intervals, rounded outward."""
    if not arguments:
        assert operation.bias is not None
        value = operation.constant(batch)
        error = torch.zeros_like(value) if operation.bias_error is None else operation.bias_error.expand_as(value)
        return Interval(down(value - error), up(value + error))
    centers, radii = [z.center for z in arguments], [z.radius for z in arguments]
    middle, spread = operation.forward(*centers), operation.absolute(*radii)
    terms = operation.forward_terms
    if terms == 0 and operation.bias is None:  # numbers are only moved
        return Interval(operation.linear(*(z.lower for z in arguments)), operation.linear(*(z.upper for z in arguments)))
    magnitude = affine_magnitude(operation, [c.abs() + r for c, r in zip(centers, radii, strict=True)])
    error = (2 * gamma(terms + 4) + operation.weight_error) * magnitude + TINY * (1 + terms)
    if operation.bias_error is not None:
        error = error + operation.bias_error
    return Interval(down(middle - spread - error), up(middle + spread + error))
