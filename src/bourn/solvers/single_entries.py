"""Rows that read a single entry: their bound is the end of an interval, and no sum rounds on the way.

A linear bound of y <= 1 lies a rounding error beside 1; of a sigmoid's values themselves it is known that they are at most 1.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from fractions import Fraction

import torch

from bourn.network.affine import Affine
from bourn.network.graph import Graph
from bourn.problem.specification import Row
from bourn.rounding import float_below
from bourn.solvers.interval_propagation import Intervals

_GREATEST = Fraction(sys.float_info.max)


@dataclass(frozen=True)
class _Reading:
    """``factor`` times one flat entry of a node, plus ``constant``, exactly; a constant alone where the factor is 0."""

    node: int
    entry: int
    factor: Fraction
    constant: Fraction


def entry_bound(row: Row, known: Intervals) -> float:
    """A lower bound of ``row`` for a batch of one, if it reads one entry of the output; -inf for other rows.

    Affine nodes that move the entry, or scale it and add to it exactly, are seen through, down to a node of which ``known``
    has the interval; from its end on arithmetic is exact, and the result rounded down once.
    """
    if len(row.outputs) != 1 or row.inputs:
        return -math.inf
    ((entry, factor),) = row.outputs
    found = _Reading(known.graph.output, entry, factor, row.constant)
    while (before := _before(known.graph, found)) is not None:
        found = before
    if not found.factor:
        return float_below(found.constant)
    interval = known.node(found.node)
    ends = [float(end.flatten()[found.entry]) for end in (interval.lower, interval.upper)]
    if not all(map(math.isfinite, ends)):
        return -math.inf
    low, high = sorted(found.factor * Fraction(end) + found.constant for end in ends)
    # What overflows at one end decides nothing at the other.
    return float_below(low) if max(-low, high) <= _GREATEST else -math.inf


def _before(graph: Graph, reading: _Reading) -> _Reading | None:
    """The same in terms of what an affine node reads; None where that is several entries, or rounded, or not affine."""
    node = graph.nodes[reading.node]
    operation = node.operation
    if not isinstance(operation, Affine) or operation.weight_error or operation.bias_error is not None or not reading.factor:
        return None
    unit = torch.zeros(1, node.size, dtype=torch.float64, device=graph.device)
    unit[0, reading.entry] = 1.0
    constant = reading.constant
    if operation.bias is not None:
        bias = operation.bias.expand(operation.out_shape).flatten()[reading.entry]
        constant += reading.factor * Fraction(float(bias))
    # Of one unit every product with a weight is exact, and of several products all but one are 0.
    places = [(i, part.flatten()) for i, part in zip(node.inputs, operation.transpose(unit.reshape(1, *node.shape)), strict=True)]
    entries = [(i, int(e), float(part[e])) for i, part in places for e in torch.nonzero(part)[:, 0]]
    if len(entries) > 1:
        return None
    source, entry, weight = entries[0] if entries else (reading.node, reading.entry, 0.0)
    return _Reading(source, entry, reading.factor * Fraction(weight), constant)
