"""Proofs by case distinction: a binary tree of splits, each of whose leaves has a refutation of its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bourn.certificates.evidence import refutes
from bourn.problem.specification import Conjunction


class Part(Enum):
    """Which side of a split."""

    BELOW = "at most"
    ABOVE = "at least"


@dataclass(frozen=True, slots=True)
class Split:
    """An assumption: the flat (row-major) ``entry`` of the node called ``node`` is at most, or at least, ``value``.

    ``node`` is a pre-activation of the graph, or its input node.  Both parts hold the boundary, so that together they are
    everything.
    """

    node: str
    entry: int
    value: float
    part: Part

    @property
    def place(self) -> tuple[str, int, float]:
        """What is split, and where."""
        return self.node, self.entry, self.value


@dataclass(frozen=True, slots=True)
class Leaf:
    """On the part of the input set on which all ``splits`` hold, the sum of weights[i] * row i is at least ``bound``.

    ``splits`` is the path from the root; ``method`` says what the bound was stated by.
    """

    splits: tuple[Split, ...]
    weights: tuple[float, ...]
    bound: float
    method: str


@dataclass(frozen=True)
class SplitTree:
    """Why a conjunction cannot hold on an input set: its leaves' parts cover the set, and it cannot hold on any of them.

    Raises ValueError where a leaf refutes nothing, or where the leaves are not those of one binary tree.
    """

    conjunction: Conjunction
    leaves: tuple[Leaf, ...]

    def __post_init__(self) -> None:
        for leaf in self.leaves:
            if len(leaf.weights) != len(self.conjunction.rows) or not refutes(self.conjunction, leaf.weights, leaf.bound):
                raise ValueError(f"a bound of {leaf.bound} does not refute {self.conjunction} in a leaf")
        if not covers([leaf.splits for leaf in self.leaves]):
            raise ValueError("the leaves of a split tree do not cover everything")

    @property
    def bound(self) -> float:
        """The least bound of all leaves."""
        return min(leaf.bound for leaf in self.leaves)

    @property
    def method(self) -> str:
        return "branch and bound"


def covers(paths: list[tuple[Split, ...]]) -> bool:
    """Whether these are all paths from the root to the leaves of a binary tree whose siblings are both parts of one split."""
    pending = [(paths, 0)]
    while pending:
        group, depth = pending.pop()
        if len(group) == 1 and len(group[0]) == depth:
            continue
        if not group or any(len(path) <= depth for path in group):
            return False
        place = group[0][depth].place
        if any(path[depth].place != place for path in group):
            return False
        for part in Part:
            pending.append(([path for path in group if path[depth].part is part], depth + 1))
    return True


def together(trees: list[SplitTree]) -> list[list[SplitTree]]:
    """The trees in groups whose parts are split at the same places, as far as they are split: one tree serves all of a group."""
    groups: list[tuple[_Branching, list[SplitTree]]] = []
    for tree in trees:
        own: _Branching = {}
        for leaf in tree.leaves:
            place = own
            for split in leaf.splits:
                place = place.setdefault(split, {})
        for whole, members in groups:
            if _agree(whole, own):
                _merge(whole, own)
                members.append(tree)
                break
        else:
            groups.append((own, [tree]))
    return [members for _, members in groups]


_Branching = dict[Split, "_Branching"]
"""A tree's branches by split; empty at a leaf."""


def _agree(one: _Branching, other: _Branching) -> bool:
    pending = [(one, other)]
    while pending:
        a, b = pending.pop()
        if a and b and next(iter(a)).place != next(iter(b)).place:
            return False
        pending += [(a[split], b[split]) for split in a.keys() & b.keys()]
    return True


def _merge(whole: _Branching, own: _Branching) -> None:
    pending = [(whole, own)]
    while pending:
        a, b = pending.pop()
        pending += [(a[split], b[split]) for split in a.keys() & b.keys()]
        a.update({split: branch for split, branch in b.items() if split not in a})
