"""One ascent: Adam's steps on what a dual function leaves to choose, for many rows at once, each until it is done."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.program.hulls import Choice
from bourn.program.lagrangian import Evaluation, Lagrangian
from bourn.program.reduced import ReducedLagrangian
from bourn.solvers.adam import SQUARES, direction

if TYPE_CHECKING:
    from bourn.program.plane_lagrangian import PlaneLagrangian  # it imports scipy, which few need

Dual: TypeAlias = "Lagrangian | ReducedLagrangian | PlaneLagrangian"
Settled = Callable[[Tensor], Tensor]
"""From the best values (B, M) of rows to a mask of those that need no better one."""

LOOK = 15
"""After so many steps it is looked again which rows are done, where nothing else is said."""
SHARE = 0.05
"""A row stalls where the steps between two looks gained less than this share of its gap."""
SHORTER = 0.5
"""A row that stalls goes back to its best slopes with steps shorter by this factor: long steps may only have gone to and fro."""
SHORT = 20.0
"""Where it stalls with steps shorter than so many times its gap, the gap is taken to be reached: measured, not proved."""
FULL = 0.7
"""Rows that are done are left out as soon as the others fill less than this share."""
PACES = ((64, 1.5), (512, 1.0), (math.inf, 0.7))
"""Up to so many entries to choose a row's steps may shrink so many times as fast, and end as near to its optimum: measured."""


@dataclass(frozen=True)
class Steps:
    """How ascent steps: at most ``steps``, the first of length ``step`` (1: the whole range of a slope), each ``decay`` times
    the one before; ``memory`` is the share that the average gradient keeps at each, ``squares`` that of the average of squares.
    ``gap``: relative, see :data:`SHARE`; 0 to take all steps.  ``look``: after so many it is looked which rows are done.
    """

    steps: int = 20
    step: float = 0.3
    decay: float = 0.96
    memory: float = 0.8
    gap: float = 0.0
    squares: float = SQUARES
    look: int = LOOK

    def suited(self, entries: int) -> Steps:
        """The steps to a gap for rows with so many entries to choose (:data:`PACES`)."""
        if self.gap <= 0:
            return self
        pace = next(pace for most, pace in PACES if entries <= most)
        return replace(self, decay=self.decay**pace, look=round(self.look / max(1.0, pace)))


def climb(
    dual: Dual,
    how: Steps,
    *,
    settled: Settled | None = None,
    deadline: Deadline = NEVER,
    direct: bool = False,
    begin: tuple[dict[int, Choice], Tensor] | None = None,
) -> dict[int, Choice]:
    """The best choices found for every row.

    ``begin``: choices to start from instead of the lines, and shares (B, M) of the length of the first step.
    """
    run = _Run(dual, how, direct, begin)
    for step in range(how.steps + 1):
        if (step % how.look == 0 or step == 1) and step and not run.look(step, settled):
            break
        found = run.dual.evaluate(run.choices)
        run.keep(found.value)
        if step == how.steps or not run.slopes or deadline.left <= 0:
            break
        run.move(found, step)
    run.write_back()
    return run.found


class _Run:
    """The iterates: slopes as shares of their ranges, Adam's moments, the best choice of every row; rows done are left out.

    ``problems`` (B',) and ``rows`` (B', M') say which of all rows these are.
    """

    def __init__(self, dual: Dual, how: Steps, direct: bool, begin: tuple[dict[int, Choice], Tensor] | None) -> None:
        self.dual, self.how, self.direct = dual, how, direct
        self.choices, share = (dual.start(), None) if begin is None else begin
        self.best_choices = self.choices
        self.found = {v: c.replaced([t.clone() for t in c.tensors()]) for v, c in self.choices.items()}
        self.best = dual.constant.new_full((dual.batch, dual.count), -math.inf)
        self.before = self.best
        self.length = torch.full_like(self.best, how.step) if share is None else how.step * share
        self.all_best = self.best.clone()
        device = self.best.device
        self.problems = torch.arange(dual.batch, device=device)
        self.rows = torch.arange(dual.count, device=device).expand(dual.batch, -1)
        self.slopes = [(v, i) for v, choice in self.choices.items() for i in range(len(choice.tensors())) if self._moves(v, i)]
        self.first = {key: torch.zeros_like(self._tensor(key)) for key in self.slopes}
        self.second = {key: torch.zeros_like(self._tensor(key)) for key in self.slopes}

    def _range(self, node: int, which: int) -> tuple[Tensor, Tensor] | None:
        """Between what a parameter lies; None for a summand."""
        hull = self.dual.hulls[node]
        least, greatest = hull.below.least + hull.above.least, hull.below.greatest + hull.above.greatest
        return (least[which], greatest[which]) if which < len(least) else None

    def _moves(self, node: int, which: int) -> bool:
        limits = self._range(node, which)
        return limits is None or (not self.direct and bool((limits[1] > limits[0]).any()))

    def _tensor(self, key: tuple[int, int]) -> Tensor:
        return self.choices[key[0]].tensors()[key[1]]

    def keep(self, value: Tensor) -> None:
        """Remember the choices of rows that are better than ever."""
        better = value > self.best
        self.best = torch.where(better, value, self.best)
        if bool(better.all()):
            self.best_choices = self.choices
        elif bool(better.any()):
            self.best_choices = {
                v: c.replaced([_where(better, *pair) for pair in zip(c.tensors(), self.best_choices[v].tensors(), strict=True)])
                for v, c in self.choices.items()
            }

    def look(self, step: int, settled: Settled | None) -> bool:
        """Which rows are done; leave them out where they are many.  False if all are."""
        where = self.problems[:, None], self.rows
        self.all_best[where] = self.best
        done = torch.zeros_like(self.best, dtype=torch.bool)
        if settled is not None:
            done |= settled(self.all_best)[where]
        if self.how.gap > 0 and step % self.how.look == 0:
            stalled = self.best - self.before <= SHARE * self.how.gap * self.best.abs().clamp(min=1.0)
            done |= stalled & (self.length * self.how.decay**step <= SHORT * self.how.gap)
            self._go_back(stalled & ~done)
        if step % self.how.look == 0:
            self.before = self.best
        left = (~done).sum(1)
        most, problems = int(left.max()), torch.nonzero(left)[:, 0]
        if not most:
            return False
        if most * len(problems) < FULL * self.best.numel():
            self._leave_out(problems, torch.argsort(done.to(torch.int8), dim=1, stable=True)[problems, :most])
        return True

    def _go_back(self, rows: Tensor) -> None:
        """Let these rows (B', M') try again from their best choices with shorter steps."""
        if bool(rows.any()):
            self.length = torch.where(rows, SHORTER * self.length, self.length)
            for v, c in self.choices.items():
                pairs = zip(self.best_choices[v].tensors(), c.tensors(), strict=True)
                self.choices[v] = c.replaced([_where(rows, *pair) for pair in pairs])
            for key, first in self.first.items():
                self.first[key] = first.masked_fill(_wide(rows, first), 0.0)

    def _leave_out(self, problems: Tensor, rows: Tensor) -> None:
        """Go on with these problems (B'',) and of each these rows (B'', M'')."""
        self.write_back()

        def take(t: Tensor) -> Tensor:
            own = t[problems] if len(t) == len(self.best) else t
            return own.gather(1, rows.reshape(*rows.shape, *(1,) * (t.dim() - 2)).expand(-1, -1, *t.shape[2:])) if wide(t) else own

        def wide(t: Tensor) -> bool:
            return t.shape[1] == self.best.shape[1] and len(t) == len(self.best)

        self.choices = {v: c.replaced([take(t) for t in c.tensors()]) for v, c in self.choices.items()}
        self.best_choices = {v: c.replaced([take(t) for t in c.tensors()]) for v, c in self.best_choices.items()}
        self.first, self.second = ({key: take(t) for key, t in own.items()} for own in (self.first, self.second))
        self.dual = self.dual.take(problems, rows)
        self.problems, self.rows = self.problems[problems], take(self.rows)
        self.length = take(self.length)
        self.best, self.before = take(self.best), take(self.before)

    def write_back(self) -> None:
        """Put the best choices of the rows at hand where they belong among all."""
        where = self.problems[:, None], self.rows
        for v, i in self.slopes:
            self.found[v].tensors()[i][where] = self.best_choices[v].tensors()[i]

    def move(self, found: Evaluation, step: int) -> None:
        """One step of every slope."""
        how, gradients = self.how, self.dual.gradient(found, self.choices)
        length = self.length * how.decay**step
        moved = {v: c.tensors() for v, c in self.choices.items()}
        for node, which in self.slopes:
            gradient = gradients[node][which]
            if gradient is None:  # of the problems that are left none has a choice there
                continue
            limits, key = self._range(node, which), (node, which)
            toward = direction(self.first[key], self.second[key], gradient, step, how.memory, 2, how.squares)
            change = _wide(length, gradient) * toward
            old = moved[node][which]
            if limits is None:
                size = torch.stack([row.abs().flatten(2).amax(2) for row in found.rows.values()]).amax(0)
                reach = self.dual.hulls[node].reach[which - len(moved[node])]
                moved[node][which] = old + change * reach * size.reshape(*size.shape, *(1,) * (old.dim() - 2))
            else:
                least, greatest = limits
                moved[node][which] = torch.addcmul(old, change, greatest - least).clamp_(least, greatest)
        self.choices = {v: self.choices[v].replaced(tensors) for v, tensors in moved.items()}


def _where(better: Tensor, new: Tensor, old: Tensor) -> Tensor:
    if new is old:
        return old
    return torch.where(_wide(better, new), new, old)


def _wide(t: Tensor, like: Tensor) -> Tensor:
    """A tensor (B, M) with the axes of an entry behind."""
    return t.reshape(*t.shape, *(1,) * (like.dim() - 2))
