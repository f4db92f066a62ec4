"""Inner bounds, layer after layer: which entries of a pre-activation are bounded anew, and how they are put together."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bourn.deadline import Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.program.relaxed import RelaxedProgram
from bourn.program.restrict import receptive_fields, take_problems
from bourn.relaxations.base import ElementWise, Nonlinearity

BoundRows = Callable[[RelaxedProgram, dict[int, Tensor], Tensor], tuple[Tensor, Tensor]]
"""Lower and upper bounds (B', M) of rows on a program whose bounds are known so far; which of all problems (B',) these are."""


def widest(graph: Graph, node: int) -> int:
    """Entries of the widest node that ``node`` depends on."""
    return max(graph.nodes[v].size for v in graph.ancestors(node))


def unstable(graph: Graph, node: int, bounds: Interval) -> Tensor:
    """Where a pre-activation's bounds leave one of its readers open, or all where nothing nonlinear reads it (bool)."""
    readers = [graph.nodes[v] for v in graph.readers(node)]
    open_ = torch.zeros_like(bounds.lower, dtype=torch.bool)
    for reader in readers:
        if not isinstance(reader.operation, ElementWise) or reader.inputs != (node,):
            return torch.ones_like(open_)  # it stands on other bounds too
        open_ |= ~reader.operation.stable(bounds)
    return open_ if readers else torch.ones_like(open_)


def within_hull(operation: Nonlinearity, z: tuple[Interval, ...], found: Interval, *, imposed: bool = False) -> Interval:
    """Bounds of a nonlinear node's values within what its hull says, where it is not its lines: a ReLU's are at least 0.

    ``imposed``: bounds from outside may have left no values at all, and then do not fit together.
    """
    own = operation.range(*z)
    says = ~operation.stable(*z) | (own.lower == own.upper)
    lower = torch.maximum(found.lower, own.lower.where(says, -math.inf))
    upper = torch.minimum(found.upper, own.upper.where(says, math.inf))
    return Interval.between(lower, upper) if imposed else Interval(lower, upper)


def refine(
    program: RelaxedProgram,
    node: int,
    known: Interval,
    open_: Tensor,
    bound: BoundRows,
    *,
    row_bytes: int,
    deadline: Deadline,
    local: bool = False,
    partial: bool = False,
) -> Interval:
    """Bound the entries marked ``open_`` of a node anew; the other entries keep what is ``known``.

    Problems with about as many marked entries go together, so that few rows are padding.  ``row_bytes`` bounds the memory of
    one set of rows.  ``local``: by receptive fields, where the node has them.  Out of time it raises
    :class:`bourn.deadline.OutOfTime`, or returns what it has where that may be ``partial``.
    """
    small = receptive_fields(program, node) if local else None
    if small is not None:
        positions, channels = math.prod(known.shape[3:]), known.shape[2]

        def apart(t: Tensor) -> Tensor:
            return t.reshape(program.batch, channels, positions).mT.reshape(-1, 1, channels, 1, 1)

        def together(t: Tensor) -> Tensor:
            return t.reshape(program.batch, positions, channels).mT.reshape(known.shape)

        own = Interval(apart(known.lower), apart(known.upper))
        found = _refine(small, small.graph.output, own, apart(open_), bound, row_bytes, deadline, partial)
        return Interval(together(found.lower), together(found.upper))
    return _refine(program, node, known, open_, bound, row_bytes, deadline, partial)


def _refine(
    program: RelaxedProgram,
    node: int,
    known: Interval,
    open_: Tensor,
    bound: BoundRows,
    row_bytes: int,
    deadline: Deadline,
    partial: bool,
) -> Interval:
    shape = known.shape[1:]
    lower, upper, marked = known.lower.flatten(1).clone(), known.upper.flatten(1).clone(), open_.flatten(1)
    counts = marked.sum(1)
    by_count = torch.argsort(counts, descending=True)
    by_count = by_count[: int((counts > 0).sum())]
    size = widest(program.graph, node)
    while len(by_count) and not (partial and deadline.left <= 0):
        most = int(counts[by_count[0]])
        at_once = max(1, row_bytes // (8 * size * most))
        chosen, by_count = by_count[:at_once], by_count[at_once:]
        # The marked entries first; problems with fewer repeat some that are not.
        entries = torch.argsort(marked[chosen].to(torch.int8), dim=1, descending=True, stable=True)[:, :most]
        part = take_problems(program, chosen)
        limit = max(1, row_bytes // (8 * size * len(chosen)))
        for piece in torch.split(entries, limit, dim=1):
            if partial and deadline.left <= 0:
                break
            deadline.check()
            rows = torch.zeros(*piece.shape, marked.shape[1], dtype=torch.float64, device=piece.device)
            rows.scatter_(2, piece[..., None], 1.0)
            low, high = bound(part, {node: rows.reshape(*piece.shape, *shape)}, chosen)
            own = marked[chosen].gather(1, piece)
            lower[chosen[:, None], piece] = torch.where(own, low, lower[chosen[:, None], piece])
            upper[chosen[:, None], piece] = torch.where(own, high, upper[chosen[:, None], piece])
    lower, upper = lower.reshape(known.shape), upper.reshape(known.shape)
    return Interval.between(lower, upper) if program.imposed else Interval(lower, upper)
