"""Theory up to the barrier: linear programs, dual ascent and their orders, on many networks side by side."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from bourn.deadline import Deadline
from bourn.interval import Interval
from bourn.network.affine import BatchedDense
from bourn.network.graph import Graph, GraphBuilder
from bourn.problem.input_set import Box, linf_ball
from bourn.problem.problem import Objectives
from bourn.program.linear_bounds import Multipliers, back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.relaxations.base import LineRule
from bourn.relaxations.relu import ReLU
from bourn.solvers import highs
from bourn.solvers.adjustments import patient
from bourn.solvers.base import output_rows
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.methods import METHODS, method
from bourn.solvers.simplex import Optimised, Simplex
from networks import random
from quick import QUICK
from test_solvers import OBJECTIVES, network, values
from test_theory import textbook

NETWORKS, OUTPUTS = 200, 2


def side_by_side(count: int, sizes: tuple[int, ...], seed: int) -> Graph:
    """``count`` random ReLU networks in one graph, which know nothing of each other."""
    generator = random(seed)
    builder, node = GraphBuilder((count, 1, sizes[0])), 0
    for layer, (n, m) in enumerate(itertools.pairwise(sizes)):
        if layer:
            node = builder.add(ReLU(), node)
        weight = torch.randn(count, n, m, generator=generator, dtype=torch.float64)
        bias = torch.randn(count, 1, m, generator=generator, dtype=torch.float64)
        operation = BatchedDense(in_shapes=((count, 1, n),), out_shape=(count, 1, m), weight=weight, bias=bias)
        node = builder.add(operation, node)
    return builder.build(node)


def sums(count: int) -> Objectives:
    """Each output summed over all networks: ascent treats them one by one all the same, for they share no neuron."""
    rows = torch.eye(OUTPUTS, dtype=torch.float64).repeat(1, count)
    return Objectives(rows[None], None, torch.zeros(1, OUTPUTS, dtype=torch.float64))


def singly(count: int) -> Objectives:
    """Each output of each network."""
    rows = torch.eye(OUTPUTS * count, dtype=torch.float64)
    return Objectives(rows[None], None, torch.zeros(1, OUTPUTS * count, dtype=torch.float64))


@pytest.fixture(scope="module")
def many() -> tuple[Graph, Box, Mapping[int, Interval], Optimised, Tensor]:
    """The networks, a ball, CROWN's inner bounds, the LP on these, and its optima (all networks' outputs)."""
    graph = side_by_side(NETWORKS, (3, 6, 6, OUTPUTS), 0)
    ball = linf_ball(torch.zeros(1, *graph.input_shape, dtype=torch.float64), 0.4)
    inner = dict(method("crown").prepare(graph, ball).bounds)
    prepared = Simplex().prepare(graph, ball, inner=inner)
    return graph, ball, inner, prepared, prepared.minimise(singly(NETWORKS)).bound[0]


Many = tuple[Graph, Box, Mapping[int, Interval], Optimised, Tensor]


def test_the_program_is_the_textbook_one() -> None:
    for seed in range(NETWORKS):
        graph = network(seed, (3, 5, 5, 3))
        ball = linf_ball(torch.zeros(1, 1, 3, dtype=torch.float64), 0.4)
        for source in ("ibp", "crown") if seed % 4 == 0 else ("crown",):
            bounds = dict(method(source).prepare(graph, ball).bounds)
            found = Simplex().prepare(graph, ball, inner=bounds).minimise(OBJECTIVES).bound
            wanted = torch.tensor([textbook(graph, ball, bounds)], dtype=torch.float64)
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_any_multipliers_give_a_bound_of_the_program(many: Many) -> None:
    """Weak duality: at random multipliers, small and large, the dual function is at most the optimum."""
    graph, _, _, prepared, optimum = many
    program, objectives = prepared.program, singly(NETWORKS)
    rows = output_rows(graph, objectives)
    for seed, scale in enumerate((0.0, 0.1, 1.0, 100.0)):
        chosen = {}
        for v in graph.nonlinear:
            free = program.free(v)
            mu = scale * torch.randn(1, len(objectives), *free.shape[1:], dtype=torch.float64, generator=random(seed))
            chosen[v] = Multipliers(free, mu=(mu,))
        found = back_substitute(program, rows, objectives.constant, multipliers=chosen).lower[0]
        assert bool((found <= optimum + 1e-9).all())


def best_slopes(prepared: Optimised, objectives: Objectives) -> Tensor:
    """The bounds at the LP's own multipliers, forced into the form of slopes between 0 and 1."""
    graph = prepared.graph
    program, found = prepared.trace(objectives, set(graph.nonlinear))
    chosen = {}
    for v in graph.nonlinear:
        row, mu, z = found.kept[v], found.passed[v][0], program.bounds[graph.nodes[v].inputs[0]]
        slope = (mu / row.masked_fill(row == 0, 1.0)).masked_fill(row == 0, 0.0).clamp(0, 1)
        chord = (z.upper / (z.upper - z.lower)).expand_as(row)
        chosen[v] = Multipliers(program.free(v), below=(slope,), above=(chord,))
    return back_substitute(program, output_rows(graph, objectives), objectives.constant, multipliers=chosen).lower[0]


def test_slopes_alone_reach_the_program_where_it_implies_its_bounds(many: Many) -> None:
    """Strong duality on slopes: with 1e-6 all optima are met, by ascent or at the LP's multipliers, most of them by both."""
    graph, ball, inner, prepared, optimum = many
    solver = DualAscent(steps=6000, decay=0.998)
    ascended = solver.prepare(graph, ball, inner=inner)
    program, rows = ascended.program, output_rows(graph, sums(NETWORKS))
    run = solver.climb(program, rows, sums(NETWORKS).constant)
    # The slopes found for the sums, one network's part at a time.
    which = torch.arange(OUTPUTS).repeat(NETWORKS)
    chosen = {v: Multipliers(program.free(v), (m.below[0][:, which],), m.above) for v, m in run.items() if m.below}
    single = singly(NETWORKS)
    climbed = back_substitute(program, output_rows(graph, single), single.constant, multipliers=chosen).lower[0]
    stated = best_slopes(prepared, single)
    for found in (climbed, stated):
        assert bool((found <= optimum + 1e-8).all())
        assert float((found >= optimum - 1e-6).double().mean()) >= 0.9
    assert bool((torch.maximum(climbed, stated) >= optimum - 1e-6).all())
    # The test can fail: what ascent starts from is far away.
    begun = DualAscent(steps=0).prepare(graph, ball, inner=inner).minimise(sums(NETWORKS)).bound
    assert float(optimum.sum() - begun[0].sum()) > 1e-3


def imposed(graph: Graph, ball: Box, seed: int) -> tuple[dict[int, Interval], dict[int, Interval]]:
    """CROWN's inner bounds, and narrower ones that no program implies: a random piece of every interval around a value."""
    inner = dict(method("crown").prepare(graph, ball).bounds)
    generator, center = random(seed), graph.values(torch.zeros(1, *graph.input_shape, dtype=torch.float64))
    outside = {}
    for z, b in inner.items():
        ends = torch.rand(2, *b.shape, dtype=torch.float64, generator=generator) * 0.45
        width = b.upper - b.lower
        lower, upper = b.lower + ends[0] * width, b.upper - ends[1] * width
        outside[z] = Interval(torch.minimum(lower, center[z]), torch.maximum(upper, center[z]))
    return inner, outside


def test_imposed_bounds_need_multipliers_of_their_own() -> None:
    """Slopes alone stay below the program with imposed bounds; with a multiplier for every bound ascent reaches it."""
    for seed in range(2):
        graph = side_by_side(10, (3, 6, 6, OUTPUTS), seed)
        ball = linf_ball(torch.zeros(1, *graph.input_shape, dtype=torch.float64), 0.4)
        inner, outside = imposed(graph, ball, seed)
        objectives, solver = sums(10), DualAscent(steps=2500, decay=0.997)
        optimum = Simplex().prepare(graph, ball, inner=inner, outside=outside).minimise(objectives).bound
        with_own = solver.prepare(graph, ball, inner=inner, outside=outside).minimise(objectives).bound
        narrowed = {z: inner[z].intersect(outside[z]) for z in inner}
        slopes = solver.prepare(graph, ball, inner=narrowed).minimise(objectives).bound
        assert bool((with_own <= optimum + 1e-7).all())
        assert bool((slopes < optimum - 1).all())  # the case is a real one
        assert bool((optimum - with_own <= 1e-2 * (optimum - slopes)).all())


def test_imposed_bounds_enter_the_program_as_the_textbook_has_it() -> None:
    """Stable or not, an imposed bound is a constraint: the LP is that of all variables with their bounds."""
    differs = 0
    for seed in range(60):
        graph = network(seed, (3, 5, 5, 3))
        ball = linf_ball(torch.zeros(1, 1, 3, dtype=torch.float64), 0.4)
        inner, outside = imposed(graph, ball, seed)
        prepared = Simplex().prepare(graph, ball, inner=inner, outside=outside)
        found = prepared.minimise(OBJECTIVES).bound
        wanted = torch.tensor([textbook(graph, ball, {z: inner[z].intersect(outside[z]) for z in inner})], dtype=torch.float64)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
        without = Simplex().prepare(graph, ball, inner=inner).minimise(OBJECTIVES).bound
        differs += int((found > without + 1e-3).any())
    assert differs > 50


def test_the_barrier_is_monotone_in_the_radius_and_above_lp_last() -> None:
    better = 0
    for seed in range(NETWORKS // 2):
        graph = network(seed, (3, 6, 6, 3))
        narrow, wide = values("lp-all", graph, 0.1), values("lp-all", graph, 0.3)
        assert bool((narrow >= wide - 1e-8).all())
        last = values("lp-last", graph, 0.3)
        assert bool((last <= wide + 1e-8).all())
        better += int((last < wide - 1e-6).any())
    assert better > NETWORKS // 8


def test_no_method_passes_the_barrier() -> None:
    equal = 0
    for seed in range(NETWORKS // 3):
        graph = network(seed, (3, 5, 5, 3))
        barrier = values("lp-all", graph, 0.5)
        for m in QUICK:
            found = values(m, graph, 0.5)
            assert bool((found <= barrier + 1e-7 * (1 + barrier.abs())).all()), (seed, m.name)
            equal += int(bool(torch.isclose(found, barrier, rtol=1e-6).all()))
    assert equal > 0


@pytest.mark.parametrize("name", ["alpha-crown-all", "lp-all"])
def test_without_patience_inner_bounds_stay_in_closed_form(name: str) -> None:
    """Out of its share of the time a method goes on with what it has: CROWN's inner bounds."""
    graph = network(7)
    ball = linf_ball(torch.zeros(1, 1, 4, dtype=torch.float64), 0.3)
    whole = method(name).prepare(graph, ball)
    hasty = patient(method(name), 1e-9).prepare(graph, ball, deadline=Deadline(60))
    crown = method("crown").prepare(graph, ball)
    for z, bounds in crown.bounds.items():
        assert torch.equal(hasty.bounds[z].lower, bounds.lower)
        assert torch.equal(hasty.bounds[z].upper, bounds.upper)
    found, best = hasty.minimise(OBJECTIVES).bound, whole.minimise(OBJECTIVES).bound
    assert bool((found >= crown.minimise(OBJECTIVES).bound).all())
    assert bool((found <= best + 1e-9).all())
    assert bool((found < best - 1e-6).any())


def test_what_is_known_is_improved() -> None:
    """Begun from other implied bounds, neither inner bounds nor objectives get worse than they were."""
    graph = network(8)
    ball = linf_ball(torch.zeros(1, 1, 4, dtype=torch.float64), 0.3)
    begin = dict(method("crown").prepare(graph, ball).bounds)
    for m in METHODS:
        prepared = m.prepare(graph, ball, begin=begin)
        for z, bounds in begin.items():
            own = prepared.bounds[z]
            assert bool((own.lower >= bounds.lower).all() & (own.upper <= bounds.upper).all()), m.name
        assert bool((prepared.minimise(OBJECTIVES).bound <= values("lp-all", graph, 0.3) + 1e-7).all())


# --- HiGHS is not trusted -------------------------------------------------------------------------------


def _program(seed: int) -> tuple[Graph, Box, dict[int, Interval]]:
    graph = network(seed)
    ball = linf_ball(torch.zeros(1, 1, 4, dtype=torch.float64), 0.3)
    return graph, ball, dict(method("fast-lin").prepare(graph, ball).bounds)


@pytest.mark.parametrize("fault", ["nonsense", "nan", "none", "stopped"])
def test_whatever_highs_returns_the_bound_is_valid(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong duals, NaN, none at all, a limit: the bound is at most the optimum, and at least the closed form."""
    graph, ball, inner = _program(3)
    optimum = Simplex().prepare(graph, ball, inner=inner).minimise(OBJECTIVES).bound
    closed = method("crown").solver.prepare(graph, ball, inner=inner).minimise(OBJECTIVES).bound
    right = highs.Model.multipliers

    def wrong(self: highs.Model) -> object:
        for node, mask, duals in right(self):
            if fault == "nonsense":
                duals = [7.0 - 3.0 * own for own in duals]
            elif fault == "nan":
                duals = [own * float("nan") for own in duals]
            elif fault == "none":
                duals = [0.0 * own for own in duals]
            yield node, mask, duals

    monkeypatch.setattr(highs.Model, "multipliers", wrong)
    if fault == "stopped":
        monkeypatch.setattr(highs.Model, "minimise", lambda self, cost, deadline: False)
    found = Simplex().prepare(graph, ball, inner=inner).minimise(OBJECTIVES)
    assert bool((found.bound <= optimum + 1e-9).all())
    assert bool((found.bound >= closed - 1e-12).all())
    assert (found.status.value == "optimal") == (fault != "stopped")


def test_inner_bounds_stay_valid_where_highs_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, ball, _ = _program(5)
    monkeypatch.setattr(highs.Model, "minimise", lambda self, cost, deadline: False)
    found = Simplex().prepare(graph, ball)
    for point in ball.sample(200)[0]:
        for z, value in enumerate(graph.values(point[None])):
            if z in found.bounds:
                assert bool((value >= found.bounds[z].lower).all() & (value <= found.bounds[z].upper).all())


def test_a_program_grows_by_whole_nodes() -> None:
    """Free entries are those that are not stable, and those whose bounds were imposed."""
    graph, ball, inner = _program(1)
    program: RelaxedProgram = start(graph, ball, LineRule.AREA)
    for z, bounds in inner.items():
        program = with_bounds(program, z, bounds)
    for v in graph.nonlinear:
        bounds = inner[graph.nodes[v].inputs[0]]
        assert torch.equal(program.free(v), (bounds.lower < 0) & (bounds.upper > 0))
        again = with_bounds(program, graph.nodes[v].inputs[0], bounds, bounds)
        assert bool(again.free(v).all())
