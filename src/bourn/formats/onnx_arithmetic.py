"""ONNX operators that add and multiply: sums, products with constants, matrix products, reductions, batch norm."""

from __future__ import annotations

import math

import numpy as np

from bourn.errors import NetworkError
from bourn.formats import onnx_constants as constants
from bourn.formats.onnx_constants import Array, Constant
from bourn.formats.onnx_products import activation_matrix_product, activation_product, activation_quotient
from bourn.formats.onnx_reading import Use, Value, bias_error, broadcast, moved, rule, tensor
from bourn.network import affine
from bourn.relaxations.reciprocal import Reciprocal


def add(use: Use, values: list[Value], signs: list[int], part: str = "") -> Value:
    """The signed sum of values, broadcast to one shape."""
    bias: Constant | None = None
    for value, sign in zip(values, signs, strict=True):
        if isinstance(value, Constant):
            signed = value if sign > 0 else constants.negate(value)
            bias = signed if bias is None else constants.add(bias, signed)
    summands = [(v, sign) for v, sign in zip(values, signs, strict=True) if isinstance(v, int)]
    if not summands:
        assert bias is not None
        return bias
    shape = np.broadcast_shapes(*(use.shape(v) for v in values))
    numbers = [use.activation(broadcast(use, v, shape)) for v, _ in summands]
    stored = None if bias is None else tensor(bias.floats)
    error = None if bias is None else bias_error(bias)
    if [sign for _, sign in summands] == [1]:
        operation: affine.Affine = affine.Offset(in_shapes=(shape,), out_shape=shape, bias=stored, bias_error=error)
    else:
        operation = affine.Sum(
            in_shapes=(shape,) * len(numbers), out_shape=shape, signs=tuple(s for _, s in summands), bias=stored, bias_error=error
        )
    return use.emit(operation, *numbers, part=part)


def scale(use: Use, value: Value, factor: Constant, part: str = "") -> Value:
    """The value times a constant, entry by entry, broadcast."""
    if isinstance(value, Constant):
        return constants.multiply(value, factor)
    if factor.error == 0 and factor.array.size == 1 and factor.array.item() == 1:
        return moved(use, value, lambda x: x.reshape(np.broadcast_shapes(x.shape, factor.array.shape)), part=part)
    shape = np.broadcast_shapes(use.shape(value), factor.array.shape)
    number = use.activation(broadcast(use, value, shape))
    operation = affine.Scale(in_shapes=(shape,), out_shape=shape, factor=tensor(factor.floats), weight_error=factor.error)
    return use.emit(operation, number, part=part)


def real(number: float) -> Constant:
    """A number as a constant of rank 0."""
    return Constant(np.array(float(number)))


def transposed(use: Use, value: Value, part: str) -> Value:
    """The last two axes exchanged."""
    return moved(use, value, lambda x: x.swapaxes(-1, -2), part=part)


@rule("Add")
def _add(use: Use) -> Value:
    return add(use, [use.value(0), use.value(1)], [1, 1])


@rule("Sub")
def _sub(use: Use) -> Value:
    return add(use, [use.value(0), use.value(1)], [1, -1])


@rule("Sum")
def _sum(use: Use) -> Value:
    return add(use, [use.value(i) for i in range(len(use.inputs))], [1] * len(use.inputs))


@rule("Mean")
def _mean(use: Use) -> Value:
    values = [use.value(i) for i in range(len(use.inputs))]
    total = add(use, values, [1] * len(values), part="sum")
    return scale(use, total, constants.divide(real(1), real(len(values))))


@rule("Neg")
def _neg(use: Use) -> Value:
    return add(use, [use.value(0)], [-1])


@rule("Mul")
def _mul(use: Use) -> Value:
    a, b = use.value(0), use.value(1)
    if isinstance(b, Constant):
        return scale(use, a, b)
    if isinstance(a, Constant):
        return scale(use, b, a)
    return activation_product(use, a, b)


@rule("Div")
def _div(use: Use) -> Value:
    a, b = use.value(0), use.value(1)
    if isinstance(a, Constant) and isinstance(b, Constant):
        return constants.divide(a, b)
    if isinstance(a, Constant):
        return scale(use, use.emit(Reciprocal(), use.activation(b), part="reciprocal"), a)
    if not isinstance(b, Constant):
        return activation_quotient(use, a, b)
    return scale(use, a, constants.divide(real(1), b))


@rule("MatMul")
def _matmul(use: Use) -> Value:
    return matrix_product(use, use.value(0), use.value(1))


@rule("Gemm")
def _gemm(use: Use) -> Value:
    a, b, c = use.value(0), use.value(1), use.input(2)
    alpha, beta = use.attribute("alpha", 1.0), use.attribute("beta", 1.0)
    if use.attribute("transA", 0):
        a = transposed(use, a, "a")
    if use.attribute("transB", 0):
        b = transposed(use, b, "b")
    if len(use.shape(a)) != 2 or len(use.shape(b)) != 2:
        raise NetworkError(f"it multiplies shapes {use.shape(a)} and {use.shape(b)}, which are not matrices")
    if alpha != 1 and isinstance(b, Constant):
        b = scale(use, b, real(alpha))
    elif alpha != 1:
        a = scale(use, a, real(alpha), part="alpha")
    if c is None:
        return matrix_product(use, a, b)
    product = matrix_product(use, a, b, part="product")
    return add(use, [product, c if beta == 1 else scale(use, c, real(beta), part="beta")], [1, 1])


def matrix_product(use: Use, a: Value, b: Value, part: str = "") -> Value:
    """a b with the rules of ONNX and NumPy: leading axes broadcast, vectors take part as a row or a column."""
    shape = np.matmul(np.broadcast_to(np.int8(0), use.shape(a)), np.broadcast_to(np.int8(0), use.shape(b))).shape
    if isinstance(a, Constant) and isinstance(b, Constant):
        return constants.matrix_product(a, b)
    if isinstance(b, Constant):
        assert isinstance(a, int)
        return _right_product(use, a, b, shape, part)
    if isinstance(a, Constant):
        return _left_product(use, a, b, shape, part)
    return activation_matrix_product(use, a, b, shape, part)


def _right_product(use: Use, x: int, weight: Constant, shape: tuple[int, ...], part: str) -> Value:
    """x times a constant of any rank."""
    matrix, in_shape = weight.floats, use.shape(x)
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim == 2:
        out_shape = (*in_shape[:-1], matrix.shape[1])
        operation: affine.Affine = affine.Dense(
            in_shapes=(in_shape,), out_shape=out_shape, weight=tensor(matrix.T), weight_error=weight.error
        )
        return _reshaped(use, operation, x, shape, part)
    if len(in_shape) == 1:
        row = moved(use, x, lambda array: array[None, :], part="row")
        x, in_shape = use.activation(row), use.shape(row)
    leading = np.broadcast_shapes(in_shape[:-2], matrix.shape[:-2])
    operation = affine.BatchedDense(
        in_shapes=(in_shape,),
        out_shape=(*leading, in_shape[-2], matrix.shape[-1]),
        weight=tensor(matrix),
        weight_error=weight.error,
    )
    return _reshaped(use, operation, x, shape, part)


def _left_product(use: Use, weight: Constant, x: int, shape: tuple[int, ...], part: str) -> Value:
    """A constant of any rank times x: (x^T W^T)^T, or W x for a vector."""
    if len(use.shape(x)) == 1:
        # W x reads like x W^T; W^T of a stack is a stack, whose rows come out one axis further left.
        flipped = Constant(weight.array if weight.array.ndim == 1 else weight.array.swapaxes(-1, -2), weight.error)
        return _right_product(use, x, flipped, shape, part)
    matrix = weight.array[None, :] if weight.array.ndim == 1 else weight.array
    turned = use.activation(transposed(use, x, "turned"))
    flipped = Constant(matrix.swapaxes(-1, -2), weight.error)
    full = np.matmul(np.broadcast_to(np.int8(0), use.shape(turned)), np.broadcast_to(np.int8(0), flipped.array.shape)).shape
    product = _right_product(use, turned, flipped, full, "product")
    return moved(use, product, lambda array: array.swapaxes(-1, -2).reshape(shape), part=part)


def _reshaped(use: Use, operation: affine.Affine, x: int, shape: tuple[int, ...], part: str) -> int:
    """The operation, its output in ``shape``."""
    if operation.out_shape == shape:
        return use.emit(operation, x, part=part)
    number = use.emit(operation, x, part="matrix")
    return use.emit(affine.Reshape(in_shapes=(operation.out_shape,), out_shape=shape), number, part=part)


@rule("ReduceSum")
def _reduce_sum(use: Use) -> Value:
    return _reduced(use, since=13, mean=False)


@rule("ReduceMean")
def _reduce_mean(use: Use) -> Value:
    return _reduced(use, since=18, mean=True)


def _reduced(use: Use, since: int, mean: bool) -> Value:
    value = use.value(0)
    axes, keepdims = reduced_axes(use, since)
    return moved(use, value, lambda x: x) if axes is None else reduce(use, value, axes, keepdims, mean)


def reduced_axes(use: Use, since: int) -> tuple[tuple[int, ...] | None, bool]:
    """The axes that a reduction is over, ascending, None where it does nothing, and whether they stay with size 1."""
    rank = len(use.shape(use.value(0)))
    axes, keepdims = use.setting("axes", 1, since=since) or (), bool(use.attribute("keepdims", 1))
    nothing = use.attribute("noop_with_empty_axes", 0)
    if not axes:
        return (None if nothing else tuple(range(rank))), keepdims
    return tuple(sorted(a + rank if a < 0 else a for a in axes)), keepdims


def reduced_index(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[Array, tuple[int, ...]]:
    """Flat indices of what a reduction over ``axes`` reduces, (*out, count), and the output's shape."""
    index = np.arange(math.prod(shape)).reshape(shape)
    index = np.moveaxis(index, axes, range(len(shape) - len(axes), len(shape)))
    out = tuple(1 if a in axes else size for a, size in enumerate(shape) if keepdims or a not in axes)
    return index.reshape(*out, math.prod(shape[a] for a in axes)), out


def reduce(use: Use, value: Value, axes: tuple[int, ...], keepdims: bool, mean: bool, part: str = "") -> Value:
    """The sum or mean over axes."""
    shape = use.shape(value)
    count = math.prod(shape[a] for a in axes)
    if isinstance(value, Constant):
        if mean and value.integral:
            raise use.refuse("the mean of integers is rounded")
        total: Value = constants.total(value, axes, keepdims)
    else:
        out_shape = tuple(1 if a in axes else size for a, size in enumerate(shape) if keepdims or a not in axes)
        operation = affine.ReduceSum(in_shapes=(shape,), out_shape=out_shape, axes=axes)
        total = use.emit(operation, value, part="sum" if mean else part)
    return scale(use, total, constants.divide(real(1), real(count)), part=part) if mean else total


@rule("GlobalAveragePool")
def _global_average_pool(use: Use) -> Value:
    value = use.value(0)
    return reduce(use, value, tuple(range(2, len(use.shape(value)))), keepdims=True, mean=True)


@rule("BatchNormalization")
def _batch_normalization(use: Use) -> Value:
    """(x - mean) * (scale / sqrt(var + epsilon)) + bias as stored: only the factor is rounded."""
    use.attribute("momentum")
    if use.attribute("training_mode", 0) or not use.attribute("spatial", 1):
        raise use.refuse("it is read for inference, with one mean a channel, only")
    value = use.value(0)
    gain, bias, mean, variance = (use.constant(i) for i in range(1, 5))
    if gain is None or bias is None or mean is None or variance is None:
        raise NetworkError("a parameter is missing")
    rank = len(use.shape(value))

    def over_channels(constant: Constant) -> Constant:
        return Constant(constant.array.reshape(-1, *(1,) * (rank - 2)), constant.error)

    epsilon = real(use.attribute("epsilon", float(np.float32(1e-5))))
    factor = constants.multiply(gain, constants.inverse_root(constants.add(variance, epsilon)))
    centred = add(use, [value, over_channels(mean)], [1, -1], part="centred")
    scaled = scale(use, centred, over_channels(factor), part="scaled")
    normalised = add(use, [scaled, over_channels(bias)], [1, 1])
    if use.shape(normalised) != use.shape(value):
        raise NetworkError(f"its {gain.array.size} channels do not fit the input's shape {use.shape(value)}")
    return normalised
