"""Branch and bound in several processes: a tree's open parts are dealt out, worked on side by side, and dealt out anew.

A tree begins in this process, for most end soon.  After that in rounds, each as long as everything before it: the open parts, worst
first, go to the processes in turn, so that each has its share of hard ones; what they leave open is dealt out again, so that none
is idle for long.  Of multipliers nothing is passed on, only the splits.  A candidate that a process meets is replayed here.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor

from bourn.certificates.splits import Leaf, SplitTree
from bourn.deadline import Deadline
from bourn.interval import Interval
from bourn.problem.problem import Problem
from bourn.processes import end, lost_workers, pool, spawning
from bourn.solvers.input_splitting import InputSplitting
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.subproblems import Accept, OpenAt, Outcome, Splitting

_LOOK = 0.05
"""Every so many seconds it is looked whether all is to end."""
_RETURN = 0.1
"""The share of a round that is kept for its answers to come back."""


@dataclass(frozen=True)
class SideBySide(Splitting):
    """``how`` in ``workers`` processes, where a tree is open after ``alone`` subproblems in this one."""

    how: InputSplitting | NeuronSplitting
    workers: int
    alone: int = 4000

    @property
    def name(self) -> str:  # type: ignore[override]
        """What is split."""
        return self.how.name

    def within(self, memory: int) -> Self:
        """Every process has a share of the memory."""
        return replace(self, how=self.how.within(memory // (self.workers + 1)))

    def refusal(self, problem: Problem, inner: Mapping[int, Interval]) -> str:
        """Where one process would not do it either."""
        return self.how.refusal(problem, inner)

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
        """Alone at first, then in rounds."""
        began = time.monotonic()
        first = self.how.run(problem, open_, inner, accept, deadline, min(most, self.alone), begin)
        on_a_device = problem.network.device.type != "cpu"
        if first.found or not first.parts or first.subproblems < self.alone or first.subproblems >= most or on_a_device:
            return first
        growing = _Growing(self, problem, open_, inner, first)
        with spawning():
            workers = pool(self.workers)
        try:
            with lost_workers():
                growing.rounds(workers, began, accept, deadline, most)
        finally:
            end(workers)
        return growing.outcome(begin)


@dataclass(eq=False)
class _Growing:
    """The tree so far."""

    how: SideBySide
    problem: Problem
    open: list[int]
    inner: Mapping[int, Interval]
    last: Outcome
    leaves: dict[int, list[Leaf]] = field(init=False)
    parts: list[OpenAt] = field(init=False)
    subproblems: int = field(init=False)
    depth: int = field(init=False)
    found: bool = False
    stopped: str = ""

    def __post_init__(self) -> None:
        self.leaves = {k: list(own) for k, own in self.last.leaves.items()}
        self.parts, self.subproblems, self.depth = list(self.last.parts), self.last.subproblems, self.last.depth

    def rounds(self, workers: ProcessPoolExecutor, began: float, accept: Accept, deadline: Deadline, most: float) -> None:
        """Deal out the open parts until none is left, or a limit is reached."""
        trusted = True
        while self.parts and not self.found:
            if deadline.left <= 0 or self.subproblems >= most:
                self.stopped = deadline.why if deadline.left <= 0 else f"after {self.subproblems} subproblems"
                return
            seconds = max(min(time.monotonic() - began, deadline.left * (1 - _RETURN)), 1e-3)
            before = len(self.parts)
            points = self._round(workers, seconds, deadline, trusted)
            if points is None:
                self.stopped = deadline.why
                return
            self.found = any(accept(x) for x in points)
            trusted = not points  # one that the replay refuses would end every round
            if self._patience < 1 and len(self.parts) >= before:
                self.stopped = "forecast to take too long"
                return
            if self.stopped:
                return

    @property
    def _patience(self) -> float:
        return self.how.how.patience if isinstance(self.how.how, NeuronSplitting) else 1.0

    def _round(self, workers: ProcessPoolExecutor, seconds: float, deadline: Deadline, look: bool) -> list[Tensor] | None:
        """One round; the points met in it, or None where all is to end before it has ended."""
        order = sorted(self.parts, key=lambda part: min(part.bounds.values()))
        shares = [own for i in range(self.how.workers) if (own := order[i :: self.how.workers])]
        how = replace(self.how.how, patience=1.0) if isinstance(self.how.how, NeuronSplitting) else self.how.how
        # As bytes: tensors would be handed over in shared memory, by more file descriptors than there may be.
        asked = pickle.dumps((how, self.problem, self.open, dict(self.inner), seconds, look))
        with spawning():
            given = [workers.submit(_work, asked, pickle.dumps(own)) for own in shares]
        waiting = set(given)
        while waiting:
            if deadline.left <= 0:
                return None
            _, waiting = wait(waiting, _LOOK)
        answers: list[tuple[Outcome, Tensor | None]] = [pickle.loads(future.result()) for future in given]
        self.parts = [part for outcome, _ in answers for part in outcome.parts]
        for outcome, _ in answers:
            self.subproblems += outcome.subproblems
            self.depth = max(self.depth, outcome.depth)
            for k, own_leaves in outcome.leaves.items():
                self.leaves.setdefault(k, []).extend(own_leaves)
        reasons = [outcome.stopped for outcome, _ in answers if outcome.parts and not outcome.found]
        self.stopped = next((reason for reason in reasons if reason != "out of time"), "")
        return [x for _, x in answers if x is not None]

    def outcome(self, begin: Sequence[OpenAt]) -> Outcome:
        """What all came to."""
        bounds: dict[int, float] = {}
        for part in self.parts:
            for k, bound in part.bounds.items():
                bounds[k] = min(bounds.get(k, math.inf), bound)
        refuted = dict(self.last.refuted)
        if not begin and not self.found:
            closed = {k: tuple(own) for k, own in self.leaves.items() if k not in bounds}
            refuted |= {k: SplitTree(self.problem.conjunctions[k], own) for k, own in closed.items()}
        return Outcome(
            refuted,
            bounds,
            self.subproblems,
            len(self.parts),
            self.stopped,
            self.found,
            self.depth,
            self.last.ways,
            parts=tuple(self.parts),
            leaves={k: tuple(own) for k, own in self.leaves.items() if k not in refuted},
        )


def _work(asked: bytes, begin: bytes) -> bytes:
    """In a process: what a share of the parts comes to, and the point that ended the work on them, if one did."""
    how, problem, open_, inner, seconds, look = pickle.loads(asked)
    met: list[Tensor] = []

    def accept(x: Tensor) -> bool:
        met.append(x)
        return True

    outcome = how.run(problem, open_, inner, accept if look else lambda x: False, Deadline(seconds), begin=pickle.loads(begin))
    return pickle.dumps((outcome, met[0] if met else None))
