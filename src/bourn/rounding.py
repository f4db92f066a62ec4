"""Rounding errors of float64 arithmetic, bounded a priori.

A sum of n products, computed in any order, with or without fused multiply-add, differs from its real
value by at most gamma(n) times the sum of the products' absolute values (Higham, *Accuracy and
Stability of Numerical Algorithms*, section 3.1).  Every bound that bourn states is moved outward by such
a term.  What this trusts: torch's float64 kernels multiply and add in IEEE arithmetic and compute
matrix products and convolutions by summing products (no Strassen, Winograd or FFT; see docs/soundness.md).
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

UNIT = 2.0**-53
"""Unit roundoff of float64, rounding to nearest."""

TINY = 2.0**-1000
"""Absolute slack per sum: far above what underflow can contribute, far below any bound of interest."""

_SAFETY = 1.0 + 2.0**-20
"""Covers the rounding of the error terms themselves, which are sums of fewer than 2**32 positive terms."""


def gamma(terms: int) -> float:
    """Relative error bound of a sum of ``terms`` products, the error bound's own rounding included."""
    if terms >= 2**32:
        raise OverflowError("a sum of more than 2**32 terms has no useful error bound")
    return terms * UNIT / (1.0 - terms * UNIT) * _SAFETY


def down(x: Tensor) -> Tensor:
    """The next float64 below each entry of ``x``; NaN becomes -inf, for a bound must never be NaN."""
    return torch.nextafter(torch.nan_to_num(x, nan=-math.inf, posinf=math.inf, neginf=-math.inf), x.new_full((), -math.inf))


def up(x: Tensor) -> Tensor:
    """The next float64 above each entry of ``x``; NaN becomes +inf."""
    return -down(-x)


def float_below(x: Fraction) -> float:
    """The greatest float64 that is at most the exact number ``x``."""
    try:
        nearest = float(x)
    except OverflowError:
        return -math.inf if x < 0 else math.nextafter(math.inf, 0.0)
    return nearest if Fraction(nearest) <= x else math.nextafter(nearest, -math.inf)


def float_above(x: Fraction) -> float:
    """The least float64 that is at least the exact number ``x``."""
    return -float_below(-x)
