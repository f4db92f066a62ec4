"""What input and neuron splitting share: a conjunction's rows by weights, paths of splits, and what a run has to say."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from bourn.certificates.account import Tree, WayTaken
from bourn.certificates.splits import Leaf, Split, SplitTree
from bourn.deadline import Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.problem import Objectives, Problem
from bourn.problem.specification import Row
from bourn.program.linear_bounds import Multipliers, RowBounds, back_substitute
from bourn.program.relaxed import RelaxedProgram
from bourn.rounding import UNIT, down, gamma
from bourn.solvers.base import output_rows

Accept = Callable[[Tensor], bool]
"""Replays an input (*input_shape); whether it is a counterexample as written."""


@dataclass(frozen=True)
class OpenAt:
    """An open part of the input set: the splits that lead there, and of every conjunction that is open in it a lower bound."""

    splits: tuple[Split, ...]
    bounds: Mapping[int, float]

    @property
    def path(self) -> Path:
        """The splits, to go on from."""
        path = Path()
        for split in self.splits:
            path = path.then(split)
        return path


@dataclass(frozen=True, eq=False)
class Outcome:
    """What splitting came to.

    ``refuted``: the conjunctions refuted, by number.  ``bounds``: of every other one a lower bound, over the whole input set, of
    the best weighted sum of its rows in each part; valid whenever the run was stopped.  ``subproblems``: how many were bounded;
    ``left``: how many are open; ``stopped``: why it ended with some left.  ``found``: whether a counterexample was accepted.
    ``depth``: the most splits on the way to a part.  ``ways``: how subproblems were split.  ``refused``: why nothing was done.
    ``parts``: what is open, and ``leaves``: of the conjunctions that are not refuted those so far; with both another run can go on.
    """

    refuted: Mapping[int, SplitTree]
    bounds: Mapping[int, float]
    subproblems: int
    left: int = 0
    stopped: str = ""
    found: bool = False
    depth: int = 0
    ways: tuple[WayTaken, ...] = ()
    refused: str = ""
    parts: tuple[OpenAt, ...] = ()
    leaves: Mapping[int, tuple[Leaf, ...]] = field(default_factory=dict)

    @property
    def tree(self) -> Tree:
        """The tree, for accounts."""
        least = min(self.bounds.values(), default=math.inf)
        return Tree(self.subproblems, self.left, self.depth, least, self.stopped, self.ways)


class Splitting(ABC):
    """A way to split: what is halved, and how the halves are bounded."""

    name: ClassVar[str]

    def within(self, memory: int) -> Self:
        """The same with about so many bytes for its tree, and at most as many for what it computes at a time."""
        most = {"row_bytes": memory // 16, "matrix_bytes": memory}
        own = {name: min(getattr(self, name), size) for name, size in most.items() if hasattr(self, name)}
        return replace(self, memory=memory, **own)  # type: ignore[type-var]

    @abstractmethod
    def refusal(self, problem: Problem, inner: Mapping[int, Interval]) -> str:
        """Why it does not apply; empty where it does, as far as can be told beforehand."""

    @abstractmethod
    def run(
        self,
        problem: Problem,
        open_: list[int],
        inner: Mapping[int, Interval],
        accept: Accept,
        deadline: Deadline,
        most: float = math.inf,
        begin: Sequence[OpenAt] = (),
    ) -> Outcome:
        """Decide the conjunctions numbered ``open_`` of a problem that it does not refuse, from implied bounds ``inner``.

        ``begin``: the parts to go on from, none for the whole input set.

        Ends out of time, after ``most`` subproblems, or when all is decided.  Raises
        :class:`bourn.program.branches.CannotSplit` where it shows only now that it does not apply.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """The splits of a subproblem, the last one first; ``depth``: how many."""

    split: Split | None = None
    parent: Path | None = None
    depth: int = 0

    def then(self, split: Split) -> Path:
        """The path with one split more."""
        return Path(split, self, self.depth + 1)

    def splits(self) -> tuple[Split, ...]:
        """The splits from the root on."""
        found: list[Split] = []
        place: Path | None = self
        while place is not None and place.split is not None:
            found.append(place.split)
            place = place.parent
        return tuple(reversed(found))


@dataclass(frozen=True, eq=False)
class WeightedRows:
    """Sums of K rows by weights (B, K), at least 0: their rows, and what adding them up may have cost."""

    graph: Graph
    objectives: Objectives

    @classmethod
    def of(cls, problem: Problem, rows: Sequence[Row]) -> WeightedRows:
        """Raises :class:`SpecificationError` for a coefficient beyond float64's range."""
        return cls(problem.network, problem.objectives(rows))

    def __len__(self) -> int:
        return len(self.objectives)

    def rows(self, weights: Tensor, absolute: bool = False) -> tuple[dict[int, Tensor], Tensor]:
        """Rows (B, 1, *shape) on the output and the input, and constants (B, 1); of absolute values if so asked."""
        own = output_rows(self.graph, self.objectives)
        constant = self.objectives.constant[0]
        if absolute:
            own, constant = {v: row.abs() for v, row in own.items()}, constant.abs()
        rows = {v: (weights @ row[0].flatten(1)).reshape(len(weights), 1, *row.shape[2:]) for v, row in own.items()}
        return rows, (weights @ constant)[:, None]

    def error(self, program: RelaxedProgram, weights: Tensor) -> Tensor:
        """What rounding may have cost, (B, 1)."""
        single = bool(((weights == 0) | (weights == 1)).all()) and bool(((weights != 0).sum(1) <= 1).all())
        if single and not self.objectives.inexact:
            return torch.zeros_like(weights[:, :1])
        relative = gamma(len(self) + 8) + 4 * UNIT
        rows, constant = self.rows(weights, absolute=True)
        total = constant
        for v, row in rows.items():
            total = total + torch.matmul(row.flatten(2), program.magnitudes[v].flatten(1)[..., None])[..., 0]
        return 2 * relative * total

    def state(self, program: RelaxedProgram, weights: Tensor, multipliers: Mapping[int, Multipliers] | None = None) -> Tensor:
        """Lower bounds (B,) of the weighted sums, valid in exact arithmetic."""
        return self.trace(program, weights, (), multipliers)[0]

    def trace(
        self, program: RelaxedProgram, weights: Tensor, keep: Container[int], multipliers: Mapping[int, Multipliers] | None = None
    ) -> tuple[Tensor, RowBounds]:
        """The same, and the rows that they come from on the nodes ``keep``."""
        rows, constant = self.rows(weights)
        found = back_substitute(program, rows, constant, keep, multipliers)
        return down(found.lower - self.error(program, weights))[:, 0], found

    def values(self, x: Tensor) -> Tensor:
        """Values (N, K) of the rows at points x (N, *input_shape), to float64 rounding."""
        y = self.graph.evaluate(x).flatten(1)
        values = y @ self.objectives.outputs[0].T + self.objectives.constant
        return values if self.objectives.inputs is None else values + x.flatten(1) @ self.objectives.inputs[0].T


def try_points(rows: WeightedRows, groups: Sequence[Sequence[int]], x: Tensor, accept: Accept, most: int = 3) -> bool:
    """Whether one of the points (N, *input_shape) is accepted as a counterexample of one of the conjunctions, ``groups`` of rows.

    At most so many are replayed for each.
    """
    values = rows.values(x).nan_to_num(nan=math.inf)
    for group in groups:
        worst = values[:, list(group)].amax(1)
        for i in torch.argsort(worst)[:most].tolist():
            if worst[i] > 0:
                break
            if accept(x[i]):
                return True
    return False


def leaf_bytes(depth: int, rows: int) -> int:
    """About what a leaf keeps in memory (measured): its splits and weights, and a share of the path to it."""
    return 400 + 8 * depth + 32 * rows


def over_budget(memory: int) -> str:
    """Why a tree stops growing whose parts and leaves take more than ``memory`` bytes."""
    return f"out of its memory budget of {memory / 1e6:.4g} MB"


def leaf(path: Path, weights: Tensor, bound: float, method: str) -> Leaf:
    """A leaf at the end of a path."""
    return Leaf(path.splits(), tuple(weights.tolist()), bound, method)


def best_weights(matrix: Tensor, constant: Tensor, lower: Tensor, upper: Tensor, steps: int = 30) -> Tensor:
    """Weights (B, K) that raise the minimum over boxes (B, n) of sums of linear functions, matrix (B, K, n), constant (B, K).

    The minimum is concave in the weights: exponentiated supergradient ascent, the best kept.  No bound comes from here.
    """
    scale = (matrix.abs() @ (upper - lower)[..., None]).amax(1) + 1e-12
    weights = torch.full_like(constant, 1.0 / constant.shape[1])
    best, best_value = weights, torch.full_like(constant[:, :1], -math.inf)
    for step in range(steps):
        row = (weights[:, None] @ matrix)[:, 0]
        x = torch.where(row > 0, lower, upper)
        values = (matrix @ x[..., None])[..., 0] + constant
        value = (weights * values).sum(1, keepdim=True)
        best = torch.where(value > best_value, weights, best)
        best_value = torch.maximum(value, best_value)
        raised = weights * torch.exp(4.0 / (1 + step) ** 0.5 * (values - values.amax(1, keepdim=True)) / scale)
        weights = raised / raised.sum(1, keepdim=True)
    return torch.where(best < 1e-9, 0.0, best).nan_to_num(nan=0.0)
