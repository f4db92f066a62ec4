"""Hulls of two ReLUs of a layer together, instead of one each.

Singh et al. 2019 (k-ReLU, here k = 2): z1, z2 and what they are sums and differences of lie in an octagon; on it (z, max(0, z)) has
a convex hull in four dimensions, whose facets relate both neurons.  The facets come from Qhull and are not trusted: of a facet only
its slopes are taken.  c . x + a . z is linear on the octagon's part in each quadrant, and its greatest value there is at most what
any multipliers of the octagon's sides say (weak duality in the plane), rounded up; the greatest of four such values is the limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import torch
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from bourn.program.cuts import Matrix
from bourn.program.linear_bounds import back_substitute
from bourn.program.planes import Finder, Planes
from bourn.program.relaxed import RelaxedProgram
from bourn.relaxations.relu import ReLU
from bourn.rounding import TINY, UNIT

_TOLERANCE = 1e-6
"""How far a point must be beyond a facet, relative to 1, for that to be worth a row."""

_WIDEST = 32
"""Of how many neurons of a layer pairs are looked at: those that are the farthest above their function, at least one in a pair."""

_EACH = 2
"""In how many facets a neuron has a part that are added at a time."""

_NORMALS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)], dtype=np.float64)
"""The directions of an octagon's sides."""

_KINKS = np.eye(2)
_LINES = np.array([p for p in combinations(range(10), 2) if abs(np.linalg.det(np.concatenate([_NORMALS, _KINKS])[list(p)])) > 0.5])
"""Pairs of lines that cross: sides by number, and behind them where either neuron is at its kink."""

_CORNERS = np.linalg.inv(np.concatenate([_NORMALS, _KINKS])[_LINES])
"""Where they cross, times how far both reach."""

_SIDES = _LINES[(_LINES < 8).all(1)]
_SHARES = np.linalg.inv(_NORMALS[_SIDES].transpose(0, 2, 1))
"""Pairs of sides, and how much of both a direction is."""


@dataclass(eq=False)
class _Facets:
    """Facets of pairs of a node's entries: ``pairs`` (F, 2) flat numbers, ``outputs`` and ``inputs`` (F, 2), ``limits`` (F,)."""

    pairs: np.ndarray
    outputs: np.ndarray
    inputs: np.ndarray
    limits: np.ndarray

    def join(self, other: _Facets) -> _Facets:
        names = ("pairs", "outputs", "inputs", "limits")
        return _Facets(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names))


class PairHulls(Finder):
    """Of pairs of the neurons that are the farthest above their function the facets that the point is the farthest beyond."""

    hull = "hulls of pairs of ReLUs"

    def __init__(self, row_bytes: int) -> None:
        super().__init__(row_bytes)
        self._facets: dict[int, _Facets] = {}
        self._seen: dict[int, set[tuple[int, int]]] = {}

    def find(self, program: RelaxedProgram, values: Sequence[Tensor], wanted: Mapping[int, np.ndarray]) -> list[Planes]:
        found = []
        for v, mask in wanted.items():
            if not isinstance(program.graph.nodes[v].operation, ReLU) or mask.sum() < 2:
                continue
            (z,) = program.graph.nodes[v].inputs
            x, y = (values[n].flatten().cpu().numpy() for n in (v, z))
            numbers = np.flatnonzero(program.free(v).flatten().cpu().numpy())[mask]
            above = x[numbers] - np.maximum(y[numbers], 0.0)
            first = np.argsort(-above, kind="stable")[:_WIDEST]
            self._learn(program, v, z, numbers[first], int((above[first] > _TOLERANCE).sum()))
            facets = self._facets[v]
            beyond = (facets.outputs * x[facets.pairs]).sum(1) + (facets.inputs * y[facets.pairs]).sum(1) - facets.limits
            which = np.flatnonzero((beyond > _TOLERANCE) & np.isin(facets.pairs, numbers).all(1))
            which = _spread(facets.pairs, which[np.argsort(-beyond[which], kind="stable")])
            if len(which):
                found.append(_planes(program, v, facets, which))
        return found

    def _learn(self, program: RelaxedProgram, node: int, z: int, chosen: np.ndarray, above: int) -> None:
        """The facets of the pairs of these entries of a node, with z before it, that have one of the first ``above``."""
        seen = self._seen.setdefault(node, set())
        every = [(i, j) if i < j else (j, i) for k, i in enumerate(chosen[:above].tolist()) for j in chosen[k + 1 :].tolist()]
        pairs = [p for p in every if p not in seen]
        seen.update(pairs)
        empty = np.zeros((0, 2))
        known = self._facets.setdefault(node, _Facets(empty.astype(np.int64), empty, empty, np.zeros(0)))
        if not pairs:
            return
        both = np.array(pairs)
        sides = self._sides(program, z, both)
        own = [_facets(s) for s in sides]
        owner = np.repeat(np.arange(len(own)), [len(f) for f in own])
        slopes = np.concatenate(own) if len(owner) else np.zeros((0, 4))
        limits = _limits(sides[owner], slopes)
        self._facets[node] = known.join(_Facets(both[owner], slopes[:, 2:], slopes[:, :2], limits))

    def _sides(self, program: RelaxedProgram, z: int, pairs: np.ndarray) -> np.ndarray:
        """How far the octagons reach in the directions :data:`_NORMALS`, (P, 8), rounded up."""
        bounds, size = program.bounds[z], program.graph.nodes[z].size
        upper, lower = (e.flatten().cpu().numpy()[pairs] for e in (bounds.upper, bounds.lower))
        found = np.stack([upper[:, 0], -lower[:, 0], upper[:, 1], -lower[:, 1]], axis=1)
        both = torch.from_numpy(pairs).to(bounds.lower.device)
        parts = []
        for piece in torch.split(both, max(1, self.row_bytes // (32 * size))):
            rows = torch.zeros(4, len(piece), size, dtype=torch.float64, device=both.device)
            for row, normal in zip(rows, _NORMALS[4:], strict=True):
                row.scatter_(1, piece, -torch.from_numpy(normal).to(rows).expand(len(piece), 2))
            rows = rows.transpose(0, 1).reshape(1, -1, *program.graph.nodes[z].shape)
            least = back_substitute(program, {z: rows}, rows.new_zeros(1, 4 * len(piece))).lower
            parts.append(-least.reshape(-1, 4).cpu().numpy())
        return np.concatenate([found, np.concatenate(parts)], axis=1)


def _facets(sides: np.ndarray) -> np.ndarray:
    """Slopes (F, 4), on z and on x, of the facets of (z, max(0, z)) over one octagon; none where Qhull finds no hull."""
    size = np.abs(sides).max()
    if not 0 < size < np.inf:
        return np.zeros((0, 4))
    reach = np.concatenate([sides / size, np.zeros(2)])
    z = (_CORNERS @ reach[_LINES][..., None])[..., 0]
    z = np.unique(z[(z @ _NORMALS.T <= reach[:8] + 1e-9).all(1)].round(9), axis=0)
    if len(z) < 5:
        return np.zeros((0, 4))
    try:
        slopes = ConvexHull(np.concatenate([z, np.maximum(z, 0.0)], axis=1)).equations[:, :4]
    except QhullError:
        return np.zeros((0, 4))
    useful = np.abs(slopes[:, 2:]).max(1) > 1e-9
    slopes = np.unique(slopes[useful].round(12), axis=0)
    scaled: np.ndarray = slopes / np.abs(slopes).max(1, keepdims=True)
    return scaled


def _limits(sides: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Limits (F,), rounded up, with which inequalities of these slopes (F, 4) hold on (z, max(0, z)) over octagons (F, 8)."""
    limits = np.full(len(slopes), -np.inf)
    for on in product((0, 1), repeat=2):
        own = sides.copy()
        for k in range(2):
            end = 2 * k + on[k]  # a neuron that is off has no positive values, one that is on no negative ones
            own[:, end] = np.minimum(own[:, end], 0.0)
        total = slopes[:, :2] + slopes[:, 2:] * np.array(on)
        rounded = UNIT * np.abs(total)
        size = np.maximum(np.abs(own[:, 0:4:2]), np.abs(own[:, 1:4:2]))
        best = np.full(len(slopes), np.inf)
        for pair, share in zip(_SIDES, _SHARES, strict=True):
            weights = np.maximum(total @ share.T, 0.0)
            # What the two sides do not make up of the direction costs as much as z can be; rounding is part of that.
            left = np.abs(total - weights @ _NORMALS[pair]) + rounded + 4 * UNIT * (np.abs(total) + weights.sum(1, keepdims=True))
            value = (weights * own[:, pair]).sum(1) + (left * size).sum(1)
            error = 8 * UNIT * ((weights * np.abs(own[:, pair])).sum(1) + (left * size).sum(1)) + TINY
            best = np.minimum(best, np.nextafter(value + error, np.inf))
        limits = np.maximum(limits, best)
    return limits


def _spread(pairs: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Of these facets, in this order, one a pair, and :data:`_EACH` an entry."""
    used: Counter[int] = Counter()
    kept, seen = [], set()
    for number, (i, j) in zip(which.tolist(), pairs[which].tolist(), strict=True):
        if used[i] < _EACH and used[j] < _EACH and (i, j) not in seen:
            kept.append(number)
            seen.add((i, j))
            used.update((i, j))
    return np.array(kept, dtype=np.int64)


def _planes(program: RelaxedProgram, node: int, facets: _Facets, which: np.ndarray) -> Planes:
    size, count = program.graph.nodes[node].size, len(which)
    places = np.repeat(np.arange(count), 2), facets.pairs[which].ravel()

    def matrix(values: np.ndarray) -> Matrix:
        return Matrix((values[which].ravel(), places), shape=(count, size))

    return Planes({node: matrix(facets.outputs)}, facets.limits[which], {node: matrix(facets.inputs)})
