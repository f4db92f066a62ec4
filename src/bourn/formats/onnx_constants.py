"""Constants of a model file, and float arithmetic on them that knows its own rounding.

The network is verified as stored, in real arithmetic.  Where the file computes one constant from others,
the result is computed in float64 and carries a bound of its relative error, 0 where it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bourn.rounding import UNIT, gamma

Array = NDArray[Any]

_SAFETY = 1.0 + 2.0**-40
"""Covers the rounding of the error terms themselves."""

_LARGEST_ERROR = 2.0**-30
"""Constants that lose more than this are refused: their bounds would be worth little."""


class InexactConstantError(ArithmeticError):
    """Arithmetic on constants lost its accuracy (cancellation, overflow or underflow)."""


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A constant tensor: the exact one differs from ``array`` by at most ``error * abs(array)`` in every entry."""

    array: Array
    error: float = 0.0

    @property
    def integral(self) -> bool:
        return self.array.dtype.kind in "iub"

    @property
    def floats(self) -> NDArray[np.float64]:
        """The array as float64, which holds every narrower float exactly; raises for integers that it cannot hold."""
        floats = self.array.astype(np.float64)
        if self.array.dtype.kind in "iu" and not (floats.astype(self.array.dtype) == self.array).all():
            raise InexactConstantError("an integer constant is too large for float64")
        return floats


def _settled(value: Array, absolute: Array) -> Constant:
    """A constant with these bounds of its entries' absolute errors, turned into one relative error."""
    with np.errstate(all="ignore"):
        relative = np.where(absolute == 0, 0.0, absolute / np.abs(value))
    worst = float(relative.max(initial=0.0)) * _SAFETY
    if not np.isfinite(value).all() or not worst <= _LARGEST_ERROR:
        raise InexactConstantError("arithmetic on its constants overflows or loses its accuracy")
    return Constant(value, worst)


def _split(x: Array) -> tuple[Array, Array]:
    """High and low half of each float64 (Veltkamp)."""
    scaled = 134217729.0 * x
    high = scaled - (scaled - x)
    return high, x - high


def _product_error(x: Array, y: Array, product: Array) -> Array:
    """The exact x y minus ``product`` (Dekker), infinite where underflow could spoil it."""
    with np.errstate(all="ignore"):
        (a, b), (c, d) = _split(x), _split(y)
        error = b * d - (((product - a * c) - b * c) - a * d)
        tiny = (np.abs(product) < 2.0**-900) & (x != 0) & (y != 0)
        return np.asarray(np.where(tiny, np.inf, error))


def sum_error(x: Array, y: Array, total: Array) -> Array:
    """The exact x + y minus ``total`` = fl(x + y), itself exact (Knuth's TwoSum)."""
    other = total - x
    return np.asarray((x - (total - other)) + (y - other))


def add(a: Constant, b: Constant, sign: int = 1) -> Constant:
    """a + sign * b, broadcast."""
    if a.integral and b.integral:
        return Constant(a.array + b.array if sign > 0 else a.array - b.array)
    x, y = a.floats, sign * b.floats
    with np.errstate(all="ignore"):
        total = x + y
        absolute = np.abs(sum_error(x, y, total)) + a.error * np.abs(x) + b.error * np.abs(y)
    return _settled(total, absolute)


def multiply(a: Constant, b: Constant) -> Constant:
    """a * b, broadcast."""
    if a.integral and b.integral:
        return Constant(a.array * b.array)
    x, y = a.floats, b.floats
    with np.errstate(all="ignore"):
        product = x * y
        absolute = np.abs(_product_error(x, y, product)) + (a.error + b.error + a.error * b.error) * np.abs(product)
    return _settled(product, absolute)


def divide(a: Constant, b: Constant) -> Constant:
    """a / b, broadcast; integers are truncated towards zero, as the standard does."""
    if not b.array.all():
        raise InexactConstantError("it divides by the constant 0")
    if a.integral and b.integral:
        return Constant(np.abs(a.array) // np.abs(b.array) * (np.sign(a.array) * np.sign(b.array)))
    x, y = a.floats, b.floats
    with np.errstate(all="ignore"):
        quotient = x / y
        back = quotient * y
        exact = (back == x) & (_product_error(quotient, y, back) == 0)
        relative = np.where(exact, 0.0, 2 * UNIT) + 2 * (a.error + b.error)
        absolute = np.where((np.abs(quotient) < 2.0**-900) & (x != 0), np.inf, relative * np.abs(quotient))
    return _settled(quotient, absolute)


def negate(a: Constant) -> Constant:
    """-a, which is exact."""
    return Constant(-a.array, a.error)


def inverse_root(a: Constant) -> Constant:
    """1 / sqrt(a) for positive entries."""
    if not (a.floats > 0).all():
        raise InexactConstantError("it divides by the square root of a number that is not positive")
    root = 1.0 / np.sqrt(a.floats)
    # The root and the division round once each; the root halves a's own error.
    return _settled(root, (4 * UNIT + a.error) * np.abs(root))


def root(a: Constant) -> Constant:
    """sqrt(a) for entries of at least 0."""
    if not (a.floats >= 0).all():
        raise InexactConstantError("it takes the square root of a negative number")
    found = np.sqrt(a.floats)
    exact = (found * found == a.floats) & (_product_error(found, found, found * found) == 0)
    return _settled(found, (np.where(exact, 0.0, 2 * UNIT) + a.error) * found)


def matrix_product(a: Constant, b: Constant) -> Constant:
    """The matrix product of ONNX and NumPy."""
    if a.integral and b.integral:
        return Constant(np.matmul(a.array, b.array))
    x, y = a.floats, b.floats
    with np.errstate(all="ignore"):
        relative = gamma(x.shape[-1] + 1) + 2 * (a.error + b.error)
        return _settled(np.matmul(x, y), relative * np.matmul(np.abs(x), np.abs(y)))


def total(a: Constant, axes: tuple[int, ...], keepdims: bool) -> Constant:
    """The sum over ``axes``."""
    if a.integral:
        return Constant(a.array.sum(axis=axes, keepdims=keepdims, dtype=a.array.dtype))
    x = a.floats
    terms = int(np.prod([x.shape[axis] for axis in axes], dtype=np.int64))
    relative = (gamma(terms + 1) if terms > 1 else 0.0) + 2 * a.error
    with np.errstate(all="ignore"):
        return _settled(x.sum(axis=axes, keepdims=keepdims), relative * np.abs(x).sum(axis=axes, keepdims=keepdims))
