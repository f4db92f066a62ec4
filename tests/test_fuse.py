"""What is known of a node without bounds, and the clips and fused activations that follow from it."""

from __future__ import annotations

import pytest
import torch

import networks
from bourn.formats.onnx import from_model
from bourn.network.affine import Offset, ReduceSum, Scale
from bourn.network.fuse import _least, fuse_activations, guard_domains
from bourn.network.graph import Graph, GraphBuilder
from bourn.relaxations.base import Nonlinearity
from bourn.relaxations.clip import Clip
from bourn.relaxations.erf import Erf
from bourn.relaxations.gelu import Gelu
from bourn.relaxations.log import Log
from bourn.relaxations.power import Power
from bourn.relaxations.product import Product
from bourn.relaxations.reciprocal import Reciprocal
from bourn.relaxations.sqrt import Sqrt
from composed_models import COMPOSED

SHAPE = (1, 3)


@pytest.mark.parametrize("name", COMPOSED)
def test_no_value_is_below_what_is_known(name: str) -> None:
    graph = from_model(COMPOSED[name])
    values = graph.values(3 * torch.randn(200, *graph.input_shape, dtype=torch.float64, generator=networks.random(0)))
    least: list[float] = []
    for number in range(len(graph.nodes)):
        least.append(_least(graph, number, least))
        assert bool((values[number] >= least[-1] - 1e-12 * values[number].abs()).all()), graph.nodes[number].name


def rooted(factor: float, offset: float, operation: Nonlinearity, error: float = 0.0) -> Graph:
    """operation(factor sum(x^2) + offset)."""
    builder = GraphBuilder(SHAPE)
    squares = builder.add(Power(2), 0)
    total = builder.add(ReduceSum(in_shapes=(SHAPE,), out_shape=(1, 1), axes=(1,)), squares)
    scale = Scale(in_shapes=((1, 1),), out_shape=(1, 1), factor=torch.tensor(factor, dtype=torch.float64), weight_error=error)
    bias = torch.tensor([offset], dtype=torch.float64)
    added = Offset(in_shapes=((1, 1),), out_shape=(1, 1), bias=bias)
    return builder.build(builder.add(operation, builder.add(added, builder.add(scale, total)), name="end"))


@pytest.mark.parametrize(
    ("factor", "offset", "operation", "low"),
    [
        (0.5, 0.25, Sqrt(), 0.25),
        (0.5, 0.0, Sqrt(), 0.0),
        (0.5, 0.0, Reciprocal(), None),
        (0.5, 0.0, Log(), None),
        (0.5, 1.0, Log(), 1.0),
        (-0.5, 1.0, Log(), None),
        (0.5, -1.0, Sqrt(), None),
    ],
)
def test_guards(factor: float, offset: float, operation: Nonlinearity, low: float | None) -> None:
    graph = rooted(factor, offset, operation)
    guarded = guard_domains(graph)
    clips = [n.operation for n in guarded.nodes if isinstance(n.operation, Clip)]
    assert clips == ([] if low is None else [Clip(low=low)])
    assert guard_domains(guarded) is guarded
    assert guarded.nodes[guarded.output].name == "end"
    x = torch.randn(5, *SHAPE, dtype=torch.float64, generator=networks.random(1))
    torch.testing.assert_close(guarded.evaluate(x), graph.evaluate(x), equal_nan=True)


def test_a_scale_that_may_be_negative_says_nothing() -> None:
    assert guard_domains(rooted(0.5, 0.25, Sqrt(), error=2.0)).nonlinear == rooted(0.5, 0.25, Sqrt()).nonlinear


def test_a_clip_keeps_what_is_known_below_its_upper_end() -> None:
    builder = GraphBuilder(SHAPE)
    squares = builder.add(Power(2), 0)
    above = builder.add(Offset(in_shapes=(SHAPE,), out_shape=SHAPE, bias=torch.full(SHAPE, 5.0, dtype=torch.float64)), squares)
    for clip, expected in ((Clip(high=1.0), 1.0), (Clip(low=2.0), 5.0), (Clip(7.0, 9.0), 7.0)):
        number = builder.add(clip, above)
        graph = builder.build(number)
        least: list[float] = []
        for i in range(len(graph.nodes)):
            least.append(_least(graph, i, least))
        assert least[number] == expected


def test_errors_of_constants_go_along() -> None:
    """The fused GELU's scales cover the file's inexact factors."""
    builder = GraphBuilder(SHAPE)
    factor = torch.tensor(0.7, dtype=torch.float64)
    inner = builder.add(Scale(in_shapes=(SHAPE,), out_shape=SHAPE, factor=factor, weight_error=1e-8), 0)
    one = torch.ones(1, 3, dtype=torch.float64)
    gate = builder.add(Offset(in_shapes=(SHAPE,), out_shape=SHAPE, bias=one), builder.add(Erf(), inner))
    outer = builder.add(Scale(in_shapes=(SHAPE,), out_shape=SHAPE, factor=factor, weight_error=1e-9), gate)
    graph = builder.build(builder.add(Product(), outer, 0, name="end"))
    fused = fuse_activations(graph)
    assert [type(fused.nodes[v].operation) for v in fused.nonlinear] == [Gelu]
    errors = [n.operation.weight_error for n in fused.nodes if isinstance(n.operation, Scale)]
    assert 1e-8 < errors[0] < 1.001e-8
    assert 1.1e-8 < errors[1] < 1.101e-8
    x = torch.randn(5, *SHAPE, dtype=torch.float64, generator=networks.random(1))
    torch.testing.assert_close(fused.evaluate(x), graph.evaluate(x))
    other = builder.add(Product(), gate, builder.add(Erf(), 0))
    unlike = builder.build(other).cut(other)
    assert fuse_activations(unlike) is unlike
