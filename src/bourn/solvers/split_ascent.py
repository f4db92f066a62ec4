"""Ascent on the multipliers of many subproblems at once: slopes, multipliers of splits, weights of a conjunction's rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.program.branches import Multiplied, Parts, Shared, Value
from bourn.solvers.adam import direction

_LEAST = 1e-30
LOOK = 4
"""After so many steps it is looked which subproblems are settled."""


@dataclass(frozen=True)
class Climb:
    """Adam's steps: at most ``steps``, the first of length ``step`` (1: the range of a slope), each ``decay`` times the last."""

    steps: int = 10
    step: float = 0.2
    decay: float = 0.9
    memory: float = 0.8
    enough: float = 0.0

    def run(
        self, shared: Shared, parts: Parts, chosen: Multiplied, deadline: Deadline = NEVER, enough: Tensor | None = None
    ) -> tuple[Multiplied, Tensor, Tensor]:
        """The best multipliers found, their values (B,), and the inputs (B, n) at which these are attained.

        A subproblem is left alone once its value is above ``enough``, by default that of these settings.
        """
        run = _Run(shared, parts, chosen, self)
        aim = torch.full_like(run.best, self.enough) if enough is None else enough.to(run.best.dtype)
        for step in range(self.steps + 1):
            found = shared.evaluate(run.parts, run.chosen, gradient=step < self.steps)
            run.keep(found)
            if step == self.steps or deadline.left <= 0 or not len(run.live):
                break
            run.move(found, step)
            if step % LOOK == LOOK - 1:
                run.leave_out(run.best[run.live] <= aim[run.live])
                if not len(run.live):
                    break
        return run.best_chosen, run.best, run.x


@dataclass(eq=False)
class _Run:
    """Iterates of the subproblems that are ``live``, and the best of all."""

    shared: Shared
    parts: Parts
    chosen: Multiplied
    how: Climb
    live: Tensor = field(init=False)
    best: Tensor = field(init=False)
    best_chosen: Multiplied = field(init=False)
    x: Tensor = field(init=False)
    moments: list[tuple[Tensor, Tensor]] = field(init=False)
    weigh: bool = field(init=False)
    splits: bool = field(init=False)

    def __post_init__(self) -> None:
        count, device = len(self.parts.lower), self.parts.lower.device
        self.live = torch.arange(count, device=device)
        self.best = torch.full((count,), -math.inf, device=device)
        own = self.chosen
        self.best_chosen = Multiplied(own.alpha.clone(), own.beta.clone(), own.weights.clone())
        self.x = torch.zeros(count, self.shared.rows.on_input.shape[1], device=device)
        self.moments = [(torch.zeros_like(own.alpha), torch.zeros_like(own.alpha)) for _ in range(2)]
        self.weigh = bool(((own.weights > 0).sum(1) > 1).any())
        self.splits = bool((self.parts.side != 0).any())

    def keep(self, found: Value) -> None:
        better = found.value > self.best[self.live]
        which = self.live[better]
        self.best[which] = found.value[better]
        self.x[which] = found.x[better]
        for new, old in zip(_tensors(self.chosen), _tensors(self.best_chosen), strict=True):
            old[which] = new[better]

    def leave_out(self, stay: Tensor) -> None:
        if bool(stay.all()):
            return
        self.live, self.parts, self.chosen = self.live[stay], self.parts[stay], self.chosen[stay]
        self.moments = [(a[stay], b[stay]) for a, b in self.moments]

    def move(self, found: Value, step: int) -> None:
        assert found.z is not None
        assert found.rows is not None
        length = self.how.step * self.how.decay**step
        own, open_ = self.chosen, self.parts.open
        gradient = (found.row.clamp(min=0) * found.z).masked_fill(~open_, 0.0)
        alpha = own.alpha + length * self._change(0, gradient, step)
        alpha = torch.maximum(alpha, self.shared.slope).clamp(max=1.0)
        beta, weights = own.beta, own.weights
        if self.splits:
            size = found.row.abs().amax(1, keepdim=True)
            gradient = -self.parts.side.to(torch.float32) * found.z
            beta = (beta + length * size * self._change(1, gradient, step)).clamp(min=0.0)
        if self.weigh:
            rows = found.rows.masked_fill(weights <= 0, -math.inf)
            values = found.rows - rows.amax(1, keepdim=True)
            scale = found.rows.abs().masked_fill(weights <= 0, 0.0).amax(1, keepdim=True) + _LEAST
            raised = weights.clamp(min=1e-4) * torch.exp((5 * length * values / scale).clamp(max=0.0))
            raised = torch.where(weights > 0, raised, 0.0)
            weights = torch.where((weights > 0).sum(1, keepdim=True) > 1, raised / raised.sum(1, keepdim=True), weights)
        self.chosen = Multiplied(alpha, beta, weights)

    def _change(self, which: int, gradient: Tensor, step: int) -> Tensor:
        return direction(*self.moments[which], gradient, step, self.how.memory, rows=1)


def _tensors(chosen: Multiplied) -> tuple[Tensor, Tensor, Tensor]:
    return chosen.alpha, chosen.beta, chosen.weights
