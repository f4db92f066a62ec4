"""The dual function of the reduced program: stable entries substituted out, what is left as dense matrices.

For every free entry of a nonlinear node its pre-activation is a row over the input and the free entries before it,
z_v = W_v0 x + sum over u before v of W_vu x_u + b_v, and so is every objective.  That is far fewer products than the network's own
operators take where most entries are stable, and it is the same function: its multipliers are those of the whole program.
Problems of a batch have matrices of their own, filled up with zeros to the greatest number of free entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.network.affine import Affine
from bourn.network.graph import Graph, Input
from bourn.problem.input_set import Box
from bourn.program.hulls import Choice, Hull
from bourn.program.lagrangian import Evaluation
from bourn.program.linear_bounds import Multipliers
from bourn.program.matrix import Matrix
from bourn.program.relaxed import RelaxedProgram
from bourn.program.restrict import take_problems
from bourn.relaxations.base import NO_HINTS
from bourn.relaxations.curves import PiecewiseLinear


@dataclass(frozen=True, eq=False)
class Kept:
    """The free entries of one nonlinear node: their flat numbers (B, n), which of these are real and not filled up (B, n)."""

    numbers: Tensor
    real: Tensor

    @property
    def count(self) -> int:
        """Entries a problem, those filled up included."""
        return self.numbers.shape[1]

    def gather(self, t: Tensor) -> Tensor:
        """The entries of t (B, M, *shape), (B, M, n); 0 where filled up."""
        flat = t.flatten(2)
        index = self.numbers[:, None].expand(-1, flat.shape[1], -1)
        return flat.expand(len(index), -1, -1).gather(2, index).masked_fill(~self.real[:, None], 0.0)

    def scatter(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The inverse: (B, M, n) to (B, M, *shape) in float64, 0 elsewhere."""
        own = t.masked_fill(~self.real[:, None], 0.0).to(torch.float64)
        index = self.numbers[:, None].expand(-1, own.shape[1], -1)
        full = own.new_zeros(*own.shape[:2], math.prod(shape))
        # Filled-up entries add nothing to the entry that they repeat.
        return full.scatter_add_(2, index, own).reshape(*own.shape[:2], *shape)

    def take(self, problems: Tensor) -> Kept:
        """Those of some problems."""
        return Kept(self.numbers[problems], self.real[problems])


@dataclass(frozen=True, eq=False)
class Rows:
    """M rows a problem over the input (B, M, n_0) and the kept entries, {node: (B, M, n)}, and their constants (B, M)."""

    on_input: Tensor
    on: Mapping[int, Tensor]
    constant: Tensor

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Rows:
        """Rows with every tensor passed through ``change``."""
        return Rows(change(self.on_input), {u: change(t) for u, t in self.on.items()}, change(self.constant))


@dataclass(frozen=True, eq=False)
class Layer:
    """The pre-activations of a node's kept entries as rows, which are matrices to go through."""

    rows: Rows
    on_input: Matrix
    on: Mapping[int, Matrix]

    @classmethod
    def of(cls, rows: Rows) -> Layer:
        """The layer that is these rows."""
        return cls(rows, Matrix.of(rows.on_input), {u: Matrix.of(t) for u, t in rows.on.items()})

    def take(self, problems: Tensor) -> Layer:
        """That of some problems."""
        on_input, on = self.on_input.take(problems), {u: matrix.take(problems) for u, matrix in self.on.items()}
        rows = Rows(on_input.dense, {u: matrix.dense for u, matrix in on.items()}, self.rows.constant[problems])
        return Layer(rows, on_input, on)


class ReducedLagrangian:
    """The dual function of ``program`` for fixed rows, as :class:`bourn.program.lagrangian.Lagrangian`, on dense matrices.

    For programs without imposed bounds whose free entries are piecewise linear functions of one variable.  Computed in
    ``dtype``; no bound rests on its values, so that float32 will do where a gap of about 1e-6 does.
    """

    def __init__(
        self, program: RelaxedProgram, rows: Mapping[int, Tensor], constant: Tensor, dtype: torch.dtype = torch.float32
    ) -> None:
        self.program, self.dtype = program, dtype
        self.batch, self.count = program.batch, constant.shape[1]
        self.kept = kept_entries(program, rows)
        self.hulls = {v: self._hull(v) for v in self.kept}
        self.layers = {v: self._layer(v) for v in self.kept}
        self.rows = self.reduce(dict(rows), constant.expand(self.batch, -1))
        self.reach: tuple[Tensor, Tensor] | None = None
        if isinstance(program.box, Box):
            lower, upper = (t.flatten(1)[:, None] for t in program.box.finite())
            self.reach = ((lower + upper) / 2).to(dtype), ((upper - lower) / 2).to(dtype)

    @property
    def constant(self) -> Tensor:
        """The rows' constants (B, M)."""
        return self.rows.constant

    def take(self, problems: Tensor, rows: Tensor) -> ReducedLagrangian:
        """The same for some problems (B',), and of each the rows (B', M')."""

        def of(t: Tensor) -> Tensor:
            return t[problems] if len(t) == self.batch else t

        taken = copy(self)
        taken.program, taken.batch, taken.count = take_problems(self.program, problems), *rows.shape
        taken.kept = {v: kept.take(problems) for v, kept in self.kept.items()}
        taken.hulls = {v: hull.mapped(of) for v, hull in self.hulls.items()}
        taken.layers = {v: layer.take(problems) for v, layer in self.layers.items()}
        taken.rows = self.rows.mapped(of).mapped(
            lambda t: t.gather(1, rows.reshape(*rows.shape, *(1,) * (t.dim() - 2)).expand(-1, -1, *t.shape[2:]))
        )
        taken.reach = None if self.reach is None else (of(self.reach[0]), of(self.reach[1]))
        return taken

    def _hull(self, node: int) -> Hull:
        kept = self.kept[node]
        return Hull.of(self.program, node, self.program.free(node)).mapped(lambda t: kept.gather(t).to(self.dtype))

    def _layer(self, node: int) -> Layer:
        graph, kept = self.program.graph, self.kept[node]
        (z,) = graph.nodes[node].inputs
        shape, pieces = graph.nodes[z].shape, []
        widest = max(graph.nodes[v].size for v in graph.ancestors(z))
        at_once = max(1, _ROW_BYTES // (8 * widest * self.batch))
        for numbers, real in zip(torch.split(kept.numbers, at_once, 1), torch.split(kept.real, at_once, 1), strict=True):
            rows = torch.zeros(*numbers.shape, graph.nodes[z].size, dtype=torch.float64, device=numbers.device)
            rows.scatter_(2, numbers[..., None], real[..., None].to(torch.float64))
            zero = rows.new_zeros(numbers.shape)
            pieces.append(self.reduce({z: rows.reshape(*numbers.shape, *shape)}, zero))
        on = {u: torch.cat([p.on[u] for p in pieces], 1) for u in pieces[0].on}
        return Layer.of(Rows(torch.cat([p.on_input for p in pieces], 1), on, torch.cat([p.constant for p in pieces], 1)))

    def reduce(self, pending: dict[int, Tensor], constant: Tensor) -> Rows:
        """Carry rows (B or 1, M, *shape) back to the input and the kept entries, stable entries by their own slopes."""
        program, nodes, batch, count = self.program, self.program.graph.nodes, self.batch, constant.shape[1]
        pending = {v: row.expand(batch, count, *row.shape[2:]) for v, row in pending.items()}
        on: dict[int, Tensor] = {}
        on_input = constant.new_zeros(batch, count, nodes[0].size)
        for number in range(max(pending), -1, -1):
            row = pending.pop(number, None)
            if row is None:
                continue
            node, operation = nodes[number], nodes[number].operation
            if isinstance(operation, Input):
                on_input = row.flatten(2)
                continue
            if isinstance(operation, Affine):
                if operation.bias is not None:
                    constant = constant + row.flatten(2) @ operation.bias.expand(1, *operation.out_shape).flatten()
                parts = operation.transpose(row.reshape(batch * count, *row.shape[2:]))
                parts = tuple(part.reshape(batch, count, *part.shape[1:]) for part in parts)
            else:
                lines = program.lines[number]
                if number in self.kept:
                    on[number] = self.kept[number].gather(row).to(self.dtype)
                    row = row.masked_fill(program.free(number)[:, None], 0.0)
                constant = constant + (row.flatten(2) @ lines.lower_offset.flatten(1)[..., None])[..., 0]
                parts = tuple(row * slope[:, None] for slope in lines.lower_slopes)
            for source, part in zip(node.inputs, parts, strict=True):
                pending[source] = pending[source] + part if source in pending else part
        return Rows(on_input.to(self.dtype), on, constant.to(self.dtype))

    def start(self) -> dict[int, Choice]:
        """The lines to start from."""
        return {v: self.hulls[v].start((self.batch, self.count, self.kept[v].count)) for v in self.kept}

    def evaluate(self, choices: Mapping[int, Choice]) -> Evaluation:
        """The dual function at these slopes."""
        found = Evaluation(self.rows.constant)
        pending, on_input = dict(self.rows.on), self.rows.on_input
        for v in reversed(self.kept):
            row = pending.pop(v, None)
            if row is None:
                continue
            found.rows[v] = row
            (mu,), value, _ = self.hulls[v].through(row, choices[v])
            layer = self.layers[v]
            found.value = found.value + value + (mu * layer.rows.constant[:, None]).sum(2)
            on_input = layer.on_input.back(mu, on_input)
            for u, matrix in layer.on.items():
                pending[u] = matrix.back(mu, pending.get(u))
        found.minimiser = self._least(on_input)
        found.value = found.value + (on_input * found.minimiser).sum(2)
        return found

    def _least(self, row: Tensor) -> Tensor:
        """Where a row on the input is least over the input set."""
        if self.reach is not None:
            middle, reach = self.reach
            return torch.addcmul(middle, row.sign(), reach, value=-1)  # seven times as fast as torch.where
        box = self.program.box
        return box.minimiser(row.to(torch.float64).reshape(*row.shape[:2], *box.shape)).flatten(2).to(self.dtype)

    def gradient(self, found: Evaluation, choices: Mapping[int, Choice]) -> dict[int, list[Tensor | None]]:
        """A supergradient for every tensor of every choice: by the relaxed point at which the value is attained."""
        return self.forward(found, choices)[1]

    def forward(
        self, found: Evaluation, choices: Mapping[int, Choice]
    ) -> tuple[dict[int, Tensor], dict[int, list[Tensor | None]]]:
        """The relaxed point's values of kept entries {node: (B, M, n)}, and the gradients."""
        x = found.minimiser
        assert x is not None
        values: dict[int, Tensor] = {}
        gradients: dict[int, list[Tensor | None]] = {}
        for v in self.kept:
            layer = self.layers[v]
            z = layer.on_input.forth(x, layer.rows.constant[:, None])
            for u, matrix in layer.on.items():
                z = matrix.forth(values[u], z)
            row = found.rows.get(v)
            row = torch.zeros_like(z) if row is None else row
            values[v], gradients[v] = self.hulls[v].forward((z,), row, choices[v])
        return values, gradients

    def multipliers(self, choices: Mapping[int, Choice]) -> dict[int, Multipliers]:
        """The choices in the form that states a bound: multipliers of the whole program."""
        found = {}
        for v, choice in choices.items():
            shape, hull, kept = self.program.graph.nodes[v].shape, self.hulls[v], self.kept[v]
            below, above = (
                tuple(kept.scatter(s.expand(self.batch, -1, -1), shape) for s in side.line(own)[0])
                for side, own in ((hull.below, choice.below), (hull.above, choice.above))
            )
            found[v] = Multipliers(self.program.free(v), below, above, (), NO_HINTS)
        return found


_ROW_BYTES = 1 << 23
"""Memory of one set of rows while matrices are made."""


def kept_entries(program: RelaxedProgram, rows: Mapping[int, Tensor]) -> dict[int, Kept]:
    """The free entries of every nonlinear node that the rows depend on, nodes without any left out."""
    needed = {v for node in rows for v in program.graph.ancestors(node)}
    found = {}
    for v in program.graph.nonlinear:
        if v not in needed or v not in program.lines:
            continue
        free = program.free(v).flatten(1).expand(program.batch, -1)
        counts = free.sum(1)
        most = int(counts.max())
        if most:
            numbers = torch.argsort(free.to(torch.int8), dim=1, descending=True, stable=True)[:, :most]
            found[v] = Kept(numbers, torch.arange(most, device=free.device) < counts[:, None])
    return found


def pays(program: RelaxedProgram, rows: Mapping[int, Tensor]) -> bool:
    """Whether the reduced program takes fewer products than the network's own operators, and can be made at all."""
    needed = sorted({v for node in rows for v in program.graph.ancestors(node)})
    dense = reduced_products(program, needed)
    return dense is not None and dense <= _products(program.graph, needed)


def reduced_products(program: RelaxedProgram, nodes: Sequence[int]) -> int | None:
    """Products that a row takes through these nodes of the reduced program; None where that cannot be made."""
    graph, counts = program.graph, []
    for v in nodes:
        node = graph.nodes[v]
        if v not in program.lines:
            continue
        most = int(program.free(v).flatten(1).sum(1).max())
        if most and not (isinstance(node.operation, PiecewiseLinear) and len(node.inputs) == 1):
            return None
        if any(z in program.imposed for z in node.inputs):
            return None
        counts.append(most)
    before, dense = graph.nodes[0].size, 0
    for count in counts:
        dense, before = dense + count * before, before + count
    return dense


def _products(graph: Graph, nodes: list[int]) -> int:
    """Products that one row takes through the affine operators of these nodes."""
    found = 0
    for v in nodes:
        operation = graph.nodes[v].operation
        if isinstance(operation, Affine):
            found += operation.transpose_terms * sum(math.prod(s) for s in operation.in_shapes)
    return found
