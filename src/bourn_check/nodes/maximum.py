"""The greatest of several numbers."""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from bourn_check.arithmetic import Arithmetic, Floats, Index, Values
from bourn_check.network import Nonlinear, of_rows


class Maximum(Nonlinear):
    """max(z_1, ..., z_k)."""

    def __init__(self, arity: int) -> None:
        self.arity = arity

    def affine(self, lower: Floats, upper: Floats) -> tuple[NDArray[np.bool_], Floats, Floats]:
        """Where one input is never below another it is that one."""
        low, high = (np.stack(np.split(end, self.arity, 1)) for end in (lower, upper))
        best = low.argmax(0)
        own = np.arange(self.arity)[:, None, None] == best
        sure = (low.max(0) >= np.where(own, -np.inf, high).max(0, initial=-np.inf)).astype(bool)
        return ~sure, np.concatenate(list(np.where(own & sure, 1.0, 0.0)), 1), np.zeros(sure.shape)

    def lines(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Below the input that is greatest in its middle; above what every one may have beyond the second greatest."""
        low, high = (np.stack(np.split(end, self.arity, 1)) for end in (lower, upper))
        below = np.arange(self.arity)[:, None, None] == (low / 2 + high / 2).argmax(0)
        level = np.maximum(np.sort(high, 0)[-2:][0], low.max(0))
        share = np.nan_to_num(np.clip(high - level, 0, None) / (high - low), nan=0.0, posinf=1.0).clip(max=1.0)
        return np.concatenate(list(below.astype(np.float64)), 1), np.concatenate(list(share), 1)

    def minima(self, row: Values, mu: Values | None, ends: Floats, of: Index | None, arithmetic: Arithmetic) -> Values:
        """A row above 0: t is the greatest, every z_i at an end or at t, and that is linear in t between the upper ends.

        Any other row: row max(z) is at least the least row z_i, and is it where the row is at most 0.
        """
        rising, n, least = row.lower() > 0, row.shape[1], None
        inputs = [(of_rows(a, of), of_rows(b, of)) for a, b in zip(*(np.split(t, self.arity, 1) for t in ends), strict=True)]
        floor = np.stack([low for low, _ in inputs]).max(0)
        for which in range(self.arity + 1):
            level = floor if which == self.arity else np.maximum(inputs[which][1], floor)
            total = row.scaled(np.where(rising, level, 0.0))
            for i, (low, high) in enumerate(inputs):
                own = row.scaled(np.where(rising, 0.0, float(i == which % self.arity)))
                own = own if mu is None else own + -mu.columns(np.arange(i * n, (i + 1) * n))
                total = total + own.scaled(low).minimum(own.scaled(np.where(rising, np.minimum(high, level), high)))
            least = total if least is None else least.minimum(total)
        assert least is not None
        return least

    def forward(self, z: Values, arithmetic: Arithmetic) -> Values:
        parts = [-z.columns(own) for own in np.split(np.arange(z.shape[1]), self.arity)]
        return -reduce(lambda a, b: a.minimum(b), parts)
