"""Zonotopes (DeepZ, AI2): every value is a center plus error terms, carried forward and never dropped.

x = center + sum over symbols k of generators[k] * eps_k + [-rest, rest], with eps in [-1, 1]^K.  One symbol
stands for every input entry and one for every nonlinear entry that is not stable.  ``rest`` holds nothing
but rounding errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.affine import Affine
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet, dot
from bourn.problem.problem import Objectives
from bourn.relaxations.base import LineRule, Nonlinearity
from bourn.relaxations.curves import PiecewiseLinear
from bourn.rounding import TINY, UNIT, down, gamma, up
from bourn.solvers.base import Inner, Prepared, Solution, Solver, Status, join, output_rows, settle, take
from bourn.solvers.tightening import within_hull


@dataclass(frozen=True, eq=False)
class Form:
    """Affine forms of one node: center (B, *shape), generators (B, K, *shape), rest (B, *shape)."""

    center: Tensor
    generators: Tensor
    rest: Tensor

    def spread(self) -> Tensor:
        """Sum of the generators' absolute values, (B, *shape), rounded up."""
        return self.generators.abs().sum(1) * (1 + gamma(self.generators.shape[1] + 2))

    def interval(self) -> Interval:
        """The values the form can take, rounded outward."""
        reach = (self.spread() + self.rest) * (1 + 4 * UNIT)
        slack = 4 * UNIT * (self.center.abs() + reach)
        return Interval(down(self.center - reach - slack), up(self.center + reach + slack))

    def padded(self, symbols: int) -> Tensor:
        """Generators with zeros for the symbols that came later."""
        missing = symbols - self.generators.shape[1]
        if not missing:
            return self.generators
        zeros = self.generators.new_zeros(len(self.generators), missing, *self.generators.shape[2:])
        return torch.cat([self.generators, zeros], dim=1)


@dataclass(frozen=True)
class Zonotope(Solver):
    """Forms carried through parallel lines; sound, not complete.

    ``rule`` says which lines.  :attr:`LineRule.PARALLEL` is DeepZ (Singh et al. 2018), on a box with the bounds of Fast-Lin.

    :attr:`LineRule.JOIN` is AI2 (Gehr et al. 2018), for piecewise linear functions in closed form: the form meets every
    piece's interval, goes through that piece, and the branches are joined.  Meet and join are those of Taylor1+ (Ghorbal,
    Goubault and Putot 2009, 2010): of its coefficients in the branches a symbol keeps the one nearest 0 where they have one
    sign, and none otherwise; a new symbol takes up the difference.  A meet narrows the symbols' ranges in a branch, but
    not the ranges' union, for a form that crosses a kink has vertices on both sides.  So of a ReLU with l < 0 < u, whose
    branches are 0 and the form itself, there remains the interval [0, u] as a new symbol.  On one neuron that is incomparable
    with DeepZ's form, which can be negative.  Other joins in use, such as that of both hulls' mean slope, give other values.
    Functions that are not piecewise linear go through DeepZ's lines.

    Of any other set than a box it sees the enclosing box only.  ``chunk_bytes`` bounds the memory of one node's generators.
    """

    rule: LineRule = LineRule.PARALLEL
    chunk_bytes: int = 1 << 26
    solved_by = "forward, symbolic"

    @property
    def relaxation(self) -> str:
        return self.rule.value

    def __post_init__(self) -> None:
        if not self.rule.parallel:
            raise ValueError(f"a zonotope needs parallel lines, not {self.rule.value}")

    def prepare(
        self,
        graph: Graph,
        box: InputSet,
        *,
        inner: Mapping[int, Interval] | None = None,
        begin: Mapping[int, Interval] | None = None,
        outside: Mapping[int, Interval] | None = None,
        deadline: Deadline = NEVER,
    ) -> Zonotopes:
        symbols = graph.nodes[0].size + sum(graph.nodes[v].size for v in graph.nonlinear)
        at_once = max(1, self.chunk_bytes // (8 * symbols * max(n.size for n in graph.nodes)))
        parts = []
        for first in range(0, box.batch, at_once):
            some = slice(first, first + at_once)
            known = take(inner, some), take(begin, some), take(outside, some)
            parts.append(_propagate(graph, box[some], self.rule, known, deadline))
        return Zonotopes(graph, box, parts)


def _propagate(graph: Graph, box: InputSet, rule: LineRule, known: tuple[Inner, Inner, Inner], deadline: Deadline) -> _Part:
    last_reader = {i: number for number, node in enumerate(graph.nodes) for i in node.inputs}
    forms: dict[int, Form] = {}
    intervals: dict[int, Interval] = {}
    symbols = graph.nodes[0].size
    for number, node in enumerate(graph.nodes):
        deadline.check()
        if isinstance(node.operation, Affine):
            forms[number] = _affine(node.operation, [forms[i] for i in node.inputs], box.batch)
        elif isinstance(node.operation, Nonlinearity):
            arguments = [(forms[z], intervals[z]) for z in node.inputs]
            forms[number] = _nonlinear(node.operation, arguments, rule, symbols)
            symbols = forms[number].generators.shape[1]
        else:
            forms[number] = _input(box)
        found = forms[number].interval()
        if isinstance(node.operation, Nonlinearity):
            found = within_hull(node.operation, tuple(intervals[z] for z in node.inputs), found)
        intervals[number] = settle(graph, number, found, *known)
        for i in set(node.inputs) - {0, graph.output}:
            if last_reader[i] == number:
                del forms[i]
    return _Part(box, intervals, forms[0], forms[graph.output])


def _input(box: InputSet) -> Form:
    center, radius = box.interval.center, box.interval.radius
    generators = torch.diag_embed(radius.flatten(1)).reshape(box.batch, -1, *box.shape)
    return Form(center, generators, torch.zeros_like(center))


def _affine(operation: Affine, forms: list[Form], batch: int) -> Form:
    """Every generator through the linear part; what rounding may have changed goes to ``rest``."""
    if not forms:
        value = operation.constant(batch)
        rest = torch.zeros_like(value) if operation.bias_error is None else operation.bias_error.expand_as(value)
        return Form(value, value.new_zeros(batch, 0, *operation.out_shape), rest)
    symbols = max(form.generators.shape[1] for form in forms)
    center = operation.forward(*(form.center for form in forms))
    stacked = operation.linear(*(form.padded(symbols).flatten(0, 1) for form in forms))
    terms = operation.forward_terms
    size = operation.absolute(*(form.center.abs() + form.spread() + form.rest for form in forms))
    if operation.bias is not None:
        size = size + operation.bias.abs()
    relative = 2 * gamma(terms + 4) + operation.weight_error
    rest = operation.absolute(*(form.rest for form in forms)) * (1 + gamma(terms + 4)) + relative * size + TINY * (1 + terms)
    if operation.bias_error is not None:
        rest = rest + operation.bias_error
    return Form(center, stacked.reshape(batch, symbols, *operation.out_shape), rest)


def _nonlinear(operation: Nonlinearity, arguments: list[tuple[Form, Interval]], rule: LineRule, symbols: int) -> Form:
    """Both parallel lines: the slopes scale the forms, half the distance between them is a new symbol."""
    z = tuple(interval for _, interval in arguments)
    lines = operation.lines(rule if isinstance(operation, PiecewiseLinear) else LineRule.PARALLEL, *z)
    half = (lines.upper_offset / 2 - lines.lower_offset / 2).clamp(min=0)
    middle = lines.upper_offset / 2 + lines.lower_offset / 2
    half = (half + 8 * UNIT * (lines.upper_offset.abs() + lines.lower_offset.abs())).masked_fill(operation.stable(*z), 0.0)
    size = middle.abs() + half
    center, rest, old = middle, torch.zeros_like(middle), middle.new_zeros(len(middle), symbols, *middle.shape[1:])
    for slope, (form, _) in zip(lines.lower_slopes, arguments, strict=True):
        size = size + slope.abs() * (form.center.abs() + form.spread() + form.rest)
        center = center + slope * form.center
        old = old + slope[:, None] * form.padded(symbols)
        rest = rest + slope.abs() * form.rest
    stable_error = (lines.upper_offset / 2 - lines.lower_offset / 2).clamp(min=0).masked_fill(half > 0, 0.0)
    fresh = _own_symbols(half)
    rest = rest * (1 + 8 * UNIT) + (4 + 4 * len(arguments)) * UNIT * size + stable_error + TINY
    return Form(center, torch.cat([old, fresh], dim=1), rest)


def _own_symbols(half: Tensor) -> Tensor:
    """(B, K, *shape): one symbol for every entry above 0, K the most of any problem."""
    flat = half.flatten(1)
    open_ = flat > 0
    most = int(open_.sum(1).max())
    entries = torch.argsort(open_.to(torch.int8), dim=1, descending=True, stable=True)[:, :most]
    generators = flat.new_zeros(len(flat), most, flat.shape[1])
    generators.scatter_(2, entries[..., None], flat.gather(1, entries)[..., None])
    return generators.reshape(len(flat), most, *half.shape[1:])


@dataclass(frozen=True, eq=False)
class _Part:
    """Some problems of the batch: bounds of every node, forms of the input and the output."""

    box: InputSet
    intervals: Mapping[int, Interval]
    input: Form
    output: Form


@dataclass(frozen=True, eq=False)
class Zonotopes(Prepared):
    """Bounds of every node and the forms of the output."""

    graph: Graph
    box: InputSet
    parts: list[_Part]

    @property
    def bounds(self) -> Mapping[int, Interval]:  # type: ignore[override]
        return {z: self.node(z) for z in self.graph.pre_activations}

    def node(self, number: int) -> Interval:
        return join([part.intervals[number] for part in self.parts])

    def minimise(self, objectives: Objectives, enough: float = math.inf) -> Solution:
        bounds, first = [], 0
        for part in self.parts:
            wanted = objectives.take(slice(first, first + part.box.batch))
            first += part.box.batch
            bounds.append(self._minimise_part(part, wanted))
        return Solution(torch.cat(bounds), Status.CLOSED_FORM)

    def _minimise_part(self, part: _Part, objectives: Objectives) -> Tensor:
        symbols = max(part.input.generators.shape[1], part.output.generators.shape[1])
        forms = {0: part.input, self.graph.output: part.output}
        center, spread, error = objectives.constant, torch.zeros(()), objectives.constant.abs() * 4 * UNIT
        generators = torch.zeros((), dtype=torch.float64)
        for node, row in output_rows(self.graph, objectives).items():
            form, flat = forms[node], row.flatten(2)
            generators = generators + dot(flat, form.padded(symbols).flatten(2).mT)
            own = dot(flat, form.center.flatten(1)[..., None])[..., 0]
            size = dot(flat.abs(), (form.center.abs() + form.spread()).flatten(1)[..., None])[..., 0]
            rest = dot(flat.abs(), form.rest.flatten(1)[..., None])[..., 0]
            relative = 2 * gamma(flat.shape[2] + 8) + (4 * UNIT if objectives.inexact else 0.0)
            center = center + own
            error = error + rest * (1 + relative) + relative * size + TINY * (1 + flat.shape[2]) + 4 * UNIT * center.abs()
        spread = generators.abs().sum(2)
        error = error + gamma(symbols + 8) * spread
        bound = down(center - spread - error * (1 + 2.0**-20) - 8 * UNIT * (center.abs() + spread))
        return bound.expand(part.box.batch, len(objectives))
