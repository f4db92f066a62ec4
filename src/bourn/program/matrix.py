"""A matrix that many rows go through, step after step: dense, or as the few of its entries that are not 0."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

SPARSE = 0.1
"""With a smaller share of entries other than 0 a sparse product is the faster one on a CPU: measured."""
_WORTH = 1 << 16
"""Smaller matrices stay dense: there starting a product takes most of its time."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """``dense`` (B, n, m), and for a batch of one with few entries ``sparse``: it and its transpose as compressed rows."""

    dense: Tensor
    sparse: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, dense: Tensor) -> Matrix:
        """The matrix, sparse where that pays."""
        pays = len(dense) == 1 and dense.numel() >= _WORTH and dense.device.type == "cpu"
        if not pays or int(torch.count_nonzero(dense)) > SPARSE * dense.numel():
            return cls(dense)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the format new
            return cls(dense, (dense[0].to_sparse_csr(), dense[0].T.contiguous().to_sparse_csr()))

    def take(self, problems: Tensor) -> Matrix:
        """That of some problems."""
        return self if len(self.dense) == 1 == len(problems) else Matrix(self.dense[problems])

    def back(self, rows: Tensor, plus: Tensor | None) -> Tensor:
        """Rows (B, M, n) times the matrix, (B, M, m), plus rows of that shape."""
        if self.sparse is not None:
            return _times(self.sparse[1], rows, plus)
        return torch.bmm(rows, self.dense) if plus is None else torch.baddbmm(plus, rows, self.dense)

    def forth(self, points: Tensor, plus: Tensor) -> Tensor:
        """The matrix times points (B, M, m), (B, M, n), plus points of that shape or (B, 1, n)."""
        if self.sparse is not None:
            return _times(self.sparse[0], points, plus)
        return torch.baddbmm(plus, points, self.dense.mT)


def _times(matrix: Tensor, vectors: Tensor, plus: Tensor | None) -> Tensor:
    found = (matrix @ vectors[0].T).T[None]
    return found.contiguous() if plus is None else plus + found
