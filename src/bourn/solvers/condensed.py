"""Back-substitution on many boxes at once, through what is unstable only: for networks of few inputs, split very often.

Forward, every value is kept as an affine function of the input and of *symbols*, one for every nonlinear entry that its bounds
leave open; stable entries are substituted on the way.  Backward, a row on the symbols goes through their lines to the symbols
before them, and to the input.  The bounds are those of :func:`bourn.program.linear_bounds.back_substitute` on the same lines, up to
rounding; where a tenth of the entries is open they take a tenth of the time.

Rounding.  ``size`` is carried along with every value: at least the sum of the absolute values of its function's terms, since
|A W| |x| <= |A| (|W| |x|).  Each operation's error is a multiple of the unit roundoff times that; ``error`` is their sum.  A row's
own size grows by |mu| size(z) with every node that it goes through, which bounds all its terms on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.network.affine import Affine
from bourn.network.graph import Graph
from bourn.problem.input_set import Box
from bourn.relaxations.base import ElementWise, LineRule, Lines, Nonlinearity
from bourn.rounding import TINY, UNIT, down, gamma
from bourn.solvers.tightening import unstable


def applies(graph: Graph) -> bool:
    """Whether all nonlinear nodes are functions of one variable, entry by entry."""
    return all(isinstance(graph.nodes[v].operation, ElementWise) for v in graph.nonlinear)


@dataclass(frozen=True, eq=False)
class Forms:
    """A node's values as functions, up to ``error``: columns (B, C, *shape), of 1, the input's entries and the symbols so far.

    ``size`` (B, *shape): at least the sum of a function's absolute terms.
    """

    columns: Tensor
    size: Tensor
    error: Tensor

    def entries(self, numbers: Tensor) -> _Rows:
        """Entries (B, M) of the node as rows."""
        index = numbers[:, None].expand(-1, self.columns.shape[1], -1)
        rows = self.columns.flatten(2).gather(2, index).mT
        return _Rows(rows, self.size.flatten(1).gather(1, numbers), self.error.flatten(1).gather(1, numbers))


@dataclass(frozen=True, eq=False)
class _Rows:
    """M rows a box on 1, the input and symbols (B, M, C), with size and error (B, M)."""

    on: Tensor
    size: Tensor
    error: Tensor

    def both_signs(self) -> _Rows:
        """The rows, and after them the same negated."""
        return _Rows(torch.cat([self.on, -self.on], 1), self.size.repeat(1, 2), self.error.repeat(1, 2))


@dataclass(frozen=True, eq=False)
class Symbols:
    """The symbols of one nonlinear node: columns from ``first`` on, their flat entries (B, u), which are not filled up (``real``).

    Lines (B, u) around them, and the pre-activations ``z`` that these are on.
    """

    first: int
    numbers: Tensor
    real: Tensor
    below: Tensor
    above: Tensor
    offsets: tuple[Tensor, Tensor]
    z: _Rows

    @property
    def last(self) -> int:
        return self.first + self.numbers.shape[1]


@dataclass(frozen=True, eq=False)
class Carried:
    """Lower bounds (B, M) of rows, their rows on the input (B, M, n), and on every node's symbols, {node: (B, M, u)}."""

    bounds: Tensor
    on_input: Tensor
    on: Mapping[int, Tensor]


class Condensed:
    """The bounds of all pre-activations of B boxes, (B, *shape) a node, begun from ``known`` ones, and those of rows asked for.

    Of a pre-activation the entries that ``known`` leaves open are bounded.  ``moves`` (B, n, size) by pre-activation: by which
    share each side of the box moves these entries.
    """

    def __init__(self, graph: Graph, box: Box, known: Mapping[int, Interval], rule: LineRule = LineRule.AREA) -> None:
        self.graph, self.box, self.rule = graph, box, rule
        self.lower, self.upper = box.lower.flatten(1), box.upper.flatten(1)
        self.bounds: dict[int, Interval] = {}
        self.symbols: dict[int, Symbols] = {}
        self.moves: dict[int, Tensor] = {}
        self.count = 1 + self.lower.shape[1]
        self.total = 1 + box.interval.magnitude.flatten(1).sum(1, keepdim=True)
        self.forms: dict[int, Forms] = {}
        for number, node in enumerate(graph.nodes):
            operation, arguments = node.operation, [self.forms[i] for i in node.inputs]
            if isinstance(operation, Affine):
                self.forms[number] = self._affine(operation, arguments)
            elif isinstance(operation, Nonlinearity):
                self.forms[number] = self._nonlinear(number, operation)
            else:
                self.forms[number] = self._input()
            if number in graph.pre_activations:
                self._bound(number, known[number])

    def rows(self, objectives: Mapping[int, Tensor], constant: Tensor, weights: Tensor | None = None) -> _Rows:
        """Rows (1, M, *shape) by node and constants (1, M) as rows; their sums by ``weights`` (B, K, M) where given."""
        batch, count = len(self.lower), constant.shape[1]
        on = self.lower.new_zeros(batch, count, self.count)
        on[:, :, 0] = constant
        size, error = constant.abs().expand(batch, -1), self.lower.new_zeros(batch, count)
        for node, row in objectives.items():
            form, flat = self.forms[node], row[0].flatten(1)
            part = (form.columns.flatten(2) @ flat.T).mT
            on[:, :, : part.shape[2]] += part
            size = size + form.size.flatten(1) @ flat.abs().T
            error = error + form.error.flatten(1) @ flat.abs().T
            error = error + gamma(flat.shape[1] + 8) * size
        if weights is not None:
            on, size, error = weights @ on, (weights @ size[..., None])[..., 0], (weights @ error[..., None])[..., 0]
            error = error + gamma(count + 8) * size
        return _Rows(on, size, error)

    def carry(self, rows: _Rows, below: Mapping[int, Tensor] | None = None) -> Carried:
        """Lower bounds of rows, rounded down.

        ``below``: other slopes (B, u) of the lines through 0 below some nodes' symbols, of functions that admit them.
        """
        on, size, error, kept, terms = rows.on, rows.size, rows.error, {}, self.lower.shape[1] + 16
        for v in reversed(self.symbols):
            own = self.symbols[v]
            if own.first >= on.shape[2]:
                continue
            kept[v] = row = on[:, :, own.first : own.last]
            terms += own.last - own.first + 8
            positive = row.clamp(min=0)
            negative = row - positive
            slope = own.below if below is None else below.get(v, own.below)
            mu = torch.addcmul(positive * slope[:, None], negative, own.above[:, None])
            on = torch.baddbmm(on[:, :, : own.first], mu, own.z.on)
            low, high = own.offsets
            shift = negative @ high[..., None]
            if bool(low.any()):
                shift = shift + positive @ low[..., None]
            on[:, :, :1] += shift
            beside = mu.abs() @ torch.stack([own.z.size, own.z.error], 2)
            height = row.abs() @ torch.maximum(low.abs(), high.abs())[..., None]
            size = size + beside[..., 0] + height[..., 0]
            error = error + beside[..., 1]
        on_input = on[:, :, 1:]
        least = torch.where(on_input > 0, self.lower[:, None], self.upper[:, None])
        bounds = on[:, :, 0] + (on_input * least).sum(2)
        error = error + 2 * gamma(terms) * size + TINY * terms * (1 + size) * self.total
        return Carried(down(bounds - error * (1 + 2.0**-20)), on_input, kept)

    def losses(self, carried: Carried, weights: Tensor) -> Tensor:
        """What sums of carried rows by ``weights`` (B, M) lose at all symbols, divided among the sides (B, n)."""
        lost = torch.zeros_like(self.lower)
        for v, row in carried.on.items():
            own, (z,) = self.symbols[v], self.graph.nodes[v].inputs
            if z in self.moves:
                total = (weights[:, None] @ row)[:, 0]
                height = (total.clamp(max=0).abs() + 0.5 * total.clamp(min=0)) * own.offsets[1].abs()
                move = self.moves[z].gather(2, own.numbers[:, None].expand(-1, lost.shape[1], -1))
                lost += (move @ height[..., None])[..., 0]
        return lost

    def _input(self) -> Forms:
        batch, size = self.lower.shape
        columns = torch.eye(size + 1, dtype=torch.float64, device=self.lower.device)[:, 1:]
        shape = self.graph.input_shape
        magnitude = self.box.interval.magnitude
        return Forms(columns.reshape(1, -1, *shape).expand(batch, -1, *shape), magnitude, torch.zeros_like(magnitude))

    def _affine(self, operation: Affine, arguments: list[Forms]) -> Forms:
        batch, terms = len(self.lower), operation.forward_terms
        if not arguments:
            value = operation.constant(batch)
            error = torch.zeros_like(value) if operation.bias_error is None else operation.bias_error.expand_as(value)
            return Forms(value[:, None].expand(batch, 1, *value.shape[1:]), value.abs() + error, error)
        count = max(form.columns.shape[1] for form in arguments)
        columns = operation.linear(*(_padded(form.columns, count).flatten(0, 1) for form in arguments))
        columns = columns.reshape(batch, count, *operation.out_shape)
        size = operation.absolute(*(form.size for form in arguments))
        error = operation.absolute(*(form.error for form in arguments))
        if operation.bias is not None:
            columns = torch.cat([columns[:, :1] + operation.bias, columns[:, 1:]], 1)  # may be the argument's own: not in place
            size = size + operation.bias.abs()
        if operation.bias_error is not None:
            size, error = size + operation.bias_error, error + operation.bias_error
        size = size * (1 + 2 * gamma(terms + 8) + operation.weight_error)
        total = self.total.reshape(-1, *(1,) * (size.dim() - 1))
        error = error * (1 + 2 * gamma(terms + 8) + operation.weight_error)
        error = error + (gamma(terms + 8) + operation.weight_error) * size + TINY * (1 + terms) * total
        return Forms(columns, size, error)

    def _nonlinear(self, number: int, operation: Nonlinearity) -> Forms:
        (source,) = self.graph.nodes[number].inputs
        form, z = self.forms[source], self.bounds[source]
        lines = operation.lines(self.rule, z)
        kept = ~operation.stable(z) | (lines.lower_offset != lines.upper_offset)
        slope, offset = (t.masked_fill(kept, 0.0) for t in (lines.lower_slopes[0], lines.lower_offset))
        own = self._symbols(form, lines, kept)
        count, last = form.columns.shape[1], self.count if own is None else own.last
        columns = slope.new_zeros(len(slope), max(count, last), *slope.shape[1:])
        torch.mul(form.columns, slope[:, None], out=columns[:, :count])
        columns[:, 0] += offset
        size, error = slope.abs() * form.size + offset.abs(), slope.abs() * form.error
        error = error * (1 + 4 * UNIT) + 8 * UNIT * size + TINY
        if own is not None:
            self.symbols[number] = own
            self.count = own.last
            magnitude = operation.range(z).magnitude.masked_fill(~kept, 0.0)
            self.total = self.total + (magnitude + form.size).flatten(1).sum(1, keepdim=True)
            size, error = size + magnitude, error.masked_fill(kept, 0.0)
            fresh = columns.flatten(2)[:, own.first : own.last]
            fresh.scatter_(2, own.numbers[..., None], own.real[..., None].to(torch.float64))
        return Forms(columns, size * (1 + 8 * UNIT), error)

    def _symbols(self, form: Forms, lines: Lines, kept: Tensor) -> Symbols | None:
        numbers, real = _marked(kept)
        if not numbers.shape[1]:
            return None

        def of(t: Tensor) -> Tensor:
            return t.flatten(1).gather(1, numbers).masked_fill(~real, 0.0)

        own = of(lines.lower_slopes[0]), of(lines.upper_slopes[0]), (of(lines.lower_offset), of(lines.upper_offset))
        # Beside another branch of the network there are symbols that this one does not read.
        z = replace(form, columns=_padded(form.columns, self.count)).entries(numbers)
        return Symbols(self.count, numbers, real, *own, z)

    def _bound(self, number: int, known: Interval) -> None:
        """Bound the open entries of a pre-activation, and what is moved from it."""
        graph = self.graph
        numbers, _ = _marked(unstable(graph, number, known))
        if numbers.shape[1]:
            carried = self.carry(self.forms[number].entries(numbers).both_signs())
            low, high = torch.split(carried.bounds, numbers.shape[1], 1)
            lower = known.lower.flatten(1).scatter_reduce(1, numbers, low, "amax").reshape(known.shape)
            upper = known.upper.flatten(1).scatter_reduce(1, numbers, -high, "amin").reshape(known.shape)
            known = Interval(lower, upper)
            below, above = torch.split(carried.on_input.abs(), numbers.shape[1], 1)
            moved = (below + above).mT * (self.upper - self.lower)[..., None]
            moved = moved / moved.sum(1, keepdim=True).clamp(min=1e-30)
            full = moved.new_zeros(*moved.shape[:2], graph.nodes[number].size)
            self.moves[number] = full.scatter_(2, numbers[:, None].expand_as(moved), moved)
        self.bounds[number] = known
        for v in graph.moved[number]:
            operation, (source,) = graph.nodes[v].operation, graph.nodes[v].inputs
            assert isinstance(operation, Affine)
            self.bounds[v] = Interval(operation.linear(self.bounds[source].lower), operation.linear(self.bounds[source].upper))


def _padded(columns: Tensor, count: int) -> Tensor:
    """Columns with zeros for the symbols that came later."""
    missing = count - columns.shape[1]
    if not missing:
        return columns
    return torch.cat([columns, columns.new_zeros(len(columns), missing, *columns.shape[2:])], 1)


def _marked(marks: Tensor) -> tuple[Tensor, Tensor]:
    """The flat entries that are marked (B, u), filled up with others to the most of any problem, and which are real."""
    flat = marks.flatten(1)
    most = int(flat.sum(1).max()) if len(flat) else 0
    numbers = torch.argsort(flat.to(torch.int8), dim=1, descending=True, stable=True)[:, :most]
    return numbers, flat.gather(1, numbers)
