"""What a run did and what came of it: a record made while its steps end, from which accounts for people are written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class WayTaken:
    """A way in which subproblems were split, how many and in how long.

    ``forecast``: the seconds that what was open at the end was forecast to take in this way.
    """

    name: str
    subproblems: int
    seconds: float
    forecast: float


@dataclass(frozen=True)
class Tree:
    """A tree of splits at the end of its step.

    ``left`` parts of its ``subproblems`` are open, ``depth`` is the most splits on the way to one.  ``least``: a bound, valid on
    all of the input set, of the conjunctions that are open, infinite where none is.  ``stopped``: why it ended with some left.
    """

    subproblems: int
    left: int
    depth: int
    least: float
    stopped: str = ""
    ways: tuple[WayTaken, ...] = ()

    def __str__(self) -> str:
        done = f"{_several(self.subproblems, 'subproblem')}, {_several(self.depth, 'split')} deep"
        if not self.left:
            return f"{done}, all closed"
        reason = f"{self.stopped}: " if self.stopped else ""
        least = f", least bound {self.least:.6g}" if math.isfinite(self.least) else ", no bound"
        return f"{reason}{done}, {_several(self.left, 'open part')}{least}"


class Kind(Enum):
    """What a step is for."""

    ATTACK = "looks for a counterexample"
    BOUNDS = "bounds the rows of open conjunctions"
    SPLITTING = "divides the input set into cases"
    BARRIER = "asks how far any layer-wise method can get"


@dataclass(frozen=True)
class Step:
    """One step of a run: what was done, how long it took, and how many conjunctions of all cases it left open.

    ``case``: its number; ``decided``: how many conjunctions it refuted; ``stands_on``: its inner bounds, in words.  ``bounds``:
    what it came to for the hardest conjunctions, by number, those refuted by it included.  ``unstable``: how many neurons the
    inner bounds known after it leave unstable.  ``met``: the least value that an attack met, where a counterexample has at most 0.
    ``stopped``: why it ended early.  ``skipped``: why it was not done at all.  ``left``: the seconds left after it.
    """

    what: str
    kind: Kind
    seconds: float = 0.0
    open: int = 0
    case: int = 0
    decided: int = 0
    stands_on: str = ""
    bounds: tuple[tuple[int, float], ...] = ()
    unstable: int | None = None
    met: float | None = None
    tree: Tree | None = None
    stopped: str = ""
    skipped: str = ""
    left: float = math.inf


def _several(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
