"""The dual function of a relaxed program and its supergradient, term by term in closed form.

For rows on the nodes and a multiplier mu for every nonlinear entry,

    g(mu) = biases + min over the input set of Lambda_0 . x + sum over nonlinear nodes of min over the hull of Lambda x - mu z,

where Lambda on a node is what its readers hand back.  Every mu gives a valid bound; the greatest is the relaxed optimum.
Entries take mu = slope * Lambda, one slope for each sign of Lambda; where the bounds z stands between were imposed from
outside, a summand of its own is added.  Values here are not rounded outward: :func:`~bourn.program.linear_bounds.back_substitute`
states the bound for the multipliers found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bourn.network.affine import Affine
from bourn.network.graph import Input
from bourn.problem.input_set import dot
from bourn.program.linear_bounds import Multipliers
from bourn.program.relaxed import RelaxedProgram
from bourn.relaxations.base import NO_HINTS, Nonlinearity, Side, Tensors


@dataclass(frozen=True, eq=False)
class Hull:
    """Both sides of a nonlinear node, rows' axis included, its free entries, and those with a summand of mu (None if none).

    Entries that are not free have their lines for sides.  ``reach``: of what size a summand is, relative to the row, for every
    input: the range of the hull's slopes where the multipliers themselves are looked for.
    """

    free: Tensor
    below: Side
    above: Side
    imposed: Tensor | None
    reach: Tensors


@dataclass(eq=False)
class Choice:
    """What ascent chooses for one nonlinear node: parameters (B, M, *shape) of both sides, and summands ``extra`` of mu."""

    below: Tensors
    above: Tensors
    extra: Tensors = ()

    def tensors(self) -> list[Tensor]:
        """Below, above and the summands, one after the other."""
        return [*self.below, *self.above, *self.extra]

    def replaced(self, tensors: Sequence[Tensor]) -> Choice:
        """The same choice with other tensors."""
        first, second = len(self.below), len(self.below) + len(self.above)
        return Choice(tuple(tensors[:first]), tuple(tensors[first:second]), tuple(tensors[second:]))


@dataclass(eq=False)
class Evaluation:
    """The value (B, M), and what the supergradient needs: rows on nonlinear nodes, the minimising input."""

    value: Tensor
    rows: dict[int, Tensor] = field(default_factory=dict)
    row_on_input: Tensor | None = None


class Lagrangian:
    """The dual function of ``program`` for fixed ``rows`` ({node: (B or 1, M, *shape)}) and ``constant`` (B or 1, M).

    ``direct``: every free entry has a summand of its own, so that any multipliers can be reached and not only slopes.
    """

    def __init__(self, program: RelaxedProgram, rows: Mapping[int, Tensor], constant: Tensor, *, direct: bool = False) -> None:
        self.program, self.rows, self.constant = program, rows, constant
        self.batch, self.count = program.batch, constant.shape[1]
        # A node that has no free entries keeps its lines.
        free = {v: own for v in program.graph.nonlinear if v in program.lines and bool((own := program.free(v)).any())}
        # Imposed bounds narrow what is before them, whether the rows come by or not.
        self.imposed = [v for v in free if any(z in program.imposed for z in program.graph.nodes[v].inputs)]
        needed = {v for node in (*rows, *self.imposed) for v in program.graph.ancestors(node)}
        self.order = sorted(needed)
        self.hulls = {v: _hull(program, v, own, direct) for v, own in free.items() if v in needed}

    def start(self) -> dict[int, Choice]:
        """The lines to start from (:attr:`bourn.relaxations.base.Side.start`), and no summands."""
        choices = {}
        for v, hull in self.hulls.items():
            wide = (self.batch, self.count, *self.program.graph.nodes[v].shape)
            below, above = (
                tuple(
                    start.expand(wide).clone() if bool((most > least).any()) else start
                    for start, least, most in zip(side.start, side.least, side.greatest, strict=True)
                )
                for side in (hull.below, hull.above)
            )
            inputs = len(self.program.graph.nodes[v].inputs)
            extra = () if hull.imposed is None else tuple(self.constant.new_zeros(wide) for _ in range(inputs))
            choices[v] = Choice(below, above, extra)
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
            mus, value = self._through(number, row, choices.get(number))
            found.value = found.value + value
            for source, mu in zip(node.inputs, mus, strict=True):
                _add(pending, source, mu)
        return found

    def _through(self, node: int, row: Tensor, choice: Choice | None) -> tuple[Tensors, Tensor]:
        """The row on every pre-activation, and the node's term (B, M)."""
        positive = row.clamp(min=0)
        negative = row - positive
        if choice is None:
            lines = self.program.lines[node]
            mus = _mixed(positive, [s[:, None] for s in lines.lower_slopes], negative, [s[:, None] for s in lines.upper_slopes])
            value = dot(positive.flatten(2), lines.lower_offset.flatten(1)[..., None])
            value = value + dot(negative.flatten(2), lines.upper_offset.flatten(1)[..., None])
            return mus, value[..., 0]
        hull = self.hulls[node]
        (below, low), (above, high) = hull.below.line(choice.below), hull.above.line(choice.above)
        mus = _mixed(positive, below, negative, above)
        if hull.imposed is None:
            return mus, (positive * low + negative * high).flatten(2).sum(2)
        mus = tuple(mu + extra for mu, extra in zip(mus, choice.extra, strict=True))
        return mus, self._term(node, hull, row, mus)[1].flatten(2).sum(2)

    def _term(self, node: int, hull: Hull, row: Tensor, mus: Tensors) -> tuple[Tensors, Tensor, Tensor]:
        """The point at which row * x - mu * z is least, that value (exact lines where an entry is not free), and x there."""
        operation = self.program.graph.nodes[node].operation
        assert isinstance(operation, Nonlinearity)
        points, height = operation.attained(self.program.inputs_of(node), row, mus)
        value = row * height
        for mu, point in zip(mus, points, strict=True):
            value = value - mu * point
        lines = self.program.lines[node]
        fixed = row.clamp(min=0) * lines.lower_offset[:, None] + row.clamp(max=0) * lines.upper_offset[:, None]
        return points, torch.where(hull.free, value, fixed), height

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
                z = tuple(values[i] for i in node.inputs)
                values[number], gradients[number] = self._forward(number, z, found.rows.get(number), choices.get(number))
        return gradients

    def _forward(
        self, node: int, z: Tensors, row: Tensor | None, choice: Choice | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The relaxed point's value behind a nonlinear node, and the gradients of its choice."""
        if row is None:
            row = torch.zeros_like(z[0])
        upward = row > 0
        if choice is None:
            lines = self.program.lines[node]
            low = _on_line([s[:, None] for s in lines.lower_slopes], lines.lower_offset[:, None], z)
            high = _on_line([s[:, None] for s in lines.upper_slopes], lines.upper_offset[:, None], z)
            return torch.where(upward, low, high), []
        hull = self.hulls[node]
        (below, low), (above, high) = hull.below.line(choice.below), hull.above.line(choice.above)
        value = torch.where(upward, _on_line(below, low, z), _on_line(above, high, z))
        positive, negative = row.clamp(min=0), row.clamp(max=0)
        if hull.imposed is None:
            down = [positive * p if _adjustable(hull.below, i) else None for i, p in enumerate(hull.below.pull(choice.below, z))]
            up = [negative * p if _adjustable(hull.above, i) else None for i, p in enumerate(hull.above.pull(choice.above, z))]
            return value, [*down, *up]
        mus = tuple(mu + extra for mu, extra in zip(_mixed(positive, below, negative, above), choice.extra, strict=True))
        points, _, height = self._term(node, hull, row, mus)
        toward = tuple((own - point).masked_fill(~hull.free, 0.0) for own, point in zip(z, points, strict=True))
        # Through Lambda the value moves by the slope, for mu does, and by the height of the touching point.
        moved = height
        for low_slope, high_slope, step in zip(below, above, toward, strict=True):
            moved = moved + torch.where(upward, low_slope, high_slope) * step
        value = torch.where(hull.free, moved, value)
        down = [positive * toward[0] if _adjustable(hull.below, i) else None for i in range(len(choice.below))]
        up = [negative * toward[0] if _adjustable(hull.above, i) else None for i in range(len(choice.above))]
        return value, [*down, *up, *(step.masked_fill(~hull.imposed, 0.0) for step in toward)]

    def multipliers(self, choices: Mapping[int, Choice]) -> dict[int, Multipliers]:
        """The choices in the form that states a bound."""
        found = {}
        for v, c in choices.items():
            hull = self.hulls[v]
            below, above = hull.below.line(c.below)[0], hull.above.line(c.above)[0]
            hints = NO_HINTS if c.extra else (hull.below.hint(c.below), hull.above.hint(c.above))
            found[v] = Multipliers(hull.free[:, 0], below, above, c.extra, hints)
        return found


def _adjustable(side: Side, parameter: int) -> bool:
    return bool((side.greatest[parameter] > side.least[parameter]).any())


def _mixed(positive: Tensor, below: Sequence[Tensor], negative: Tensor, above: Sequence[Tensor]) -> Tensors:
    """The multipliers of a row whose parts take these slopes."""
    return tuple(positive * low + negative * high for low, high in zip(below, above, strict=True))


def _on_line(slopes: Sequence[Tensor], offset: Tensor, z: Tensors) -> Tensor:
    for slope, own in zip(slopes, z, strict=True):
        offset = offset + slope * own
    return offset


def _add(pending: dict[int, Tensor], node: int, row: Tensor) -> None:
    pending[node] = pending[node] + row if node in pending else row


def _hull(program: RelaxedProgram, node: int, free: Tensor, direct: bool) -> Hull:
    operation, inputs = program.graph.nodes[node].operation, program.graph.nodes[node].inputs
    assert isinstance(operation, Nonlinearity)
    lines = program.lines[node]
    given = [program.imposed[z] for z in inputs if z in program.imposed]
    imposed = None if not given else torch.stack([g & free for g in given]).any(0)
    if direct:
        imposed = free
    below, above = operation.sides(*program.inputs_of(node))
    if not bool(free.all()):
        below = below.fixed(~free, lines.lower_slopes, lines.lower_offset)
        above = above.fixed(~free, lines.upper_slopes, lines.upper_offset)
    if imposed is not None and not bool(imposed.any()):
        imposed = None
    reach = _slope_range(below, above) if direct else (torch.ones_like(lines.lower_offset),) * len(inputs)
    own = None if imposed is None else imposed[:, None]
    return Hull(free[:, None], below.unsqueezed(), above.unsqueezed(), own, tuple(r[:, None] for r in reach))


def _slope_range(below: Side, above: Side) -> Tensors:
    """How far apart the slopes of a hull's extreme lines are, for every input."""
    extremes = [side.line(parameters)[0] for side in (below, above) for parameters in (side.least, side.start, side.greatest)]
    found = []
    for slopes in zip(*extremes, strict=True):
        together = torch.stack(torch.broadcast_tensors(*slopes))  # type: ignore[no-untyped-call]
        found.append(together.amax(0) - together.amin(0))
    return tuple(found)
