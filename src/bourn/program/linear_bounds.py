"""Rows on the nodes of a relaxed program, carried backward to the input: back-substitution.

A row Lambda on node v stands for Lambda . x_v.  Through an affine node it becomes A^T Lambda; through a
nonlinear one its positive part takes the lower line and its negative part the upper line; at the input
it is minimised over the input set.  Every choice of rows is a valid dual point, so the rows computed in
floating point need no correction themselves: only the identity Lambda . (A x + b) = (A^T Lambda) . x +
Lambda . b, which holds up to gamma |Lambda| . (|A| |x| + |b|), does.  That error is added up and taken off.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.network.affine import Affine
from bourn.network.graph import Input, Operation
from bourn.network.pick import Pick
from bourn.problem.input_set import Box, InputSet, dot
from bourn.program.relaxed import RelaxedProgram
from bourn.relaxations.base import NO_HINTS, Hints, Lines, Nonlinearity, Tensors
from bourn.rounding import TINY, UNIT, down, gamma, up


@dataclass(eq=False)
class _Sums:
    """What the rows have collected so far, (B or 1, M) each: constants of both sides and the error of both."""

    lower: Tensor
    upper: Tensor
    error: Tensor

    def add(self, lower: Tensor, upper: Tensor, error: Tensor) -> None:
        self.lower = self.lower + lower
        self.upper = self.upper + upper
        # The two additions above round once each.
        self.error = self.error + error + 2 * UNIT * torch.maximum(self.lower.abs(), self.upper.abs())


@dataclass(frozen=True, eq=False)
class RowBounds:
    """Bounds (B, M) of rows, and the rows themselves as they arrived at the nodes that were to be kept.

    Of a kept nonlinear node also the rows ``passed`` on, one an input, and its ``terms`` (B, M) of the lower bound.
    """

    lower: Tensor
    upper: Tensor
    kept: Mapping[int, Tensor]
    passed: Mapping[int, Tensors]
    terms: Mapping[int, Tensor]

    def or_better(self, other: RowBounds) -> RowBounds:
        """Of each row that of both whose lower bound is higher, with all that belongs to it."""
        better = other.lower > self.lower

        def choose(own: Tensor, its: Tensor) -> Tensor:
            return torch.where(better.reshape(*better.shape, *(1,) * (own.dim() - 2)), its, own)

        return RowBounds(
            choose(self.lower, other.lower),
            choose(self.upper, other.upper),
            {v: choose(t, other.kept[v]) for v, t in self.kept.items()},
            {v: tuple(map(choose, own, other.passed[v])) for v, own in self.passed.items()},
            {v: choose(t, other.terms[v]) for v, t in self.terms.items()},
        )


@dataclass(frozen=True, eq=False)
class Multipliers:
    """What a nonlinear node's free entries hand on instead of their lines: one (B, M, *shape) an input.

    Either ``mu`` itself, or slopes ``below`` and ``above`` that the row's positive and negative part take, and to which
    ``mu`` (where given too) is added.  Any numbers give a valid bound.  ``hints`` say where the lines of these slopes touch
    (:meth:`bourn.relaxations.base.Nonlinearity.support`).  ``single``: they are rounded to float32.
    """

    free: Tensor
    below: Tensors = ()
    above: Tensors = ()
    mu: Tensors = ()
    hints: Hints = NO_HINTS
    single: bool = False

    def on(self, row: Tensor) -> Tensors:
        """The multipliers for a row on the node, one an input."""
        mu = self.mu
        if self.below:
            positive = row.clamp(min=0)
            negative = row - positive
            mu = tuple(positive * low + negative * high for low, high in zip(self.below, self.above, strict=True))
            mu = tuple(a + b for a, b in zip(mu, self.mu, strict=True)) if self.mu else mu
        return tuple(m.to(torch.float32).to(m.dtype) for m in mu) if self.single else mu


def back_substitute(
    program: RelaxedProgram,
    rows: Mapping[int, Tensor],
    constant: Tensor,
    keep: Container[int] = (),
    multipliers: Mapping[int, Multipliers] | None = None,
    ends: Container[int] = (),
) -> RowBounds:
    """Lower and upper bounds (B, M) of sum over nodes v of rows[v] . x_v, plus ``constant`` (B or 1, M).

    Where ``multipliers`` has a nonlinear node, its free entries take these: the bound is the Lagrangian's there.  A node of
    which the rows know nothing may have them too, for its bounds can still narrow what is before it.  At the nonlinear nodes
    ``ends`` rows end, on the range of their values, as if these were inputs.

    ``rows[v]`` is (B or 1, M, *shape of v).  Both bounds hold in exact arithmetic for the network as
    stored; -inf or +inf where no bound was found.  The upper bound is of the lower bound's quality only
    if all lines are parallel; otherwise it is +inf, and the caller negates its rows for it.
    """
    pending = dict(rows)
    chosen = {} if multipliers is None else multipliers
    for v, own in chosen.items():
        if v not in pending and own.mu:
            pending[v] = torch.zeros_like(own.mu[0])
    parallel = not chosen and all(program.lines[v].parallel for v in _nonlinear_ancestors(program, pending))
    sums = _Sums(constant, constant, torch.zeros_like(constant))
    kept, passed, terms = {}, {}, {}
    placed: dict[int, Tensor] = {}
    for number in range(max(pending), -1, -1):
        row = pending.pop(number, None)
        if row is None:
            continue
        if number in keep:
            kept[number] = row
        node = program.graph.nodes[number]
        if isinstance(node.operation, Input) or number in ends:
            low, high, error = _values(program, number).extremes(row)
            sums.add(low, high, error + 4 * UNIT * torch.maximum(low.abs(), high.abs()))
        elif isinstance(node.operation, Pick) and node.operation.bias is None:
            _place(program, pending, placed, number, row, sums)
        elif isinstance(node.operation, Affine):
            parts = _through_affine(node.operation, row, program.magnitudes[number], sums)
            for argument, part in zip(node.inputs, parts, strict=True):
                _accumulate(program, pending, argument, part, sums)
        else:
            before = sums.lower
            if number in chosen:
                parts = _through_multipliers(program, number, chosen[number], row, sums)
            else:
                parts = _through_lines(program.lines[number], row, sums)
            if number in keep:
                passed[number], terms[number] = parts, sums.lower - before
            for z, part in zip(node.inputs, parts, strict=True):
                if not _covers_rounding(program.graph.nodes[z].operation):
                    sums.error = sums.error + 4 * UNIT * _dot(part.abs(), program.magnitudes[z])
                _accumulate(program, pending, z, part, sums)
    error = sums.error * (1 + 2.0**-20)
    lower = down(sums.lower - error)
    upper = up(sums.upper + error) if parallel else torch.full_like(lower, torch.inf)
    batch = program.batch
    return RowBounds(lower.expand(batch, -1), upper.expand(batch, -1), kept, passed, terms)


def _values(program: RelaxedProgram, number: int) -> InputSet:
    """The input set, or the box of what a nonlinear node's values may be."""
    operation = program.graph.nodes[number].operation
    return Box(operation.range(*program.inputs_of(number))) if isinstance(operation, Nonlinearity) else program.box


def _nonlinear_ancestors(program: RelaxedProgram, nodes: Iterable[int]) -> list[int]:
    ancestors = {v for node in nodes for v in program.graph.ancestors(node)}
    return [v for v in program.graph.nonlinear if v in ancestors]


def _covers_rounding(operation: Operation) -> bool:
    """Whether the node's own error term has room for the rounding of a row that came through a nonlinear node."""
    return isinstance(operation, Input) or (isinstance(operation, Affine) and operation.transpose_terms > 0)


def _accumulate(program: RelaxedProgram, pending: dict[int, Tensor], node: int, row: Tensor, sums: _Sums) -> None:
    """Add a row to what other readers of the node have left there."""
    if node in pending:
        row = pending[node] + row
        sums.error = sums.error + UNIT * _dot(row.abs(), program.magnitudes[node])
    pending[node] = row


def _place(
    program: RelaxedProgram, pending: dict[int, Tensor], placed: dict[int, Tensor], number: int, row: Tensor, sums: _Sums
) -> None:
    """Add a row on a pick to what is pending on the node it picks from, in place; ``placed`` are the tensors made for that."""
    node = program.graph.nodes[number]
    operation, (source,) = node.operation, node.inputs
    assert isinstance(operation, Pick)
    fresh = source not in pending
    if fresh:
        placed[source] = pending[source] = row.new_zeros(*row.shape[:2], *operation.in_shapes[0])
    elif placed.get(source) is not pending[source] or len(row) > len(pending[source]):
        batch = max(len(row), len(pending[source]))
        placed[source] = pending[source] = pending[source].expand(batch, *pending[source].shape[1:]).clone()
    total = pending[source]
    picked = operation.view(total.flatten(0, 1)).add_(row.expand(len(total), *row.shape[1:]).flatten(0, 1))
    if not fresh:
        sums.error = sums.error + UNIT * _dot(picked.reshape(*total.shape[:2], *picked.shape[1:]).abs(), program.magnitudes[number])


def _through_affine(operation: Affine, row: Tensor, magnitude: Tensor, sums: _Sums) -> Tensors:
    """A^T row for every input; the bias and the rounding error go to ``sums``."""
    batch, count = row.shape[:2]
    terms = operation.transpose_terms
    relative = operation.weight_error + (gamma(terms + 4) if terms else 0.0)
    if operation.bias is not None:
        relative += gamma(row[0, 0].numel() + 2)
    if relative:
        # The +4 above covers the rounding of the row itself where it came through a nonlinear node.
        error = relative * _dot(row.abs(), magnitude) + TINY * (1 + terms) * (1 + magnitude.flatten(1).sum(1)[:, None])
        if operation.bias_error is not None:
            error = error + _dot(row.abs(), operation.bias_error.expand(1, *operation.out_shape))
        bias = torch.zeros_like(error) if operation.bias is None else _dot(row, operation.bias.expand(1, *operation.out_shape))
        sums.add(bias, bias, error)
    parts = operation.transpose(row.reshape(batch * count, *row.shape[2:]))
    return tuple(part.reshape(batch, count, *part.shape[1:]) for part in parts)


def _through_lines(lines: Lines, row: Tensor, sums: _Sums) -> Tensors:
    """The row on every pre-activation; the lines' offsets go to ``sums``."""
    terms = row[0, 0].numel()
    positive = row.clamp(min=0)
    negative = row - positive
    if lines.parallel:
        offsets = torch.stack([lines.lower_offset, lines.upper_offset], dim=1)
        below, above = _dot_many(positive, offsets), _dot_many(negative, offsets)
        lower, upper = below[..., 0] + above[..., 1], below[..., 1] + above[..., 0]
        parts = tuple(row * slope[:, None] for slope in lines.lower_slopes)
    else:
        lower = _dot(negative, lines.upper_offset)
        if lines.lower_offset.any():
            lower = lower + _dot(positive, lines.lower_offset)
        upper = torch.zeros_like(lower)
        parts = tuple(
            torch.addcmul(positive * below[:, None], negative, above[:, None])
            for below, above in zip(lines.lower_slopes, lines.upper_slopes, strict=True)
        )
    if bool((lines.lower_offset > 0).any()) or bool((lines.upper_offset < 0).any()):
        size = _dot(row.abs(), lines.lower_offset.abs() + lines.upper_offset.abs())
    else:  # all products of one side have one sign, so their sum's size is the sum of their sizes
        size = torch.maximum(lower.abs(), upper.abs())
    sums.add(lower, upper, gamma(terms + 8) * size + TINY * (1 + terms))
    return parts


def _through_multipliers(
    program: RelaxedProgram, node: int, chosen: Multipliers, row: Tensor, sums: _Sums
) -> Tensors:
    """The row on every pre-activation where free entries choose it; their terms of the Lagrangian go to ``sums``."""
    operation, bounds = program.graph.nodes[node].operation, program.inputs_of(node)
    assert isinstance(operation, Nonlinearity)
    free = chosen.free[:, None]
    mu = tuple(m.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).masked_fill(~free, 0.0) for m in chosen.on(row))
    terms = row[0, 0].numel()
    value, error = operation.support(bounds, row, mu, chosen.hints)
    value, error = (t.masked_fill(~free, 0.0).flatten(2) for t in (value, error))
    total = value.sum(2)
    rounding = gamma(terms + 8) * (value.abs() + error).sum(2) + error.sum(2)
    sums.add(total, total, rounding + TINY * (1 + terms))
    rest = _through_lines(program.lines[node], row.masked_fill(free, 0.0), sums)
    return tuple(a + b for a, b in zip(mu, rest, strict=True))


def _dot(rows: Tensor, x: Tensor) -> Tensor:
    """rows (B or 1, M, *shape) . x (B or 1, *shape) -> (B or 1, M)."""
    return dot(rows.flatten(2), x.flatten(1)[..., None])[..., 0]


def _dot_many(rows: Tensor, xs: Tensor) -> Tensor:
    """rows (B or 1, M, *shape) . xs (B or 1, K, *shape) -> (B or 1, M, K)."""
    return dot(rows.flatten(2), xs.flatten(2).mT)
