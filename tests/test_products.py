"""Products of input sets: parts add up, and what stands on them."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

import bourn
from bourn.errors import UsageError
from bourn.problem.products import ProductSet
from bourn.relaxations.relu import ReLU
from bourn.solvers.methods import METHODS
from networks import Layers, random, random_objectives
from verify_models import mlp


def parts(batch: int = 2) -> list[bourn.InputSet]:
    center = torch.full((batch, 3), 0.4, dtype=torch.float64)
    low, high = torch.zeros(batch, 2, dtype=torch.float64), torch.ones(batch, 2, dtype=torch.float64)
    square = bourn.polytope(low, high, [[1.0, 0.3], [-0.5, 1.0]], [0.9, 0.4])
    return [bourn.box(low - 0.5, high), bourn.lp_ball(center, 0.5, norm=2, clip=(0, 1)), square]


def rows_of(seed: int) -> Tensor:
    return torch.randn(2, 5, 7, dtype=torch.float64, generator=random(seed))


def test_extremes_add_up() -> None:
    sets = bourn.product_set(parts())
    assert sets.shape == (7,)
    rows = rows_of(1)
    low, high, error = sets.extremes(rows)
    own = [p.extremes(rows[..., a:b]) for p, (a, b) in zip(parts(), ((0, 2), (2, 5), (5, 7)), strict=True)]
    assert torch.allclose(low, own[0][0] + own[1][0] + own[2][0], rtol=0, atol=1e-12)
    assert torch.allclose(high, own[0][1] + own[1][1] + own[2][1], rtol=0, atol=1e-12)
    assert float(error.max()) < 1e-12
    assert torch.allclose(sets.minimise_linear(rows)[0], low, rtol=0, atol=1e-12)
    assert torch.allclose((sets.minimiser(rows) * rows).sum(2), low, rtol=0, atol=1e-8)
    moved = sets.reshape((7, 1))[1:].to("cpu").map(lambda t: t.flip(1))
    assert isinstance(moved, ProductSet)
    assert torch.allclose(moved.extremes(rows[1:].flip(2)[..., None])[0], low[1:], rtol=0, atol=1e-12)


def test_points_lie_in_every_part() -> None:
    sets, separate = bourn.product_set(parts(1)), parts(1)
    far = 2 * torch.randn(40, 7, dtype=torch.float64, generator=random(3))
    for points in (sets.project(far), sets.sample(40, random(4))[0], sets.middle):
        assert bool(sets.contains(points).all())
        for part, (a, b) in zip(separate, ((0, 2), (2, 5), (5, 7)), strict=True):
            assert bool(part.contains(points[:, a:b]).all())
    together = torch.stack([p.contains(far[:, a:b]) for p, (a, b) in zip(separate, ((0, 2), (2, 5), (5, 7)), strict=True)])
    assert torch.equal(sets.contains(far), together.all(0))


@pytest.mark.parametrize("chosen", METHODS, ids=lambda m: m.name)
def test_every_method_is_sound(chosen: bourn.Method) -> None:
    sets = bourn.product_set(parts()).reshape((1, 7))
    layers = Layers((1, 7), random(5))
    graph = layers.builder.build(layers.dense(layers.act(layers.dense(0, 6), ReLU()), 3))
    objectives = random_objectives(graph, random(6), 3, inputs=True, batch=2)
    bound = chosen.prepare(graph, sets).minimise(objectives).bound
    for b in range(2):
        points = sets.sample(300, random(7))[b]
        values = graph.evaluate(points).flatten(1) @ objectives.outputs[b].T + objectives.constant[b]
        assert objectives.inputs is not None
        values = values + points.flatten(1) @ objectives.inputs[b].T
        assert bool((values.amin(0) >= bound[b] - 1e-12).all())


def test_a_verdict_with_a_set_for_each_input() -> None:
    """y = a + b1 + b2 with a in [0, 1] and b in a disc of radius 1: at most 1 + sqrt(2)."""
    network = mlp(([[1.0, 1.0, 1.0]], [0.0]))
    disc = bourn.lp_ball(torch.zeros(1, 2), 1.0, norm=2)
    sets = bourn.product_set([bourn.box([[0.0]], [[1.0]]), disc])
    for limit, status in ((2.42, "unsat"), (2.4, "sat")):
        above = bourn.Specification.of([bourn.Row.of({0: -1}, {}, limit)])
        found = bourn.verify(network, bourn.region(sets, above, 1), timeout=30)
        assert found.status == status
    x = [Fraction(v) for v in found.verdict.counterexample.x.tolist()]  # type: ignore[union-attr]
    assert 0 <= x[0] <= 1
    assert x[1] ** 2 + x[2] ** 2 <= 1


def test_an_unbounded_part_keeps_its_half_spaces() -> None:
    endless = bourn.polytope([[-math.inf] * 2], [[math.inf] * 2], [[1.0, 1.0]], [1.0])
    sets = bourn.product_set([endless, bourn.box([[0.0]], [[1.0]])])
    points = torch.tensor([[0.5, 0.5, 1.0], [0.5, 0.5 + 2**-52, 1.0], [9.0, -8.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    assert sets.contains(points).tolist() == [True, False, True, False]


def test_what_is_no_product_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        bourn.product_set([])
    with pytest.raises(UsageError, match="batches 1, 2"):
        bourn.product_set([parts(1)[0], parts(2)[0]])
