"""Many rows of one program, each bounded by a tree of its own: neurons before the row are split, all rows side by side.

A row's bound is the least over its tree's leaves.  The worst leaves of every row are split first, by the branching rule's score for
that row alone, and all halves of all rows climb in one batch on shared matrices.  What a leaf is worth is stated anew in float64,
with its rounding error, on the network itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bourn.deadline import Deadline
from bourn.problem.problem import Objectives
from bourn.program.branches import Multiplied, Parts, Shared
from bourn.program.linear_bounds import Multipliers
from bourn.program.relaxed import RelaxedProgram
from bourn.solvers.base import output_rows
from bourn.solvers.branching import BRANCHING_NEURONS, Scene
from bourn.solvers.split_ascent import Climb
from bourn.solvers.subproblems import WeightedRows

_HAIR = 1e-5
"""By what share of its size a value in float32 must pass what is asked for, so that it still does when it is stated."""
_STATED = 256
"""How many leaves are stated at a time."""
_SEARCH = 0.6
"""The share of the time left that goes into trees; the rest is kept for stating their leaves."""


@dataclass(frozen=True)
class RowTrees:
    """At most ``leaves`` leaves a row, ``batch`` halves at a time.

    ``root``: the ascent on a row as a whole, ``climb``: on a half, beginning where the whole ended; ``rule``: of
    :data:`bourn.solvers.branching.BRANCHING_NEURONS`.  ``memory``: bytes for the leaves of the rows that are split side by side.
    """

    leaves: int = 64
    batch: int = 1024
    rule: str = "babsr"
    root: Climb = field(default=Climb(steps=30, decay=0.95))
    climb: Climb = field(default=Climb(steps=8, decay=0.85))
    memory: int = 1 << 27

    def bound(self, program: RelaxedProgram, objectives: Objectives, enough: float, deadline: Deadline) -> Tensor:
        """Lower bounds (M,) of objectives of a program, a batch of one; -inf of those not reached in time.

        Objectives stand in pairs, the second half of them being the first half's negatives: a tree ends where it or its pair's
        is above ``enough``.  Raises :class:`bourn.program.branches.CannotSplit`.
        """
        found = torch.full((len(objectives),), -math.inf, dtype=torch.float64, device=program.box.lower.device)
        for forest in self.grow(program, objectives, enough, deadline):
            found[forest.pairs] = forest.stated(deadline)
        return found

    def grow(self, program: RelaxedProgram, objectives: Objectives, enough: float, deadline: Deadline) -> Iterator[Forest]:
        """The trees themselves, as many side by side as memory allows, until the time is over."""
        rows = WeightedRows(program.graph, objectives)
        shared = Shared(program, output_rows(program.graph, objectives), objectives.constant)
        count = len(objectives) // 2
        at_once = max(1, self.memory // (2 * self.leaves * 9 * max(1, shared.count)))
        some: Tensor
        for some in torch.split(torch.arange(count, device=shared.slope.device), at_once):
            if deadline.left <= 0:
                break
            forest = Forest(self, shared, rows, torch.cat([some, some + count]), enough)
            forest.grow(deadline)
            yield forest


class Forest:
    """The trees of some rows, whose numbers are ``pairs``: of every leaf its ``row`` among these, sides (L, N) and multipliers.

    A leaf's sides are those that it assumes neurons to be on, which of one row's leaves fill everything; in no order.
    """

    def __init__(self, how: RowTrees, shared: Shared, rows: WeightedRows, pairs: Tensor, enough: float) -> None:
        self.how, self.shared, self.rows, self.pairs, self.enough = how, shared, rows, pairs, enough
        self.root, count = shared.root(), len(pairs)
        self.row = torch.arange(count, device=pairs.device)
        self.sides = torch.zeros(count, shared.count, dtype=torch.int8, device=pairs.device)
        start = shared.begin(self._parts(self.sides), self._weights(self.row))
        self.alpha, self.beta = start.alpha, start.beta
        self.value = torch.full((count,), -math.inf, device=pairs.device)
        self.closed = torch.zeros(count, dtype=torch.bool, device=pairs.device)

    def _weights(self, row: Tensor) -> Tensor:
        weights = torch.zeros(len(row), len(self.rows), device=row.device)
        return weights.scatter(1, self.pairs[row][:, None], 1.0)

    def _parts(self, sides: Tensor) -> Parts:
        lower, upper = self.root.lower.expand(len(sides), -1), self.root.upper.expand(len(sides), -1)
        return Parts(lower.masked_fill(sides > 0, 0.0), upper.masked_fill(sides < 0, 0.0), sides)

    def _chosen(self, which: Tensor) -> Multiplied:
        return Multiplied(self.alpha[which], self.beta[which], self._weights(self.row[which]))

    def grow(self, deadline: Deadline) -> None:
        """Split until the leaves are used up."""
        soft = deadline.part(_SEARCH)
        every = torch.arange(len(self.row), device=self.row.device)
        aim = torch.full_like(self.value, self._aim)
        chosen, self.value, _ = self.how.root.run(self.shared, self._parts(self.sides), self._chosen(every), soft, aim)
        self.alpha, self.beta = chosen.alpha, chosen.beta
        while soft.left > 0:
            worst = self._worst()
            if not len(worst):
                break
            self._split(worst, soft)

    @property
    def _aim(self) -> float:
        return self.enough + _HAIR * max(1.0, abs(self.enough))

    def _least(self) -> Tensor:
        return torch.full((len(self.pairs),), math.inf, device=self.row.device).scatter_reduce(0, self.row, self.value, "amin")

    def _worst(self) -> Tensor:
        """The leaves to split next: of every row that needs a better bound and may have more leaves those that are worst."""
        leaves = torch.zeros_like(self.pairs).scatter_add(0, self.row, torch.ones_like(self.row))
        done = (self._least() > self._aim).reshape(2, -1).any(0).repeat(2)
        wanted = torch.nonzero(~self.closed & (self.value <= self._aim) & ~(done | (leaves >= self.how.leaves))[self.row])[:, 0]
        if not len(wanted):
            return wanted
        order = wanted[self.value[wanted].argsort(stable=True)]
        order = order[self.row[order].argsort(stable=True)]
        row = self.row[order]
        rank = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
        most = max(1, self.how.batch // 2 // int((rank == 0).sum()))
        return order[rank < most][: self.how.batch // 2]

    def _split(self, leaves: Tensor, deadline: Deadline) -> None:
        shared, parts, chosen = self.shared, self._parts(self.sides[leaves]), self._chosen(leaves)
        found = shared.evaluate(parts, chosen)
        assert found.z is not None
        lower, upper = parts.lower.to(torch.float32), parts.upper.to(torch.float32)
        scene = Scene(lower, upper, found.row, found.z, parts.open, shared.slope, chosen.alpha, shared.outgoing, shared.layer)
        score, neuron = BRANCHING_NEURONS[self.how.rule](scene).masked_fill(~parts.open, -1.0).max(1)
        can = score >= 0
        self.closed[leaves[~can]] = True
        if not bool(can.any()):
            return
        leaves, neuron, chosen = leaves[can], neuron[can], chosen[can]
        low, high = (self.sides[leaves].scatter(1, neuron[:, None], side) for side in (-1, 1))
        both = Multiplied(*(torch.cat([t, t]) for t in (chosen.alpha, chosen.beta, chosen.weights)))
        aim = torch.full((2 * len(leaves),), self._aim, device=leaves.device)
        sides = torch.cat([low, high])
        climbed, value, _ = self.how.climb.run(shared, self._parts(sides), both, deadline, aim)
        value = torch.maximum(value, self.value[leaves].repeat(2))  # the whole's bound holds for its halves
        count = len(leaves)
        new = (sides, climbed.alpha, climbed.beta, value)
        for name, t in zip(("sides", "alpha", "beta", "value"), new, strict=True):
            own = getattr(self, name)
            own[leaves] = t[:count]
            setattr(self, name, torch.cat([own, t[count:]]))
        self.row = torch.cat([self.row, self.row[leaves]])
        self.closed = torch.cat([self.closed, torch.zeros_like(leaves, dtype=torch.bool)])

    def leaves(self, some: Tensor) -> tuple[RelaxedProgram, Tensor, dict[int, Multipliers]]:
        """Some leaves as a relaxed program, which of the objectives each is about (B, M), and its multipliers."""
        parts, chosen = self._parts(self.sides[some]), self._chosen(some)
        program = self.shared.relaxed(parts)
        return program, chosen.weights.to(torch.float64), self.shared.multipliers(program, parts, chosen)

    def stated(self, deadline: Deadline) -> Tensor:
        """The least over every row's leaves of what they state; -inf where time was too short."""
        bound = torch.full((len(self.pairs),), math.inf, dtype=torch.float64, device=self.row.device)
        for some in torch.split(torch.arange(len(self.row), device=self.row.device), _STATED):
            if deadline.left <= 0:
                found = torch.full_like(some, -math.inf, dtype=torch.float64)
            else:
                program, weights, multipliers = self.leaves(some)
                found = self.rows.state(program, weights, multipliers)
            bound = bound.scatter_reduce(0, self.row[some], found, "amin")
        return bound
