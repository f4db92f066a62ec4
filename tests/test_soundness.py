"""Soundness: no method's bound is ever on the wrong side of an exact value, rounding included, nor depends on batching."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import bourn.problem.input_set
import bourn.program.linear_bounds
import bourn.solvers.forward_linear
import bourn.solvers.interval_propagation
import bourn.solvers.zonotope
from bourn.network.affine import Affine, Convolution, Dense
from bourn.network.graph import Graph
from bourn.problem.input_set import Box, box
from bourn.problem.problem import Objectives
from bourn.solvers.cutting_planes import CuttingPlanes
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.methods import Method, method
from bourn.solvers.simplex import Simplex
from bourn.solvers.tree_bounds import TreeBounds
from networks import (
    ACTIVATIONS,
    KINDS,
    Exact,
    ExactNetwork,
    Instance,
    Layers,
    at_most,
    convolutional,
    fractions,
    instances,
    mlp,
    outside,
    random,
    random_objectives,
    residual,
    seeds,
    unstable,
)
from quick import PROVED


def wrong(
    methods: Sequence[Method], graph: Graph, question: Box, points: Sequence[list[list[Fraction]]], problem: int = 0
) -> list[str]:
    """Where the exact node values of some points of a problem leave a method's bounds."""
    found = []
    for m in methods:
        prepared = m.prepare(graph, question)
        for number, node in enumerate(graph.nodes):
            bounds = prepared.node(number)
            for values in points:
                found += [f"{m.name}, {node.name}: {where}" for where in outside(bounds, problem, values[number], values[number])]
    return found


# --- exhaustive: all activation patterns ----------------------------------------------------------------


def test_the_oracle_finds_affine_pieces_that_fill_the_box() -> None:
    """Every node is affine on every simplex: its value at the barycentre is the vertices' mean, exactly."""

    @settings(max_examples=12)
    @given(instances())
    def check(instance: Instance) -> None:
        exact = Exact(instance.graph, instance.box)
        points = instance.box.sample(20, random(0))[0]
        outputs = instance.graph.evaluate(points).flatten(1)
        least, greatest = exact.extremes[instance.graph.output]
        for j, (low, high) in enumerate(zip(least, greatest, strict=True)):
            assert float(low) <= outputs[:, j].min() + 1e-9
            assert float(high) >= outputs[:, j].max() - 1e-9
        for simplex in exact.simplices[:50]:
            count = len(simplex)
            middle = exact.network.values([sum(c) / Fraction(count) for c in zip(*simplex, strict=True)])
            corners = [exact.values(x) for x in simplex]
            for number, values in enumerate(middle):
                assert values == [sum(c) / Fraction(count) for c in zip(*(corner[number] for corner in corners), strict=True)]

    check()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("iterates", [False, True], ids=["closed form", "iterations"])
def test_no_bound_passes_the_exact_optimum(iterates: bool) -> None:
    """Objectives and every node of small networks, against the minimum over all activation patterns, without tolerance."""
    seen: Counter[int] = Counter()
    # What iterates costs far more, and rests on the same statement of bounds.
    examples = 25 if iterates else 80

    @settings(max_examples=examples)
    @given(instances(), seeds)
    def check(instance: Instance, seed: int) -> None:
        graph = instance.graph
        seen[unstable(graph, instance.box)] += 1
        exact = Exact(graph, instance.box)
        objectives = random_objectives(graph, random(seed), 3, inputs=bool(seed % 2))
        minima = exact.minima(objectives)
        for m in (m for m in PROVED if isinstance(m.solver, CuttingPlanes | DualAscent | Simplex | TreeBounds) == iterates):
            prepared = m.prepare(graph, instance.box)
            bounds = prepared.minimise(objectives).bound
            assert bounds.shape == (1, 3)
            assert bounds.isfinite().all(), m.name
            for bound, minimum in zip(bounds[0].tolist(), minima, strict=True):
                assert at_most(bound, minimum), f"{m.name} says {bound!r}, the minimum is {float(minimum)!r}"
            # Where bounds are found by iterating the other nodes cost much and say little.
            for number in [graph.output] if iterates else range(len(graph.nodes)):
                assert not list(outside(prepared.node(number), 0, *exact.extremes[number])), (m.name, number)
            for z, bound in prepared.bounds.items():
                assert not list(outside(bound, 0, *exact.extremes[z])), (m.name, z)

    check()
    # The test is about unstable neurons: there must have been many.
    assert sum(seen.values()) >= 0.9 * examples
    assert sum(count for number, count in seen.items() if number >= 3) >= examples // 3


def test_affine_networks_are_bounded_exactly() -> None:
    """Where no neuron is unstable the relaxation is exact: back-substitution meets the exact extremes up to rounding."""

    @settings(max_examples=20)
    @given(instances(most_unstable=0))
    def check(instance: Instance) -> None:
        exact = Exact(instance.graph, instance.box)
        for name in ("fast-lin", "crown", "deepz", "forward"):
            output = method(name).prepare(instance.graph, instance.box).node(instance.graph.output)
            least, greatest = exact.extremes[instance.graph.output]
            scale = 1 + max(abs(float(v)) for v in (*least, *greatest))
            for low, high, a, b in zip(output.lower.flatten(), output.upper.flatten(), least, greatest, strict=True):
                assert float(a) - float(low) <= 1e-9 * scale
                assert float(high) - float(b) <= 1e-9 * scale

    check()


# --- rounding -------------------------------------------------------------------------------------------


class Cancelling(Layers):
    """Layers whose sums cancel: neighbours are nearly equal, read with opposite signs, at sizes up to 1e8."""

    def numbers(self, *shape: int) -> Tensor:
        numbers = super().numbers(*shape)
        size = 10 ** (16 * torch.rand(shape[0], *(1,) * (len(shape) - 1), dtype=torch.float64, generator=self.generator) - 8)
        numbers = numbers * size
        pairs = shape[0] // 2 * 2
        nearly = 1 + 1e-9 * torch.rand(pairs // 2, *shape[1:], dtype=torch.float64, generator=self.generator)
        numbers[1:pairs:2] = numbers[:pairs:2] * nearly
        if len(shape) > 1:
            columns = shape[1] // 2 * 2
            numbers[:, 1:columns:2] = -numbers[:, :columns:2]
        return numbers


def cancelling(seed: int) -> Graph:
    """One of three kinds of ill-conditioned networks."""
    generator = random(seed)
    kind = KINDS[seed % len(KINDS)]
    layers = Cancelling((1, 1, 3, 3) if kind == "convolution" else (1, 4), generator, bias=bool(seed % 2))
    chosen = [ACTIVATIONS[layers.integer(0, len(ACTIVATIONS) - 1)] for _ in range(3)] if seed % 4 == 3 else ACTIVATIONS[:1]
    if kind == "mlp":
        return mlp(layers, [6] * layers.integer(1, 5), 2, chosen)
    if kind == "residual":
        return residual(layers, 4, layers.integer(1, 3), 2, chosen)
    return convolutional(layers, 2, chosen)


def point(graph: Graph, seed: int) -> Tensor:
    return torch.randn(1, *graph.input_shape, dtype=torch.float64, generator=random(seed + 1))


@settings(max_examples=10)
@given(seeds, st.sampled_from([0.0, 0.0, 1e-14, 1e-9, 1e-3]))
def test_intervals_hold_exact_values_of_ill_conditioned_networks(seed: int, radius: float) -> None:
    """Bounds of every node hold the real-arithmetic values, where evaluating in float64 gets few digits or none."""
    graph = cancelling(seed)
    center = point(graph, seed)
    question = box(center - radius, center + radius)
    network = ExactNetwork(graph)
    corners = [question.lower, question.upper, question.sample(1, random(seed))[:, 0]]
    points = [network.values(fractions(x)) for x in (corners[:1] if radius == 0 else corners)]
    assert not wrong(PROVED, graph, question, points)
    objectives = random_objectives(graph, random(seed), 3, inputs=True)
    for m in PROVED:
        bounds = m.prepare(graph, question).minimise(objectives).bound[0].tolist()
        for row, bound in enumerate(bounds):
            for values in points:
                assert at_most(bound, objective_value(objectives, row, values, graph)), m.name


def objective_value(objectives: Objectives, row: int, values: list[list[Fraction]], graph: Graph) -> Fraction:
    """One row at exact node values."""
    total = Fraction(objectives.constant[0, row].item())
    total += sum(c * y for c, y in zip(fractions(objectives.outputs[0, row]), values[graph.output], strict=True))
    if objectives.inputs is not None:
        total += sum(c * x for c, x in zip(fractions(objectives.inputs[0, row]), values[0], strict=True))
    return total


ROUNDING = (
    bourn.problem.input_set,
    bourn.program.linear_bounds,
    bourn.solvers.forward_linear,
    bourn.solvers.interval_propagation,
    bourn.solvers.zonotope,
)


@pytest.mark.parametrize("name", ["ibp", "forward", "deepz", "fast-lin", "crown"])
def test_without_error_terms_the_exact_values_escape(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: with the error terms taken out, the same networks violate it, for every solver."""
    methods = [method(name)]
    cases = []
    for seed in range(16):
        graph = cancelling(seed)
        center = point(graph, seed)
        cases.append((graph, box(center, center), [ExactNetwork(graph).values(fractions(center))]))
    assert not any(wrong(methods, *case) for case in cases)
    for module in ROUNDING:
        without_errors(module, monkeypatch)
    assert sum(bool(wrong(methods, *case)) for case in cases) >= 8


def without_errors(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_error(terms: int) -> float:
        return 0.0

    for name, value in (("gamma", no_error), ("UNIT", 0.0), ("TINY", 0.0)):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)


def with_stated_errors(graph: Graph, generator: torch.Generator, weight_error: float) -> tuple[Graph, Graph]:
    """The graph with stated errors of its weights and biases, and one network within these errors."""

    def signs(t: Tensor) -> Tensor:
        return torch.rand(t.shape, dtype=torch.float64, generator=generator) * 2 - 1

    stated, true = [], []
    for node in graph.nodes:
        operation = node.operation
        if isinstance(operation, Affine):
            bias = operation.bias
            error = None if bias is None else torch.rand(bias.shape, dtype=torch.float64, generator=generator)
            moved = None if bias is None or error is None else bias + 0.999 * error * signs(bias)
            weight = operation.weight if isinstance(operation, Dense | Convolution) else None
            operation = dataclasses.replace(operation, weight_error=weight_error if weight is not None else 0.0, bias_error=error)
            other = dataclasses.replace(operation, weight_error=0.0, bias_error=None, bias=moved)
            if isinstance(other, Dense | Convolution) and weight is not None:
                other = dataclasses.replace(other, weight=weight * (1 + 0.999 * weight_error * signs(weight)))
            true.append(dataclasses.replace(node, operation=other))
            stated.append(dataclasses.replace(node, operation=operation))
        else:
            true.append(node)
            stated.append(node)
    return Graph(tuple(stated), graph.output), Graph(tuple(true), graph.output)


@settings(max_examples=10)
@given(instances(), seeds, st.sampled_from([0.3, 1e-2, 1e-6]))
def test_stated_errors_of_weights_and_biases_are_covered(instance: Instance, seed: int, weight_error: float) -> None:
    """Bounds hold for every network whose weights lie within ``weight_error`` and ``bias_error`` of the graph's."""
    generator = random(seed)
    stated, true = with_stated_errors(instance.graph, generator, weight_error)
    network = ExactNetwork(true)
    corner = torch.where(torch.rand(instance.box.lower.shape, generator=generator) < 0.5, instance.box.lower, instance.box.upper)
    points = [network.values(fractions(x)) for x in (corner, instance.box.sample(1, generator)[:, 0])]
    assert not wrong(PROVED, stated, instance.box, points)


def test_affine_chains_carry_the_errors_of_both_layers() -> None:
    """x -> x + [-1, 1] -> times [0.5, 1.5]: the second layer's error applies to what the first may have added."""
    one = torch.ones(1, 1, dtype=torch.float64)
    first = Dense(in_shapes=((1, 1),), out_shape=(1, 1), weight=one, bias=torch.zeros(1, dtype=torch.float64), bias_error=one[0])
    second = Dense(in_shapes=((1, 1),), out_shape=(1, 1), weight=one, weight_error=0.5)
    layers = Layers((1, 1), random(0))
    graph = layers.builder.build(layers.builder.add(second, layers.builder.add(first, 0)))
    for m in PROVED:
        output = m.prepare(graph, box(0 * one, 0 * one)).node(2)
        assert output.lower.item() <= -1.5, m.name
        assert output.upper.item() >= 1.5, m.name


@settings(max_examples=30)
@given(instances(), seeds)
def test_rounded_coefficients_of_objectives_are_covered(instance: Instance, seed: int) -> None:
    """``inexact`` objectives may have every coefficient off by one unit roundoff."""
    graph, generator = instance.graph, random(seed)
    objectives = dataclasses.replace(random_objectives(graph, generator, 2, inputs=True), inexact=True)
    assert objectives.inputs is not None
    values = ExactNetwork(graph).values(fractions(instance.box.lower))
    corner = box(instance.box.lower, instance.box.lower)
    for m in PROVED:
        bounds = m.prepare(graph, corner).minimise(objectives).bound[0].tolist()
        for row, bound in enumerate(bounds):
            exact = objective_value(objectives, row, values, graph)
            terms = [*zip(fractions(objectives.outputs[0, row]), values[graph.output], strict=True)]
            terms += zip(fractions(objectives.inputs[0, row]), values[0], strict=True)
            slack = sum((abs(c * v) for c, v in terms), Fraction(0)) / 2**53
            assert at_most(bound, exact - slack), m.name
