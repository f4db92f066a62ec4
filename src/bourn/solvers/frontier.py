"""What a tree of splits keeps while it grows: the open parts, the worst first, and the leaves of every conjunction so far."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor

from bourn.certificates.splits import Leaf, SplitTree
from bourn.problem.problem import Problem
from bourn.solvers.subproblems import OpenAt, Outcome, Path, leaf, leaf_bytes


@dataclass(eq=False)
class OpenPart:
    """A part of the input set: its path, and of every conjunction that is open in it a value and a bound that was stated.

    Values are not rounded outward; they only say what comes next.
    """

    path: Path
    values: dict[int, float]
    stated: dict[int, float]

    @property
    def worst(self) -> float:
        """The least value of the conjunctions that are open in it; 0 where none is."""
        return min(self.values.values(), default=0.0)


P = TypeVar("P", bound=OpenPart)


@dataclass(eq=False)
class Frontier(Generic[P]):
    """The open parts of a tree for the conjunctions numbered ``open_``.

    ``size``: bytes of a part.  Where parts and leaves take the share ``worst_first`` of ``memory``, the newest parts come first,
    which keeps their number down; where they take all of it the tree is :attr:`full`.  ``whole``: whether it began with the whole
    input set.  ``stuck``: parts that nothing is left to split in.  ``depth``: the most splits of a part so far.
    """

    open_: list[int]
    size: int
    memory: int
    worst_first: float
    whole: bool = True
    stuck: list[P] = field(default_factory=list)
    leaves: dict[int, list[Leaf]] = field(init=False)
    depth: int = 0
    _leaf_bytes: int = 0
    _heap: list[tuple[float, int, P]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _newest_first: bool = False

    def __post_init__(self) -> None:
        self.leaves = {k: [] for k in self.open_}

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def everything(self) -> list[P]:
        """All open parts."""
        return [*(part for _, _, part in self._heap), *self.stuck]

    @property
    def bytes(self) -> int:
        """About what its parts and leaves take."""
        return (len(self._heap) + len(self.stuck)) * self.size + self._leaf_bytes

    @property
    def full(self) -> bool:
        """Whether there is no memory left for more."""
        return self.bytes > self.memory

    def add(self, part: P) -> None:
        """Put an open part to the others."""
        self.depth = max(self.depth, part.path.depth)
        number = next(self._numbers)
        heapq.heappush(self._heap, (-float(number) if self._newest_first else part.worst, number, part))

    def take(self, count: int) -> list[P]:
        """The next so many parts, or as many as there are."""
        if not self._newest_first and self.bytes > self.worst_first * self.memory:
            self._newest_first = True
            self._heap = [(-float(n), n, part) for _, n, part in self._heap]
            heapq.heapify(self._heap)
        return [heapq.heappop(self._heap)[2] for _ in range(min(count, len(self._heap)))]

    def close(self, part: P, k: int, weights: Tensor, bound: float, method: str) -> None:
        """A conjunction is refuted on a part."""
        self.leaves[k].append(leaf(part.path, weights, bound, method))
        self.depth = max(self.depth, part.path.depth)
        self._leaf_bytes += leaf_bytes(part.path.depth, len(weights))
        del part.values[k], part.stated[k]

    def bounds(self) -> dict[int, float]:
        """Of every conjunction that is open a lower bound over all open parts."""
        found: dict[int, float] = {}
        for part in self.everything:
            for k, bound in part.stated.items():
                found[k] = min(found.get(k, math.inf), bound)
        return found

    def outcome(self, problem: Problem, subproblems: int, stopped: str, found: bool) -> Outcome:
        """What the tree came to."""
        bounds = self.bounds()
        closed = {k: own for k, own in self.leaves.items() if k not in bounds and not found}
        refuted = {k: SplitTree(problem.conjunctions[k], tuple(own)) for k, own in closed.items()} if self.whole else {}
        parts = tuple(OpenAt(part.path.splits(), dict(part.stated)) for part in self.everything)
        leaves = {k: tuple(own) for k, own in self.leaves.items() if k not in refuted}
        return Outcome(
            refuted, bounds, subproblems, len(parts), stopped, found, self.depth, parts=parts, leaves=leaves
        )
