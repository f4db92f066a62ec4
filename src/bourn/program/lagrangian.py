"""The dual function of a relaxed program and its supergradient, term by term in closed form.

For rows on the nodes and a multiplier mu for every nonlinear entry,

    g(mu) = biases + min over the input set of Lambda_0 . x + sum over nonlinear nodes of min over the hull of Lambda x - mu z,

where Lambda on a node is what its readers hand back.  Every mu gives a valid bound; the greatest is the relaxed optimum.
Entries take mu = slope * Lambda, one slope for each sign of Lambda; where the bounds z stands between were imposed from
outside, a summand of its own is added.  Values here are not rounded outward: :func:`~bourn.program.linear_bounds.back_substitute`
states the bound for the multipliers found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bourn.network.affine import Affine
from bourn.network.graph import Input
from bourn.problem.input_set import dot
from bourn.program.linear_bounds import Multipliers
from bourn.program.relaxed import RelaxedProgram
from bourn.relaxations.base import ElementWise, Envelope
from bourn.relaxations.curves import PiecewiseLinear


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a nonlinear node's hull, as (B, 1, *shape): the range of its slopes, and where their lines touch.

    Entries that are not free have one slope and the offset of their line.
    """

    least: Tensor
    greatest: Tensor
    points: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    fixed: Tensor | None
    below: bool

    @property
    def adjustable(self) -> bool:
        return bool((self.greatest > self.least).any())

    def touch(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Where the line of this slope touches, and its offset there."""
        point, offset = self.points[0], self.values[0] - slope * self.points[0]
        for other, value in zip(self.points[1:], self.values[1:], strict=True):
            candidate = value - slope * other
            # An edge's slope touches at both its ends: which of them is not left to rounding.
            least = 1e-12 * (value.abs() + (slope * other).abs())
            better = candidate < offset - least if self.below else candidate > offset + least
            point, offset = torch.where(better, other, point), torch.where(better, candidate, offset)
        return point, offset if self.fixed is None else torch.where(self.fixed.isnan(), offset, self.fixed)


@dataclass(frozen=True, eq=False)
class Hull:
    """Both sides of a nonlinear node, its free entries, and those whose bounds were imposed (None if none)."""

    free: Tensor
    below: Side
    above: Side
    imposed: Tensor | None
    vertices: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None


@dataclass(eq=False)
class Choice:
    """What ascent chooses for one nonlinear node: slopes (B, M, *shape) for both sides, and the summand ``extra`` of mu."""

    below: Tensor
    above: Tensor
    extra: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """Below, above and, where there is one, the summand."""
        return [self.below, self.above] + ([] if self.extra is None else [self.extra])


@dataclass(eq=False)
class Evaluation:
    """The value (B, M), and what the supergradient needs: rows on nonlinear nodes, the minimising input."""

    value: Tensor
    rows: dict[int, Tensor] = field(default_factory=dict)
    row_on_input: Tensor | None = None


class Lagrangian:
    """The dual function of ``program`` for fixed ``rows`` ({node: (B or 1, M, *shape)}) and ``constant`` (B or 1, M)."""

    def __init__(self, program: RelaxedProgram, rows: Mapping[int, Tensor], constant: Tensor) -> None:
        self.program, self.rows, self.constant = program, rows, constant
        self.batch, self.count = program.batch, constant.shape[1]
        hulls = {v: _hull(program, v) for v in program.graph.nonlinear if _bounded(program, v)}
        # Imposed bounds narrow what is before them, whether the rows come by or not.
        self.imposed = [v for v, hull in hulls.items() if hull.imposed is not None]
        needed = {v for node in (*rows, *self.imposed) for v in program.graph.ancestors(node)}
        self.order = sorted(needed)
        self.hulls = {v: hull for v, hull in hulls.items() if v in needed}

    def start(self) -> dict[int, Choice]:
        """Slopes to start from: the chord's (that of the parallel line), or the nearest that the hull's side has."""
        choices = {}
        for v, hull in self.hulls.items():
            chord = _chord(self.program, v)[:, None]
            below = torch.minimum(torch.maximum(chord, hull.below.least), hull.below.greatest)
            above = torch.minimum(torch.maximum(chord, hull.above.least), hull.above.greatest)
            wide = (self.batch, self.count, *chord.shape[2:])
            extra = None if hull.imposed is None else chord.new_zeros(wide)
            choices[v] = Choice(
                below.expand(wide).clone() if hull.below.adjustable else below,
                above.expand(wide).clone() if hull.above.adjustable else above,
                extra,
            )
        return choices

    def evaluate(self, choices: Mapping[int, Choice]) -> Evaluation:
        """The dual function at these slopes."""
        nodes, batch, count = self.program.graph.nodes, self.batch, self.count
        pending = {v: row.expand(batch, count, *row.shape[2:]) for v, row in self.rows.items()}
        for v in self.imposed:
            pending.setdefault(v, self.constant.new_zeros(batch, count, *nodes[v].shape))
        found = Evaluation(self.constant.expand(batch, count))
        for number in reversed(self.order):
            row = pending.pop(number, None)
            if row is None:
                continue
            node, operation = nodes[number], nodes[number].operation
            if isinstance(operation, Input):
                found.row_on_input = row
                low, _ = self.program.box.minimise_linear(row)
                found.value = found.value + low
                continue
            if isinstance(operation, Affine):
                if operation.bias is not None:
                    bias = operation.bias.expand(1, *operation.out_shape).reshape(1, -1, 1)
                    found.value = found.value + dot(row.flatten(2), bias)[..., 0]
                parts = operation.transpose(row.reshape(batch * count, *row.shape[2:]))
                for source, part in zip(node.inputs, parts, strict=True):
                    _add(pending, source, part.reshape(batch, count, *part.shape[1:]))
                continue
            found.rows[number] = row
            mu, value = self._through(number, row, choices.get(number))
            found.value = found.value + value
            _add(pending, node.inputs[0], mu)
        return found

    def _through(self, node: int, row: Tensor, choice: Choice | None) -> tuple[Tensor, Tensor]:
        """The row on the pre-activation, and the node's term (B, M)."""
        positive = row.clamp(min=0)
        negative = row - positive
        if choice is None:
            lines = self.program.lines[node]
            mu = positive * lines.lower_slope[:, None] + negative * lines.upper_slope[:, None]
            value = dot(positive.flatten(2), lines.lower_offset.flatten(1)[..., None])
            value = value + dot(negative.flatten(2), lines.upper_offset.flatten(1)[..., None])
            return mu, value[..., 0]
        hull = self.hulls[node]
        mu = positive * choice.below + negative * choice.above
        if hull.imposed is None:
            _, low = hull.below.touch(choice.below)
            _, high = hull.above.touch(choice.above)
            return mu, (positive * low + negative * high).flatten(2).sum(2)
        assert choice.extra is not None
        mu = mu + choice.extra
        return mu, self._term(hull, row, mu)[1].flatten(2).sum(2)

    @staticmethod
    def _term(hull: Hull, row: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """The vertex at which row * x - mu * z is least, and its value; exact lines where an entry is not free."""
        assert hull.vertices is not None
        point, value = torch.zeros_like(row), torch.full_like(row, torch.inf)
        for vertex, height in zip(*hull.vertices, strict=True):
            term = row * height - mu * vertex
            better = term < value
            point, value = torch.where(better, vertex, point), torch.where(better, term, value)
        fixed = row.clamp(min=0) * hull.below.touch(hull.below.least)[1] + row.clamp(max=0) * hull.above.touch(hull.above.least)[1]
        return point, torch.where(hull.free[:, None], value, fixed)

    def gradient(self, found: Evaluation, choices: Mapping[int, Choice]) -> dict[int, list[Tensor | None]]:
        """A supergradient for every tensor of every choice: by the relaxed point at which the value is attained."""
        nodes, batch, count = self.program.graph.nodes, self.batch, self.count
        values: dict[int, Tensor] = {}
        gradients: dict[int, list[Tensor | None]] = {}
        for number in self.order:
            node, operation = nodes[number], nodes[number].operation
            if isinstance(operation, Input):
                row, box = found.row_on_input, self.program.box
                values[number] = box.middle[:, None].expand(batch, count, *box.shape) if row is None else box.minimiser(row)
            elif isinstance(operation, Affine):
                arguments = [values[i].reshape(batch * count, *values[i].shape[2:]) for i in node.inputs]
                value = operation.forward(*arguments) if arguments else operation.constant(batch * count)
                values[number] = value.reshape(batch, count, *value.shape[1:])
            else:
                z = values[node.inputs[0]]
                values[number], gradients[number] = self._forward(number, z, found.rows.get(number), choices.get(number))
        return gradients

    def _forward(
        self, node: int, z: Tensor, row: Tensor | None, choice: Choice | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The relaxed point's value behind a nonlinear node, and the gradients of its choice."""
        if row is None:
            row = torch.zeros_like(z)
        upward = row > 0
        if choice is None:
            lines = self.program.lines[node]
            low = lines.lower_slope[:, None] * z + lines.lower_offset[:, None]
            high = lines.upper_slope[:, None] * z + lines.upper_offset[:, None]
            return torch.where(upward, low, high), []
        hull = self.hulls[node]
        (low_point, low), (high_point, high) = hull.below.touch(choice.below), hull.above.touch(choice.above)
        value = torch.where(upward, choice.below * z + low, choice.above * z + high)
        if hull.imposed is None:
            down = row.clamp(min=0) * (z - low_point) if hull.below.adjustable else None
            up = row.clamp(max=0) * (z - high_point) if hull.above.adjustable else None
            return value, [down, up]
        assert choice.extra is not None
        mu = row.clamp(min=0) * choice.below + row.clamp(max=0) * choice.above + choice.extra
        point, _ = self._term(hull, row, mu)
        toward = (z - point).masked_fill(~hull.free[:, None], 0.0)
        # Through Lambda the value moves by the slope, for mu does, and by the height of the touching vertex.
        height = self._height(hull, point)
        value = torch.where(hull.free[:, None], torch.where(upward, choice.below, choice.above) * toward + height, value)
        down = row.clamp(min=0) * toward if hull.below.adjustable else None
        up = row.clamp(max=0) * toward if hull.above.adjustable else None
        return value, [down, up, toward.masked_fill(~hull.imposed[:, None], 0.0)]

    @staticmethod
    def _height(hull: Hull, point: Tensor) -> Tensor:
        assert hull.vertices is not None
        height = torch.zeros_like(point)
        for vertex, value in zip(*hull.vertices, strict=True):
            height = torch.where(point == vertex, value, height)
        return height

    def multipliers(self, choices: Mapping[int, Choice]) -> dict[int, Multipliers]:
        """The choices in the form that states a bound."""
        return {v: Multipliers(self.hulls[v].free, c.below, c.above, c.extra) for v, c in choices.items()}


def _add(pending: dict[int, Tensor], node: int, row: Tensor) -> None:
    pending[node] = pending[node] + row if node in pending else row


def _bounded(program: RelaxedProgram, node: int) -> bool:
    """Whether the node has free entries at all (one that has none keeps its lines)."""
    return program.graph.nodes[node].inputs[0] in program.bounds and bool(program.free(node).any())


def _chord(program: RelaxedProgram, node: int) -> Tensor:
    """The slope between the ends of every free entry, 0 elsewhere."""
    operation, bounds = program.graph.nodes[node].operation, program.bounds[program.graph.nodes[node].inputs[0]]
    assert isinstance(operation, ElementWise)
    low, high = operation.evaluate(bounds.lower), operation.evaluate(bounds.upper)
    return ((high - low) / (bounds.upper - bounds.lower)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _hull(program: RelaxedProgram, node: int) -> Hull:
    operation, z = program.graph.nodes[node].operation, program.graph.nodes[node].inputs[0]
    assert isinstance(operation, ElementWise)
    bounds, free, lines = program.bounds[z], program.free(node), program.lines[node]
    imposed = program.imposed.get(z)
    imposed = None if imposed is None or not bool((imposed & free).any()) else imposed & free

    def side(below: bool) -> Side:
        envelope: Envelope = operation.envelope(bounds, below)
        slope, offset = (lines.lower_slope, lines.lower_offset) if below else (lines.upper_slope, lines.upper_offset)
        least, greatest = torch.where(free, envelope.least, slope), torch.where(free, envelope.greatest, slope)
        points, values = (tuple(t.masked_fill(~free, 0.0)[:, None] for t in ts) for ts in (envelope.points, envelope.values))
        fixed = None if not bool((offset[~free] != 0).any()) else torch.where(free, torch.nan, offset)[:, None]
        return Side(least[:, None], greatest[:, None], points, values, fixed, below)

    vertices = None
    if imposed is not None:
        assert isinstance(operation, PiecewiseLinear)
        found = operation.vertices(bounds)
        vertices = (tuple(t[:, None] for t in found[0]), tuple(t[:, None] for t in found[1]))
    return Hull(free, side(True), side(False), imposed, vertices)
