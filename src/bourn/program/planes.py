"""Cutting planes: inequalities across nodes that the network keeps and the relaxed program does not imply.

A plane says that the sum over nodes v of rows[v] . x_v is at most its limit at every point of the network where the program's
bounds hold.  With a weight w >= 0 it joins an objective, objective >= objective + w (rows . x - limit), and the right-hand side
is again a sum of rows on nodes: back-substitution bounds it as it bounds every other, and no statement of bounds knows of planes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from bourn.program.cuts import Matrix
from bourn.program.relaxed import RelaxedProgram
from bourn.program.sparse import LinearRows, SparseProgram
from bourn.rounding import TINY, gamma


@dataclass(frozen=True, eq=False)
class Planes:
    """K planes of one problem: ``rows`` {node: (K, size of the node)} of x at most ``limits`` (K,), in exact arithmetic.

    ``before``: more summands, on what element-wise nodes read, which an LP has as columns of such a node.
    """

    rows: Mapping[int, Matrix]
    limits: np.ndarray
    before: Mapping[int, Matrix] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.limits)

    def take(self, which: np.ndarray) -> Planes:
        """Some of them, by number or mask."""
        rows, before = ({v: own[which] for v, own in some.items()} for some in (self.rows, self.before))
        return Planes(rows, self.limits[which], before)

    @classmethod
    def join(cls, parts: Sequence[Planes], program: RelaxedProgram) -> Planes:
        """The planes of all parts, one after the other."""

        def stacked(own: Sequence[Mapping[int, Matrix]]) -> dict[int, Matrix]:
            sizes = {v: program.graph.nodes[v].size for rows in own for v in rows}
            every = {v: [r.get(v, Matrix((len(p), n))) for r, p in zip(own, parts, strict=True)] for v, n in sizes.items()}
            return {v: Matrix(sparse.vstack(some, format="csr")) for v, some in every.items()}

        limits = np.concatenate([np.zeros(0), *(p.limits for p in parts)])
        return cls(stacked([p.rows for p in parts]), limits, stacked([p.before for p in parts]))

    def on_columns(self, lp: SparseProgram, row_bytes: int) -> LinearRows:
        """The left-hand sides over an LP's columns."""
        nodes = lp.program.graph.nodes
        at_once = max(1, row_bytes // (8 * max((nodes[v].size for v in self.rows), default=1)))
        parts = []
        for first in range(0, len(self), at_once):
            some = slice(first, min(first + at_once, len(self)))
            dense = {v: torch.from_numpy(own[some].toarray()).reshape(1, -1, *nodes[v].shape) for v, own in self.rows.items()}
            parts.append(lp.rows({v: row.to(lp.program.box.lower.device) for v, row in dense.items()}))
        matrix = Matrix(sparse.vstack([Matrix((0, lp.count)), *(p.matrix for p in parts)], format="csr"))
        constant = np.concatenate([np.zeros(0), *(p.constant for p in parts)])
        for v, own in self.before.items():
            on_columns = lp.before(v, own)
            matrix, constant = matrix + on_columns.matrix, constant + on_columns.constant
        return LinearRows(matrix, constant)

    def everywhere(self, program: RelaxedProgram) -> dict[int, Matrix]:
        """The left-hand sides by node, those on what element-wise nodes read included."""
        found = dict(self.rows)
        for v, own in self.before.items():
            (z,) = program.graph.nodes[v].inputs
            found[z] = found[z] + own if z in found else own
        return found

    def dense(self, program: RelaxedProgram) -> dict[int, Tensor]:
        """The left-hand sides as rows {node: (1, K, *shape)}."""
        device = program.box.lower.device
        return {
            v: torch.from_numpy(own.toarray()).reshape(1, -1, *program.graph.nodes[v].shape).to(device)
            for v, own in self.everywhere(program).items()
        }

    def shifts(self, weights: np.ndarray) -> dict[int, np.ndarray]:
        """How much of an LP's multipliers, {node: (M, size)}, the summands ``before`` already carry, with these weights (M, K)."""
        return {v: np.asarray(weights @ own) for v, own in self.before.items()}

    def joined(
        self, program: RelaxedProgram, rows: Mapping[int, Tensor], constant: Tensor, weights: np.ndarray
    ) -> tuple[dict[int, Tensor], Tensor, Tensor]:
        """Rows {node: (1, M, *shape)} and constant (1, M) with the planes added, each times one of ``weights`` (M, K), at least 0.

        Where the sums that come out have a lower bound, it less the third tensor (1, M) is one of the rows' own: that is what
        the additions may have rounded.
        """
        count = constant.shape[1]
        used = np.flatnonzero(weights.any(0))
        terms, total = len(used) + 2, {v: row.expand(1, count, *row.shape[2:]) for v, row in rows.items()}
        own = Matrix(weights[:, used])
        error = torch.full_like(constant, TINY * (1 + terms))
        for v, matrix in self.everywhere(program).items():
            shape = (1, count, *program.graph.nodes[v].shape)
            added, sizes = (
                torch.from_numpy((own @ m[used]).toarray()).to(constant.device).reshape(shape) for m in (matrix, abs(matrix))
            )
            if v in total:
                sizes = sizes + total[v].abs()
                added = added + total[v]
            total[v] = added
            magnitude = program.magnitudes[v].flatten(1)[..., None]
            error = error + gamma(terms) * torch.matmul(sizes.flatten(2), magnitude)[..., 0]
        limits = torch.from_numpy(own @ self.limits[used]).to(constant.device)
        size = torch.from_numpy(own @ np.abs(self.limits[used])).to(constant.device)
        error = error + gamma(terms) * (size + constant.abs())
        return total, constant - limits, error * (1 + 2.0**-20)


class Finder(ABC):
    """Finds planes of one kind that a point of one problem's relaxed program breaks.

    ``hull``: what it relaxes to where all its planes are there, in the words of the table of methods.  What it learns of a node it
    may keep, for a node's bounds do not change once they are known.  ``row_bytes`` bounds the memory of a set of rows.
    """

    hull: ClassVar[str]

    def __init__(self, row_bytes: int) -> None:
        self.row_bytes = row_bytes

    @abstractmethod
    def find(self, program: RelaxedProgram, values: Sequence[Tensor], wanted: Mapping[int, np.ndarray]) -> list[Planes]:
        """Planes that ``values`` break, every node's (1, *shape); ``wanted``: by nonlinear node a mask of its free entries.

        Every plane holds in exact arithmetic wherever the program's bounds do.
        """
