"""Values of smooth functions in arithmetic of 50 digits, as fractions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

from bourn.relaxations.arctan import Arctan
from bourn.relaxations.base import ElementWise
from bourn.relaxations.elu import Elu
from bourn.relaxations.erf import Erf
from bourn.relaxations.exp import Exp
from bourn.relaxations.gelu import Gelu
from bourn.relaxations.log import Log
from bourn.relaxations.power import Power
from bourn.relaxations.reciprocal import Reciprocal
from bourn.relaxations.sigmoid import Sigmoid
from bourn.relaxations.silu import Silu
from bourn.relaxations.sine import Sine
from bourn.relaxations.softplus import Softplus
from bourn.relaxations.sqrt import Sqrt
from bourn.relaxations.tanh import Tanh

mp = mpmath.mp.clone()
mp.dps = 50
_FAR = 4000


def _sigmoid(z: Any) -> Any:
    return 1 / (1 + mp.exp(-z))


def _gelu(operation: Any, z: Any) -> Any:
    if operation.approximate:
        return z / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (z + mp.mpf(0.044715) * z**3)))
    return z / 2 * mp.erfc(-z / mp.sqrt(2))


def _gelu_slope(operation: Any, z: Any) -> Any:
    if operation.approximate:
        y = mp.tanh(mp.sqrt(2 / mp.pi) * (z + mp.mpf(0.044715) * z**3))
        return (1 + y) / 2 + z / 2 * (1 - y**2) * mp.sqrt(2 / mp.pi) * (1 + 3 * mp.mpf(0.044715) * z**2)
    return mp.erfc(-z / mp.sqrt(2)) / 2 + z * mp.exp(-z * z / 2) / mp.sqrt(2 * mp.pi)


def _silu_slope(operation: Any, z: Any) -> Any:
    y = _sigmoid(operation.alpha * z)
    return y + operation.alpha * z * y * (1 - y)


Formula = Callable[[Any, Any], Any]
FORMULAS: dict[type[ElementWise], tuple[Formula, Formula]] = {
    Arctan: (lambda o, z: mp.atan(z), lambda o, z: 1 / (1 + z * z)),
    Elu: (
        lambda o, z: o.gamma * (z if z >= 0 else o.alpha * mp.expm1(z)),
        lambda o, z: mp.mpf(o.gamma) * (1 if z >= 0 else o.alpha * mp.exp(z)),
    ),
    Erf: (lambda o, z: mp.erf(z), lambda o, z: 2 / mp.sqrt(mp.pi) * mp.exp(-z * z)),
    Exp: (lambda o, z: mp.exp(z), lambda o, z: mp.exp(z)),
    Gelu: (_gelu, _gelu_slope),
    Log: (lambda o, z: mp.log(z), lambda o, z: 1 / z),
    Power: (lambda o, z: z**o.exponent, lambda o, z: o.exponent * z ** (o.exponent - 1)),
    Reciprocal: (lambda o, z: 1 / z, lambda o, z: -1 / (z * z)),
    Sigmoid: (lambda o, z: _sigmoid(z), lambda o, z: _sigmoid(z) * (1 - _sigmoid(z))),
    Silu: (lambda o, z: z * _sigmoid(o.alpha * z), _silu_slope),
    Sine: (lambda o, z: mp.cos(z) if o.shifted else mp.sin(z), lambda o, z: -mp.sin(z) if o.shifted else mp.cos(z)),
    Softplus: (lambda o, z: mp.log1p(mp.exp(z)) if z < 100 else z + mp.exp(-z), lambda o, z: _sigmoid(z)),
    Sqrt: (lambda o, z: mp.sqrt(z), lambda o, z: 1 / (2 * mp.sqrt(z))),
    Tanh: (lambda o, z: mp.tanh(z), lambda o, z: 1 - mp.tanh(z) ** 2),
}
"""Function and derivative by class; a class that is not here is tested with its own float64 values."""


@lru_cache(maxsize=1 << 18)
def exact_value(operation: ElementWise, z: float, derivative: bool = False) -> Fraction:
    """The function (or its derivative) at a float64 point, to 50 digits."""
    value = mp.mpf(FORMULAS[type(operation)][int(derivative)](operation, mp.mpf(z)))
    sign, mantissa, exponent, _ = value._mpf_
    # Smaller than any float64 by far needs no more digits.
    size = Fraction(1, 2**_FAR) if exponent < -_FAR else Fraction(int(mantissa)) * Fraction(2) ** exponent
    return -size if sign else size
