"""Evidence and verdicts: a verdict that is not unknown cannot be made without its evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bourn.problem.problem import Case
from bourn.problem.specification import Conjunction

if TYPE_CHECKING:
    from bourn.certificates.splits import SplitTree

SEMANTICS_REAL = "real arithmetic, weights as stored"
"""What a proof speaks of: the network's function in exact real arithmetic, for the weights in the file."""

_NEAREST = 2.0**-10
"""How near, relatively, the nearest number is in every element type that networks have (float16's unit roundoff is 2^-11)."""


@dataclass(frozen=True)
class Refutation:
    """Why a conjunction cannot hold on an input set: sum of weights[i] * row i is at least ``bound`` there.

    ``bound`` is finite and above 0, or it is 0 and a strict row has a positive weight.  Raises ValueError otherwise.
    """

    conjunction: Conjunction
    weights: tuple[float, ...]
    bound: float
    method: str

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.conjunction.rows) or not all(0 <= w < math.inf for w in self.weights):
            raise ValueError("a refutation has one finite weight of at least 0 for every row")
        if not refutes(self.conjunction, self.weights, self.bound):
            raise ValueError(f"a bound of {self.bound} does not refute {self.conjunction}")


def refutes(conjunction: Conjunction, weights: tuple[float, ...], bound: float) -> bool:
    """Whether "the weighted sum of rows is at least ``bound``", a finite number, contradicts "all rows hold"."""
    if not all(0 <= w < math.inf for w in weights):
        return False
    strict = any(w > 0 and row.strict for w, row in zip(weights, conjunction.rows, strict=True))
    return any(w > 0 for w in weights) and bound < math.inf and (bound > 0 or (strict and bound >= 0))


@dataclass(frozen=True, eq=False)
class Counterexample:
    """An input of a case's set, and the outputs that the replay gave, which satisfy the case's specification.

    ``x`` and ``y`` are flat float64 arrays (of float32 numbers where the model is float32).  Set and rows
    are checked in exact arithmetic, as written; raises ValueError where one of them does not hold.

    ``real``: where the set holds no number of the model's type, a side of it being a single decimal fraction for instance, the ends
    of a box that holds points of the set, all of whose points are counterexamples in real arithmetic.  Then ``x`` is the model's
    number nearest to it, which the set does not hold.
    """

    case: Case
    x: np.ndarray
    y: np.ndarray
    replayed_in: str
    real: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self.real is None:
            if not is_counterexample(self.case, self.x, self.y):
                raise ValueError("the replayed point is not a counterexample")
            return
        finite = np.isfinite(self.x).all() and np.isfinite(self.y).all()
        near = bool((np.maximum(self.real[0] - self.x, self.x - self.real[1]) <= _NEAREST * np.abs(self.x)).all())
        if not (finite and near and self.case.specification.holds(self.x.tolist(), self.y.tolist())):
            raise ValueError("the point replayed next to the input set is not a counterexample")

    @property
    def off(self) -> float:
        """How far from the points of the set the replayed input is, in its worst entry."""
        if self.real is None:
            return 0.0
        lower, upper = self.real
        return float(np.maximum(lower - self.x, self.x - upper).max(initial=0.0))

    @property
    def conjunction(self) -> Conjunction:
        """The first conjunction that holds."""
        return next(c for c in self.case.specification.conjunctions if c.holds(self.x.tolist(), self.y.tolist()))


def is_counterexample(case: Case, x: np.ndarray, y: np.ndarray) -> bool:
    """Whether x lies in the input set and (x, y) satisfies a conjunction, exactly."""
    import torch

    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return False
    inside = case.box.contains(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))[None])
    return bool(inside.all()) and case.specification.holds(x.tolist(), y.tolist())


@dataclass(frozen=True, eq=False)
class Unreplayed:
    """An input of a case's set that is proved to be a counterexample in real arithmetic; none in the replay, which gave ``y``.

    Raises ValueError where the replay takes it for one too.
    """

    case: Case
    x: np.ndarray
    y: np.ndarray
    replayed_in: str

    def __post_init__(self) -> None:
        if is_counterexample(self.case, self.x, self.y):
            raise ValueError("the replay agrees that the point is a counterexample")


@dataclass(frozen=True)
class Verified:
    """No input of any case has a counterexample: one refutation for every conjunction of every case.

    ``by_rounding``: an input that the replay, which rounds, nevertheless takes for a counterexample; None where none was met.
    """

    refutations: tuple[tuple[Refutation | SplitTree, ...], ...]
    cases: tuple[Case, ...]
    semantics: str = SEMANTICS_REAL
    by_rounding: Counterexample | None = None

    def __post_init__(self) -> None:
        if len(self.cases) != len(self.refutations) or not self.cases:
            raise ValueError("a proof has the refutations of every case")
        for case, found in zip(self.cases, self.refutations, strict=True):
            if tuple(r.conjunction for r in found) != case.specification.conjunctions:
                raise ValueError("a proof refutes every conjunction of a case, in order")

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that the refutations come from, without repetition."""
        return tuple(dict.fromkeys(r.method for found in self.refutations for r in found))


@dataclass(frozen=True, eq=False)
class Falsified:
    """A counterexample was found and replayed.

    ``by_rounding``: it is proved that in real arithmetic the input is none.
    """

    counterexample: Counterexample
    by_rounding: bool = False

    @property
    def semantics(self) -> str:
        """What the counterexample is one of: the network as replayed, its function in real arithmetic, or both."""
        if self.by_rounding:
            return f"replayed in {self.counterexample.replayed_in} only, not real arithmetic"
        beside = "" if self.counterexample.real is None else ", next to the input set; on it, real arithmetic"
        return f"replayed in {self.counterexample.replayed_in}{beside}"


@dataclass(frozen=True)
class Loss:
    """How much of the gap between a point's value and the bound arises at one place."""

    where: str
    amount: float


@dataclass(frozen=True)
class OpenConjunction:
    """A conjunction that is neither refuted nor satisfied by any point found.

    ``bound``: the best lower bound of its hardest row, which had to be above 0; ``attained``: the least
    value of the greatest row that the attack found (a counterexample needs at most 0); ``losses``: where the
    difference of the two arises, greatest first; ``ceiling``: what no layer-wise method can exceed, infinite where that was not
    looked into.
    """

    case: int
    conjunction: Conjunction
    bound: float
    method: str
    attained: float
    losses: tuple[Loss, ...] = ()
    ceiling: float = math.inf

    @property
    def beyond(self) -> bool:
        """Whether it is shown that no layer-wise method can refute it: none has a bound above the ceiling."""
        return self.ceiling < 0 or (self.ceiling == 0 and not any(row.strict for row in self.conjunction.rows))


@dataclass(frozen=True)
class Unbounded:
    """A node without a finite bound although all that it reads has one: its function is not defined there, or overflows.

    ``operator``: as the model file has it.  ``intervals``: one for every input, of the node's ``entry`` (flat), the first of
    ``entries`` to which it happened; an affine node's are the least and the greatest of all entries that it reads.
    """

    node: str
    operator: str
    intervals: tuple[tuple[float, float], ...]
    entry: int
    entries: int = 1

    def __str__(self) -> str:
        on = " and ".join(f"[{low:.6g}, {high:.6g}]" for low, high in self.intervals)
        more = f" and {self.entries - 1} more" if self.entries > 1 else ""
        return f"{self.operator} node {self.node!r} has no finite bound on {on} (entry {self.entry}{more})"


@dataclass(frozen=True)
class Unknown:
    """Neither: the reason, what is open, and the nodes at which bounds became infinite.

    ``unreplayed``: a counterexample in real arithmetic that is none in the replay.
    """

    reason: str
    timed_out: bool = False
    open: tuple[OpenConjunction, ...] = ()
    unbounded: tuple[Unbounded, ...] = ()
    semantics: str = SEMANTICS_REAL
    unreplayed: Unreplayed | None = None

    @property
    def barrier(self) -> float | None:
        """What the barrier is at most, where that shows that no layer-wise method can prove the property; else None."""
        return min((o.ceiling for o in self.open if o.beyond), default=None)


Verdict = Verified | Falsified | Unknown
