"""Random networks that several test modules share, and their exact values by rational arithmetic.

The oracle: a network of piecewise linear nodes is affine on every simplex of a fine enough subdivision of
its input box, so its extremes lie at the simplices' vertices.  Subdividing and evaluating in fractions gives
them exactly, for every node, without an LP and without a tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import permutations

import torch
from hypothesis import strategies as st
from torch import Tensor

from bourn.interval import Interval
from bourn.network.affine import Affine, Convolution, Dense, Offset, Reshape, Scale, Sum
from bourn.network.graph import Graph, GraphBuilder, Input
from bourn.problem.input_set import Box, box
from bourn.problem.problem import Objectives
from bourn.relaxations.base import ElementWise
from bourn.relaxations.clip import Clip
from bourn.relaxations.curves import PiecewiseLinear
from bourn.relaxations.leaky_relu import LeakyReLU
from bourn.relaxations.relu import ReLU
from bourn.solvers.interval_propagation import IntervalPropagation

ACTIVATIONS: tuple[PiecewiseLinear, ...] = (
    ReLU(),
    ReLU(),
    LeakyReLU(0.1),
    LeakyReLU(1.5),
    LeakyReLU(-0.25),
    Clip(-1.0, 1.0),
    Clip(0.0, 0.75),
)
RELU: tuple[PiecewiseLinear, ...] = (ReLU(),)

seeds = st.integers(0, 2**32 - 1)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Layers:
    """Builds a graph node after node, its numbers drawn from one generator.

    ``grid``: weights are eighths, so that ties and values exactly at a kink come up; else they are Gaussian.
    """

    def __init__(self, shape: Sequence[int], generator: torch.Generator, *, grid: bool = False, bias: bool = True) -> None:
        self.builder, self.generator, self.grid, self.bias = GraphBuilder(shape), generator, grid, bias

    def numbers(self, *shape: int) -> Tensor:
        numbers = torch.randn(*shape, dtype=torch.float64, generator=self.generator)
        return (numbers * 8).round() / 8 if self.grid else numbers

    def integer(self, low: int, high: int) -> int:
        """Uniform, both ends included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def dense(self, source: int, width: int, *, scale: float = 1.0) -> int:
        shape = self.builder.shape(source)
        bias = self.numbers(width) * 0.5 if self.bias else None
        weight = self.numbers(width, shape[-1]) * scale
        return self.builder.add(Dense(in_shapes=(shape,), out_shape=(*shape[:-1], width), weight=weight, bias=bias), source)

    def convolution(
        self,
        source: int,
        channels: int,
        kernel: Sequence[int],
        *,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> int:
        shape = self.builder.shape(source)
        sizes = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(shape[2:], padding, dilation, kernel, stride, strict=True)
        )
        operation = Convolution(
            in_shapes=(shape,),
            out_shape=(1, channels, *sizes),
            weight=self.numbers(channels, shape[1] // groups, *kernel),
            bias=self.numbers(channels, 1, 1) * 0.5 if self.bias else None,
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
            groups=groups,
        )
        return self.builder.add(operation, source)

    def flat(self, source: int) -> int:
        shape = self.builder.shape(source)
        return self.builder.add(Reshape(in_shapes=(shape,), out_shape=(1, math.prod(shape))), source)

    def sum(self, *sources: int, signs: Sequence[int] | None = None) -> int:
        shape = self.builder.shape(sources[0])
        own = tuple(signs) if signs is not None else tuple(2 * self.integer(0, 1) - 1 for _ in sources)
        return self.builder.add(Sum(in_shapes=(shape,) * len(sources), out_shape=shape, signs=own), *sources)

    def offset(self, source: int) -> int:
        shape = self.builder.shape(source)
        bias = self.numbers(shape[1], *(1,) * (len(shape) - 2)) if len(shape) > 2 else self.numbers(shape[-1])
        return self.builder.add(Offset(in_shapes=(shape,), out_shape=shape, bias=bias), source)

    def scale(self, source: int) -> int:
        shape = self.builder.shape(source)
        factor = self.numbers(shape[1], *(1,) * (len(shape) - 2)) if len(shape) > 2 else self.numbers(shape[-1])
        return self.builder.add(Scale(in_shapes=(shape,), out_shape=shape, factor=factor), source)

    def act(self, source: int, activation: ElementWise) -> int:
        return self.builder.add(activation, source)


def mlp(layers: Layers, widths: Sequence[int], outputs: int, activations: Sequence[ElementWise]) -> Graph:
    node = 0
    for number, width in enumerate(widths):
        node = layers.act(layers.dense(node, width), activations[number % len(activations)])
    return layers.builder.build(layers.dense(node, outputs))


def residual(layers: Layers, width: int, blocks: int, outputs: int, activations: Sequence[ElementWise]) -> Graph:
    """Blocks x + f(x), the sum sometimes read by a nonlinear node at once, sometimes by the next block's matrix."""
    node = layers.dense(0, width)
    for number in range(blocks):
        activation = activations[number % len(activations)]
        branch = layers.dense(layers.act(node, activation), width)
        node = layers.sum(node, branch)
        if layers.integer(0, 1):
            node = layers.act(node, activation)
    return layers.builder.build(layers.dense(node, outputs))


def convolutional(layers: Layers, outputs: int, activations: Sequence[ElementWise]) -> Graph:
    first = layers.convolution(0, 2, (2, 2), padding=(layers.integer(0, 1), 0))
    node = layers.act(first, activations[0])
    node = layers.convolution(node, 2, (1, 2), stride=(layers.integer(1, 2), 1), padding=(0, 1), groups=layers.integer(1, 2))
    node = layers.flat(layers.act(node, activations[-1]))
    return layers.builder.build(layers.dense(node, outputs))


@dataclass(frozen=True, eq=False)
class Instance:
    """A network and a batch of one box."""

    graph: Graph
    box: Box
    label: str

    def __repr__(self) -> str:
        return f"{self.label}: {self.graph} on {self.box.lower.flatten().tolist()} to {self.box.upper.flatten().tolist()}"


def unstable(graph: Graph, question: Box) -> int:
    """Entries of nonlinear nodes that interval bounds leave unstable."""
    known = IntervalPropagation().prepare(graph, question).bounds
    count = 0
    for v in graph.nonlinear:
        operation = graph.nodes[v].operation
        assert isinstance(operation, ElementWise)
        count += int((~operation.stable(known[graph.nodes[v].inputs[0]])).sum())
    return count


def small_box(graph: Graph, generator: torch.Generator, free: int, most_unstable: int, *, grid: bool = False) -> Box:
    """A box around a random point with at most ``free`` sides above 0, small enough for few unstable neurons.

    A neuron whose value at the centre is a kink itself is unstable on every box around it; then the box
    ends as the point, on which any number of them costs an enumeration nothing.
    """
    size = math.prod(graph.input_shape)
    center = torch.randn(1, size, dtype=torch.float64, generator=generator)
    radius = torch.rand(1, size, dtype=torch.float64, generator=generator) * 2
    if grid:
        center, radius = (center * 4).round() / 4, (radius * 4).round() / 4
    radius[:, torch.randperm(size, generator=generator)[free:]] = 0.0
    for scale in (*(0.5**k for k in range(30)), 0.0):
        low, high = center - scale * radius, center + scale * radius
        question = box(low.reshape(1, *graph.input_shape), high.reshape(1, *graph.input_shape))
        if unstable(graph, question) <= most_unstable:
            break
    return question


KINDS = ("mlp", "residual", "convolution")


@st.composite
def instances(
    draw: st.DrawFn,
    *,
    kinds: Sequence[str] = KINDS,
    activations: Sequence[ElementWise] = ACTIVATIONS,
    most_unstable: int = 9,
    free: int = 3,
) -> Instance:
    """Small networks on boxes that :class:`Exact` can enumerate."""
    kind, grid, bias = draw(st.sampled_from(kinds)), draw(st.booleans()), draw(st.booleans())
    chosen = draw(st.lists(st.sampled_from(activations), min_size=1, max_size=3))
    outputs, sides = draw(st.integers(1, 3)), draw(st.integers(1, free))
    widths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    seed = draw(seeds)
    generator = random(seed)
    shape = (1, 1, draw(st.integers(2, 3)), 2) if kind == "convolution" else (1, draw(st.integers(1, 4)))
    layers = Layers(shape, generator, grid=grid, bias=bias)
    if kind == "mlp":
        graph = mlp(layers, widths, outputs, chosen)
    elif kind == "residual":
        graph = residual(layers, widths[0], len(widths), outputs, chosen)
    else:
        graph = convolutional(layers, outputs, chosen)
    return Instance(graph, small_box(graph, generator, sides, most_unstable, grid=grid), f"{kind} {seed}")


def random_objectives(graph: Graph, generator: torch.Generator, count: int, *, inputs: bool, batch: int = 1) -> Objectives:
    """Gaussian rows on the output, and on the input if asked for."""

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return Objectives(
        numbers(batch, count, math.prod(graph.output_shape)),
        numbers(batch, count, math.prod(graph.input_shape)) if inputs else None,
        numbers(batch, count),
    )


# --- exact values ---------------------------------------------------------------------------------------

Vector = tuple[Fraction, ...]
_Rows = list[list[tuple[int, Fraction]]]


def fractions(t: Tensor) -> list[Fraction]:
    return [Fraction(v) for v in t.flatten().tolist()]


def apply_exactly(operation: PiecewiseLinear, z: Fraction) -> Fraction:
    """The nonlinearity in rational arithmetic, written down anew where it can be."""
    if isinstance(operation, ReLU):
        return max(z, Fraction(0))
    if isinstance(operation, LeakyReLU):
        return z if z >= 0 else Fraction(operation.alpha) * z
    if isinstance(operation, Clip):
        low = z if operation.low == -math.inf else max(z, Fraction(operation.low))
        return low if operation.high == math.inf else min(low, Fraction(operation.high))
    piece = sum(z >= Fraction(k) for k in operation.knots)
    slope, offset = operation.pieces[piece]
    return Fraction(slope) * z + Fraction(offset)


def _matrices(operation: Affine) -> tuple[list[_Rows], list[Fraction]]:
    """The operator's matrices, one an input, and its bias: exact, for a unit vector picks single weights."""
    size = math.prod(operation.out_shape)
    bias = [Fraction(0)] * size
    if operation.bias is not None:
        bias = fractions(operation.bias.expand(operation.out_shape))
    matrices = []
    for number, shape in enumerate(operation.in_shapes):
        count = math.prod(shape)
        arguments = [torch.zeros(count, *s, dtype=torch.float64) for s in operation.in_shapes]
        arguments[number] = torch.eye(count, dtype=torch.float64).reshape(count, *shape)
        matrix = operation.linear(*arguments).reshape(count, size).T
        matrices.append([[(i, Fraction(v)) for i, v in enumerate(row) if v] for row in matrix.tolist()])
    return matrices, bias


class ExactNetwork:
    """A graph of affine and piecewise linear nodes in rational arithmetic."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._affine = {n: _matrices(v.operation) for n, v in enumerate(graph.nodes) if isinstance(v.operation, Affine)}

    def values(self, x: Sequence[Fraction]) -> list[list[Fraction]]:
        """Every node's flat value at the flat input ``x``."""
        values: list[list[Fraction]] = []
        for number, node in enumerate(self.graph.nodes):
            if isinstance(node.operation, Input):
                values.append(list(x))
            elif isinstance(node.operation, Affine):
                matrices, total = self._affine[number]
                total = list(total)
                for source, matrix in zip(node.inputs, matrices, strict=True):
                    known = values[source]
                    for i, row in enumerate(matrix):
                        for j, weight in row:
                            total[i] += weight * known[j]
                values.append(total)
            else:
                assert isinstance(node.operation, PiecewiseLinear)
                values.append([apply_exactly(node.operation, z) for z in values[node.inputs[0]]])
        return values


class Exact:
    """The exact extremes of every node, and of linear functions of nodes, over one box.

    Simplices are split where a neuron crosses a kink, until every neuron has one piece on each of them.
    """

    def __init__(self, graph: Graph, question: Box) -> None:
        assert question.batch == 1
        self.graph, self.network = graph, ExactNetwork(graph)
        self.lower, self.upper = fractions(question.lower), fractions(question.upper)
        self._known: dict[Vector, list[list[Fraction]]] = {}
        simplices = self._whole()
        for v in graph.nonlinear:
            operation, source = graph.nodes[v].operation, graph.nodes[v].inputs[0]
            assert isinstance(operation, PiecewiseLinear)
            for entry in range(graph.nodes[v].size):
                for knot in operation.knots:
                    simplices = self._split(simplices, source, entry, Fraction(knot))
        self.simplices = simplices
        self.vertices = {x for simplex in simplices for x in simplex}

    def values(self, x: Vector) -> list[list[Fraction]]:
        known = self._known.get(x)
        if known is None:
            known = self._known[x] = self.network.values(x)
        return known

    def _whole(self) -> list[tuple[Vector, ...]]:
        """Kuhn's subdivision of the box: from the lower corner to the upper, one side after the other."""
        free = [i for i, (low, high) in enumerate(zip(self.lower, self.upper, strict=True)) if low < high]
        simplices = []
        for order in permutations(free):
            corner = list(self.lower)
            simplex = [tuple(corner)]
            for i in order:
                corner[i] = self.upper[i]
                simplex.append(tuple(corner))
            simplices.append(tuple(simplex))
        return simplices

    def _split(self, simplices: list[tuple[Vector, ...]], node: int, entry: int, knot: Fraction) -> list[tuple[Vector, ...]]:
        done = []
        pending = list(simplices)
        while pending:
            simplex = pending.pop()
            heights = [self.values(x)[node][entry] - knot for x in simplex]
            low, high = min(heights), max(heights)
            if low >= 0 or high <= 0:
                done.append(simplex)
                continue
            i, j = heights.index(low), heights.index(high)
            share = low / (low - high)
            crossing = tuple(a + share * (b - a) for a, b in zip(simplex[i], simplex[j], strict=True))
            pending.append((*simplex[:i], crossing, *simplex[i + 1 :]))
            pending.append((*simplex[:j], crossing, *simplex[j + 1 :]))
        return done

    @cached_property
    def extremes(self) -> list[tuple[list[Fraction], list[Fraction]]]:
        """For every node the least and the greatest value of every entry."""
        found = [self.values(x) for x in self.vertices]
        result = []
        for number in range(len(self.graph.nodes)):
            columns = list(zip(*(values[number] for values in found), strict=True))
            result.append(([min(c) for c in columns], [max(c) for c in columns]))
        return result

    def minima(self, objectives: Objectives) -> list[Fraction]:
        """The exact minimum of every objective."""
        best: list[Fraction] = []
        for m in range(len(objectives)):
            on_output = fractions(objectives.outputs[0, m])
            on_input = None if objectives.inputs is None else fractions(objectives.inputs[0, m])
            constant = Fraction(float(objectives.constant[0, m]))
            least = None
            for x in self.vertices:
                value = constant + sum(c * y for c, y in zip(on_output, self.values(x)[self.graph.output], strict=True))
                if on_input is not None:
                    value += sum(c * v for c, v in zip(on_input, x, strict=True))
                least = value if least is None else min(least, value)
            assert least is not None
            best.append(least)
        return best


def at_most(bound: float, exact: Fraction) -> bool:
    """bound <= exact, without rounding; an infinite bound is what it says."""
    return bound == -math.inf or (bound != math.inf and Fraction(bound) <= exact)


def outside(bounds: Interval, problem: int, least: Sequence[Fraction], greatest: Sequence[Fraction]) -> Iterator[str]:
    """Every entry whose exact values leave its bounds: nothing, for sound bounds."""
    lower, upper = bounds.lower[problem].flatten().tolist(), bounds.upper[problem].flatten().tolist()
    for i, (low, high, a, b) in enumerate(zip(lower, upper, least, greatest, strict=True)):
        if not at_most(low, a):
            yield f"entry {i}: lower bound {low!r} is above {float(a)!r} by {float(Fraction(low) - a):.3g}"
        if not at_most(-high, -b):
            yield f"entry {i}: upper bound {high!r} is below {float(b)!r} by {float(b - Fraction(high)):.3g}"
