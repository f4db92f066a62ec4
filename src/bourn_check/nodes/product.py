"""Products of two numbers that depend on the input: least at a corner of the box, for they are linear in each factor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bourn_check.arithmetic import Arithmetic, Floats, Index, Values
from bourn_check.network import Nonlinear, of_rows


class Multiply(Nonlinear):
    """x y."""

    arity = 2

    def affine(self, lower: Floats, upper: Floats) -> tuple[NDArray[np.bool_], Floats, Floats]:
        (x, y), (first, second) = np.split(lower, 2, 1), np.split(lower == upper, 2, 1)
        slopes = np.concatenate([np.where(second & ~first, y, 0.0), np.where(first, x, 0.0)], 1)
        return ~(first | second), slopes, np.zeros(x.shape)

    def lines(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Both centres, each the slope of the other factor."""
        slopes = np.roll(lower / 2 + upper / 2, lower.shape[1] // 2, 1)
        return slopes, slopes

    def minima(self, row: Values, mu: Values | None, ends: Floats, of: Index | None, arithmetic: Arithmetic) -> Values:
        n, least = row.shape[1], None
        for x in ends[..., :n]:
            for y in ends[..., n:]:
                a, b = of_rows(x, of), of_rows(y, of)
                term = row.scaled(a).scaled(b)
                if mu is not None:
                    term = term + -mu.columns(np.arange(n)).scaled(a) + -mu.columns(np.arange(n, 2 * n)).scaled(b)
                least = term if least is None else least.minimum(term)
        assert least is not None
        return least

    def forward(self, z: Values, arithmetic: Arithmetic) -> Values:
        n = z.shape[1] // 2
        return z.columns(np.arange(n)) * z.columns(np.arange(n, 2 * n))
