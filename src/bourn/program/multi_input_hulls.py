"""The hull of one ReLU over all inputs of its affine map, instead of over their weighted sum.

Anderson et al. 2020: with y in a box and x = max(0, w . y + b), the least concave function above x is the minimum of
exponentially many lines in y; Tjandraatmadja et al. 2020 find the least one at a point by sorting.  Each takes the full weight of
some inputs, a part of one, and nothing of the others.

What makes a line sound is not how it was found.  Any slopes a give one: x <= a . y + d holds on the box if d is at least the
greatest value there of -a . y and of w . y + b - a . y, for x is one of 0 and w . y + b.  Both come from back-substitution that
ends at the inputs, so that their rounding, the network's stated errors, and every path between input and neuron are covered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from bourn.network.affine import Affine
from bourn.network.graph import Graph, Input
from bourn.program.cuts import Matrix
from bourn.program.linear_bounds import back_substitute
from bourn.program.planes import Finder, Planes
from bourn.program.relaxed import RelaxedProgram
from bourn.relaxations.base import Nonlinearity
from bourn.relaxations.relu import ReLU

_TOLERANCE = 1e-6
"""How far above its least line a neuron's value must be, relative to 1 and its value, for that line to be worth a row."""


@dataclass(frozen=True, eq=False)
class _Neurons:
    """The free entries ``numbers`` (n,) of a ReLU node as functions of the nearest nodes before it that are not affine.

    ``sources``: these nodes; ``index`` and ``weights`` (n, K): which of their entries, side by side, and how much of each;
    ``greatest`` (n,): the most that the sum can be on the box of their values.
    """

    node: int
    numbers: Tensor
    sources: tuple[int, ...]
    index: Tensor
    weights: Tensor
    greatest: Tensor


class MultiInputHulls(Finder):
    """Of every free ReLU the least of these lines at a point, where the point is above it."""

    hull = "hull over a ReLU's inputs"

    def __init__(self, row_bytes: int) -> None:
        super().__init__(row_bytes)
        self._known: dict[int, _Neurons] = {}

    def find(self, program: RelaxedProgram, values: Sequence[Tensor], wanted: Mapping[int, np.ndarray]) -> list[Planes]:
        found = []
        for v, mask in wanted.items():
            if not isinstance(program.graph.nodes[v].operation, ReLU) or not mask.any():
                continue
            if v not in self._known:
                self._known[v] = self._neurons(program, v)
            planes = self._of_node(program, self._known[v], values, torch.from_numpy(mask))
            if planes is not None:
                found.append(planes)
        return found

    def _neurons(self, program: RelaxedProgram, node: int) -> _Neurons:
        (z,) = program.graph.nodes[node].inputs
        numbers = torch.nonzero(program.free(node).flatten())[:, 0]
        sources = _sources(program.graph, z)
        size, parts, greatest = sum(program.graph.nodes[s].size for s in sources), [], []
        for piece in torch.split(numbers, max(1, self.row_bytes // (8 * size))):
            row = -_unit(program, z, piece)
            bounds = back_substitute(program, {z: row}, row.new_zeros(1, len(piece)), sources, ends=sources)
            kept = [bounds.kept.get(s, row.new_zeros(1, len(piece), *program.graph.nodes[s].shape)) for s in sources]
            parts.append(-torch.cat([k[0].flatten(1) for k in kept], dim=1))
            greatest.append(-bounds.lower[0])
        most = max(1, *(int((p != 0).sum(1).max()) for p in parts))
        index = [p.abs().topk(most, dim=1).indices for p in parts]
        weights = [p.gather(1, i) for p, i in zip(parts, index, strict=True)]
        return _Neurons(node, numbers, sources, torch.cat(index), torch.cat(weights), torch.cat(greatest))

    def _of_node(self, program: RelaxedProgram, n: _Neurons, values: Sequence[Tensor], mask: Tensor) -> Planes | None:
        y = torch.cat([values[s].flatten() for s in n.sources])
        ranges = [_range(program, s) for s in n.sources]
        lower, upper = (torch.cat([e.flatten() for e in ends]) for ends in zip(*ranges, strict=True))
        slopes, height = _least(n, y, lower, upper)
        x = values[n.node].flatten()[n.numbers]
        above = (x - height > _TOLERANCE * (1 + x.abs())) & mask.to(x.device) & torch.isfinite(height)
        chosen = torch.nonzero(above)[:, 0]
        if not len(chosen):
            return None
        limits: list[np.ndarray] = []
        rows: dict[int, list[Matrix]] = {s: [] for s in n.sources}
        for piece in torch.split(chosen, max(1, self.row_bytes // (16 * len(y)))):
            flat = torch.zeros(len(piece), len(y), dtype=torch.float64, device=y.device)
            flat.scatter_(1, n.index[piece], slopes[piece])
            parts = torch.split(flat, [program.graph.nodes[s].size for s in n.sources], dim=1)
            limits.append(self._offset(program, n, piece, parts))
            for s, part in zip(n.sources, parts, strict=True):
                rows[s].append(Matrix(-part.cpu().numpy()))
        size = program.graph.nodes[n.node].size
        picked = n.numbers[chosen].cpu().numpy()
        own = Matrix((np.ones(len(picked)), (np.arange(len(picked)), picked)), shape=(len(picked), size))
        stacked = {s: Matrix(sparse.vstack(parts, format="csr")) for s, parts in rows.items()}
        return Planes({**stacked, n.node: own}, np.concatenate(limits))

    def _offset(self, program: RelaxedProgram, n: _Neurons, some: Tensor, slopes: Sequence[Tensor]) -> np.ndarray:
        """The least offsets (C,), rounded up, with which lines of these slopes hold for the neurons ``some`` (C,)."""
        (z,) = program.graph.nodes[n.node].inputs
        both = {
            s: torch.cat([part, part]).reshape(1, -1, *program.graph.nodes[s].shape)
            for s, part in zip(n.sources, slopes, strict=True)
        }
        unit = _unit(program, z, n.numbers[some])
        both[z] = torch.cat([torch.zeros_like(unit), -unit], dim=1) + both.get(z, 0.0)
        least = back_substitute(program, both, unit.new_zeros(1, 2 * len(some)), ends=n.sources).lower[0]
        return -least.reshape(2, -1).amin(0).cpu().numpy()


def _least(n: _Neurons, y: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes (n, K) of each neuron's least line at the point y, and the height there (n,), infinite where there is none.

    In terms of how far every input is from where it makes the sum least, as a share of its width: inputs take their full weight,
    the nearest first, until the line's corner has come down to the kink.
    """
    low, high = lower[n.index], upper[n.index]
    rising = n.weights > 0
    width = n.weights.abs() * (high - low)
    share = (torch.where(rising, y[n.index] - low, high - y[n.index]) / (high - low)).nan_to_num(0.0).clamp(0, 1)
    order = share.argsort(dim=1)
    drop = width.gather(1, order)
    level = n.greatest[:, None] - drop.cumsum(1)
    # Before it is counted the level is at or above the kink: as much of it as still fits.
    part = ((level + drop) / drop).nan_to_num(0.0, posinf=0.0, neginf=0.0).clamp(0, 1)
    part = torch.where(level >= 0, 1.0, part)
    height = (part * drop * share.gather(1, order)).sum(1)
    height = height.masked_fill((level[:, -1] > 0) | (n.greatest <= 0), torch.inf)
    parts = torch.zeros_like(part).scatter_(1, order, part)
    return parts * n.weights, height


def _sources(graph: Graph, node: int) -> tuple[int, ...]:
    """The nearest ancestors of an affine node that are not affine, itself where it is not."""
    found, ahead = set(), [node]
    while ahead:
        number = ahead.pop()
        if isinstance(graph.nodes[number].operation, Affine):
            ahead.extend(graph.nodes[number].inputs)
        else:
            found.add(number)
    return tuple(sorted(found))


def _range(program: RelaxedProgram, source: int) -> tuple[Tensor, Tensor]:
    """Lower and upper ends of a source's values."""
    operation = program.graph.nodes[source].operation
    if isinstance(operation, Input):
        return program.box.lower, program.box.upper
    assert isinstance(operation, Nonlinearity)
    found = operation.range(*program.inputs_of(source))
    return found.lower, found.upper


def _unit(program: RelaxedProgram, node: int, numbers: Tensor) -> Tensor:
    """Rows (1, M, *shape) that pick flat entries of a node."""
    shape = program.graph.nodes[node].shape
    rows = torch.zeros(len(numbers), program.graph.nodes[node].size, dtype=torch.float64, device=numbers.device)
    rows.scatter_(1, numbers[:, None], 1.0)
    return rows.reshape(1, len(numbers), *shape)
