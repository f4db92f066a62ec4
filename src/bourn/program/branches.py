"""The dual function of many subproblems of one reduced program: shared dense matrices, bounds and multipliers of their own.

A subproblem assumes of some neurons which side of their kink they are on.  There the neuron is affine, and the assumption itself,
z >= 0 say, enters the Lagrangian as -beta z with a multiplier beta >= 0.  The neurons of all layers stand one after the other in
one axis of N, in the order of :attr:`Shared.kept`.  Computed in float32; no bound rests on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.program.linear_bounds import Multipliers
from bourn.program.reduced import Kept, ReducedLagrangian, Rows
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.relaxations.leaky_relu import LeakyReLU
from bourn.relaxations.relu import ReLU


@dataclass(frozen=True, eq=False)
class Parts:
    """B subproblems: bounds of the kept neurons (B, N) in float64, and which side each is assumed to be on (1, -1, or 0)."""

    lower: Tensor
    upper: Tensor
    side: Tensor

    def __getitem__(self, index: Tensor | slice) -> Parts:
        return Parts(self.lower[index], self.upper[index], self.side[index])

    @property
    def open(self) -> Tensor:
        """Neurons that have not one side (B, N)."""
        return (self.lower < 0) & (self.upper > 0)

    def split(self, neuron: Tensor, side: int) -> Parts:
        """Every subproblem with one neuron (B,) more on one side."""
        at = neuron[:, None]
        zero = torch.zeros_like(self.lower[:, :1])
        lower = self.lower.scatter(1, at, zero) if side > 0 else self.lower
        upper = self.upper.scatter(1, at, zero) if side < 0 else self.upper
        return Parts(lower, upper, self.side.scatter(1, at, torch.full_like(at, side, dtype=self.side.dtype)))


@dataclass(frozen=True, eq=False)
class Multiplied:
    """What ascent chooses: slopes ``alpha`` of lower lines and multipliers ``beta`` of splits (B, N), row weights (B, K)."""

    alpha: Tensor
    beta: Tensor
    weights: Tensor

    def __getitem__(self, index: Tensor | slice) -> Multiplied:
        return Multiplied(self.alpha[index], self.beta[index], self.weights[index])


@dataclass(frozen=True, eq=False)
class Value:
    """The dual function (B,), its rows behind the neurons (B, N), and where it is attained: x (B, n) and z (B, N).

    ``rows``: the objectives' K values there (B, K), which the weights add up.
    """

    value: Tensor
    row: Tensor
    x: Tensor
    z: Tensor | None = None
    rows: Tensor | None = None


class CannotSplit(Exception):
    """The network has unstable neurons that are not split this way."""


class Shared:
    """The matrices that all subproblems of a program (a batch of one) share, for K objectives.

    Raises :class:`CannotSplit` where an unstable neuron is none of a leaky ReLU's with a slope from 0 to 1.
    """

    def __init__(self, program: RelaxedProgram, rows: Mapping[int, Tensor], constant: Tensor) -> None:
        reason = refusal(program)
        if reason:
            raise CannotSplit(reason)
        dual = ReducedLagrangian(program, rows, constant)
        self.program, self.kept = program, dual.kept
        self.layers: dict[int, Rows] = {v: layer.rows.mapped(lambda t: t[0]) for v, layer in dual.layers.items()}
        self.rows = dual.rows.mapped(lambda t: t[0])
        self.reach = None if dual.reach is None else (dual.reach[0][0], dual.reach[1][0])
        self.least = dual._least
        first, self.place = 0, {}
        for v, kept in self.kept.items():
            self.place[v] = slice(first, first + kept.count)
            first += kept.count
        self.count = first
        device = program.box.lower.device
        slope = torch.zeros(first, device=device)
        for v, own in self.place.items():
            slope[own] = split_slope(program.graph.nodes[v].operation) or 0.0
        self.slope = slope
        self.outgoing, self.layer = torch.zeros_like(slope), torch.zeros_like(slope)
        for number, (v, own) in enumerate(self.place.items()):
            self.layer[own] = len(self.place) - 1 - number
            readers = [rows.on[v] for rows in (*self.layers.values(), self.rows) if v in rows.on]
            self.outgoing[own] = torch.cat([torch.zeros(1, own.stop - own.start, device=device), *readers]).norm(dim=0)

    def root(self) -> Parts:
        """The whole program as the only subproblem."""
        ends = [[], []]  # type: list[list[Tensor]]
        for v, kept in self.kept.items():
            (bounds,) = self.program.inputs_of(v)
            for end, own in zip(ends, (bounds.lower, bounds.upper), strict=True):
                end.append(kept.gather(own[:, None])[:, 0])
        nothing = self.program.box.lower.new_zeros(1, 0)
        lower, upper = torch.cat([nothing, *ends[0]], 1), torch.cat([nothing, *ends[1]], 1)
        return Parts(lower, upper, torch.zeros_like(lower, dtype=torch.int8))

    def begin(self, parts: Parts, weights: Tensor) -> Multiplied:
        """The lines of least area, and no multipliers for splits."""
        alpha = torch.where(parts.upper > -parts.lower, 1.0, self.slope.to(torch.float64)).to(torch.float32)
        return Multiplied(alpha, torch.zeros_like(alpha), weights.to(torch.float32))

    def name(self, neuron: int) -> tuple[int, int]:
        """The pre-activation and its flat entry that a kept neuron is."""
        v = next(v for v, own in self.place.items() if own.start <= neuron < own.stop)
        z, numbers = self.origin(v)
        return z, int(numbers[0, neuron - self.place[v].start])

    def numbers(self) -> dict[tuple[str, int], int]:
        """The kept neuron that a flat entry of a pre-activation, by its node's name, is."""
        return {(self.program.graph.nodes[z].name, entry): n for n in range(self.count) for z, entry in [self.name(n)]}

    def of_layer(self, node: int) -> Shared:
        """The same for other objectives: the pre-activations of a node's kept neurons."""
        found = copy(self)
        found.rows = self.layers[node]
        return found

    def lines(self, parts: Parts, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slopes below and above and the offset above, (B, N)."""
        lower, upper = parts.lower.to(torch.float32), parts.upper.to(torch.float32)
        on, off = lower >= 0, upper <= 0
        off = off & ~on
        a = self.slope
        chord = (upper - a * lower) / (upper - lower).clamp(min=1e-30)
        below = torch.where(on, 1.0, torch.where(off, a, alpha))
        above = torch.where(on, 1.0, torch.where(off, a, chord))
        offset = torch.where(on | off, 0.0, upper * (1 - chord))
        return below, above, offset

    def evaluate(self, parts: Parts, chosen: Multiplied, gradient: bool = True) -> Value:
        """The dual function, and with ``gradient`` the point at which it is attained."""
        below, above, offset = self.lines(parts, chosen.alpha)
        push = -parts.side.to(torch.float32) * chosen.beta
        weights = chosen.weights
        pending = {u: weights @ row for u, row in self.rows.on.items()}
        on_input = weights @ self.rows.on_input
        value = weights @ self.rows.constant
        row_all = torch.zeros_like(below)
        split = bool((parts.side != 0).any())
        for v in reversed(self.kept):
            own, layer = self.place[v], self.layers[v]
            row = pending.pop(v, None)
            if row is None and not (split and bool((parts.side[:, own] != 0).any())):
                continue
            if row is None:
                mu = push[:, own]
            else:
                row_all[:, own] = row
                positive = row.clamp(min=0)
                negative = row - positive
                value = value + (negative * offset[:, own]).sum(1)
                mu = positive * below[:, own] + negative * above[:, own] + push[:, own]
            value = value + mu @ layer.constant
            on_input = torch.addmm(on_input, mu, layer.on_input)
            for u, matrix in layer.on.items():
                pending[u] = torch.addmm(pending[u], mu, matrix) if u in pending else mu @ matrix
        x = self._minimiser(on_input)
        value = value + (on_input * x).sum(1)
        if not gradient:
            return Value(value, row_all, x)
        z = torch.zeros_like(row_all)
        behind = torch.zeros_like(row_all)
        for v in self.kept:
            own, layer = self.place[v], self.layers[v]
            here = torch.addmm(layer.constant, x, layer.on_input.T)
            for u, matrix in layer.on.items():
                here = torch.addmm(here, behind[:, self.place[u]], matrix.T)
            z[:, own] = here
            high = above[:, own] * here + offset[:, own]
            behind[:, own] = torch.where(row_all[:, own] > 0, below[:, own] * here, high)
        rows = torch.addmm(self.rows.constant, x, self.rows.on_input.T)
        for u, matrix in self.rows.on.items():
            rows = torch.addmm(rows, behind[:, self.place[u]], matrix.T)
        return Value(value, row_all, x, z, rows)

    def _minimiser(self, row: Tensor) -> Tensor:
        if self.reach is not None:
            middle, reach = self.reach
            return torch.addcmul(middle, row.sign(), reach, value=-1)
        return self.least(row[None])[0]

    def relaxed(self, parts: Parts) -> RelaxedProgram:
        """The subproblems as a relaxed program of the whole network, splits imposed."""
        program, count = self.program, len(parts.lower)
        box = program.box[torch.zeros(count, dtype=torch.int64, device=program.box.lower.device)]
        found = start(program.graph, box, program.rule)
        bounds = {z: self._wide(own, count) for z, own in program.bounds.items() if z in program.graph.pre_activations}
        sides = {z: torch.zeros_like(b.lower, dtype=torch.int8) for z, b in bounds.items()}
        for v in self.kept:
            z, numbers = self.origin(v)
            own, shape = self.place[v], bounds[z].shape
            index = numbers.expand(count, -1)
            low = bounds[z].lower.flatten(1).scatter_reduce(1, index, parts.lower[:, own], "amax")
            high = bounds[z].upper.flatten(1).scatter_reduce(1, index, parts.upper[:, own], "amin")
            side = sides[z].flatten(1).scatter(1, index, parts.side[:, own])
            bounds[z], sides[z] = Interval(low.reshape(shape), high.reshape(shape)), side.reshape(shape)
        for z in program.graph.pre_activations:
            split = sides[z]
            outside = None
            if bool((split != 0).any()):
                infinite = torch.full_like(bounds[z].lower, torch.inf)
                outside = Interval((-infinite).masked_fill(split > 0, 0.0), infinite.masked_fill(split < 0, 0.0))
            found = with_bounds(found, z, bounds[z], outside)
        return found

    def _wide(self, bounds: Interval, count: int) -> Interval:
        return Interval(*(t.expand(count, *t.shape[1:]).clone() for t in (bounds.lower, bounds.upper)))

    def origin(self, node: int) -> tuple[int, Tensor]:
        """The pre-activation that a nonlinear node reads, and the flat entries of it that are kept (1, n)."""
        graph, (z,) = self.program.graph, self.program.graph.nodes[node].inputs
        numbers = self.kept[node].numbers
        while z not in graph.pre_activations:
            operation, (source,) = graph.nodes[z].operation, graph.nodes[z].inputs
            every = torch.arange(graph.nodes[source].size, dtype=torch.float64, device=numbers.device)
            moved = operation.linear(every.reshape(1, *graph.nodes[source].shape)).flatten()  # type: ignore[union-attr]
            numbers, z = moved[numbers].to(torch.int64), source
        return z, numbers

    def multipliers(self, program: RelaxedProgram, parts: Parts, chosen: Multiplied) -> dict[int, Multipliers]:
        """The choices in the form that states a bound on :meth:`relaxed`."""
        below, above, _ = self.lines(parts, chosen.alpha)
        push = -parts.side.to(torch.float32) * chosen.beta
        found = {}
        for v, kept in self.kept.items():
            own, shape = self.place[v], program.graph.nodes[v].shape
            wide = Kept(kept.numbers.expand(len(below), -1), kept.real.expand(len(below), -1))
            low, high, mu = (wide.scatter(t[:, None, own], shape) for t in (below, above, push))
            found[v] = Multipliers(program.free(v), (low,), (high,), (mu,))
        return found


def refusal(program: RelaxedProgram) -> str:
    """Why the neurons of a program cannot be split this way; empty where they can."""
    for v in program.graph.nonlinear:
        node = program.graph.nodes[v]
        if v in program.lines and bool(program.free(v).any()) and split_slope(node.operation) is None:
            return f"{type(node.operation).__name__} nodes such as {node.name!r} are not split yet"
    return ""


def split_slope(operation: object) -> float | None:
    """The slope below 0 of a convex function with its only kink at 0 and slope 1 above; None for others."""
    if isinstance(operation, ReLU):
        return 0.0
    if isinstance(operation, LeakyReLU) and 0 <= operation.alpha < 1:
        return operation.alpha
    return None


