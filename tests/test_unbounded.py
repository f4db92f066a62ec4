"""Where no bound is finite, the reason names node, operator and interval."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

import bourn
from bourn.certificates.evidence import Unbounded, Unknown
from bourn.formats.model import Model
from bourn.formats.onnx import from_bytes
from bourn.problem.specification import Row, Specification
from bourn.verification import Result, verify
from onnx_models import model, node
from quick import UP_TO_LP_ALL
from verify_models import RELU_IDENTITY, mlp

CONSTANTS = {
    "w": np.array([[1, 1], [1, -1]], dtype=np.float32),
    "one": np.array(1, dtype=np.float32),
    "many": np.array(1e5, dtype=np.float32),
}


def asked(nodes: list[onnx.NodeProto]) -> Result:
    """Can the first output be -1e30 or less for x in [-1, 2] x [0.5, 3]?  Not in float32."""
    data = model(nodes, {"x": [1, 2]}, CONSTANTS, opset=18).SerializeToString()
    question = bourn.region(bourn.box([[-1.0, 0.5]], [[2.0, 3.0]]), Specification.of([Row.of({0: 1}, {}, 10**30)]), 2)
    return verify(Model(from_bytes(data, "test"), data, "test"), question, plan=UP_TO_LP_ALL)


SUM = node("MatMul", "x w", "sum")
"""x_0 + x_1 in [-0.5, 5] and x_0 - x_1."""


@pytest.mark.parametrize(
    ("nodes", "place", "operator", "interval"),
    [
        ([SUM, node("Log", "sum", "log"), node("MatMul", "log w")], "log", "Log", (-0.5, 5)),
        ([SUM, node("Sqrt", "sum")], "y", "Sqrt", (-0.5, 5)),
        ([SUM, node("Reciprocal", "sum")], "y", "Reciprocal", (-0.5, 5)),
        ([SUM, node("Div", "one sum")], "y", "Div", (-0.5, 5)),
        ([SUM, node("Div", "sum x")], "y.reciprocal", "Div", (-1, 2)),
        ([node("Mul", "x many", "large"), node("Exp", "large", "exp"), node("MatMul", "exp w")], "exp", "Exp", (-1e5, 2e5)),
    ],
)
def test_the_node_at_which_bounds_end_is_named(
    nodes: list[onnx.NodeProto], place: str, operator: str, interval: tuple[float, float]
) -> None:
    found = asked(nodes)
    assert isinstance(found.verdict, Unknown)
    (own,) = found.verdict.unbounded
    assert (own.node, own.operator, own.entry) == (place, operator, 0)
    assert own.intervals[0] == pytest.approx(interval, rel=1e-12)
    text = f"{operator} node {place!r} has no finite bound on [{interval[0]:g}, {interval[1]:g}] (entry 0"
    assert text in found.verdict.reason
    assert text in str(found)


def test_an_affine_map_that_overflows_is_named() -> None:
    huge = mlp(([[1e200]], [0.0]), ([[1e200]], [0.0]), ([[1.0]], [0.0]), single=False)
    found = verify(huge, bourn.region(bourn.box([[1.0]], [[2.0]]), Specification.of([Row.of({0: 1}, {}, 1)]), 1))
    assert isinstance(found.verdict, Unknown)
    (place,) = found.verdict.unbounded
    assert (place.node, place.operator) == ("dense_1", "Gemm")
    assert place.intervals[0] == pytest.approx((1e200, 2e200))


def test_no_node_is_named_where_bounds_are_finite() -> None:
    """y = x >= 0 is a tie."""
    tie = Specification.of([Row.of({0: 1}, {}, 0, strict=True)])
    found = verify(mlp(*RELU_IDENTITY), bourn.region(bourn.box([[0.0]], [[1.0]]), tie, 1))
    assert isinstance(found.verdict, Unknown)
    assert found.verdict.unbounded == ()
    assert "neither refuted" in found.verdict.reason


def test_words() -> None:
    text = str(Unbounded("y", "Mul", ((0, math.pi), (-1, 1e300)), 3, 5))
    assert text == "Mul node 'y' has no finite bound on [0, 3.14159] and [-1, 1e+300] (entry 3 and 4 more)"
