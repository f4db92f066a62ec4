"""A nonlinear node's term of the dual function: what ascent chooses there, its value, and its supergradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.program.relaxed import RelaxedProgram
from bourn.relaxations.base import Intervals, Nonlinearity, Side, Tensors


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


Touching = tuple[Tensors, Tensor, Tensor]
"""Of the entries with summands the point of the hull at which the term is least, the term, and the value there."""


@dataclass(frozen=True, eq=False)
class Hull:
    """Both sides of a nonlinear node, rows' axis included, its free entries, and those with a summand of mu (None if none).

    Entries that are not free have their lines for sides, with ``offsets`` below and above.  ``reach``: of what size a summand
    is, relative to the row, for every input: the range of the hull's slopes where the multipliers themselves are looked for.
    ``finite``: whether the sides' lines and all points they are asked for certainly are.
    """

    operation: Nonlinearity
    bounds: Intervals
    free: Tensor
    below: Side
    above: Side
    offsets: tuple[Tensor, Tensor]
    imposed: Tensor | None
    reach: Tensors
    finite: bool = False

    @cached_property
    def half(self) -> Tensor:
        """The number 1/2 beside the node's others."""
        return self.offsets[0].new_full((), 0.5)

    @cached_property
    def lines(self) -> tuple[tuple[Tensors, Tensor] | None, tuple[Tensors, Tensor] | None]:
        """The line of a side that leaves nothing to choose, None where it does: below and above."""
        below, above = (
            None if any(adjustable(side, i) for i in range(len(side.start))) else side.line(side.start)
            for side in (self.below, self.above)
        )
        return below, above

    def chosen(self, choice: Choice) -> tuple[tuple[Tensors, Tensor], tuple[Tensors, Tensor]]:
        """Slopes and offset of the lines below and above."""
        below, above = self.lines
        return below or self.below.line(choice.below), above or self.above.line(choice.above)

    def pulls(self, choice: Choice, z: Tensors) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """:meth:`bourn.relaxations.base.Side.pull` of both sides; None where there is nothing to choose."""
        found: list[list[Tensor | None]] = []
        for side, line, own in ((self.below, self.lines[0], choice.below), (self.above, self.lines[1], choice.above)):
            if line is not None:
                found.append([None] * len(own))
            else:
                found.append([p if adjustable(side, i) else None for i, p in enumerate(side.pull(own, z))])
        return found[0], found[1]

    @classmethod
    def of(cls, program: RelaxedProgram, node: int, free: Tensor, direct: bool = False) -> Hull:
        """The hull of a node of a program; with ``direct`` every free entry has a summand."""
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
        return cls(
            operation,
            program.inputs_of(node),
            free[:, None],
            below.unsqueezed(),
            above.unsqueezed(),
            (lines.lower_offset[:, None], lines.upper_offset[:, None]),
            None if imposed is None else imposed[:, None],
            tuple(r[:, None] for r in reach),
        )

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Hull:
        """The free entries' hull, every tensor (B, 1, *shape) passed through ``change``; only for hulls without summands."""
        assert self.imposed is None
        below, above = self.below.mapped(change), self.above.mapped(change)
        offsets = change(self.offsets[0]), change(self.offsets[1])
        reach = tuple(map(change, self.reach))
        return replace(self, bounds=(), free=change(self.free), below=below, above=above, offsets=offsets, reach=reach, finite=True)

    def start(self, wide: tuple[int, ...]) -> Choice:
        """The lines to start from (:attr:`bourn.relaxations.base.Side.start`), expanded to ``wide``, and no summands."""
        below, above = (
            tuple(
                start.expand(wide).clone() if bool((most > least).any()) else start
                for start, least, most in zip(side.start, side.least, side.greatest, strict=True)
            )
            for side in (self.below, self.above)
        )
        extra = () if self.imposed is None else tuple(own.new_zeros(wide) for own in self.reach)
        return Choice(below, above, extra)

    def through(self, row: Tensor, choice: Choice) -> tuple[Tensors, Tensor, Touching | None]:
        """A row's multipliers, one (B, M, *shape) an input, the node's term (B, M), and where it is attained, for summands."""
        positive = row.clamp(min=0)
        negative = row - positive
        (below, low), (above, high) = self.chosen(choice)
        mus, term = mixed(positive, below, negative, above), torch.addcmul(positive * low, negative, high).flatten(2)
        if self._summed is None:
            return mus, term.sum(2), None
        mus = tuple(mu + extra for mu, extra in zip(mus, choice.extra, strict=True))
        touching = self._term(row, mus)
        return mus, term.index_copy(2, self._summed, touching[1]).sum(2), touching

    @cached_property
    def _summed(self) -> Tensor | None:
        """The flat entries that have a summand in any problem; the others' terms are those of their lines."""
        return None if self.imposed is None else torch.nonzero(self.imposed.flatten(2).any(0)[0])[:, 0]

    def _some(self, t: Tensor) -> Tensor:
        """The entries with summands of a tensor (B, 1 or M, *shape)."""
        assert self._summed is not None
        return t.flatten(2)[..., self._summed]

    def _term(self, row: Tensor, mus: Tensors) -> Touching:
        """Of the entries with summands the point at which row * x - mu * z is least, that value (exact lines where an entry is
        not free), and x there."""
        row, mus, bounds = self._some(row), tuple(map(self._some, mus)), self._some_bounds
        points, height = self.operation.attained(bounds, row, mus)
        value = row * height
        for mu, point in zip(mus, points, strict=True):
            value = value - mu * point
        fixed = row.clamp(min=0) * self._some(self.offsets[0]) + row.clamp(max=0) * self._some(self.offsets[1])
        return points, torch.where(self._some(self.free), value, fixed), height

    @cached_property
    def _some_bounds(self) -> Intervals:
        return tuple(Interval(*(self._some(t[:, None])[:, 0] for t in (b.lower, b.upper))) for b in self.bounds)

    def forward(
        self, z: Tensors, row: Tensor, choice: Choice, touching: Touching | None = None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The relaxed point's value behind the node, for its values ``z`` before it, and the gradients of the choice.

        ``touching``: what :meth:`through` returned for the same row, if it came by.
        """
        # Between finite values numbers are several times as fast as torch.where.
        upward = torch.copysign(self.half, row) + 0.5 if self.finite else row > 0
        (below, low), (above, high) = self.chosen(choice)
        first, second = on_line(below, low, z), on_line(above, high, z)
        value = torch.lerp(second, first, upward) if self.finite else torch.where(upward, first, second)
        positive, negative = row.clamp(min=0), row.clamp(max=0)
        down, up = self.pulls(choice, z)
        gradients = [None if p is None else positive * p for p in down] + [None if p is None else negative * p for p in up]
        if self._summed is None:
            return value, gradients
        if touching is None:
            mus = tuple(mu + extra for mu, extra in zip(mixed(positive, below, negative, above), choice.extra, strict=True))
            touching = self._term(row, mus)
        points, _, height = touching
        free, imposed = ~self._some(self.free), ~self._some(self.imposed)  # type: ignore[arg-type]
        toward = tuple((self._some(own) - point).masked_fill(free, 0.0) for own, point in zip(z, points, strict=True))
        # Through Lambda the value moves by the slope, for mu does, and by the height of the touching point.
        moved, rising = height, self._some(upward) > 0
        for low_slope, high_slope, step in zip(below, above, toward, strict=True):
            moved = moved + torch.where(rising, self._some(low_slope), self._some(high_slope)) * step
        value = self._put(value, torch.where(free, self._some(value), moved))
        parts = [self._some(positive)] * len(down) + [self._some(negative)] * len(up)
        gradients = [None if g is None else self._put(g, part * toward[0]) for g, part in zip(gradients, parts, strict=True)]
        return value, [*gradients, *(self._put(torch.zeros_like(row), step.masked_fill(imposed, 0.0)) for step in toward)]

    def _put(self, t: Tensor, some: Tensor) -> Tensor:
        """A tensor (B, M, *shape) with others at the entries with summands."""
        assert self._summed is not None
        return t.flatten(2).index_copy(2, self._summed, some).reshape(t.shape)


def adjustable(side: Side, parameter: int) -> bool:
    """Whether any entry may choose this parameter."""
    return bool((side.greatest[parameter] > side.least[parameter]).any())


def mixed(positive: Tensor, below: Sequence[Tensor], negative: Tensor, above: Sequence[Tensor]) -> Tensors:
    """The multipliers of a row whose parts take these slopes."""
    return tuple(torch.addcmul(positive * low, negative, high) for low, high in zip(below, above, strict=True))


def on_line(slopes: Sequence[Tensor], offset: Tensor, z: Tensors) -> Tensor:
    """The line's value at a point."""
    for slope, own in zip(slopes, z, strict=True):
        offset = torch.addcmul(offset, slope, own)
    return offset


def _slope_range(below: Side, above: Side) -> Tensors:
    """How far apart the slopes of a hull's extreme lines are, for every input."""
    extremes = [side.line(parameters)[0] for side in (below, above) for parameters in (side.least, side.start, side.greatest)]
    found = []
    for slopes in zip(*extremes, strict=True):
        together = torch.stack(torch.broadcast_tensors(*slopes))  # type: ignore[no-untyped-call]
        found.append(together.amax(0) - together.amin(0))
    return tuple(found)
