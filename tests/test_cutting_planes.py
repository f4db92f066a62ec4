"""Cutting planes: each holds exactly, any weights of theirs give a bound, and together they are the hull that they claim to be."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from bourn.deadline import Deadline
from bourn.interval import Interval
from bourn.network.affine import Dense
from bourn.network.graph import Graph, GraphBuilder
from bourn.problem.balls import lp_ball
from bourn.problem.input_set import Box, linf_ball
from bourn.problem.problem import Objectives
from bourn.program.hulls import Choice
from bourn.program.linear_bounds import back_substitute
from bourn.program.pair_hulls import _NORMALS, _limits
from bourn.program.plane_lagrangian import PLANES, PlaneLagrangian
from bourn.program.planes import Planes
from bourn.program.reduced import ReducedLagrangian
from bourn.relaxations.relu import ReLU
from bourn.rounding import float_above
from bourn.solvers import cut_programs
from bourn.solvers.base import Status, output_rows
from bourn.solvers.cut_programs import FINDERS, Cut
from bourn.solvers.cutting_planes import CuttingPlanes, Kind
from bourn.solvers.highs import Model
from bourn.solvers.methods import method
from networks import ACTIVATIONS, Exact, Instance, Layers, at_most, instances, mlp, random, random_objectives, residual, small_box
from test_solvers import network


def cut(kind: Kind, graph: Graph, question: Box, **settings: object) -> Cut:
    """Prepared on inner bounds of its own, which took planes too."""
    return CuttingPlanes((kind,), **settings).prepare(graph, question)  # type: ignore[arg-type]


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Planes]:
    """All planes that are found from now on."""
    found: list[Planes] = []
    for finder in FINDERS.values():
        true = finder.find

        def find(self: object, *arguments: object, true: object = true) -> list[Planes]:
            own: list[Planes] = true(self, *arguments)  # type: ignore[operator]
            found.extend(own)
            return own

        monkeypatch.setattr(finder, "find", find)
    return found


@pytest.mark.parametrize("kind", Kind)
def test_every_plane_holds_at_every_vertex(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the vertices of its simplices a network is affine, so that a plane holds everywhere if it holds there: exactly."""
    found = recorded(monkeypatch)
    counts = []

    def hold(graph: Graph, question: Box) -> None:
        found.clear()
        prepared = cut(kind, graph, question, rounds=4)
        prepared.minimise(random_objectives(graph, random(0), 3, inputs=True))
        counts.append(sum(map(len, found)))
        if not counts[-1]:
            return
        exact = Exact(graph, question)
        points = [exact.values(x) for x in exact.vertices]
        for planes in found:
            for k, limit in enumerate(planes.limits.tolist()):
                rows = [(v, own.toarray()[k]) for v, own in planes.rows.items()]
                rows += [(graph.nodes[v].inputs[0], own.toarray()[k]) for v, own in planes.before.items()]
                for values in points:
                    assert total(rows, values) <= Fraction(limit)

    @settings(max_examples=20)
    @given(instances(activations=(ReLU(), ReLU(), *ACTIVATIONS)))
    def check(instance: Instance) -> None:
        hold(instance.graph, instance.box)

    check()
    for seed in range(6):
        hold(*few(seed))
    assert sum(n > 0 for n in counts) > 2


def total(rows: Sequence[tuple[int, np.ndarray]], values: Sequence[Sequence[Fraction]]) -> Fraction:
    return sum((Fraction(c) * x for v, row in rows for c, x in zip(row.tolist(), values[v], strict=True) if c), Fraction(0))


@pytest.mark.parametrize("kind", Kind)
def test_any_weights_give_a_bound(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS is not trusted: its duals, of planes and of the program, may be anything."""
    generator = np.random.default_rng(0)
    true = Model.multipliers

    def weights(self: Model) -> np.ndarray:
        return generator.exponential(size=len(self._added)) * 10.0 ** generator.integers(-3, 3)

    def multipliers(self: Model) -> object:
        for v, mask, values in true(self):
            yield v, mask, [own + generator.normal(size=len(own)) for own in values]

    monkeypatch.setattr(Model, "weights", weights)
    monkeypatch.setattr(Model, "multipliers", multipliers)
    planes = 0
    for seed in range(8):
        graph, question = few(seed)
        prepared, exact = cut(kind, graph, question), Exact(graph, question)
        objectives = random_objectives(graph, random(seed), 4, inputs=True)
        rows = output_rows(graph, objectives)
        found = prepared._bound(0, (rows, objectives.constant), float("inf"), 5)
        assert all(at_most(b, e) for b, e in zip(found.tolist(), exact.minima(objectives), strict=True))
        planes += prepared.planes
    assert planes > 12


def few(seed: int) -> tuple[Graph, Box]:
    """A small ReLU network, with a shortcut where the seed is odd, and a box with few unstable neurons."""
    generator = random(seed)
    layers = Layers((1, 3), generator)
    graph = residual(layers, 3, 2, 2, (ReLU(),)) if seed % 2 else mlp(layers, (4, 4), 2, (ReLU(),))
    return graph, small_box(graph, generator, 2, 8)


@pytest.mark.parametrize("kind", Kind)
def test_the_bound_is_the_value_of_the_linear_program(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strong duality: what is stated for the duals is what HiGHS says it found, with all planes in it."""
    values: list[tuple[float, float]] = []
    true = cut_programs._Cutting.state

    def state(self: cut_programs._Cutting, rows: cut_programs.Rows) -> float:
        found = true(self, rows)
        constant = self.lp.rows(rows[0]).constant[0] + float(rows[1])
        values.append((found, self.model.value + constant))
        return found

    monkeypatch.setattr(cut_programs._Cutting, "state", state)
    planes = 0
    for seed in range(10):
        graph, question = few(seed)
        prepared = cut(kind, graph, question)
        prepared.minimise(random_objectives(graph, random(seed), 4, inputs=True))
        planes += prepared.planes
    assert planes > 12
    for stated, said in values:
        assert stated == pytest.approx(said, rel=1e-6, abs=1e-6)


def neuron(inputs: int, seed: int) -> Graph:
    """x and max(0, w . x + b), all as outputs."""
    generator = random(seed)
    builder = GraphBuilder((1, inputs))
    weight = torch.randn(1, inputs, dtype=torch.float64, generator=generator)
    bias = torch.randn(1, dtype=torch.float64, generator=generator) * 0.3
    z = builder.add(Dense(in_shapes=((1, inputs),), out_shape=(1, 1), weight=weight, bias=bias), 0)
    return builder.build(builder.add(ReLU(), z))


def test_one_neuron_has_its_hull() -> None:
    """Of a ReLU of a weighted sum over a box all planes together leave nothing: the bound is the exact minimum, LP-ALL's is not."""
    below = 0
    for seed in range(15):
        graph, generator = neuron(4, seed), random(seed)
        center = torch.randn(1, 1, 4, dtype=torch.float64, generator=generator) * 0.3
        question = linf_ball(center, 1.0)
        on_input = torch.randn(1, 20, 4, dtype=torch.float64, generator=generator)
        objectives = Objectives(-torch.ones(1, 20, 1, dtype=torch.float64) * 2, on_input, torch.zeros(1, 20, dtype=torch.float64))
        prepared = cut(Kind.INPUTS, graph, question, rounds=100, least=0.0)
        found = prepared.minimise(objectives)
        corners = torch.stack([torch.tensor(c, dtype=torch.float64) for c in itertools.product((-1.0, 1.0), repeat=4)])
        points = center[0] + corners
        # A convex function's hull over a box from above is that of its corners.
        exact = (points @ on_input[0].T - 2 * graph.evaluate(points[:, None]).reshape(-1, 1)).amin(0)
        torch.testing.assert_close(found.bound[0], exact, rtol=1e-6, atol=1e-6)
        below += int((method("lp-all").prepare(graph, question).minimise(objectives).bound[0] < exact - 1e-3).sum())
    assert below > 40


def test_two_neurons_have_their_hull() -> None:
    """Where what both read fills an octagon, the bound of any function of the two is the exact minimum, and LP-ALL's is not."""
    below = 0
    for seed in range(10):
        generator = random(seed)
        builder = GraphBuilder((1, 2))
        weight = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        bias = torch.rand(2, dtype=torch.float64, generator=generator) * 2 - 1  # both are open: they reach from -2 to 2 without it
        z = builder.add(Dense(in_shapes=((1, 2),), out_shape=(1, 2), weight=weight, bias=bias), 0)
        graph = builder.build(builder.add(ReLU(), z))
        question = linf_ball(torch.zeros(1, 1, 2, dtype=torch.float64), 1.0)
        objectives = random_objectives(graph, generator, 20, inputs=True)
        exact = torch.tensor([float(e) for e in Exact(graph, question).minima(objectives)], dtype=torch.float64)
        found = cut(Kind.PAIRS, graph, question, rounds=100, least=0.0).minimise(objectives).bound[0]
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)
        below += int((method("lp-all").prepare(graph, question).minimise(objectives).bound[0] < exact - 1e-3).sum())
    assert below > 40


def test_limits_of_pairs_hold_in_fractions() -> None:
    """On octagons of all shapes, and for any slopes: the limit is at least the value at every point of the octagon, exactly."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        points = generator.normal(size=(6, 2)) * 10.0 ** generator.integers(-6, 6)
        if generator.random() < 0.3:
            points = np.round(points)
        exact = [[(Fraction(x), Fraction(y)) for x, y in points.tolist()]] * 8
        reach = [max(int(a) * x + int(b) * y for x, y in own) for (a, b), own in zip(_NORMALS.tolist(), exact, strict=True)]
        sides = np.array([float_above(r) for r in reach])
        slopes = generator.normal(size=(8, 4)) * generator.integers(0, 2, size=(8, 4))
        limits = _limits(np.tile(sides, (8, 1)), slopes)
        for slope, limit in zip(slopes.tolist(), limits.tolist(), strict=True):
            a, b, c, d = map(Fraction, slope)
            zero = Fraction(0)
            assert all(a * x + b * y + c * max(x, zero) + d * max(y, zero) <= Fraction(limit) for x, y in exact[0])


def test_both_ends_of_every_node_hold() -> None:
    tighter = 0
    for seed in range(6):
        graph, question = few(seed)
        own, linear = cut(Kind.INPUTS, graph, question), method("lp-all").prepare(graph, question)
        least = Exact(graph, question).extremes
        for number in (*graph.pre_activations, graph.output):
            found = own.node(number)
            for i, (low, high) in enumerate(zip(*least[number], strict=True)):
                assert at_most(float(found.lower.flatten()[i]), low)
                assert at_most(-float(found.upper.flatten()[i]), -high)
        tighter += sum(int((own.bounds[z].radius < linear.bounds[z].radius - 1e-6).sum()) for z in graph.pre_activations)
    assert tighter > 2


def wide(seed: int) -> tuple[Graph, Box]:
    """A network with a dozen neurons a layer, and a ball."""
    graph = network(seed, (4, 12, 12, 12, 3))
    return graph, linf_ball(torch.zeros(1, 1, 4, dtype=torch.float64), 0.25)


@pytest.mark.parametrize("kind", Kind)
def test_ascent_bounds_inner_nodes_as_linear_programs_do(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """On average, for both find planes at different points; and both far better than without planes."""
    widths = {"ascent": 0.0, "programs": 0.0, "neither": 0.0}
    for seed in range(6):
        graph, ball = wide(seed)
        (z,) = graph.nodes[graph.nonlinear[-1]].inputs
        own = CuttingPlanes((kind,)).prepare(graph, ball)
        assert not own.lps
        widths["ascent"] += float(own.bounds[z].radius.sum())
        widths["neither"] += float(method("lp-all").prepare(graph, ball).bounds[z].radius.sum())
        with monkeypatch.context() as patch:
            patch.setattr(cut_programs, "climbs", lambda *_: False)
            found = CuttingPlanes((kind,), inner_rounds=4).prepare(graph, ball)
        assert found.lps
        widths["programs"] += float(found.bounds[z].radius.sum())
        values = graph.values(ball.sample(500)[0])[z]
        for prepared in (own, found):
            assert bool((prepared.bounds[z].lower[0] <= values).all() & (values <= prepared.bounds[z].upper[0]).all())
    assert widths["ascent"] < 1.03 * widths["programs"]
    assert widths["ascent"] < 0.97 * widths["neither"]


@pytest.mark.parametrize("kind", Kind)
def test_any_weights_of_ascent_give_a_bound(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    true, generator = PlaneLagrangian.multipliers, random(0)

    def multipliers(self: PlaneLagrangian, choices: dict[int, Choice]) -> object:
        found, weights = true(self, choices)
        size = 10.0 ** torch.randint(-2, 3, (), generator=generator)
        return found, torch.rand(weights.shape, generator=generator, dtype=torch.float64) * size

    monkeypatch.setattr(PlaneLagrangian, "multipliers", multipliers)
    for seed in range(6):
        graph, question = few(seed)
        least = Exact(graph, question).extremes
        bounds = CuttingPlanes((kind,)).prepare(graph, question).bounds
        for z, found in bounds.items():
            for i, (low, high) in enumerate(zip(*least[z], strict=True)):
                assert at_most(float(found.lower.flatten()[i]), low)
                assert at_most(-float(found.upper.flatten()[i]), -high)


@pytest.mark.parametrize("kind", Kind)
def test_the_dual_function_with_planes(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value is the bound that is stated for its choices, and its gradient that value's derivative."""
    graph, ball = wide(1)
    found = recorded(monkeypatch)
    program = CuttingPlanes((kind,)).prepare(graph, ball).program
    rows = {graph.output: torch.eye(3, dtype=torch.float64).reshape(1, 3, *graph.output_shape)}
    zero = torch.zeros(1, 3, dtype=torch.float64)
    planes = Planes.join([p for p in found if max(p.rows) <= max(graph.nonlinear)], program)
    planes = planes.take(np.arange(len(planes)) % 7 == 0)
    most = torch.full((len(planes),), 0.1, dtype=torch.float64)
    dual = PlaneLagrangian(ReducedLagrangian(program, rows, zero, torch.float64), planes, most)
    choices = dual.start()
    weights = torch.rand(1, 3, len(planes), dtype=torch.float64, generator=random(0)) * 0.1
    choices[PLANES] = Choice((weights,), ())
    evaluated = dual.evaluate(choices)
    multipliers, own = dual.multipliers(choices)
    total, constant, rounded = planes.joined(program, rows, zero, own.numpy())
    stated = back_substitute(program, total, constant, multipliers=multipliers).lower - rounded
    torch.testing.assert_close(stated, evaluated.value, rtol=1e-9, atol=1e-9)
    assert bool((stated <= evaluated.value).all())
    (gradient,) = dual.gradient(evaluated, choices)[PLANES]
    assert gradient is not None
    toward = torch.randn(weights.shape, dtype=torch.float64, generator=random(1)) * 1e-7
    moved = dual.evaluate({**choices, PLANES: Choice((weights + toward,), ())}).value
    torch.testing.assert_close((moved - evaluated.value) * 1e7, (gradient * toward).sum(2) * 1e7, rtol=1e-3, atol=1e-5)


def test_bounds_from_outside_go_to_the_linear_programs() -> None:
    """Ascent with planes is for programs whose bounds are all implied; with others there are planes all the same."""
    graph, ball = wide(0)
    (z, *_) = graph.pre_activations
    linear = method("lp-all").prepare(graph, ball)
    outside = {z: Interval(linear.bounds[z].lower * 0.9, linear.bounds[z].upper * 0.9)}
    found = CuttingPlanes().prepare(graph, ball, outside=outside)
    assert found.lps
    assert found.planes
    last = graph.pre_activations[-1]
    assert float(found.bounds[last].radius.sum()) < float(linear.bounds[last].radius.sum())


def test_on_balls_bounds_hold_and_are_no_worse() -> None:
    better = 0
    for seed, norm in itertools.product(range(4), (1, 2)):
        graph, generator = few(2 * seed)[0], random(seed)
        center = torch.randn(2, 1, 3, dtype=torch.float64, generator=generator)
        ball = lp_ball(center, 0.7, norm=norm)
        objectives = random_objectives(graph, generator, 3, inputs=True, batch=2)
        inner = method("lp-all").prepare(graph, ball).bounds
        found = CuttingPlanes().prepare(graph, ball, inner=inner).minimise(objectives).bound
        for b, points in enumerate(ball.sample(100, generator)):
            assert objectives.inputs is not None
            values = points.flatten(1) @ objectives.inputs[b].T + graph.evaluate(points).flatten(1) @ objectives.outputs[b].T
            assert bool((values + objectives.constant[b] >= found[b]).all())
        linear = method("lp-all").solver.prepare(graph, ball, inner=inner).minimise(objectives).bound
        assert bool((found >= linear).all())
        better += int((found > linear + 1e-3).sum())
    assert better > 4


def test_out_of_time_leaves_valid_bounds() -> None:
    graph, question = few(0)
    objectives = random_objectives(graph, random(0), 4, inputs=False)
    prepared = CuttingPlanes().prepare(graph, question)
    late = dataclasses.replace(prepared, deadline=Deadline(1e-9))
    found = late.minimise(objectives)
    assert found.status is Status.STOPPED
    linear = prepared.linear.minimise(objectives).bound
    assert torch.equal(found.bound, linear)


def test_patience_leaves_the_rest_of_the_layers_in_closed_form() -> None:
    graph, ball = wide(0)
    hasty = CuttingPlanes(patience=1e-9).prepare(graph, ball, deadline=Deadline(60))
    closed = method("crown").prepare(graph, ball).bounds
    assert not hasty.lps
    assert all(torch.equal(hasty.bounds[z].lower, closed[z].lower) for z in graph.pre_activations)


def test_what_is_enough_takes_no_planes() -> None:
    graph, question = few(0)
    objectives = random_objectives(graph, random(0), 4, inputs=False)
    inner = method("lp-all").prepare(graph, question).bounds
    prepared = CuttingPlanes().prepare(graph, question, inner=inner)
    prepared.minimise(objectives, enough=-1e9)
    assert not prepared.planes
    prepared.minimise(objectives)
    assert prepared.planes
