"""An ascent begins where the last one ended: with the same bounds, in fewer steps, and soundly whatever it is given."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bourn
import bourn.radii
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import linf_ball
from bourn.problem.problem import label_margins
from bourn.radii import search
from bourn.relaxations.base import ElementWise
from bourn.relaxations.relu import ReLU
from bourn.relaxations.sigmoid import Sigmoid
from bourn.solvers.climb import _Run
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.nearby import Nearby
from networks import Layers, mlp, random

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ASCENT = DualAscent(steps=60, gap=1e-4)
RADIUS = 0.2


def dense(activation: ElementWise) -> Graph:
    return mlp(Layers((1, 4), random(1)), (10, 10, 10), 3, (activation,))


def convolutional(activation: ElementWise) -> Graph:
    """Three convolutions, the later two with receptive fields smaller than the image, and a dense layer."""
    layers = Layers((1, 2, 12, 12), random(2))
    node = layers.act(layers.convolution(0, 3, (3, 3), stride=(2, 2), padding=(1, 1)), activation)
    node = layers.act(layers.convolution(node, 3, (2, 2), padding=(1, 1)), activation)
    node = layers.act(layers.convolution(node, 3, (2, 2), padding=(1, 1)), activation)
    return layers.builder.build(layers.dense(layers.flat(node), 3))


GRAPHS = {"dense": dense(ReLU()), "convolutional": convolutional(ReLU()), "smooth": dense(Sigmoid())}


def images(graph: Graph, count: int) -> torch.Tensor:
    return torch.randn(count, *graph.input_shape, dtype=torch.float64, generator=random(3))


def ascended(graph: Graph, solver: DualAscent, which: torch.Tensor, near: Nearby) -> tuple[dict[int, Interval], torch.Tensor]:
    """Inner bounds of the images ``which``, and their margins' bounds."""
    x = images(graph, 3)[which]
    near.move(which, torch.full((len(which),), RADIUS, dtype=torch.float64))
    prepared = solver.prepare(graph, linf_ball(x, RADIUS), near=near)
    return dict(prepared.bounds), prepared.minimise(label_margins(torch.zeros(len(which), dtype=torch.int64), 3)).bound


@pytest.mark.parametrize("name", GRAPHS)
def test_without_a_step_the_bounds_are_those_that_the_last_ascent_came_to(name: str) -> None:
    graph, near, some = GRAPHS[name], Nearby(), torch.tensor([0, 2])
    bounds, margins = ascended(graph, ASCENT, torch.arange(3), near)
    again, found = ascended(graph, replace(ASCENT, steps=0), some, near)
    torch.testing.assert_close(found, margins[some], rtol=1e-4, atol=1e-4)
    for z, own in bounds.items():
        torch.testing.assert_close(again[z].lower, own.lower[some], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(again[z].upper, own.upper[some], rtol=1e-4, atol=1e-4)
    anew, _ = ascended(graph, replace(ASCENT, steps=0), some, Nearby())
    assert max(float((again[z].lower - own.lower).max()) for z, own in anew.items()) > 1e-2


@pytest.mark.parametrize("name", ["dense", "convolutional"])
def test_bounds_hold_whatever_slopes_they_begin_with(name: str) -> None:
    graph, near = GRAPHS[name], Nearby()
    ascended(graph, ASCENT, torch.arange(3), near)
    for pieces in near._now.values():
        for _, slopes in pieces:
            for t in slopes.values():
                wild = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -7.0])[torch.arange(t.numel()) % 5].reshape(t.shape)
                t.copy_(wild)
    bounds, _ = ascended(graph, replace(ASCENT, steps=2), torch.arange(3), near)
    for problem, points in enumerate(linf_ball(images(graph, 3), RADIUS).sample(100)):
        values = graph.values(points)
        for z, own in bounds.items():
            assert bool((values[z] >= own.lower[problem]).all() & (values[z] <= own.upper[problem]).all())


def test_a_search_comes_to_the_same_radii_in_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = bourn.load(EXAMPLES / "digits_mlp.onnx").graph
    x = torch.from_numpy(np.load(EXAMPLES / "digits_images.npz")["image"][:2]).to(torch.float64).reshape(-1, *graph.input_shape)
    labels = graph.evaluate(x).flatten(1).argmax(1)
    steps, step = 0, _Run.move

    def counted(self: _Run, *others: object) -> None:
        nonlocal steps
        steps += 1
        step(self, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(_Run, "move", counted)
    found, counts = [], []
    for near in (Nearby, lambda: None):
        monkeypatch.setattr(bourn.radii, "Nearby", near)
        steps = 0
        found.append(search(graph, x, labels, "lp-all-ascent", clip=None))
        counts.append(steps)
    torch.testing.assert_close(found[0].radius, found[1].radius, rtol=2e-3, atol=0.0)
    assert counts[0] < 0.8 * counts[1], counts


def test_what_is_too_much_to_keep_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bourn.solvers.nearby._MOST", 0)
    near = Nearby()
    first, _ = ascended(GRAPHS["dense"], ASCENT, torch.arange(3), near)
    second, _ = ascended(GRAPHS["dense"], ASCENT, torch.arange(3), near)
    assert all(torch.equal(own.lower, second[z].lower) for z, own in first.items())
