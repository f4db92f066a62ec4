"""Products of two values that both depend on the network's input, and quotients: exact compositions of few nonlinearities."""

from __future__ import annotations

import math

import numpy as np

from bourn.formats.onnx_reading import Use, broadcast, select
from bourn.network import affine
from bourn.relaxations.power import Power
from bourn.relaxations.product import Product
from bourn.relaxations.reciprocal import Reciprocal


def activation_product(use: Use, a: int, b: int, part: str = "") -> int:
    """a b entry by entry, broadcast; the square, whose hull is tighter, where both are one node."""
    if a == b:
        return use.emit(Power(2), a, part=part)
    shape = np.broadcast_shapes(use.shape(a), use.shape(b))
    numbers = [use.activation(broadcast(use, v, shape)) for v in (a, b)]
    return use.emit(Product(), *numbers, part=part)


def activation_quotient(use: Use, a: int, b: int) -> int:
    """a / b entry by entry, as a times the reciprocal of b."""
    return activation_product(use, a, use.emit(Reciprocal(), b, part="reciprocal"))


def activation_matrix_product(use: Use, a: int, b: int, shape: tuple[int, ...], part: str = "") -> int:
    """The matrix product of ONNX and NumPy, of this ``shape``: every product of two entries, then their sums."""
    left, right = (np.arange(math.prod(use.shape(v))).reshape(use.shape(v)) for v in (a, b))
    left = left[None, :] if left.ndim == 1 else left
    right = right[:, None] if right.ndim == 1 else right
    rows, columns = left[..., :, None, :], right.swapaxes(-1, -2)[..., None, :, :]
    every = np.broadcast_shapes(rows.shape, columns.shape)
    first = select(use, a, np.broadcast_to(rows, every), part="left")
    second = select(use, b, np.broadcast_to(columns, every), part="right")
    products = use.emit(Product(), first, second, part="products")
    return use.emit(affine.ReduceSum(in_shapes=(every,), out_shape=shape, axes=(len(every) - 1,)), products, part=part)
