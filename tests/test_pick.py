"""Picks are the convolutions that they say they are, also where rows are placed on what they pick from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import networks
from bourn.network import affine
from bourn.network.affine import Convolution
from bourn.network.graph import Graph, GraphBuilder, Input
from bourn.network.pick import Pick, pick
from bourn.problem.input_set import box
from bourn.program.linear_bounds import back_substitute
from bourn.relaxations.maximum import Maximum
from bourn.relaxations.relu import ReLU
from bourn.solvers.methods import method


def slow(own: Pick) -> Convolution:
    """The same as a convolution that knows nothing of its being a pick."""
    return Convolution(**{f.name: getattr(own, f.name) for f in dataclasses.fields(Convolution)})


@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 3), st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_a_pick_is_its_convolution(dimensions: int, size: int, stride: int, dilation: int, more: int, seed: int) -> None:
    kernel, space = (size,) * dimensions, (dilation * (size - 1) + 1 + more,) * dimensions
    out = tuple((n - dilation * (size - 1) - 1) // stride + 1 for n in space)
    x, rows = (torch.randn(3, 1, 2, *shape, dtype=torch.float64, generator=networks.random(seed)) for shape in (space, out))
    for tap in np.ndindex(*kernel):
        own = pick((1, 2, *space), (1, 2, *out), kernel, tap, (stride,) * dimensions, (dilation,) * dimensions)
        other = slow(own)
        assert torch.equal(own.linear(x), other.linear(x))
        assert torch.equal(own.absolute(x), other.absolute(x))
        assert torch.equal(own.transpose(rows)[0], other.transpose(rows)[0])


def pooling(stride: int) -> Graph:
    """relu(conv(x)), of whose 2x2 windows the greatest are taken, and what was pooled added to some of the results."""
    builder, generator = GraphBuilder((1, 1, 6, 6)), networks.random(stride)
    weight = torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=generator)
    shape, out = (1, 2, 4, 4), (1, 2, 4 - 2 + 1 if stride == 1 else 2, 4 - 2 + 1 if stride == 1 else 2)
    convolved = Convolution(
        in_shapes=((1, 1, 6, 6),), out_shape=shape, weight=weight, stride=(1, 1), padding=(0, 0), dilation=(1, 1)
    )
    hidden = builder.add(ReLU(), builder.add(convolved, 0))
    taps = [builder.add(pick(shape, out, (2, 2), tap, (stride,) * 2, (1, 1)), hidden) for tap in np.ndindex(2, 2)]
    pooled = builder.add(Maximum(), *taps)
    flat = [
        builder.add(affine.Reshape(in_shapes=(s,), out_shape=(1, int(np.prod(s)))), v) for s, v in ((shape, hidden), (out, pooled))
    ]
    sizes = [builder.shape(v) for v in flat]
    joined = affine.Concat(in_shapes=tuple(sizes), out_shape=(1, sizes[0][1] + sizes[1][1]), axis=1)
    mixed = torch.randn(5, sizes[0][1] + sizes[1][1], dtype=torch.float64, generator=generator)
    last = affine.Dense(in_shapes=(joined.out_shape,), out_shape=(1, 5), weight=mixed)
    return builder.build(builder.add(last, builder.add(joined, *flat)))


def plain(graph: Graph) -> Graph:
    """The graph with convolutions in the place of picks."""
    builder = GraphBuilder(graph.input_shape)
    for node in graph.nodes[1:]:
        operation = slow(node.operation) if isinstance(node.operation, Pick) else node.operation
        assert not isinstance(operation, Input)
        builder.add(operation, *node.inputs, name=node.name)
    return builder.build(graph.output)


@pytest.mark.parametrize("stride", [1, 2])
def test_bounds_are_those_of_the_convolutions(stride: int) -> None:
    """On the same inner bounds; the rows of windows that overlap add up, and those of other readers of the pooled node."""
    graph = pooling(stride)
    center = torch.randn(3, *graph.input_shape, dtype=torch.float64, generator=networks.random(1))
    question = box(center - 0.3, center + 0.3)
    own = method("crown").prepare(graph, question)
    convolved = plain(graph)
    other = method("crown").prepare(convolved, question, inner={z: own.program.bounds[z] for z in convolved.pre_activations})  # type: ignore[attr-defined]
    rows = torch.randn(1, 4, 5, dtype=torch.float64, generator=networks.random(2))[:, :, None]
    hidden = torch.randn(1, 4, *graph.nodes[2].shape, dtype=torch.float64, generator=networks.random(3))
    zero = torch.zeros(1, 4, dtype=torch.float64)
    for given_rows in ({graph.output: rows}, {graph.output: rows, 2: hidden}, {2: hidden}):
        kept = {v: row.clone() for v, row in given_rows.items()}
        found = back_substitute(own.program, given_rows, zero, keep={0})  # type: ignore[attr-defined]
        expected = back_substitute(other.program, given_rows, zero, keep={0})  # type: ignore[attr-defined]
        torch.testing.assert_close(found.kept[0], expected.kept[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.lower, expected.lower, rtol=1e-12, atol=1e-12)
        assert all(torch.equal(row, kept[v]) for v, row in given_rows.items())


@pytest.mark.parametrize("name", ["ibp", "crown", "deepz", "forward", "alpha-crown-all", "lp-all"])
def test_bounds_hold(name: str) -> None:
    graph = pooling(1)
    center = torch.randn(1, *graph.input_shape, dtype=torch.float64, generator=networks.random(1))
    question = box(center - 0.2, center + 0.2)
    values = graph.values(question.sample(500, networks.random(4))[0])
    prepared = method(name).prepare(graph, question)
    for number in {*graph.pre_activations, graph.output}:
        bounds = prepared.node(number)
        assert bool((values[number] >= bounds.lower - 1e-10).all() & (values[number] <= bounds.upper + 1e-10).all())
