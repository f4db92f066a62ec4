"""What every method must do, and the equalities that theory states."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from bourn.deadline import Deadline, OutOfTime
from bourn.network.affine import Dense
from bourn.network.graph import Graph, GraphBuilder
from bourn.problem.input_set import box, linf_ball
from bourn.problem.problem import Objectives
from bourn.program.linear_bounds import Multipliers, back_substitute
from bourn.program.relaxed import start, with_bounds
from bourn.relaxations.base import LineRule
from bourn.relaxations.relu import ReLU
from bourn.solvers.base import output_rows
from bourn.solvers.methods import Method, method
from quick import PROVED, QUICK


def network(seed: int, sizes: tuple[int, ...] = (4, 8, 8, 3)) -> Graph:
    """A random fully connected ReLU network."""
    generator = torch.Generator().manual_seed(seed)
    builder, node = GraphBuilder((1, sizes[0])), 0
    for layer, (n, m) in enumerate(itertools.pairwise(sizes)):
        if layer:
            node = builder.add(ReLU(), node)
        weight = torch.randn(m, n, generator=generator, dtype=torch.float64)
        bias = torch.randn(m, generator=generator, dtype=torch.float64)
        node = builder.add(Dense(in_shapes=((1, n),), out_shape=(1, m), weight=weight, bias=bias), node)
    return builder.build(node)


OBJECTIVES = Objectives(torch.eye(3, dtype=torch.float64)[None], None, torch.zeros(1, 3, dtype=torch.float64))


def values(m: str | Method, graph: Graph, radius: float) -> torch.Tensor:
    ball = linf_ball(torch.zeros(1, *graph.input_shape, dtype=torch.float64), radius)
    return (method(m) if isinstance(m, str) else m).prepare(graph, ball).minimise(OBJECTIVES).bound


@pytest.mark.parametrize("m", PROVED, ids=lambda m: m.name)
def test_bounds_hold_on_samples(m: Method) -> None:
    graph = network(0)
    ball = linf_ball(torch.zeros(2, *graph.input_shape, dtype=torch.float64), 0.3)
    prepared = m.prepare(graph, ball)
    assert set(prepared.bounds) == set(graph.pre_activations)
    for problem, points in enumerate(ball.sample(200)):
        for number, value in enumerate(graph.values(points)):
            found = prepared.node(number)
            assert bool((value >= found.lower[problem]).all() & (value <= found.upper[problem]).all())


@pytest.mark.parametrize("m", QUICK, ids=lambda m: m.name)
def test_multipliers_state_the_bound_again(m: Method) -> None:
    """On the same inner bounds and the whole hull, at the multipliers alone, whatever lines and solver they came from."""
    graph = network(2)
    ball = linf_ball(torch.zeros(1, *graph.input_shape, dtype=torch.float64), 0.3)
    prepared = m.prepare(graph, ball)
    stated, found = prepared.minimise(OBJECTIVES).bound, prepared.multipliers(OBJECTIVES)
    assert (found is None) == (prepared.trace(OBJECTIVES, ()) is None)
    if found is None:
        return
    program = start(graph, ball, LineRule.AREA)
    for z in graph.pre_activations:
        program = with_bounds(program, z, prepared.bounds[z], None)
    assert set(found) == set(graph.nonlinear)
    rows = output_rows(graph, OBJECTIVES)

    def bound(scale: float) -> torch.Tensor:
        chosen = {v: Multipliers(program.free(v), mu=tuple(scale * t for t in mu)) for v, mu in found.items()}
        return back_substitute(program, rows, OBJECTIVES.constant, multipliers=chosen).lower

    assert bool((bound(1.0) >= stated - 1e-9).all())
    # Other multipliers give other bounds: the test can fail.
    assert bool((bound(-1.0) < stated - 1e-3).any())


@pytest.mark.parametrize("m", PROVED, ids=lambda m: m.name)
def test_an_unbounded_input_has_no_bound(m: Method) -> None:
    graph = network(1)
    inf = torch.full((1, *graph.input_shape), math.inf, dtype=torch.float64)
    bound = m.prepare(graph, box(-inf, inf)).minimise(OBJECTIVES).bound
    assert not bool(bound.isnan().any())
    assert bool((bound <= graph.evaluate(torch.zeros(1, 1, 4, dtype=torch.float64)).reshape(1, 3)).all())


@pytest.mark.parametrize("m", PROVED, ids=lambda m: m.name)
def test_a_limit_is_kept(m: Method) -> None:
    graph = network(2)
    ball = linf_ball(torch.zeros(1, *graph.input_shape, dtype=torch.float64), 0.3)
    with pytest.raises(OutOfTime):
        m.prepare(graph, ball, deadline=Deadline(1e-9)).minimise(OBJECTIVES)


def test_interval_bounds_are_monotone_in_the_radius() -> None:
    for seed in range(200):
        graph = network(seed)
        assert bool((values("ibp", graph, 0.1) >= values("ibp", graph, 0.2)).all())


def test_the_order_is_partial() -> None:
    """Interval bounds beat CROWN's on some networks, and CROWN-IBP's do."""
    graphs = [network(seed) for seed in range(100)]
    for name in ("ibp", "crown-ibp"):
        assert any(bool((values(name, g, 2.0) > values("crown", g, 2.0)).any()) for g in graphs)
