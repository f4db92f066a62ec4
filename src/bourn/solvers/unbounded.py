"""Where bounds become infinite: the nodes that have none although what they read has finite ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from bourn.certificates.evidence import Unbounded
from bourn.interval import Interval
from bourn.network.affine import Affine
from bourn.network.graph import Graph, Input, Node
from bourn.problem.input_set import InputSet
from bourn.solvers.interval_propagation import IntervalPropagation


def unbounded(graph: Graph, box: InputSet, inner: Mapping[int, Interval]) -> tuple[Unbounded, ...]:
    """The nodes, in order, at which finite intervals lead to an infinite one: outside a function's domain, or by overflow.

    ``inner``: the best known bounds of pre-activations.  What only reads infinite bounds is not at fault and not listed.
    """
    known = IntervalPropagation().prepare(graph, box, begin=inner)
    found = []
    for number, node in enumerate(graph.nodes):
        if isinstance(node.operation, Input) or _finite(known.node(number)):
            continue
        arguments = [known.node(i) for i in node.inputs]
        if all(map(_finite, arguments)):
            found.append(_named(node, known.node(number), arguments))
    return tuple(found)


def _finite(x: Interval) -> bool:
    return bool(torch.isfinite(x.magnitude).all())


def _named(node: Node, own: Interval, arguments: list[Interval]) -> Unbounded:
    """The node with the intervals of its first entry that has an infinite bound; of an affine node, those of all that it reads."""
    # The leading axis is the batch's: one entry of one problem stands for all.
    lost = torch.nonzero(~torch.isfinite(own.magnitude).flatten())[:, 0]
    if isinstance(node.operation, Affine):
        where = tuple((float(z.lower.min()), float(z.upper.max())) for z in arguments)
    else:
        first = int(lost[0])
        where = tuple((float(z.lower.flatten()[first]), float(z.upper.flatten()[first])) for z in arguments)
    entry = int(lost[0]) % math.prod(own.shape[1:])
    return Unbounded(node.name, node.source.split(" ")[0] or type(node.operation).__name__, where, entry, len(lost))
