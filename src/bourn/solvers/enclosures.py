"""Points of the exact LP-ALL program, enclosed: what rows are worth there is known for certain.

A point is an input and, for every nonlinear node, values behind it.  Values that are wanted are moved into the hull, layer after
layer; what comes of it is known up to intervals that hold in exact arithmetic, so that neither the wish nor float64 is trusted.
:mod:`bourn.solvers.bracket` says why such points lie in the program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.network.affine import Affine
from bourn.network.graph import Graph, Input
from bourn.problem.input_set import Box, InputSet
from bourn.problem.problem import Objectives
from bourn.relaxations.base import Nonlinearity
from bourn.rounding import TINY, UNIT, gamma, up
from bourn.solvers.base import output_rows
from bourn.solvers.interval_propagation import affine_interval

_TOWARDS_MIDDLE = (0.0, 2.0**-45, 2.0**-35, 2.0**-25)
"""Shares of the way to the input set's middle that a point goes until it lies in the set as written."""


@dataclass(frozen=True, eq=False)
class Attained:
    """What points attain of a node's entries, (1, *shape): ``interval`` where there is more than one value, ``known`` says where.

    Every point of the interval is a value that the node has somewhere in the exact program, which is convex.
    """

    interval: Interval
    known: Tensor

    @classmethod
    def of(cls, least: Tensor, most: Tensor) -> Attained:
        """From the least upper and the greatest lower end of enclosures of values, (1, *shape) each; crossed ends are not known."""
        known = least <= most
        middle = torch.where(torch.isfinite(least) & torch.isfinite(most), least / 2 + most / 2, 0.0)
        return cls(Interval(torch.where(known, least, middle), torch.where(known, most, middle)), known)


@dataclass(frozen=True, eq=False)
class Enclosures:
    """M points: every node's value, (M, *shape), as far as asked for; ``valid`` (M,) where the input lies in the set as written."""

    graph: Graph
    values: Mapping[int, Interval]
    valid: Tensor

    def rows(self, objectives: Objectives) -> Tensor:
        """Upper bounds (M, K) of K objectives at the points, rounded outward; infinite at points that are not valid."""
        total, error = objectives.constant, 4 * UNIT * objectives.constant.abs() + TINY
        for node, row in output_rows(self.graph, objectives).items():
            own, flat = self.values[node], row[0].flatten(1)
            center, radius = own.center.flatten(1), own.radius.flatten(1)
            size = (center.abs() + radius) @ flat.abs().T
            terms = flat.shape[1]
            inexact = 4 * UNIT if objectives.inexact else 0.0
            total = total + center @ flat.T + radius @ flat.abs().T
            error = error + (2 * gamma(terms + 8) + inexact) * size + TINY * (1 + terms)
        # The objectives' constant is the one written, rounded down: it may be one float64 higher; the error covers that.
        return up(total + 2 * error).masked_fill(~self.valid[:, None], torch.inf)


def enclose(
    graph: Graph, box: InputSet, attained: Mapping[int, Attained], x: Tensor, wanted: Mapping[int, Tensor], target: int
) -> Enclosures:
    """Points near inputs ``x`` (M, *input_shape), every node up to ``target``, for an input set of a batch of one.

    ``attained``: of the inputs of all nonlinear nodes up to there.  ``wanted``: nonlinear node to values (M, *shape), which are
    moved into the hull on what is attained; where that cannot be told, the point has the function's own value.
    """
    inputs, valid = _inputs(box, x)
    values: dict[int, Interval] = {}
    for number in range(target + 1):
        node = graph.nodes[number]
        arguments = [values[i] for i in node.inputs]
        if isinstance(node.operation, Input):
            values[number] = inputs
        elif isinstance(node.operation, Affine):
            values[number] = affine_interval(node.operation, arguments, len(x))
        else:
            assert isinstance(node.operation, Nonlinearity)
            values[number] = _behind(node.operation, arguments, [attained[i] for i in node.inputs], wanted.get(number))
    return Enclosures(graph, values, valid)


def _behind(operation: Nonlinearity, z: list[Interval], attained: list[Attained], wanted: Tensor | None) -> Interval:
    """What is wanted, as far as the hull allows for certain, and elsewhere the function itself."""
    own = operation.range(*z)
    if wanted is None:
        return own
    least, most = operation.section(tuple(a.interval for a in attained), tuple(z))
    known = (least <= most) & torch.isfinite(wanted)
    for a in attained:
        known = known & a.known
    value = torch.minimum(torch.maximum(wanted, least), most)
    return Interval(torch.where(known, value, own.lower), torch.where(known, value, own.upper))


def _inputs(box: InputSet, x: Tensor) -> tuple[Interval, Tensor]:
    """Inputs near ``x``, and which of them certainly lie in the set as written."""
    point = box.project(x.nan_to_num())
    if isinstance(box, Box):
        if box.inner is None:
            return Interval(point, point), torch.isfinite(point).flatten(1).all(1)
        # An entry between whose ends, as written, there is no float64 is somewhere between those rounded outward.
        low, high = box.inner
        point, none = torch.minimum(torch.maximum(point, low), high), low > high
        enclosed = Interval(torch.where(none, box.lower, point), torch.where(none, box.upper, point))
        return enclosed, torch.isfinite(enclosed.magnitude).flatten(1).all(1)
    found, valid = point, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for share in _TOWARDS_MIDDLE:
        if bool(valid.all()):
            break
        near = point + share * (box.middle - point)
        if box.inner is not None:
            near = torch.minimum(torch.maximum(near, box.inner[0]), box.inner[1])
        inside = ~valid & box.contains(near)
        found = torch.where(inside.reshape(-1, *(1,) * (x.dim() - 1)), near, found)
        valid = valid | inside
    return Interval(found, found), valid
