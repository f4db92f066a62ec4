"""Small networks on batches of two input sets, and whether a method's bounds hold on samples of these."""

from __future__ import annotations

import torch
from torch import Tensor

import bourn
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.relaxations.relu import ReLU
from networks import Layers, random


def numbers(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def mlp(seed: int) -> Graph:
    layers = Layers((1, 5), random(seed))
    node = layers.act(layers.dense(0, 6), ReLU())
    node = layers.act(layers.dense(node, 5, scale=0.5), ReLU())
    return layers.builder.build(layers.dense(node, 3))


def passed(chosen: bourn.Method, graph: Graph, sets: InputSet, objectives: Objectives, seed: int) -> list[str]:
    """Where a method's bounds of pre-activations and objectives are passed, at samples and corners of a batch of two sets."""
    prepared = chosen.prepare(graph, sets)
    bound, found = prepared.minimise(objectives).bound, []
    corners = sets.minimiser(numbers(random(seed), 2, 60, *graph.input_shape))
    for b in range(2):
        points = torch.cat([sets.sample(200, random(seed))[b], sets[b : b + 1].project(corners[b])])
        values = graph.values(points)
        for z, bounds in prepared.bounds.items():
            inside = (values[z] >= bounds.lower[b] - 1e-12) & (values[z] <= bounds.upper[b] + 1e-12)
            found += [] if bool(inside.all()) else [f"{chosen.name}, node {z}"]
        rows = values[graph.output].flatten(1) @ objectives.outputs[b].T + objectives.constant[b]
        if objectives.inputs is not None:
            rows = rows + points.flatten(1) @ objectives.inputs[b].T
        found += [] if bool((rows.amin(0) >= bound[b] - 1e-12).all()) else [f"{chosen.name}, objectives"]
    return found
