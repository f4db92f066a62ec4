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
from bourn.program.hulls import Choice, Hull, Touching, mixed, on_line
from bourn.program.linear_bounds import Multipliers
from bourn.program.relaxed import RelaxedProgram
from bourn.program.restrict import take_problems
from bourn.relaxations.base import NO_HINTS, Tensors


@dataclass(eq=False)
class Evaluation:
    """The value (B, M), and what the supergradient needs: rows on nonlinear nodes, where their terms are attained, the row on the
    input or where it is least."""

    value: Tensor
    rows: dict[int, Tensor] = field(default_factory=dict)
    touching: dict[int, Touching | None] = field(default_factory=dict)
    row_on_input: Tensor | None = None
    minimiser: Tensor | None = None


class Lagrangian:
    """The dual function of ``program`` for fixed ``rows`` ({node: (B or 1, M, *shape)}) and ``constant`` (B or 1, M).

    ``direct``: every free entry has a summand of its own, so that any multipliers can be reached and not only slopes.
    """

    def __init__(self, program: RelaxedProgram, rows: Mapping[int, Tensor], constant: Tensor, *, direct: bool = False) -> None:
        self.program, self.rows, self.constant, self.direct = program, rows, constant, direct
        self.batch, self.count = program.batch, constant.shape[1]
        # A node that has no free entries keeps its lines.
        free = {v: own for v in program.graph.nonlinear if v in program.lines and bool((own := program.free(v)).any())}
        # Imposed bounds narrow what is before them, whether the rows come by or not.
        self.imposed = [v for v in free if any(z in program.imposed for z in program.graph.nodes[v].inputs)]
        needed = {v for node in (*rows, *self.imposed) for v in program.graph.ancestors(node)}
        self.order = sorted(needed)
        self.hulls = {v: Hull.of(program, v, own, direct) for v, own in free.items() if v in needed}

    def take(self, problems: Tensor, rows: Tensor) -> Lagrangian:
        """The same for some problems (B',), and of each the rows (B', M')."""

        def pick(t: Tensor) -> Tensor:
            own = t[problems] if len(t) == self.batch else t.expand(len(problems), *t.shape[1:])
            return own.gather(1, rows.reshape(*rows.shape, *(1,) * (t.dim() - 2)).expand(-1, -1, *t.shape[2:]))

        own = {v: pick(row) for v, row in self.rows.items()}
        return Lagrangian(take_problems(self.program, problems), own, pick(self.constant), direct=self.direct)

    def start(self) -> dict[int, Choice]:
        """The lines to start from, and no summands."""
        nodes = self.program.graph.nodes
        return {v: hull.start((self.batch, self.count, *nodes[v].shape)) for v, hull in self.hulls.items()}

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
            mus, value, found.touching[number] = self._through(number, row, choices.get(number))
            found.value = found.value + value
            for source, mu in zip(node.inputs, mus, strict=True):
                _add(pending, source, mu)
        return found

    def _through(self, node: int, row: Tensor, choice: Choice | None) -> tuple[Tensors, Tensor, Touching | None]:
        """The row on every pre-activation, the node's term (B, M), and where it is attained."""
        if choice is not None:
            return self.hulls[node].through(row, choice)
        positive, lines = row.clamp(min=0), self.program.lines[node]
        negative = row - positive
        mus = mixed(positive, [s[:, None] for s in lines.lower_slopes], negative, [s[:, None] for s in lines.upper_slopes])
        value = dot(positive.flatten(2), lines.lower_offset.flatten(1)[..., None])
        value = value + dot(negative.flatten(2), lines.upper_offset.flatten(1)[..., None])
        return mus, value[..., 0], None

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
                row, touching = found.rows.get(number), found.touching.get(number)
                values[number], gradients[number] = self._forward(number, z, row, choices.get(number), touching)
        return gradients

    def _forward(
        self, node: int, z: Tensors, row: Tensor | None, choice: Choice | None, touching: Touching | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The relaxed point's value behind a nonlinear node, and the gradients of its choice."""
        if row is None:
            row = torch.zeros_like(z[0])
        if choice is not None:
            return self.hulls[node].forward(z, row, choice, touching)
        lines = self.program.lines[node]
        low = on_line([s[:, None] for s in lines.lower_slopes], lines.lower_offset[:, None], z)
        high = on_line([s[:, None] for s in lines.upper_slopes], lines.upper_offset[:, None], z)
        return torch.where(row > 0, low, high), []

    def multipliers(self, choices: Mapping[int, Choice]) -> dict[int, Multipliers]:
        """The choices in the form that states a bound."""
        found = {}
        for v, c in choices.items():
            hull = self.hulls[v]
            below, above = hull.below.line(c.below)[0], hull.above.line(c.above)[0]
            hints = NO_HINTS if c.extra else (hull.below.hint(c.below), hull.above.hint(c.above))
            found[v] = Multipliers(hull.free[:, 0], below, above, c.extra, hints)
        return found


def _add(pending: dict[int, Tensor], node: int, row: Tensor) -> None:
    pending[node] = pending[node] + row if node in pending else row
