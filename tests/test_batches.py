"""Many problems, many objectives and little memory at once: the bounds are those of each alone."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from bourn.network.graph import Graph, Node
from bourn.problem.input_set import Box, box
from bourn.problem.problem import Objectives
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.methods import METHODS, Method
from bourn.solvers.simplex import Simplex
from networks import ACTIVATIONS, KINDS, Layers, convolutional, mlp, random, random_objectives, residual


def batch_of(graph: Graph, seed: int, count: int, radius: float) -> Box:
    center = torch.randn(count, *graph.input_shape, dtype=torch.float64, generator=random(seed))
    sizes = radius * torch.rand(count, *graph.input_shape, dtype=torch.float64, generator=random(seed + 1))
    return box(center - sizes, center + sizes)


def batch_cases() -> list[tuple[Graph, Box]]:
    """Networks of each kind with batches of three boxes; Gaussian weights, so that no slope is chosen by a tie."""
    cases = []
    for seed in range(4):
        for kind in KINDS:
            layers = Layers((1, 2, 4, 3) if kind == "convolution" else (1, 5), random(seed))
            if kind == "mlp":
                graph = mlp(layers, [8, 6, 7], 3, ACTIVATIONS[seed:])
            elif kind == "residual":
                graph = residual(layers, 6, 3, 3, ACTIVATIONS[seed:])
            else:
                graph = convolutional(layers, 3, ACTIVATIONS[seed:])
            cases.append((graph, batch_of(graph, seed, 3, 0.5)))
    return cases


BATCHES = batch_cases()


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)


def few_steps(m: Method) -> Method:
    """The method; ascent without steps, for where two corners are equally good rounding chooses between them."""
    if isinstance(m.solver, DualAscent):
        return dataclasses.replace(m, solver=dataclasses.replace(m.solver, steps=0))
    return m


def alike(m: Method, a: Tensor, b: Tensor) -> None:
    """Two bounds of one quantity: equal up to rounding in closed form, nearly so where iterations end."""
    if isinstance(m.solver, DualAscent | Simplex):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    else:
        close(a, b)


@pytest.mark.parametrize("m", METHODS, ids=lambda m: m.name)
def test_a_batch_gives_what_its_problems_give(m: Method) -> None:
    """Bounds of B problems at once are those of each alone."""
    m, iterates = few_steps(m), isinstance(m.solver, DualAscent | Simplex)
    for graph, question in BATCHES[9:] if iterates else BATCHES[6:]:
        objectives = random_objectives(graph, random(1), 4, inputs=True, batch=question.batch)
        whole = m.prepare(graph, question)
        bounds = whole.minimise(objectives).bound
        for b in range(question.batch):
            alone = m.prepare(graph, question[b : b + 1])
            alike(m, alone.minimise(objectives.take(slice(b, b + 1))).bound[0], bounds[b])
            for number in [*graph.pre_activations, graph.output] if iterates else range(len(graph.nodes)):
                alike(m, alone.node(number).lower[0], whole.node(number).lower[b])
                alike(m, alone.node(number).upper[0], whole.node(number).upper[b])


@pytest.mark.parametrize("m", METHODS, ids=lambda m: m.name)
def test_objectives_are_independent_of_each_other(m: Method) -> None:
    """M objectives at once, one at a time, shared by the problems or repeated for each: the same bounds."""
    m = few_steps(m)
    for graph, question in BATCHES[1:5]:
        prepared = m.prepare(graph, question)
        for inputs in (False, True):
            shared = random_objectives(graph, random(2), 4, inputs=inputs)
            bounds = prepared.minimise(shared).bound
            assert bounds.shape == (question.batch, 4)
            on_input = None if shared.inputs is None else shared.inputs.expand(question.batch, -1, -1)
            own = Objectives(shared.outputs.expand(question.batch, -1, -1), on_input, shared.constant.expand(question.batch, -1))
            alike(m, prepared.minimise(own).bound, bounds)
            for row in range(4):
                one = slice(row, row + 1)
                row_inputs = None if shared.inputs is None else shared.inputs[:, one]
                single = Objectives(shared.outputs[:, one], row_inputs, shared.constant[:, one])
                alike(m, prepared.minimise(single).bound[:, 0], bounds[:, row])


@pytest.mark.parametrize("m", METHODS, ids=lambda m: m.name)
def test_chunks_do_not_change_the_bounds(m: Method) -> None:
    """However little memory a chunk may take, the bounds are the same."""
    if not hasattr(m.solver, "chunk_bytes"):
        pytest.skip("the solver does not work in chunks")
    if isinstance(m.solver, DualAscent):  # how far it gets is not what is asked
        m = few_steps(m)
    for graph, question in BATCHES[:2] if isinstance(m.solver, DualAscent | Simplex) else BATCHES[2:5]:
        objectives = random_objectives(graph, random(3), 4, inputs=True, batch=question.batch)
        usual = m.prepare(graph, question)
        for chunk_bytes in (1, 5000):
            solver: Any = m.solver
            small = dataclasses.replace(m, solver=dataclasses.replace(solver, chunk_bytes=chunk_bytes)).prepare(graph, question)
            alike(m, small.minimise(objectives).bound, usual.minimise(objectives).bound)
            for number in range(len(graph.nodes)):
                alike(m, small.node(number).lower, usual.node(number).lower)
                alike(m, small.node(number).upper, usual.node(number).upper)


def test_nodes_are_nodes() -> None:
    """The graphs above hold what they are said to hold."""
    operations = Counter(type(n.operation).__name__ for graph, _ in BATCHES for n in graph.nodes if isinstance(n, Node))
    assert {"Dense", "Convolution", "Sum", "Reshape", "ReLU", "LeakyReLU", "Clip"} <= set(operations)
