"""Projected gradient descent (Madry et al. 2018) on the margin of a conjunction: candidates only, always replayed.

Every restart aims at one conjunction and descends on the greatest of its rows, so that all rows of a
conjunction are driven down together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.deadline import Deadline, OutOfTime
from bourn.problem.problem import Objectives, Problem


@dataclass(frozen=True)
class ProjectedGradient:
    """``restarts`` points for every conjunction, ``steps`` steps each: by the gradient's signs in a box, along it in a ball.

    The first step moves by ``first_step`` of the set's width, the last by ``last_step``.  ``most_points``
    bounds how many points go through the network at once, eight times as many where no gradient is asked for.  ``patience``: the
    share of the time left that it may take.
    ``samples``: before that, so many random points, many on faces, are tried where the input has at most ``few`` entries: a
    counterexample may lie where no gradient leads, in a corner of a set that is small enough to be searched.
    """

    steps: int = 40
    restarts: int = 10
    first_step: float = 0.25
    last_step: float = 0.005
    most_points: int = 512
    seed: int = 0
    patience: float = 1.0
    samples: int = 0
    few: int = 20
    name: str = "attack"

    def run(
        self, problem: Problem, accept: Callable[[Tensor], bool], deadline: Deadline, starts: Tensor | None = None
    ) -> tuple[bool, Tensor, Tensor]:
        """Attack ``problem`` (a batch of one) until ``accept(x)`` agrees that a point x (*input_shape) is a counterexample.

        ``starts`` (K, *input_shape): further points to start from, for every conjunction.  Returns whether one
        was accepted and, for every conjunction, the least value of its greatest row that was met (K_c,) and the
        point where it was (K_c, *input_shape).
        """
        aim = _Aim.at(problem)
        points = self._starts(problem, starts)
        count = len(problem.conjunctions)
        targets = torch.arange(count, device=points.device).repeat_interleave(len(points))
        points = points.repeat(count, *(1,) * (points.dim() - 1))
        soft = deadline.part(self.patience)
        try:
            if problem.box.lower[0].numel() <= self.few and self._search(aim, accept, soft):
                return True, aim.best, aim.best_x
            for some in torch.split(torch.arange(len(targets), device=points.device), self.most_points):
                if self._descend(aim, targets[some], points[some], accept, soft):
                    return True, aim.best, aim.best_x
        except OutOfTime:
            deadline.check()
        return False, aim.best, aim.best_x

    def _starts(self, problem: Problem, starts: Tensor | None) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        sampled = problem.box.sample(max(1, self.restarts - 1), generator)[0]
        return torch.cat([problem.box.middle, sampled] + ([] if starts is None else [starts.to(sampled.device)]))

    def _search(self, aim: _Aim, accept: Callable[[Tensor], bool], deadline: Deadline) -> bool:
        """Try random points, for all conjunctions at once."""
        generator, patience = torch.Generator().manual_seed(self.seed), 20
        at_once = 8 * self.most_points
        for first in range(0, self.samples, at_once):
            deadline.check()
            x = self._somewhere(aim.problem, min(at_once, self.samples - first), generator)
            rows = row_values(aim.problem, aim.objectives, x).nan_to_num(nan=torch.inf)
            for c, member in enumerate(aim.member):
                worst = torch.cat([rows[:, member], rows.new_full((len(x), 1), -torch.inf)], 1).amax(1)
                for i in aim.note(torch.full_like(worst, c, dtype=torch.int64), x, worst)[:patience]:
                    if accept(x[i]):
                        return True
                    patience -= 1
        return False

    @staticmethod
    def _somewhere(problem: Problem, count: int, generator: torch.Generator) -> Tensor:
        """Random points, three quarters of them on faces: every entry at one of its ends as often as between them."""
        box = problem.box
        x = box.sample(count, generator)[0]
        end = torch.rand(x.shape, dtype=torch.float64, generator=generator).to(x.device)
        end[: count // 4] = 0.5
        lower, upper = box.finite()
        return box.project(torch.where(end < 0.25, lower, torch.where(end > 0.75, upper, x)))

    def _descend(self, aim: _Aim, targets: Tensor, x: Tensor, accept: Callable[[Tensor], bool], deadline: Deadline) -> bool:
        """Descend from the points ``x``, each at the conjunction in ``targets``."""
        box = aim.problem.box
        lower, upper = box.finite()
        decay = (self.last_step / self.first_step) ** (1 / max(1, self.steps - 1))
        patience = 20
        for step in range(self.steps + 1):
            deadline.check()
            worst, gradient = aim.worst_row(targets, x)
            for i in aim.note(targets, x, worst)[:patience]:
                if accept(x[i]):
                    return True
                patience -= 1
            x = box.project((x - self.first_step * decay**step * box.steepest(gradient)).clamp(lower, upper))
        return False


@dataclass(eq=False)
class _Aim:
    """A problem's conjunctions and, for each, the best point met."""

    problem: Problem
    objectives: Objectives
    member: Tensor
    best: Tensor
    best_x: Tensor

    @classmethod
    def at(cls, problem: Problem) -> _Aim:
        device = problem.box.lower.device
        number = {row: i for i, row in enumerate(problem.rows)}
        member = torch.zeros(len(problem.conjunctions), len(number), dtype=torch.bool, device=device)
        for c, conjunction in enumerate(problem.conjunctions):
            for row in conjunction.rows:
                member[c, number[row]] = True
        best = torch.full((len(member),), torch.inf, dtype=torch.float64, device=device)
        middle = problem.box.middle.expand(len(member), *problem.box.shape).clone()
        return cls(problem, problem.objectives().to(device), member, best, middle)

    def worst_row(self, targets: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The greatest row of each point's conjunction, (N,), -inf if it has none, and its gradient in x."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            rows = row_values(self.problem, self.objectives, x).masked_fill(~self.member[targets], -torch.inf)
            worst = torch.cat([rows, rows.new_full((len(x), 1), -torch.inf)], dim=1).amax(1)
            # A network whose output is a constant has no gradient to follow.
            total = worst[torch.isfinite(worst)].sum()
            (gradient,) = torch.autograd.grad(total, x, allow_unused=True) if total.requires_grad else (None,)
        return worst.detach().nan_to_num(torch.inf, torch.inf, -torch.inf), torch.zeros_like(x) if gradient is None else gradient

    def note(self, targets: Tensor, x: Tensor, worst: Tensor) -> list[int]:
        """Keep the best points; return the numbers of those that look like counterexamples, best first."""
        for c in sorted(set(targets.tolist())):
            i = worst.masked_fill(targets != c, torch.inf).argmin()
            if worst[i] < self.best[c]:
                self.best[c], self.best_x[c] = worst[i], x[i]
        found = torch.nonzero(worst <= 0)[:, 0]
        order: list[int] = found[torch.argsort(worst[found])].tolist()
        return order


def row_values(problem: Problem, objectives: Objectives, x: Tensor) -> Tensor:
    """Values (N, M) of the rows at points x (N, *input_shape); differentiable."""
    y = problem.network.evaluate(x).flatten(1)
    values = y @ objectives.outputs[0].T + objectives.constant
    if objectives.inputs is not None:
        values = values + x.flatten(1) @ objectives.inputs[0].T
    return values
