"""Inner bounds by trees: never beyond the exact extremes, which they reach with enough leaves."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from bourn.deadline import Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import Box, box, linf_ball
from bourn.relaxations.relu import ReLU
from bourn.relaxations.sigmoid import Sigmoid
from bourn.solvers.adjustments import with_leaves
from bourn.solvers.methods import method
from bourn.solvers.row_trees import RowTrees
from bourn.solvers.split_ascent import Climb
from bourn.solvers.tree_bounds import TreeBounds
from networks import Exact, Layers, convolutional, mlp, outside, random, residual, small_box

PATIENT = TreeBounds(RowTrees(leaves=200, root=Climb(steps=100, decay=0.97), climb=Climb(steps=60, decay=0.95)))


def small(kind: str, seed: int) -> tuple[Graph, Box]:
    generator = random(seed)
    layers = Layers((1, 1, 3, 2) if kind == "convolution" else (1, 3), generator)
    if kind == "convolution":
        graph = convolutional(layers, 2, (ReLU(),))
    else:
        graph = mlp(layers, [4, 4, 3], 2, (ReLU(),)) if kind == "mlp" else residual(layers, 3, 2, 2, (ReLU(),))
    return graph, small_box(graph, generator, 2, 8)


def width(bounds: Interval) -> float:
    return float((bounds.upper - bounds.lower).sum())


@pytest.mark.parametrize("kind", ["mlp", "residual", "convolution"])
def test_exact_extremes_are_reached_and_never_passed(kind: str) -> None:
    """Where a ReLU's sign is known no better bound is asked for; elsewhere many leaves give the exact one."""
    met = 0
    for seed in range(6):
        graph, question = small(kind, seed)
        exact = Exact(graph, question)
        found = PATIENT.prepare(graph, question).bounds
        ascent = method("alpha-crown-all").prepare(graph, question).bounds
        for z, bounds in found.items():
            least, greatest = exact.extremes[z]
            assert not list(outside(bounds, 0, least, greatest)), (seed, z)
            assert width(bounds) <= width(ascent[z]) + 1e-4
            for j, (low, high) in enumerate(zip(least, greatest, strict=True)):
                if low < 0 < high:
                    near = 1e-3 * max(1.0, float(high - low))
                    assert float(bounds.lower.flatten()[j]) >= float(low) - near, (seed, z, j)
                    assert float(bounds.upper.flatten()[j]) <= float(high) + near, (seed, z, j)
                    met += 1
    assert met >= 10


def test_more_leaves_are_tighter() -> None:
    graph = mlp(Layers((1, 6), random(3)), [12, 12, 12], 2, (ReLU(),))
    question = linf_ball(torch.zeros(1, 1, 6), 0.5)
    ascent = method("alpha-crown-all")
    widths = [
        sum(map(width, m.prepare(graph, question).bounds.values()))
        for m in (ascent, *(with_leaves(method("split-all"), leaves) for leaves in (4, 16, 64)))
    ]
    assert all(b < 0.99 * a for a, b in pairwise(widths)), widths


def test_problems_of_a_batch_are_bounded_as_alone() -> None:
    graph = mlp(Layers((1, 3), random(1)), [5, 5], 2, (ReLU(),))
    centers, radii = torch.randn(2, 1, 3, dtype=torch.float64, generator=random(2)), torch.tensor([0.3, 0.8]).reshape(2, 1, 1)
    both = box(centers - radii, centers + radii)
    together = PATIENT.prepare(graph, both).bounds
    for b in range(2):
        alone = PATIENT.prepare(graph, both[torch.tensor([b])]).bounds
        for z, bounds in alone.items():
            other = Interval(together[z].lower[b : b + 1], together[z].upper[b : b + 1])
            open_ = (bounds.lower < 0) & (bounds.upper > 0)  # a stable neuron's ends are as loose as they may be
            assert torch.equal(open_, (other.lower < 0) & (other.upper > 0))
            torch.testing.assert_close(bounds.lower[open_], other.lower[open_], atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(bounds.upper[open_], other.upper[open_], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("share", [1e-9, 1e-3, 1e-2])
def test_out_of_time_bounds_hold(share: float) -> None:
    """A tree whose leaves are not all stated says nothing."""
    graph, question = small("mlp", 0)
    exact = Exact(graph, question)
    found = TreeBounds(patience=share).prepare(graph, question, deadline=Deadline(10.0)).bounds
    for z, bounds in found.items():
        assert not list(outside(bounds, 0, *exact.extremes[z]))


def test_what_is_not_split_keeps_the_bounds_of_ascent() -> None:
    """Behind a sigmoid nothing is split; before it all is, for both ends count there, whatever the sign."""
    graph = mlp(Layers((1, 3), random(5)), [4, 4, 4], 2, (ReLU(), Sigmoid(), ReLU()))
    question = linf_ball(torch.zeros(1, 1, 3), 0.5)
    found = PATIENT.prepare(graph, question).bounds
    ascent = method("alpha-crown-all").prepare(graph, question, begin=found).bounds
    first, second, third = graph.pre_activations
    assert width(found[second]) < 0.999 * width(method("alpha-crown-all").prepare(graph, question).bounds[second])
    torch.testing.assert_close(found[third].lower, ascent[third].lower, atol=1e-3, rtol=1e-3)
    assert first < third
