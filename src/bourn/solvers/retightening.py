"""Inner bounds inside the tree: after a split the bounds of later pre-activations are found anew, under all splits so far.

LP-ALL's layer-wise scheme on a subproblem: rows that pick a neuron, by ascent with multipliers for the splits, for many
subproblems and neurons in one batch; every bound is stated in float64 with its rounding error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.deadline import Deadline
from bourn.program.branches import Parts, Shared
from bourn.program.linear_bounds import Multipliers, back_substitute
from bourn.program.relaxed import RelaxedProgram
from bourn.solvers.split_ascent import Climb

_ROWS = 2048
"""How many rows are alive at a time."""


def tighten(shared: Shared, parts: Parts, after: Tensor, climb: Climb, deadline: Deadline) -> Parts:
    """Bounds of the open neurons in all nodes later than number ``after`` (B,) of the kept ones, where these are tighter.

    A subproblem whose bounds come to contradict each other is empty: any bounds hold on it, and it keeps them, exchanged.
    """
    for number, v in enumerate(shared.kept):
        own = shared.place[v]
        which = torch.nonzero((after < number) & parts.open[:, own].any(1))[:, 0]
        if not len(which):
            continue
        at_once = max(1, _ROWS // (2 * int(parts.open[which][:, own].sum(1).max())))
        for some in torch.split(which, at_once):
            if deadline.left <= 0:
                return parts
            low, high = _layer(shared, v, parts[some], climb, deadline)
            lower, upper = parts.lower.clone(), parts.upper.clone()
            low, high = torch.maximum(low, lower[some, own]), torch.minimum(high, upper[some, own])
            lower[some, own], upper[some, own] = torch.minimum(low, high), torch.maximum(low, high)
            parts = Parts(lower, upper, parts.side)
    return parts


@dataclass(frozen=True, eq=False)
class LayerRows:
    """Rows that pick neurons of one node, for B subproblems: ``neurons`` (B, n) of the node's kept ones, some of them ``real``.

    ``rows`` are those of the neurons, then those of their negatives, on pre-activation ``z``; with multipliers for each.
    """

    z: int
    neurons: Tensor
    real: Tensor
    rows: Tensor
    program: RelaxedProgram
    multipliers: dict[int, Multipliers]


def climbed(shared: Shared, node: int, parts: Parts, climb: Climb, deadline: Deadline) -> LayerRows:
    """Multipliers of bounds of a node's open neurons, by ascent."""
    own, count = shared.place[node], len(parts.lower)
    open_ = parts.open[:, own]
    most = int(open_.sum(1).max())
    neurons = torch.argsort(open_.to(torch.int8), dim=1, descending=True, stable=True)[:, :most]
    objective = shared.of_layer(node)
    picked = torch.zeros(count, most, own.stop - own.start, device=neurons.device)
    picked.scatter_(2, neurons[..., None], 1.0)
    weights = torch.cat([picked, -picked], 1).flatten(0, 1)
    repeated = torch.arange(count, device=neurons.device).repeat_interleave(2 * most)
    many = parts[repeated]
    chosen, _, _ = climb.run(objective, many, objective.begin(many, weights), deadline)
    program = shared.relaxed(parts)
    z, numbers = shared.origin(node)
    size, shape = shared.program.graph.nodes[z].size, shared.program.graph.nodes[z].shape
    rows = torch.zeros(count, 2 * most, size, dtype=torch.float64, device=neurons.device)
    entries = numbers[0][neurons]
    rows[:, :most].scatter_(2, entries[..., None], 1.0)
    rows[:, most:].scatter_(2, entries[..., None], -1.0)

    def grouped(t: Tensor) -> Tensor:
        return t.reshape(count, 2 * most, *t.shape[2:])

    multipliers = {
        v: Multipliers(m.free, tuple(map(grouped, m.below)), tuple(map(grouped, m.above)), tuple(map(grouped, m.mu)))
        for v, m in objective.multipliers(program, many, chosen).items()
    }
    return LayerRows(z, neurons, open_.gather(1, neurons), rows.reshape(count, 2 * most, *shape), program, multipliers)


def _layer(shared: Shared, node: int, parts: Parts, climb: Climb, deadline: Deadline) -> tuple[Tensor, Tensor]:
    """Bounds (B, n) of a node's kept neurons; what is not open keeps its own."""
    own, r = shared.place[node], climbed(shared, node, parts, climb, deadline)
    most, neurons = r.neurons.shape[1], r.neurons
    zero = r.rows.new_zeros(1, 2 * most)
    found = back_substitute(r.program, {r.z: r.rows}, zero, (), r.multipliers).lower
    low, high = parts.lower[:, own].clone(), parts.upper[:, own].clone()
    low_, high_ = torch.maximum(found[:, :most], low.gather(1, neurons)), torch.minimum(-found[:, most:], high.gather(1, neurons))
    low.scatter_(1, neurons, torch.where(r.real, low_, low.gather(1, neurons)))
    high.scatter_(1, neurons, torch.where(r.real, high_, high.gather(1, neurons)))
    return low, high
