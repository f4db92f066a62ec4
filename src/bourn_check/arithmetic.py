"""Three arithmetics for one checker: float64 with error bounds, balls, and exact rational numbers.

All are arrays of *enclosures*: sets of real numbers that hold the true value.  A rational array holds the value itself; a ball
of python-flint (Arb) has a radius of its own; in float64 an entry is ``mid`` with a radius ``rad`` that grows by
the a-priori error of every operation: a sum of n products, in whatever order, with or without fused multiply-add, is within
gamma(n) = n u / (1 - n u) times the sum of the products' absolute values (u = 2^-53; Higham, *Accuracy and Stability of
Numerical Algorithms*, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

UNIT = 2.0**-53
TINY = 2.0**-1000
"""More than any sum here can lose by underflow."""
SAFETY = 1.0 + 2.0**-20
"""Covers the rounding of the radii themselves, which are sums of fewer than 2^31 positive terms."""


def gamma(terms: int) -> float:
    """The relative error bound of a sum of ``terms`` products, its own rounding included."""
    if terms >= 2**31:
        raise OverflowError("a sum of more than 2^31 terms")
    return terms * UNIT / (1.0 - terms * UNIT) * SAFETY


# float64


@dataclass(frozen=True, eq=False)
class Balls:
    """Entries mid +- rad in float64.  Where mid is not finite, for it overflowed, rad is not either, and stays so."""

    mid: Floats
    rad: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mid.shape

    def reshape(self, *shape: int) -> Balls:
        """The same entries, row-major, in another shape."""
        return Balls(self.mid.reshape(shape), self.rad.reshape(shape))

    def columns(self, index: Index) -> Balls:
        """Entries of the last axis."""
        return Balls(self.mid[..., index], self.rad[..., index])

    def put(self, index: Index, size: int) -> Balls:
        """The transpose of :meth:`columns`: entry j is added to entry ``index[j]`` of a last axis of ``size``, unless it is -1."""
        most = int(np.bincount(index[index >= 0], minlength=1).max())
        error = self.rad if most < 2 else (self.rad + gamma(most) * np.abs(self.mid)) * SAFETY
        return Balls(_put(self.mid, index, size), _put(error, index, size))

    def matmul(self, weight: Floats) -> Balls:
        """The product (..., n) with an exact matrix (n, m)."""
        mid = self.mid @ weight
        size = np.abs(weight)
        error = (self.rad + gamma(len(weight)) * np.abs(self.mid)) @ size
        # What gamma |mid| loses by underflow, a large weight carries up again.
        return Balls(mid, error * SAFETY + (UNIT * np.abs(mid) + TINY * (1.0 + size.sum(0))))

    def __add__(self, other: Any) -> Balls:
        mid = self.mid + other.mid
        return Balls(mid, (self.rad + other.rad + UNIT * np.abs(mid)) * SAFETY)

    def __neg__(self) -> Balls:
        return Balls(-self.mid, self.rad)

    def __mul__(self, other: Any) -> Balls:
        mid, own, theirs = self.mid * other.mid, np.abs(self.mid), np.abs(other.mid)
        rad = (own * other.rad + self.rad * (theirs + other.rad) + UNIT * np.abs(mid)) * SAFETY
        # A product with 0 is 0, without any underflow.
        zero = (own + self.rad == 0) | (theirs + other.rad == 0)
        return Balls(np.where(zero, 0.0, mid), np.where(zero, 0.0, rad + TINY))

    def difference(self, factors: Floats, other: Any, others: Floats) -> Balls:
        """self * factors - other * others, where the factors are exact."""
        a, b = self.mid * factors, other.mid * others
        mid = a - b
        rad = self.rad * np.abs(factors) + other.rad * np.abs(others) + UNIT * (np.abs(a) + np.abs(b) + np.abs(mid))
        return Balls(mid, rad * SAFETY + TINY)

    def scaled(self, factors: Floats) -> Balls:
        """self * factors, where the factors are exact."""
        mid = self.mid * factors
        rad = self.rad * np.abs(factors) + UNIT * np.abs(mid)
        return Balls(mid, rad * SAFETY + TINY)

    def capped(self, where: NDArray[np.bool_]) -> Balls:
        """min(x, 0) there."""
        # |min(a, 0) - min(a', 0)| is at most |a - a'|.
        return Balls(np.where(where & (self.mid > 0), 0.0, self.mid), self.rad)

    def about(self) -> Floats:
        """Numbers near the entries, for choices on which no bound rests."""
        return self.mid

    def total(self) -> Balls:
        """The sum over the last axis."""
        size = np.abs(self.mid).sum(-1)
        return Balls(self.mid.sum(-1), (self.rad.sum(-1) + gamma(self.mid.shape[-1] + 1) * size) * SAFETY)

    def minimum(self, other: Any) -> Balls:
        """The lesser of both, entry by entry."""
        mid = np.where(self.mid <= other.mid, self.mid, other.mid)
        # |min(a, b) - min(a', b')| is at most the greater of both differences; a radius of NaN is kept.
        return Balls(mid, np.maximum(self.rad, other.rad))

    def lower(self) -> Floats:
        """The greatest float64 certainly not above each entry, or one near it; -inf without any."""
        low = np.where(self.rad == 0, self.mid, np.nextafter(self.mid - self.rad, -math.inf))
        return np.where(np.isfinite(low) & np.isfinite(self.mid) & np.isfinite(self.rad), low, -math.inf)

    def upper(self) -> Floats:
        return -(-self).lower()


def _put(values: NDArray[Any], index: Index, size: int) -> NDArray[Any]:
    """values[..., j] added to place index[j] of a last axis of ``size``."""
    used = np.flatnonzero(index >= 0)
    order = used[np.argsort(index[used], kind="stable")]
    places, starts = np.unique(index[order], return_index=True)
    moved = np.take(values, order, -1)
    moved = moved if len(places) == len(order) else np.add.reduceat(moved, starts, axis=-1)
    if len(places) == size:
        return moved
    out = np.zeros((*values.shape[:-1], size), dtype=values.dtype)
    out[..., places] = moved
    return out


class FloatArithmetic:
    """float64 with proven error bounds: fast, and its bounds lie a rounding error below those of the others."""

    name = "float"

    def exact(self, values: Floats) -> Balls:
        """Of float64 numbers, exactly."""
        return Balls(np.asarray(values, dtype=np.float64), np.zeros(np.shape(values)))

    def numbers(self, values: Sequence[Fraction]) -> Balls:
        """Of rational numbers, one axis."""
        mid = np.array([float(v) for v in values], dtype=np.float64)
        rad = np.array([0.0 if m == v else 2 * UNIT * abs(m) + TINY for m, v in zip(mid.tolist(), values, strict=True)])
        return Balls(mid, rad)

    def between(self, lower: Floats, upper: Floats) -> Balls:
        """Of whatever lies between these; raises ArithmeticError where that has no place."""
        mid = lower / 2 + upper / 2
        return Balls(mid, np.maximum(upper - mid, mid - lower) * SAFETY + TINY)

    def inverse_roots(self, values: Sequence[Fraction]) -> Balls:
        """Of 1 / sqrt(v) for positive rational v; raises ArithmeticError where that has no place."""
        v = self.numbers(values)
        mid = 1.0 / np.sqrt(v.mid)
        # A relative error of 2 u in v makes one of u here, and root and quotient round once each.
        return Balls(mid, 8 * UNIT * mid)

    def joined(self, parts: Sequence[Any]) -> Balls:
        """Arrays side by side along the last axis."""
        return Balls(np.concatenate([p.mid for p in parts], -1), np.concatenate([p.rad for p in parts], -1))


# python-flint: balls and rational numbers


PRECISION = 128
"""Bits of a ball's midpoint."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """Entries of python-flint: arb or fmpq."""

    data: NDArray[np.object_]
    kind: FlintArithmetic

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def _with(self, data: Any) -> Numbers:
        return Numbers(np.asarray(data, dtype=object), self.kind)

    def reshape(self, *shape: int) -> Numbers:
        return self._with(self.data.reshape(shape))

    def columns(self, index: Index) -> Numbers:
        return self._with(self.data[..., index])

    def put(self, index: Index, size: int) -> Numbers:
        return self._with(_put(self.data, index, size))

    def matmul(self, weight: Floats) -> Numbers:
        rows, (inner, columns) = self.data.reshape(-1, len(weight)), weight.shape
        if not len(rows) or not inner or not columns:
            return self._with(np.zeros((*self.data.shape[:-1], columns), dtype=object))
        product = self.kind.matrix(rows.tolist()) * self.kind.weight(weight)
        return self._with(np.array(product.entries(), dtype=object).reshape(*self.data.shape[:-1], columns))

    def __add__(self, other: Any) -> Numbers:
        return self._with(self.data + other.data)

    def __neg__(self) -> Numbers:
        return self._with(-self.data)

    def __mul__(self, other: Any) -> Numbers:
        return self._with(self.data * other.data)

    def difference(self, factors: Floats, other: Any, others: Floats) -> Numbers:
        return self.scaled(factors) + -self._with(other.scaled(others).data)

    def scaled(self, factors: Floats) -> Numbers:
        return self * self.kind.exact(factors)

    def capped(self, where: NDArray[np.bool_]) -> Numbers:
        return self._with(np.where(where, self.minimum(self.kind.exact(np.zeros(()))).data, self.data))

    def about(self) -> Floats:
        return np.array([self.kind.near(v) for v in self.data.ravel()], dtype=np.float64).reshape(self.shape)

    def total(self) -> Numbers:
        return self._with(self.data.sum(-1))

    def minimum(self, other: Any) -> Numbers:
        return self._with(np.frompyfunc(self.kind.least, 2, 1)(self.data, other.data))

    def lower(self) -> Floats:
        return np.array([self.kind.below(v) for v in self.data.ravel()], dtype=np.float64).reshape(self.data.shape)

    def upper(self) -> Floats:
        return -(-self).lower()


class FlintArithmetic:
    """Rational numbers or, with ``balls``, Arb's balls of 128 bits."""

    def __init__(self, balls: bool) -> None:
        import flint

        self.name = "ball" if balls else "rational"
        self._flint, self._balls = flint, balls
        self._number: Any = flint.arb if balls else flint.fmpq
        self.matrix: Any = flint.arb_mat if balls else flint.fmpq_mat
        self._weights: dict[int, tuple[Floats, Any]] = {}
        if balls:
            flint.ctx.prec = PRECISION

    def weight(self, values: Floats) -> Any:
        """A matrix of the network, converted once."""
        if id(values) not in self._weights:
            if len(self._weights) > 1000:
                self._weights.clear()
            self._weights[id(values)] = values, self.matrix(self.exact(values).data.tolist())
        return self._weights[id(values)][1]

    def _one(self, value: float) -> Any:
        return self._number(value) if self._balls else self._flint.fmpq(*float(value).as_integer_ratio())

    def exact(self, values: Floats) -> Numbers:
        flat = [self._one(v) for v in np.asarray(values, dtype=np.float64).ravel().tolist()]
        data = np.empty(len(flat), dtype=object)
        data[:] = flat
        return Numbers(data.reshape(np.shape(values)), self)

    def numbers(self, values: Sequence[Fraction]) -> Numbers:
        data = np.empty(len(values), dtype=object)
        data[:] = [self._number(self._flint.fmpq(v.numerator, v.denominator)) for v in values]
        return Numbers(data, self)

    def between(self, lower: Floats, upper: Floats) -> Numbers:
        if not self._balls:
            raise ArithmeticError("an interval has no place in rational arithmetic; use --arithmetic ball")
        return Numbers(np.frompyfunc(lambda a, b: a.union(b), 2, 1)(self.exact(lower).data, self.exact(upper).data), self)

    def inverse_roots(self, values: Sequence[Fraction]) -> Numbers:
        if not self._balls:
            raise ArithmeticError("a square root has no place in rational arithmetic; use --arithmetic ball")
        own = self.numbers(values)
        return Numbers(np.array([v.rsqrt() for v in own.data], dtype=object), self)

    def joined(self, parts: Sequence[Any]) -> Numbers:
        return Numbers(np.concatenate([p.data for p in parts], -1), self)

    def least(self, a: Any, b: Any) -> Any:
        """The lesser of two entries, which may be Python's 0 where nothing was added."""
        if self._balls:
            return self._number(a).min(self._number(b))
        return a if a <= b else b

    def near(self, value: Any) -> float:
        value = self._number(value)
        return float(value) if self._balls else int(value.p) / int(value.q)

    def below(self, value: Any) -> float:
        """A float64 not above an entry, and it itself where it is one."""
        low = self._number(value)
        if self._balls:
            if not low.is_finite():
                return -math.inf
            low = low.lower()
            near = float(low)
        else:
            try:
                near = int(low.p) / int(low.q)
            except OverflowError:
                return -math.inf
        if not math.isfinite(near):
            return -math.inf
        while not self._one(near) <= low:
            near = math.nextafter(near, -math.inf)
        return near


Values = Balls | Numbers
"""An array of enclosures."""
Arithmetic = FloatArithmetic | FlintArithmetic
"""Makes arrays of enclosures."""


def arithmetic(name: str) -> Arithmetic:
    """The arithmetic called ``float``, ``ball`` or ``rational``."""
    return FloatArithmetic() if name == "float" else FlintArithmetic(name == "ball")
