"""Weights are held exactly, and what is computed from constants says its error."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bourn.errors import UnsupportedOperatorError
from bourn.formats.onnx import (
    from_model,
)
from bourn.network.affine import Affine, Convolution, Dense, Offset, Scale
from onnx_models import B4, Inputs, agrees, model, node, numbers, operations


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_are_held_exactly(dtype: Any) -> None:
    weight = numbers(4, 3, dtype=dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = agrees(
        model([node("MatMul", "x w")], {"x": [1, 4]}, {"w": weight}, element_type=kind), 1e-2 if dtype == np.float16 else 1e-5
    )
    operation = graph.nodes[1].operation
    assert isinstance(operation, Dense)
    assert operation.weight.dtype == torch.float64
    assert operation.weight_error == 0
    assert operation.weight.T.tolist() == weight.astype(np.float64).tolist()


def test_bfloat16_weights_are_held_exactly() -> None:
    raw = helper.make_tensor("w", TensorProto.BFLOAT16, [2, 1], [1.5, -0.15625])
    built = model([node("Cast", "w", "v", to=TensorProto.FLOAT), node("MatMul", "x v")], {"x": [1, 2]})
    built.graph.initializer.append(raw)
    operation = from_model(built).nodes[1].operation
    assert isinstance(operation, Dense)
    assert operation.weight.tolist() == [[1.5, -0.15625]]


# Constants computed from constants


def _only(built: onnx.ModelProto, kind: type[Affine]) -> Any:
    (found,) = [n.operation for n in from_model(built, simplify=False).nodes if isinstance(n.operation, kind)]
    return found


def _covers(stored: torch.Tensor, error: float, real: Sequence[Fraction]) -> bool:
    """Whether the exact numbers are within the stated relative error of the stored ones."""
    return all(
        abs(r - Fraction(s)) <= Fraction(error) * abs(Fraction(s)) for s, r in zip(stored.reshape(-1).tolist(), real, strict=True)
    )


positive = st.floats(2.0**-20, 2.0**20, width=32)


@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=4))
@settings(max_examples=50, deadline=None)
def test_errors_of_computed_weights(pairs: list[tuple[float, float]]) -> None:
    a, b = (np.array(v, dtype=np.float64) for v in zip(*pairs, strict=True))
    exact = [(Fraction(p), Fraction(q)) for p, q in pairs]
    x: Inputs = {"x": [1, len(pairs)]}
    constants = {"a": a, "b": b, "third": np.array(3.0)}

    def scale(*nodes: onnx.NodeProto) -> Scale:
        return _only(model(nodes, x, constants, element_type=TensorProto.DOUBLE), Scale)  # type: ignore[no-any-return]

    divided = scale(node("Div", "x a"))
    assert _covers(divided.factor, divided.weight_error, [1 / p for p, _ in exact])
    quotient = scale(node("Div", "a b", "c"), node("Mul", "c third", "d"), node("Mul", "x d"))
    assert _covers(quotient.factor, quotient.weight_error, [3 * p / q for p, q in exact])
    product = scale(node("Mul", "a b", "c"), node("Mul", "x c"))
    assert product.weight_error == 0  # Products of float32 numbers are exact in float64.
    assert _covers(product.factor, 0.0, [p * q for p, q in exact])
    cube = scale(node("Mul", "a b", "c"), node("Mul", "c b", "d"), node("Mul", "x d"))
    assert _covers(cube.factor, cube.weight_error, [p * q * q for p, q in exact])
    total = scale(node("Add", "a b", "c"), node("Div", "c third", "d"), node("Mul", "d x"))
    assert _covers(total.factor, total.weight_error, [(p + q) / 3 for p, q in exact])


@given(st.lists(positive, min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_errors_of_computed_biases_and_matrices(values: list[float]) -> None:
    a = np.array(values)
    built = model([node("Div", "a k", "c"), node("Add", "x c")], {"x": [1, 3]}, {"a": a, "k": np.array(7.0)})
    offset = _only(built, Offset)
    assert offset.bias is not None
    errors = [0.0] * 3 if offset.bias_error is None else offset.bias_error.tolist()
    for b, e, v in zip(offset.bias.tolist(), errors, values, strict=True):
        assert abs(Fraction(b) - Fraction(v) / 7) <= Fraction(e) <= Fraction(2.0**-50) * Fraction(b)
    weights = np.outer(a, a[::-1])
    built = model([node("MatMul", "a w", "c"), node("Mul", "x c")], {"x": [1, 3]}, {"a": a, "w": weights})
    scale = _only(built, Scale)
    exact = [
        sum((Fraction(v) * Fraction(w) for v, w in zip(values, column, strict=True)), Fraction()) for column in weights.T.tolist()
    ]
    assert _covers(scale.factor, scale.weight_error, exact)
    built = model([node("ReduceMean", "w", "c", axes=[0], keepdims=0), node("Mul", "x c")], {"x": [1, 3]}, {"w": weights})
    scale = _only(built, Scale)
    exact = [sum((Fraction(w) for w in column), Fraction()) / 3 for column in weights.T.tolist()]
    assert _covers(scale.factor, scale.weight_error, exact)


def test_powers_of_two_and_small_means_are_exact() -> None:
    assert _only(model([node("Div", "x c")], {"x": [1, 2]}, {"c": np.array([4.0, 0.125])}), Scale).weight_error == 0
    assert _only(model([node("AveragePool", "x", kernel_shape=[2, 2])], {"x": [1, 1, 4, 4]}), Scale).weight_error == 0
    graph = from_model(model([node("AveragePool", "x", kernel_shape=[3])], {"x": [1, 1, 4]}))
    scale, window = graph.nodes[2].operation, graph.nodes[1].operation
    assert isinstance(scale, Scale)
    assert isinstance(window, Convolution)
    assert window.weight_error == 0
    assert _covers(scale.factor, scale.weight_error, [Fraction(1, 3)] * scale.factor.numel())


def test_constants_that_lose_their_accuracy_are_refused() -> None:
    third = {"a": np.array([1.0]), "k": np.array([3.0]), "m": np.array([-0.3333333333333333])}
    nodes = [node("Div", "a k", "c"), node("Add", "c m", "d"), node("Mul", "x d")]
    with pytest.raises(UnsupportedOperatorError, match="accuracy"):
        from_model(model(nodes, {"x": [1, 1]}, third))
    huge = {"a": np.array([1e308]), "b": np.array([1e-308])}
    for op_type, inputs in [("Mul", "a a"), ("Mul", "b b"), ("Add", "a a"), ("Div", "a b"), ("Div", "b a")]:
        with pytest.raises(UnsupportedOperatorError, match="accuracy"):
            from_model(model([node(op_type, inputs, "c"), node("Mul", "x c")], {"x": [1, 1]}, huge))
    with pytest.raises(UnsupportedOperatorError, match="divides by the constant 0"):
        from_model(model([node("Div", "x c")], {"x": [1, 1]}, {"c": np.array([0.0])}))


@pytest.mark.parametrize("opset", [8, 9, 14, 15])
@pytest.mark.parametrize("space", [(), (5,), (3, 2)])
def test_batch_normalization(opset: int, space: tuple[int, ...]) -> None:
    constants = {"s": B4, "b": numbers(4, seed=5), "m": numbers(4, seed=6), "v": np.abs(numbers(4, seed=8)) + np.float32(0.1)}
    built = model([node("BatchNormalization", "x s b m v", epsilon=1e-3)], {"x": [1, 4, *space]}, constants, opset=opset)
    graph = agrees(built)
    assert operations(graph) == ["Input", "Offset", "Scale"]
    # Only the factor is rounded: its square times the variance is the gain's square, up to the stated error.
    factor = graph.nodes[2].operation
    assert isinstance(factor, Scale)
    assert factor.bias_error is None
    assert 0 < factor.weight_error < 1e-15
    epsilon = Fraction(float(np.float32(1e-3)))
    error = Fraction(factor.weight_error)
    for f, s, v in zip(factor.factor.reshape(-1).tolist(), constants["s"].tolist(), constants["v"].tolist(), strict=True):
        real_square = Fraction(s) ** 2 / (Fraction(v) + epsilon)
        assert (Fraction(f) * (1 - error)) ** 2 <= real_square <= (Fraction(f) * (1 + error)) ** 2
