"""Simplified graphs compute exactly what the graphs computed before."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bourn.network.affine import Affine, Constant, Dense, Offset, ReduceSum, Reshape, Scale, Select, Sum
from bourn.network.graph import Graph, GraphBuilder
from bourn.network.rewrite import drop_identities, drop_unused, give_axes, merge_moves, merge_offsets, simplify
from bourn.problem.input_set import box
from bourn.relaxations.relu import ReLU
from bourn.solvers.methods import METHODS


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def dense(rows: list[list[float]], bias: Tensor | None = None, bias_error: Tensor | None = None) -> Dense:
    weight = torch.tensor(rows, dtype=torch.float64)
    shape = weight.shape
    return Dense(in_shapes=((1, shape[1]),), out_shape=(1, shape[0]), weight=weight, bias=bias, bias_error=bias_error)


def offset(bias: Tensor, bias_error: Tensor | None = None, size: int = 2) -> Offset:
    return Offset(in_shapes=((1, size),), out_shape=(1, size), bias=bias, bias_error=bias_error)


def kinds(graph: Graph) -> list[str]:
    return [type(n.operation).__name__ for n in graph.nodes]


def _values(draw: st.DrawFn, count: int) -> Tensor:
    return torch.tensor(draw(st.lists(st.integers(-2, 2), min_size=count, max_size=count)), dtype=torch.float64)


def _operation(draw: st.DrawFn, shape: tuple[int, ...]) -> Affine | ReLU:
    """A random operation on one input of this shape."""
    size, same = math.prod(shape), (shape,)
    kind = draw(st.sampled_from([Offset, Scale, Reshape, Select, Dense, Sum, ReLU]))
    if kind is Offset:
        return Offset(in_shapes=same, out_shape=shape, bias=_values(draw, draw(st.sampled_from([1, shape[-1]]))))
    if kind is Scale:
        return Scale(in_shapes=same, out_shape=shape, factor=_values(draw, 1))
    if kind is Reshape:
        return Reshape(in_shapes=same, out_shape=draw(st.sampled_from([(1, size), (size, 1), (size,)])))
    if kind is Select:
        index = torch.tensor([draw(st.lists(st.integers(-1, size - 1), min_size=4, max_size=4))])
        bias = draw(st.sampled_from([None, vector(0, 0, 0, 1)]))
        return Select(in_shapes=same, out_shape=(1, 4), index=index, bias=bias)
    if kind is Dense:
        weight = _values(draw, 2 * shape[-1]).reshape(2, -1)
        return Dense(in_shapes=same, out_shape=(*shape[:-1], 2), weight=weight)
    if kind is Sum:
        return Sum(in_shapes=same, out_shape=shape, signs=(draw(st.sampled_from([1, -1])),))
    return ReLU()


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Graphs of small integers in which any node may read any earlier one: sums of them are exact in float64."""
    builder = GraphBuilder((1, 4), "x")
    numbers = [0]
    for step in range(draw(st.integers(1, 10))):
        number = numbers[-1] if draw(st.booleans()) else draw(st.sampled_from(numbers))
        shape = builder.shape(number)
        if draw(st.integers(0, 4)):
            numbers.append(builder.add(_operation(draw, shape), number, name=f"n{step}"))
        else:
            other = draw(st.sampled_from([n for n in numbers if builder.shape(n) == shape]))
            difference = Sum(in_shapes=(shape, shape), out_shape=shape, signs=(1, -1))
            numbers.append(builder.add(difference, number, other, name=f"n{step}"))
    return builder.build(draw(st.sampled_from(numbers)))


@given(graph=graphs())
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("change", [simplify, drop_unused, drop_identities, merge_moves, merge_offsets], ids=lambda f: f.__name__)
def test_passes_change_nothing(change: Callable[[Graph], Graph], graph: Graph) -> None:
    x = torch.tensor([[[3.0, -1.0, 0.0, 2.0]], [[-5.0, 4.0, 1.0, -2.0]]], dtype=torch.float64)
    changed = change(graph)
    assert torch.equal(changed.evaluate(x), graph.evaluate(x))
    assert len(changed.nodes) <= len(graph.nodes)
    if change is simplify:
        assert simplify(changed) is changed
    # Every node keeps a tensor's name, and its value where that is a nonlinearity's or is read by one.
    values = dict(zip((n.name for n in graph.nodes), graph.values(x), strict=True))
    for node, value in zip(changed.nodes, changed.values(x), strict=True):
        assert node.name in values
        assert torch.equal(values[node.name].reshape(-1), value.reshape(-1))


def test_offset_joins_the_product_and_takes_its_name_along() -> None:
    builder = GraphBuilder((1, 2), "x")
    product = builder.add(dense([[1, 2], [3, 4]], vector(1, 1)), 0, name="product")
    shifted = builder.add(offset(vector(0.5, 0.25)), product, name="shifted", source="Add here")
    again = builder.add(offset(vector(1, 2), vector(0.125, 0.25)), shifted, name="again")
    graph = simplify(builder.build(builder.add(ReLU(), again, name="y")))
    assert [n.name for n in graph.nodes] == ["x", "again", "y"]
    merged = graph.nodes[1].operation
    assert isinstance(merged, Dense)
    assert merged.bias is not None
    assert merged.bias.tolist() == [2.5, 3.25]
    assert merged.bias_error is not None
    assert merged.bias_error.tolist() == [0.125, 0.25]


def test_offset_stays_where_the_sum_would_round_or_others_read_the_product() -> None:
    builder = GraphBuilder((1, 2), "x")
    product = builder.add(dense([[1, 0], [0, 1]], vector(1e20, 0)), 0)
    graph = builder.build(builder.add(offset(vector(1.0, 0)), product))
    assert simplify(graph) is graph

    builder = GraphBuilder((1, 2), "x")
    product = builder.add(dense([[1, 0], [0, 1]]), 0)
    shifted = builder.add(offset(vector(1, 0)), product)
    shape = (1, 2)
    graph = builder.build(builder.add(Sum(in_shapes=(shape, shape), out_shape=shape, signs=(1, 1)), product, shifted))
    assert simplify(graph) is graph


def test_errors_of_biases_add_up() -> None:
    builder = GraphBuilder((1, 2), "x")
    product = builder.add(dense([[1, 0], [0, 1]], vector(1, 1), vector(0.5, 0.5)), 0)
    graph = simplify(builder.build(builder.add(offset(vector(2, 2), vector(0.25, 0)), product)))
    merged = graph.nodes[1].operation
    assert isinstance(merged, Dense)
    assert merged.bias_error is not None
    assert (merged.bias_error >= vector(0.75, 0.5)).all()
    assert (merged.bias_error <= vector(0.75, 0.5) + 1e-12).all()


def test_moves_become_one() -> None:
    builder = GraphBuilder((1, 2, 2), "x")
    flat = builder.add(Reshape(in_shapes=((1, 2, 2),), out_shape=(1, 4)), 0)
    index = torch.tensor([[3, -1, 0]])
    chosen = builder.add(Select(in_shapes=((1, 4),), out_shape=(1, 3), index=index), flat)
    column = builder.add(Reshape(in_shapes=((1, 3),), out_shape=(3, 1)), chosen)
    again = Select(in_shapes=((3, 1),), out_shape=(2,), index=torch.tensor([2, -1]), bias=vector(0, 7))
    graph = simplify(builder.build(builder.add(again, column, name="y")))
    assert kinds(graph) == ["Input", "Select"]
    x = torch.arange(4.0, dtype=torch.float64).reshape(1, 1, 2, 2)
    assert graph.evaluate(x).tolist() == [[0.0, 7.0]]


def test_identities_disappear_and_unused_nodes_too() -> None:
    builder = GraphBuilder((1, 2), "x")
    shape = (1, 2)
    same = builder.add(Reshape(in_shapes=(shape,), out_shape=shape), 0)
    one = builder.add(Scale(in_shapes=(shape,), out_shape=shape, factor=vector(1)), same)
    zero = builder.add(offset(vector(0, 0)), one)
    order = builder.add(Select(in_shapes=(shape,), out_shape=shape, index=torch.tensor([[0, 1]])), zero)
    builder.add(Constant(out_shape=shape, bias=vector(1, 2)), name="unused")
    graph = builder.build(builder.add(Sum(in_shapes=(shape,), out_shape=shape, signs=(1,)), order))
    assert kinds(simplify(graph)) == ["Input"]

    builder = GraphBuilder(shape, "x")
    rounded = builder.add(Scale(in_shapes=(shape,), out_shape=shape, factor=vector(1), weight_error=1e-16), 0)
    graph = builder.build(builder.add(offset(vector(0, 0), vector(1e-16, 0)), rounded))
    assert kinds(simplify(graph)) == ["Input", "Scale"]


def test_values_without_axes_get_one() -> None:
    """Sums of everything, scaled, shifted and read by a nonlinearity: the same values, and every method bounds them."""
    builder = GraphBuilder((3,))
    total = builder.add(ReduceSum(in_shapes=((3,),), out_shape=(), axes=(0,)), 0)
    scaled = builder.add(Scale(in_shapes=((),), out_shape=(), factor=torch.tensor(-2.0, dtype=torch.float64)), total)
    rectified = builder.add(ReLU(), scaled)
    again = builder.add(Select(in_shapes=((),), out_shape=(), index=torch.tensor(0)), rectified)
    graph = builder.build(builder.add(Sum(in_shapes=((), ()), out_shape=(), signs=(1, -1)), again, total))
    wider = give_axes(graph)
    assert all(node.shape for node in wider.nodes)
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(wider.evaluate(x)[:, 0], graph.evaluate(x))
    values = wider.evaluate(x[:1] + torch.rand(1000, 3, dtype=torch.float64) * 2 - 1)
    for m in METHODS:
        found = m.prepare(wider, box(x[:1] - 1, x[:1] + 1)).node(wider.output)
        assert bool((found.lower[0] <= values.amin()).all() & (found.upper[0] >= values.amax()).all()), m.name
