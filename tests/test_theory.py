"""The orders that theory states on equal inner bounds, against a linear program written down anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from bourn.interval import Interval
from bourn.network.affine import Dense
from bourn.network.graph import Graph
from bourn.problem.input_set import Box, linf_ball
from bourn.relaxations.relu import ReLU
from bourn.solvers.methods import method
from test_solvers import OBJECTIVES, network

NETWORKS = 200


def textbook(graph: Graph, ball: Box, bounds: dict[int, Interval]) -> list[float]:
    """Least outputs of the triangle relaxation: a variable for every entry of every node, three rows for every neuron."""
    first = np.cumsum([0, *(node.size for node in graph.nodes)])
    total = int(first[-1])
    limits: list[tuple[float | None, float | None]] = [(None, None)] * total
    for i, (low, high) in enumerate(zip(ball.lower.flatten().tolist(), ball.upper.flatten().tolist(), strict=True)):
        limits[i] = (low, high)
    equal, right, below, at_most = [], [], [], []
    for number, node in enumerate(graph.nodes):
        if isinstance(node.operation, Dense):
            weight, bias = node.operation.weight.numpy(), node.operation.bias
            assert bias is not None
            for i in range(node.size):
                row = np.zeros(total)
                row[first[number] + i] = 1
                row[first[node.inputs[0]] : first[node.inputs[0] + 1]] -= weight[i]
                equal.append(row)
                right.append(float(bias[i]))
        elif isinstance(node.operation, ReLU):
            z = node.inputs[0]
            for i in range(node.size):
                low, high = float(bounds[z].lower.flatten()[i]), float(bounds[z].upper.flatten()[i])
                limits[first[z] + i] = (low, high)
                x, y = first[z] + i, first[number] + i
                slope = max(high, 0.0) / (high - low) if low < 0 < high else float(low >= 0)
                chord = max(low, 0.0) - slope * low
                for coefficients, constant in (({y: -1.0}, 0.0), ({x: 1.0, y: -1.0}, 0.0), ({y: 1.0, x: -slope}, chord)):
                    row = np.zeros(total)
                    row[list(coefficients)] = list(coefficients.values())
                    below.append(row)
                    at_most.append(constant)
    found = []
    for i in range(graph.nodes[graph.output].size):
        cost = np.zeros(total)
        cost[first[graph.output] + i] = 1
        solved = linprog(cost, np.array(below), np.array(at_most), np.array(equal), np.array(right), limits, method="highs")
        assert solved.status == 0
        found.append(float(solved.fun))
    return found


@pytest.mark.parametrize("inner", ["ibp", "crown"])
def test_no_method_beats_the_linear_program_on_its_inner_bounds(inner: str) -> None:
    reached = 0
    for seed in range(NETWORKS):
        graph = network(seed, (3, 5, 5, 3))
        ball = linf_ball(torch.zeros(1, 1, 3, dtype=torch.float64), 0.4)
        bounds = dict(method(inner).prepare(graph, ball).bounds)
        optimum = torch.tensor([textbook(graph, ball, bounds)], dtype=torch.float64)
        for name in ("fast-lin", "crown", "forward"):
            solver = method(name).solver
            value = solver.prepare(graph, ball, inner=bounds).minimise(OBJECTIVES).bound
            assert bool((value <= optimum + 1e-6 * (1 + optimum.abs())).all()), (seed, name)
            reached += int((value >= optimum - 1e-6).sum())
    assert reached > 0  # where nothing is lost they are equal, so the comparison can fail


def test_forward_bounds_are_no_better_than_fast_lin_on_equal_inner_bounds() -> None:
    worse = 0
    for seed in range(NETWORKS):
        graph = network(seed)
        ball = linf_ball(torch.zeros(1, 1, 4, dtype=torch.float64), 0.3)
        bounds = dict(method("ibp").prepare(graph, ball).bounds)
        forward, fast = (
            method(name).solver.prepare(graph, ball, inner=bounds).minimise(OBJECTIVES).bound for name in ("forward", "fast-lin")
        )
        assert bool((forward <= fast + 1e-9).all())
        worse += int((forward < fast - 1e-6).any())
    assert worse > NETWORKS // 2
