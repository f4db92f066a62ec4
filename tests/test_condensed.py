"""Bounds through what is unstable only, against back-substitution through the operators, points, and exact arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch

from bourn.interval import Interval
from bourn.network.affine import Concat, Dense
from bourn.network.graph import Graph, GraphBuilder, Input
from bourn.problem.input_set import Box
from bourn.problem.problem import Objectives
from bourn.relaxations.clip import Clip
from bourn.relaxations.leaky_relu import LeakyReLU
from bourn.relaxations.relu import ReLU
from bourn.relaxations.sigmoid import Sigmoid
from bourn.solvers.base import output_rows
from bourn.solvers.box_ascent import BoxClimb
from bourn.solvers.condensed import Condensed, applies
from bourn.solvers.interval_propagation import IntervalPropagation
from bourn.solvers.methods import method
from bourn.solvers.tightening import unstable
from networks import Layers, mlp, random, residual


def _beside(one: Graph, other: Graph) -> Graph:
    """Two networks on one input, their outputs side by side: neither reads the other's neurons."""
    builder, outputs = GraphBuilder(one.input_shape), []
    for name, graph in (("one", one), ("other", other)):
        numbers = {0: 0}
        for number, node in enumerate(graph.nodes[1:], start=1):
            assert not isinstance(node.operation, Input)
            numbers[number] = builder.add(node.operation, *(numbers[i] for i in node.inputs), name=f"{name}.{node.name}")
        outputs.append(numbers[graph.output])
    shapes = tuple(builder.shape(v) for v in outputs)
    joined = Concat(in_shapes=shapes, out_shape=(1, sum(s[1] for s in shapes)), axis=1)
    return builder.build(builder.add(joined, *outputs))


GRAPHS: dict[str, Callable[[], Graph]] = {
    "relu": lambda: mlp(Layers((1, 3), random(1)), (7, 6, 5), 2, (ReLU(),)),
    "leaky": lambda: mlp(Layers((1, 2), random(2)), (5, 4), 2, (LeakyReLU(0.1),)),
    "mixed": lambda: mlp(Layers((1, 3), random(3)), (6, 5, 4), 2, (ReLU(), Sigmoid(), Clip(-0.5, 0.5))),
    "residual": lambda: residual(Layers((1, 3), random(4)), 4, 2, 2, (ReLU(),)),
    "beside each other": lambda: _beside(*(mlp(Layers((1, 3), random(s)), (5, 4), 2, (ReLU(),)) for s in (6, 7))),
    "affine": lambda: mlp(Layers((1, 3), random(5)), (), 2, (ReLU(),)),
}


def boxes(graph: Graph, count: int, seed: int) -> Box:
    """Boxes of all widths, single points among them."""
    generator = torch.Generator().manual_seed(seed)
    middle, width = (torch.randn(count, *graph.input_shape, generator=generator, dtype=torch.float64) for _ in range(2))
    width = width.abs() * torch.logspace(-6, 0, count, dtype=torch.float64).reshape(-1, *(1,) * len(graph.input_shape))
    width[0] = 0.0
    return Box(Interval(middle - width, middle + width))


def objectives(graph: Graph) -> Objectives:
    outputs = torch.eye(graph.nodes[graph.output].size, dtype=torch.float64)
    outputs = torch.cat([outputs, -outputs, outputs[:1] - outputs[1:2]])[None]
    return Objectives(outputs, None, torch.full((1, outputs.shape[1]), 0.1, dtype=torch.float64))


@pytest.mark.parametrize("kind", GRAPHS)
def test_bounds_are_those_of_back_substitution(kind: str) -> None:
    graph = GRAPHS[kind]()
    assert applies(graph)
    box, rows = boxes(graph, 12, 7), objectives(graph)
    known = dict(IntervalPropagation().prepare(graph, box).bounds)
    found = Condensed(graph, box, known)
    other = method("crown").prepare(graph, box, begin=known)
    for z in graph.pre_activations:
        open_ = unstable(graph, z, known[z])  # only these are bounded
        open_ &= unstable(graph, z, other.bounds[z])  # of the others back-substitution does not state its best bounds
        for end in ("lower", "upper"):
            own, same = getattr(found.bounds[z], end), getattr(other.bounds[z], end)
            torch.testing.assert_close(own[open_], same[open_], rtol=1e-9, atol=1e-9)
    carried = found.carry(found.rows(output_rows(graph, rows), rows.constant))
    torch.testing.assert_close(carried.bounds, other.minimise(rows).bound, rtol=1e-9, atol=1e-9)
    # Weighted sums are bounded no worse than the sum of the bounds.
    weights = torch.rand(12, len(rows), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = found.carry(found.rows(output_rows(graph, rows), rows.constant, weights[:, None])).bounds[:, 0]
    assert bool((together >= (weights * carried.bounds).sum(1) - 1e-9).all())
    # No point of a box is below any of this.
    x = box.sample(200, torch.Generator().manual_seed(2))
    y = graph.evaluate(x.flatten(0, 1)).reshape(12, 200, -1)
    values = y @ rows.outputs[0].T + rows.constant
    assert bool((values >= carried.bounds[:, None] - 1e-12).all())
    assert bool(((values * weights[:, None]).sum(2) >= together[:, None] - 1e-12).all())


@pytest.mark.parametrize("large", [1.0, 1e150])
def test_bounds_hold_in_exact_arithmetic(large: float) -> None:
    """On single points nothing is relaxed: only rounding separates the bound from the value, which is a fraction."""
    graph = GRAPHS["relu"]()
    dense = [node.operation for node in graph.nodes if isinstance(node.operation, Dense)]
    generator = torch.Generator().manual_seed(3)
    point = torch.randn(40, *graph.input_shape, generator=generator, dtype=torch.float64) * large
    box, rows = Box(Interval(point, point)), objectives(graph)
    found = Condensed(graph, box, dict(IntervalPropagation().prepare(graph, box).bounds))
    bounds = found.carry(found.rows(output_rows(graph, rows), rows.constant)).bounds
    for x, own in zip(point.reshape(40, -1).tolist(), bounds.tolist(), strict=True):
        value = [Fraction(v) for v in x]
        for number, operation in enumerate(dense):
            assert operation.bias is not None
            value = [
                sum((Fraction(w) * v for w, v in zip(row, value, strict=True)), Fraction(b))
                for row, b in zip(operation.weight.tolist(), operation.bias.flatten().tolist(), strict=True)
            ]
            value = value if number == len(dense) - 1 else [max(v, Fraction(0)) for v in value]
        exact = [sum((Fraction(c) * v for c, v in zip(row, value, strict=True)), Fraction(0.1)) for row in rows.outputs[0].tolist()]
        assert all(Fraction(b) <= v for b, v in zip(own, exact, strict=True))
        assert all(v - Fraction(b) <= Fraction(10) ** -9 * (1 + abs(v)) * 100 for b, v in zip(own, exact, strict=True))


@pytest.mark.parametrize("kind", GRAPHS)
def test_ascent_raises_bounds_that_hold(kind: str) -> None:
    """Slopes and weights by ascent: no worse than none, bounds of the sums by these weights, mostly better."""
    graph = GRAPHS[kind]()
    box, rows = boxes(graph, 12, 8), objectives(graph)
    program = Condensed(graph, box, dict(IntervalPropagation().prepare(graph, box).bounds))
    own = output_rows(graph, rows)
    on = program.rows(own, rows.constant).on
    which = torch.tensor([1, 4, 7, 9, 11])
    begin = torch.full((len(which), len(rows)), 1 / len(rows), dtype=torch.float64)
    slopes, weights = BoxClimb(steps=20).run(program, on[which], begin, which)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(which), dtype=torch.float64))
    assert bool((weights >= 0).all())
    below = {v: program.symbols[v].below.index_copy(0, which, slope) for v, slope in slopes.items()}
    every = [torch.full((12, len(rows)), 1 / len(rows), dtype=torch.float64).index_copy(0, which, w) for w in (begin, weights)]
    before, after = (
        program.carry(program.rows(own, rows.constant, w[:, None]), lines).bounds[which, 0]
        for w, lines in zip(every, (None, below), strict=True)
    )
    assert bool((after >= before - 1e-9).all())
    points = torch.rand(200, 1, *graph.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    x = box.lower[which] + points * (box.upper - box.lower)[which]
    values = graph.evaluate(x.flatten(0, 1)).flatten(1) @ rows.outputs[0].T + rows.constant
    assert bool(((values.reshape(200, len(which), -1) * weights).sum(2).amin(0) >= after - 1e-9).all())
    if kind in ("relu", "leaky", "residual"):
        assert bool((after > before + 1e-3).sum() >= 3)


def test_slopes_and_weights_come_near_the_linear_programs_optimum() -> None:
    """The best sum of rows with the best slopes for it, against the linear program that has both."""
    graph = GRAPHS["relu"]()
    middle = torch.zeros(1, *graph.input_shape, dtype=torch.float64)
    box, rows = Box(Interval(middle - 0.4, middle + 0.4)), objectives(graph)
    program = Condensed(graph, box, dict(IntervalPropagation().prepare(graph, box).bounds))
    on, which = program.rows(output_rows(graph, rows), rows.constant).on, torch.tensor([0])
    slopes, weights = BoxClimb(steps=200, decay=0.98).run(program, on, torch.full((1, len(rows)), 1 / len(rows)).double(), which)
    found = program.carry(program.rows(output_rows(graph, rows), rows.constant, weights[:, None]), slopes).bounds[0, 0]
    summed = Objectives((weights @ rows.outputs[0])[:, None], None, (weights @ rows.constant[0])[None])
    best = method("planet").prepare(graph, box, inner=program.bounds).minimise(summed).bound[0, 0]
    assert best - 1e-3 <= found <= best + 1e-9
