"""Smaller programs bound the same rows: receptive fields as the whole network does, the layers after a node no better."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bourn.network.graph import Graph
from bourn.problem.input_set import Box, box
from bourn.program.relaxed import RelaxedProgram
from bourn.program.restrict import after_node, receptive_fields, take_problems
from bourn.relaxations.base import LineRule
from bourn.relaxations.relu import ReLU
from bourn.solvers.back_substitution import BackSubstitution, bound_both
from bourn.solvers.base import identity_rows
from bourn.solvers.dual_ascent import DualAscent
from networks import Layers, random


def ball(graph: Graph, generator: torch.Generator, batch: int) -> Box:
    center = torch.randn(batch, *graph.input_shape, dtype=torch.float64, generator=generator)
    radius = torch.rand(batch, *graph.input_shape, dtype=torch.float64, generator=generator) * 0.3
    return box(center - radius, center + radius)


def plain(layers: Layers) -> Graph:
    node = layers.act(layers.convolution(0, 3, (3, 3), stride=(2, 2), padding=(1, 1)), ReLU())
    return layers.builder.build(layers.convolution(node, 2, (2, 2), padding=(1, 1)))


def dilated_in_groups(layers: Layers) -> Graph:
    node = layers.act(layers.convolution(0, 4, (2, 2), dilation=(2, 1), groups=2), ReLU())
    return layers.builder.build(layers.convolution(node, 2, (2, 3), stride=(2, 1), padding=(0, 1), groups=2))


def affine_after_affine(layers: Layers) -> Graph:
    """The bias of the first convolution must not leak into the second's padding."""
    node = layers.convolution(layers.act(layers.convolution(0, 2, (2, 2)), ReLU()), 2, (2, 2), padding=(1, 1))
    return layers.builder.build(layers.convolution(layers.scale(layers.offset(node)), 2, (2, 2), padding=(1, 1)))


def residual(layers: Layers) -> Graph:
    """Two branches whose windows differ."""
    node = layers.act(layers.convolution(0, 3, (2, 2)), ReLU())
    branch = layers.act(layers.convolution(node, 3, (3, 3), padding=(1, 1)), ReLU())
    joined = layers.sum(layers.convolution(branch, 3, (1, 1)), node)
    return layers.builder.build(layers.convolution(joined, 2, (1, 1)))


def affine_first(layers: Layers) -> Graph:
    """As networks that normalise their images: what is padded is an affine value, and the mask that sees to that is never free."""
    node = layers.act(layers.convolution(layers.offset(layers.scale(0)), 3, (3, 3), stride=(2, 2), padding=(1, 1)), ReLU())
    return layers.builder.build(layers.convolution(node, 2, (2, 2), padding=(1, 1)))


KINDS = (plain, dilated_in_groups, affine_after_affine, residual, affine_first)


def both_ways(program: RelaxedProgram, target: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Bounds (B, size) of all entries, through receptive fields and through the whole network."""
    local = receptive_fields(program, target)
    assert local is not None
    channels, positions = program.graph.nodes[target].shape[1], math.prod(program.graph.nodes[target].shape[2:])
    small = bound_both(local, {local.graph.output: identity_rows(local.graph, local.graph.output, torch.arange(channels))})
    size = channels * positions
    whole = bound_both(program, {target: identity_rows(program.graph, target, torch.arange(size))})
    low, high = (t.reshape(program.batch, positions, channels).mT.reshape(program.batch, size) for t in small)
    return (low, high), whole


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("rule", [LineRule.AREA, LineRule.PARALLEL])
def test_receptive_fields_bound_what_the_whole_network_does(kind: object, rule: LineRule) -> None:
    assert callable(kind)
    for seed in range(10):
        generator = random(seed)
        graph = kind(Layers((1, 2, 12, 12), generator))
        program = BackSubstitution(rule).prepare(graph, ball(graph, generator, 2)).program
        (low, high), (whole_low, whole_high) = both_ways(program, graph.output)
        assert torch.allclose(low, whole_low, rtol=1e-9, atol=1e-9)
        assert torch.allclose(high, whole_high, rtol=1e-9, atol=1e-9)
        points = torch.stack(list(program.box.sample(50)))
        for problem in range(program.batch):
            values = graph.evaluate(points[problem]).flatten(1)
            assert bool((values >= low[problem]).all() & (values <= high[problem]).all())


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_ascent_through_receptive_fields_improves_what_the_whole_network_says(kind: object) -> None:
    assert callable(kind)
    gained = False
    for seed in range(3):
        generator = random(seed)
        graph = kind(Layers((1, 2, 12, 12), generator))
        region = ball(graph, generator, 2)
        prepared = BackSubstitution(LineRule.AREA).prepare(graph, region)
        closed = prepared.node(graph.output)
        found = DualAscent(steps=5).prepare(graph, region, inner=prepared.bounds).node(graph.output)
        assert bool((found.lower >= closed.lower - 1e-9).all() & (found.upper <= closed.upper + 1e-9).all())
        gained |= bool((found.lower > closed.lower + 1e-6).any())
        for problem, points in enumerate(region.sample(50)):
            values = graph.evaluate(points)
            assert bool((values >= found.lower[problem]).all() & (values <= found.upper[problem]).all())
    assert gained


def test_windows_as_large_as_the_network_gain_nothing() -> None:
    layers = Layers((1, 2, 3, 3), random(0))
    graph = layers.builder.build(layers.convolution(layers.act(layers.convolution(0, 2, (3, 3)), ReLU()), 2, (1, 1)))
    program = BackSubstitution().prepare(graph, ball(graph, random(1), 1)).program
    assert receptive_fields(program, graph.output) is None


def test_dense_layers_have_no_receptive_fields() -> None:
    layers = Layers((1, 4), random(0))
    graph = layers.builder.build(layers.dense(layers.act(layers.dense(0, 4), ReLU()), 2))
    assert receptive_fields(BackSubstitution().prepare(graph, ball(graph, random(1), 1)).program, graph.output) is None


def test_the_layers_after_a_node_give_valid_bounds_and_no_better_ones() -> None:
    better = 0
    for seed in range(50):
        generator = random(seed)
        layers = Layers((1, 3), generator)
        first = layers.dense(0, 5)
        graph = layers.builder.build(layers.dense(layers.act(layers.dense(layers.act(first, ReLU()), 5), ReLU()), 2))
        program = BackSubstitution(LineRule.PARALLEL).prepare(graph, ball(graph, generator, 2)).program
        short = after_node(program, first, graph.output)
        assert short is not None
        rows = torch.arange(2)
        low, high = bound_both(short, {short.graph.output: identity_rows(short.graph, short.graph.output, rows)})
        whole_low, whole_high = bound_both(program, {graph.output: identity_rows(graph, graph.output, rows)})
        assert bool((low <= whole_low + 1e-12).all() & (high >= whole_high - 1e-12).all())
        better += int((low < whole_low - 1e-6).any())
    assert better > 25


def test_a_node_that_is_by_passed_has_no_program_after_it() -> None:
    layers = Layers((1, 3), random(0))
    first = layers.dense(0, 3)
    graph = layers.builder.build(layers.dense(layers.sum(layers.act(first, ReLU()), 0), 2))
    program = BackSubstitution().prepare(graph, ball(graph, random(1), 1)).program
    assert after_node(program, first, graph.output) is None


@pytest.mark.parametrize("chosen", [slice(1, 3), torch.tensor([1, 2]), torch.tensor([2, 0, 2])])
def test_problems_are_taken_with_all_that_belongs_to_them(chosen: slice | Tensor) -> None:
    generator = random(3)
    layers = Layers((1, 3), generator)
    graph = layers.builder.build(layers.dense(layers.act(layers.dense(0, 5), ReLU()), 2))
    program = BackSubstitution().prepare(graph, ball(graph, generator, 3)).program
    part = take_problems(program, chosen)
    rows = {graph.output: identity_rows(graph, graph.output, torch.arange(2))}
    for own, whole in zip(bound_both(part, rows), bound_both(program, rows), strict=True):
        assert torch.allclose(own, whole[chosen], rtol=1e-12, atol=1e-12)
    assert take_problems(program, slice(0, 3)) is program
