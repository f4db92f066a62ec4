"""Cutting planes: inequalities across nodes that the network keeps and the relaxed program does not imply.

A plane says that the sum over nodes v of rows[v] . x_v is at most its limit at every point of the network where the program's
bounds hold.  With a weight w >= 0 it joins an objective, objective >= objective + w (rows . x - limit), and the right-hand side
is again a sum of rows on nodes: back-substitution bounds it as it bounds every other, and no statement of bounds knows of planes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """K planes of one problem: ``rows`` {node: (K, size of the node)} of x at most ``limits`` (K,), in exact arithmetic."""

    rows: Mapping[int, Matrix]
    limits: np.ndarray

    def __len__(self) -> int:
        return len(self.limits)

    def take(self, which: np.ndarray) -> Planes:
        """Some of them, by number or mask."""
        return Planes({v: own[which] for v, own in self.rows.items()}, self.limits[which])

    @classmethod
    def join(cls, parts: Sequence[Planes], program: RelaxedProgram) -> Planes:
        """The planes of all parts, one after the other."""
        nodes = sorted({v for part in parts for v in part.rows})
        sizes = {v: program.graph.nodes[v].size for v in nodes}
        rows = {v: Matrix(sparse.vstack([p.rows.get(v, Matrix((len(p), sizes[v]))) for p in parts], format="csr")) for v in nodes}
        return cls(rows, np.concatenate([np.zeros(0), *(p.limits for p in parts)]))

    def on_columns(self, lp: SparseProgram, row_bytes: int) -> LinearRows:
        """The left-hand sides over an LP's columns."""
        nodes = lp.program.graph.nodes
        at_once = max(1, row_bytes // (8 * max((nodes[v].size for v in self.rows), default=1)))
        parts = []
        for first in range(0, len(self), at_once):
            some = slice(first, min(first + at_once, len(self)))
            dense = {v: torch.from_numpy(own[some].toarray()).reshape(1, -1, *nodes[v].shape) for v, own in self.rows.items()}
            parts.append(lp.rows({v: row.to(lp.program.box.lower.device) for v, row in dense.items()}))
        matrix = sparse.vstack([Matrix((0, lp.count)), *(p.matrix for p in parts)], format="csr")
        return LinearRows(Matrix(matrix), np.concatenate([np.zeros(0), *(p.constant for p in parts)]))

    def joined(
        self, program: RelaxedProgram, rows: Mapping[int, Tensor], constant: Tensor, weights: np.ndarray
    ) -> tuple[dict[int, Tensor], Tensor, Tensor]:
        """Rows {node: (1, M, *shape)} and constant (1, M) with the planes added, each times a weight of ``weights`` (M, K).

        Where the sums that come out have a lower bound, it less the third tensor (1, M) is one of the rows' own: that is what
        the additions may have rounded.  Negative weights count as 0.
        """
        count, weights = constant.shape[1], np.where(weights > 0, weights, 0.0)
        used = np.flatnonzero(weights.any(0))
        terms, total = len(used) + 2, {v: row.expand(1, count, *row.shape[2:]) for v, row in rows.items()}
        own = Matrix(weights[:, used])
        error = torch.full_like(constant, TINY * (1 + terms))
        for v, matrix in self.rows.items():
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
