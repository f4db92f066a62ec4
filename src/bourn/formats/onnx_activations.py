"""ONNX operators on one value, entry by entry, that are compositions of registered nonlinearities and affine maps.

Where the nonlinearity is one function of one variable behind and before invertible affine maps the composition keeps the hull:
a linear image of a convex hull is the hull of the image.
"""

from __future__ import annotations

import math

import numpy as np

from bourn.formats import onnx_constants as constants
from bourn.formats.onnx_arithmetic import add, real, reduce, reduced_axes, scale
from bourn.formats.onnx_constants import Constant
from bourn.formats.onnx_products import activation_product
from bourn.formats.onnx_reading import REASONS, Use, Value, assembled, broadcast, rule, select
from bourn.relaxations.absolute import Absolute
from bourn.relaxations.clip import Clip
from bourn.relaxations.elu import Elu
from bourn.relaxations.exp import Exp
from bourn.relaxations.leaky_relu import LeakyReLU
from bourn.relaxations.log import Log
from bourn.relaxations.power import Power
from bourn.relaxations.reciprocal import Reciprocal
from bourn.relaxations.relu import ReLU
from bourn.relaxations.sqrt import Sqrt
from bourn.rounding import UNIT

REASONS.update(
    {
        "ArgMax": "an index jumps, so that no useful bound of it exists; ask about the scores themselves",
        "ArgMin": "an index jumps, so that no useful bound of it exists; ask about the scores themselves",
        "Ceil": "it jumps",
        "Floor": "it jumps",
        "Hardmax": "it jumps",
        "Mish": "its hull is not known here; write it as x * tanh(softplus(x)), which is read",
        "Round": "it jumps",
        "Shrink": "it jumps",
        "TopK": "an index jumps, so that no useful bound of it exists",
    }
)


def _default(number: float) -> float:
    """A default of the standard, which is the nearest float32."""
    return float(np.float32(number))


@rule("PRelu")
def _prelu(use: Use) -> Value:
    """slope x for x < 0: as slope x + (1 - slope) relu(x), whose graph is a linear image of that of ReLU."""
    x, slope = use.activation(use.value(0)), use.constant(1)
    if slope is None:
        raise use.refuse("its slope is missing")
    levels = np.unique(slope.floats)
    if len(levels) == 1 and not slope.error:
        return use.emit(LeakyReLU(float(levels[0])), x)
    falling = scale(use, x, slope, part="falling")
    kink = scale(use, use.emit(ReLU(), x, part="positive"), constants.add(real(1), slope, -1), part="kink")
    return add(use, [falling, kink], [1, 1])


def hard_sigmoid(use: Use, x: Value, alpha: float, beta: float, part: str = "") -> int:
    """min(max(alpha x + beta, 0), 1)."""
    line = add(use, [scale(use, x, real(alpha), part="scaled"), real(beta)], [1, 1], part="line")
    return use.emit(Clip(0.0, 1.0), use.activation(line), part=part)


@rule("HardSigmoid")
def _hard_sigmoid(use: Use) -> Value:
    return hard_sigmoid(use, use.value(0), use.attribute("alpha", _default(0.2)), use.attribute("beta", 0.5))


@rule("HardSwish")
def _hard_swish(use: Use) -> Value:
    """x times HardSigmoid(x): the hull of the product is wider than the function's own."""
    x = use.activation(use.value(0))
    return activation_product(use, x, hard_sigmoid(use, x, _default(1 / 6), 0.5, part="gate"))


@rule("Celu")
def _celu(use: Use) -> Value:
    """alpha Elu(x / alpha)."""
    alpha = use.attribute("alpha", 1.0)
    if not 0 < alpha < np.inf:
        raise use.refuse(f"alpha is {alpha}; it must be above 0")
    inner = scale(use, use.value(0), constants.divide(real(1), real(alpha)), part="scaled")
    return scale(use, use.emit(Elu(), use.activation(inner), part="elu"), real(alpha))


@rule("Sqrt")
def _sqrt(use: Use) -> Value:
    value = use.value(0)
    return constants.root(value) if isinstance(value, Constant) else use.emit(Sqrt(), value)


@rule("Reciprocal")
def _reciprocal(use: Use) -> Value:
    value = use.value(0)
    return constants.divide(real(1), value) if isinstance(value, Constant) else use.emit(Reciprocal(), value)


@rule("Pow")
def _pow(use: Use) -> Value:
    """Powers with constant exponents, one nonlinearity for every exponent there is, or of constants."""
    base, exponents = use.value(0), use.value(1)
    if isinstance(exponents, int):
        return _exponential(use, exponents)
    if exponents.error:
        raise use.refuse("its exponent is computed and cannot be held exactly")
    shape = np.broadcast_shapes(use.shape(base), exponents.array.shape)
    base, each = broadcast(use, base, shape), np.broadcast_to(exponents.floats, shape)
    levels = np.unique(each)
    for exponent in levels:
        if exponent not in (0.5, -0.5) and not (exponent.is_integer() and abs(exponent) <= 64):
            raise use.refuse(f"an exponent is {exponent:g}; whole numbers up to 64, and a half, are read")
    if len(levels) == 1 and isinstance(base, Constant):
        return _constant_power(base, float(levels[0]))
    number = use.activation(base)
    if len(levels) == 1:
        return _power(use, number, float(levels[0]))
    index, parts = np.arange(each.size).reshape(shape), []
    for exponent in levels:
        mine = each == exponent
        picked = select(use, number, index[mine], part="entries")
        parts.append((mine, _power(use, picked, float(exponent), part=f"power{exponent:g}")))
    return assembled(use, parts)


def _power(use: Use, number: int, exponent: float, part: str = "") -> int:
    size, shape = abs(exponent), use.shape(number)
    if exponent == 0:
        return use.activation(Constant(np.ones(shape)))
    if exponent == 1:
        return select(use, number, np.arange(math.prod(shape)).reshape(shape), part=part)
    if size != 1:
        inner = "power" if exponent < 0 else part
        number = use.emit(Sqrt() if size == 0.5 else Power(int(size)), number, part=inner)
    return use.emit(Reciprocal(), number, part=part) if exponent < 0 else number


def _exponential(use: Use, exponent: int) -> Value:
    """c ** x = exp(x log c) for positive constants c."""
    base = use.constant(0)
    if base is None or base.error or not (base.floats > 0).all():
        raise use.refuse("its base is not held exactly or not above 0")
    # The C library's logarithm is right to the last place or the one before.
    logarithm = Constant(np.vectorize(math.log, otypes=[np.float64])(base.floats), 8 * UNIT)
    return use.emit(Exp(), use.activation(scale(use, exponent, logarithm, part="exponent")))


def _constant_power(base: Constant, exponent: float) -> Constant:
    if exponent == 0:
        return Constant(np.ones(base.array.shape))
    power = constants.root(base) if abs(exponent) == 0.5 else base
    for _ in range(int(abs(exponent)) - 1):
        power = constants.multiply(power, base)
    return constants.divide(real(1), power) if exponent < 0 else power


@rule("ReduceL1")
def _reduce_l1(use: Use) -> Value:
    return _reduced(use, before=Absolute())


@rule("ReduceL2")
def _reduce_l2(use: Use) -> Value:
    return _reduced(use, before=Power(2), after=Sqrt())


@rule("ReduceSumSquare")
def _reduce_sum_square(use: Use) -> Value:
    return _reduced(use, before=Power(2))


@rule("ReduceLogSum")
def _reduce_log_sum(use: Use) -> Value:
    return _reduced(use, after=Log())


def _reduced(use: Use, before: Absolute | Power | None = None, after: Sqrt | Log | None = None) -> Value:
    """A sum over axes of what one function makes of the entries, and another function of it."""
    number = use.activation(use.value(0))
    axes, keepdims = reduced_axes(use, since=18)
    inner = number if before is None else use.emit(before, number, part="each")
    if axes is None:
        # What the standard and onnxruntime make of no axes differs for these operators.
        raise use.refuse("it reduces over no axes")
    total = reduce(use, inner, axes, keepdims, mean=False, part="" if after is None else "sum")
    return total if after is None else use.emit(after, use.activation(total))
