"""Ways to split a neuron, and which of them a tree goes on with: the one that is forecast to end it first.

A split that closes the shares l and r of what its halves lack takes, repeated, a tree that grows as phi with phi^-l + phi^-r = 1
(Le Bodic and Nemhauser, An abstract model for branching and its application to mixed integer programming, 2017).  Cheap splits and
dear ones that also tighten inner bounds are compared by that and by their time.  A choice of effort only: no bound rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from bourn.certificates.account import WayTaken
from bourn.solvers.split_ascent import Climb

NEAR = 2.0
"""No other way is tried where the tree is forecast to end within so many seconds."""
PROBE = 24
"""Every so many batches one that looked worse is tried again: what pays changes with the depth."""
FAR = 5.0
"""Not one whose forecast is worse by this factor's exponent."""
_KEPT = 0.7
"""The share that what was seen before keeps with every batch."""
_LEAST = 1e-4
"""A gain below this counts as this, for without any there is no end."""


@dataclass(frozen=True)
class Way:
    """How a subproblem is split.

    ``rule``: the neuron with the greatest score of :data:`bourn.solvers.branching.BRANCHING_NEURONS`; ``ahead``: of so many of
    the greatest both halves are bounded without ascent, and that whose worse half is best is taken.  ``again``: the ascent by
    which the bounds of later pre-activations are tightened in the halves (no steps: they are not).
    """

    rule: str
    ahead: int = 1
    again: Climb = field(default=Climb(steps=0))

    @property
    def name(self) -> str:
        """For people."""
        ahead = f", looking at {self.ahead} ahead" if self.ahead > 1 else ""
        return f"{self.rule}{ahead}" + (", inner bounds tightened again" if self.again.steps else "")


def log_size(less: float, more: float) -> float:
    """log phi for the shares that the worse and the better half of a split gain of what they lack, both from 0 to 1.

    Between log 2, where both are closed, and some 1e5.
    """
    less, more = max(less, _LEAST), max(more, less, _LEAST)
    size = math.log(2) / more
    for _ in range(200):  # Newton's steps from the left on a convex, falling function
        left, right = math.exp(-less * size), math.exp(-more * size)
        step = (left + right - 1) / (less * left + more * right)
        size += step
        if step < 1e-6 * size:
            break
    return size


@dataclass(eq=False)
class Record:
    """What a way has shown in a tree: splits, seconds and gains, the older ones counting less.

    ``batch``: for its next turn.  ``subproblems`` and ``spent``: how many, and how long they took, in all.
    """

    way: Way
    batch: int = 1
    splits: float = 0.0
    seconds: float = 0.0
    less: float = 0.0
    more: float = 0.0
    last: int = -1
    subproblems: int = 0
    spent: float = 0.0

    @property
    def tried(self) -> bool:
        return self.splits > 0

    @property
    def forecast(self) -> float:
        """The logarithm of the seconds that a subproblem takes whose gains are those so far."""
        size = log_size(self.less / self.splits, self.more / self.splits)
        return min(math.log(self.seconds / self.splits) + size, 500.0)

    def add(self, number: int, seconds: float, less: Tensor, more: Tensor) -> None:
        """Batch ``number``: how long it took, and the gains (B,) of the worse and the better halves."""
        news = float(len(less)), max(seconds, 1e-9), float(less.sum()), float(more.sum())
        old = self.splits, self.seconds, self.less, self.more
        self.splits, self.seconds, self.less, self.more = (_KEPT * a + b for a, b in zip(old, news, strict=True))
        self.last = number
        self.subproblems += 2 * len(less)
        self.spent += seconds

    def taken(self, open_: int) -> WayTaken:
        """What came of it in a tree that ended with so many subproblems open."""
        return WayTaken(self.way.name, self.subproblems, self.spent, forecast([self], open_))


def forecast(records: Sequence[Record], open_: int) -> float:
    """The seconds that a tree with ``open_`` subproblems is forecast to take on the best way so far; none where none was tried."""
    return open_ * math.exp(min((r.forecast for r in records if r.tried), default=-math.inf))


def choose(records: Sequence[Record], number: int, open_: int, left: float) -> tuple[Record, float]:
    """The way for batch ``number`` of a tree with ``open_`` subproblems and ``left`` seconds, and how long it may take.

    Each is tried once, unless the end is near, for at most half of what the tree is forecast to take otherwise.
    """
    tried = [r for r in records if r.tried]
    if not tried:
        return records[0], left
    best, seconds = min(tried, key=lambda r: r.forecast), min(forecast(records, open_), left)
    if seconds > NEAR:
        for r in records:
            if not r.tried:
                return r, seconds / 2
        others = [r for r in tried if r is not best and r.forecast < best.forecast + FAR]
        if others and number - max(r.last for r in records if r is not best) >= PROBE:
            return min(others, key=lambda r: r.last), left
    return best, left
