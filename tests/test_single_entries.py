"""Rows that read one entry: the end of its interval, exactly."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import onnx
import pytest

import bourn
from bourn.formats.model import Model
from bourn.formats.onnx import from_bytes
from bourn.problem.specification import Row, Specification
from bourn.solvers.interval_propagation import IntervalPropagation
from bourn.solvers.single_entries import entry_bound
from bourn.verification import verify
from onnx_models import model, node

W = np.array([[1.0, -2.0, 0.3], [0.5, 1.0, 1.0]], dtype=np.float32)
THIRD = {"w": W, "third": np.array(1 / 3, dtype=np.float32), "seven": np.array(7, dtype=np.float32)}


def made(*nodes: onnx.NodeProto) -> Model:
    """A model of two inputs."""
    data = model(list(nodes), {"x": [1, 2]}, THIRD, opset=18).SerializeToString()
    return Model(from_bytes(data, "test"), data, "test")


def status(asked: Model, row: Row, outputs: int = 3, reach: float = 100) -> str:
    question = bourn.region(bourn.box([[-reach] * 2], [[reach] * 2]), Specification.of([row]), outputs)
    return verify(asked, question).status


@pytest.mark.parametrize("reach", [1, 1000])
@pytest.mark.parametrize("function", ["Sigmoid", "Relu", "Tanh", "Softmax", "Abs", "HardSigmoid"])
def test_values_at_the_end_of_a_range_are_ties_that_hold(function: str, reach: float) -> None:
    asked = made(node("MatMul", "x w", "a"), node(function, "a"))
    least = -1 if function == "Tanh" else 0
    assert status(asked, Row.of({1: 1}, {}, -least, strict=True), reach=reach) == "unsat"
    if function not in ("Relu", "Abs"):
        assert status(asked, Row.of({1: -1}, {}, 1, strict=True), reach=reach) == "unsat"
    if function in ("Relu", "Abs", "HardSigmoid"):
        assert status(asked, Row.of({1: 1}, {}, -Fraction(1, 10**30)), reach=reach) == "sat"


def test_affine_nodes_are_seen_through_exactly() -> None:
    """7 relu(a)_2 + 1/3 in float32, transposed: least at 1/3, to the last digit."""
    third = Fraction(float(np.float32(1 / 3)))
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "b"), node("Mul", "b seven", "c"), node("Add", "c third", "d")]
    asked = made(*nodes, node("Transpose", "d", perm=[1, 0]))
    assert status(asked, Row.of({2: 1}, {}, -third, strict=True)) == "unsat"
    assert status(asked, Row.of({2: 3}, {}, -3 * third, strict=True)) == "unsat"
    known = IntervalPropagation().prepare(asked.graph, bourn.box([[-1.0, -1.0]], [[1.0, 1.0]]).reshape((1, 2)))
    assert entry_bound(Row.of({2: 1}), known) == float(np.float32(1 / 3))
    assert entry_bound(Row.of({2: -1}), known) < -7
    for other in (Row.of({2: 1, 1: 1}), Row.of({2: 1}, {0: 1}), Row.of({}, {}, 1)):
        assert entry_bound(other, known) == -math.inf


def test_sums_and_rounded_weights_are_not_seen_through() -> None:
    summed = made(node("Relu", "x", "a"), node("MatMul", "a w"))
    divided = made(node("Relu", "x", "a"), node("Div", "a seven"))
    for asked in (summed, divided):
        known = IntervalPropagation().prepare(asked.graph, bourn.box([[-1.0, -1.0]], [[1.0, 1.0]]).reshape((1, 2)))
        low = entry_bound(Row.of({0: 1}), known)
        assert low == -math.inf or low <= 0


def test_entries_of_the_input_itself() -> None:
    asked = made(node("Neg", "x"))
    assert status(asked, Row.of({0: 1}, {}, 100, strict=True), outputs=2) == "unsat"
    assert status(asked, Row.of({0: 1}, {}, 100), outputs=2) == "sat"
