"""A proof by cases, chunk after chunk: bounds that hold on a part of the input box, what they refute, and how the part is split.

A part is a box and bounds of what nonlinear steps read, those from splits among them.  Bounds are never claimed: they are what
the multipliers in the certificate give, here and now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bourn_check.arithmetic import Arithmetic, Floats, Index, Values
from bourn_check.cases import Cases, read_cases
from bourn_check.certificate import Certificate, items
from bourn_check.dual import RULES, Chosen, Dual, add
from bourn_check.errors import NotAProof, Unreadable
from bourn_check.network import Network, Nonlinear, Part, Step
from bourn_check.sets.box import Box
from bourn_check.specification import Row

_NUMBERS, _ROWS = 1 << 17, 96
"""About so many of one set of rows, but at least so many rows."""
Rows = tuple[dict[str, Part], Values]
"""By tensor, and what is added to each."""



@dataclass(frozen=True, eq=False)
class _Part:
    """A part still to be looked at: its parent's ends (2, size), the split that made it, and which conjunctions are open."""

    ends: Mapping[str, Floats]
    open: frozenset[int]
    split: str | None = None
    side: int = 0
    entry: int = 0
    at: float = 0.0

    def own(self, name: str) -> Floats:
        """The ends (2, size), those of the split among them."""
        found = self.ends[name]
        if self.split == name:
            found = found.copy()
            found[1 - self.side, self.entry] = (np.maximum if self.side else np.minimum)(found[1 - self.side, self.entry], self.at)
        return found


@dataclass(eq=False)
class Tree:
    """The parts of a box, on each of which every conjunction is to be refuted; ``used``: of each the rows with a weight.

    ``given``: rows that hold where a conjunction does, by which all bounds may be weighted.
    """

    own: Certificate
    network: Network
    arithmetic: Arithmetic
    conjunctions: Sequence[tuple[Row, ...]]
    given: tuple[Row, ...]
    inside: Box
    lower: Floats
    upper: Floats
    count: int = 1
    rows: int = 0
    pending: dict[int, _Part] = field(init=False)
    used: list[set[Row]] = field(init=False)
    steps: dict[str, Step] = field(init=False)
    reads: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.steps, self.used = self.network.nonlinear(), [set() for _ in self.conjunctions]
        self.reads = {name: sum(self.network.sizes[i] for i in step.inputs) for name, step in self.steps.items()}
        nothing = {name: np.array([[-np.inf], [np.inf]]).repeat(size, 1) for name, size in self.reads.items()}
        everything = frozenset(range(len(self.conjunctions)))
        self.pending = {0: _Part({"": np.stack([self.lower, self.upper]), **nothing}, everything)}

    def chunk(self, stated: dict[str, Any], where: str) -> None:
        """Take some parts: bound, refute and split them.  Raises :class:`NotAProof` where one is left that is neither."""
        numbers = self.own.integers(stated.get("parts"), where)
        if not len(numbers) or not all(n in self.pending for n in numbers.tolist()) or len(np.unique(numbers)) != len(numbers):
            raise NotAProof(f"{where}: it is about parts that are not open")
        parts = [self.pending.pop(n) for n in numbers.tolist()]
        ends = {name: np.stack([p.own(name) for p in parts], 1) for name in ("", *self.steps)}
        dual = Dual(self.network.on(ends), self.arithmetic, ends, self.inside)
        for bounds in items(stated, "bounds", where):
            dual = self._bounded(dual, bounds, where)
        alive = np.all([(lower <= upper).all(1) for lower, upper in dual.ends.values()], axis=0)
        open_ = [set(part.open) if lives else set() for part, lives in zip(parts, alive.tolist(), strict=True)]
        for refuted in items(stated, "refuted", where):
            for i, conjunction in self._refuted(dual, refuted, numbers, where):
                open_[i].discard(conjunction)
        left = [set(some) for some in open_]
        for halves in items(stated, "splits", where):
            self._split(dual, open_, left, halves, where)
        for number, some in zip(numbers.tolist(), left, strict=True):
            if some:
                raise NotAProof(f"{where}: in part {number} nothing refutes conjunction {min(some)}")

    def _step(self, stated: Any, where: str) -> str:
        if str(stated) not in self.steps:
            raise NotAProof(f"{where}: the network has no nonlinear node that computes {str(stated)[:80]!r}")
        return str(stated)

    # bounds

    def _bounded(self, dual: Dual, stated: dict[str, Any], where: str) -> Dual:
        """Bounds of what a step reads, as tight as they were or as the multipliers make them."""
        name = self._step(stated.get("tensor"), where)
        here = f"{where}, bounds of what {name!r} reads"
        known, sources = dual.ends[name].copy(), self.steps[name].inputs
        _, count, size = known.shape
        if "rows" in stated:
            of, signed = self.own.indices(stated.get("of"), here, count), self.own.integers(stated["rows"], here)
            if len(of) != len(signed) or (len(signed) and not (signed.max() < size and signed.min() >= -size)):
                self.own.fail(here, f"a row is of no entry of the {size}, or of no part")
        else:  # both ends of every entry that is open
            function = self.steps[name].operation
            assert isinstance(function, Nonlinear)
            of, entries = np.nonzero(np.tile(function.affine(*known)[0], function.arity))
            of, signed = of.repeat(2), np.stack([entries, -1 - entries], 1).ravel()
        entries, above = np.where(signed < 0, -1 - signed, signed), signed < 0

        part = size // len(sources)

        def rows(some: Index) -> Rows:
            found: dict[str, Part] = {}
            for i, source in enumerate(sources):
                mine = np.flatnonzero(entries[some] // part == i)
                if len(mine):
                    at, place = np.unique(entries[some][mine] % part, return_inverse=True)
                    unit = np.zeros((len(some), len(at)))
                    unit[mine, place] = np.where(above[some][mine], -1.0, 1.0)
                    add(found, source, self.arithmetic.exact(unit), at)
            return found, self.arithmetic.exact(np.zeros(len(some)))

        if "cases" in stated:
            cases = read_cases(self.own, stated["cases"], self.reads, len(of), here)
            made, found, every = lambda some: rows(cases.row[some]), np.full(len(of), np.inf), np.arange(len(cases.row))
            np.minimum.at(found, cases.row, self._bound(dual, of[cases.row], every, made, stated, here, cases))
        else:  # those that stand on the same entries together
            order = np.lexsort((entries, entries % self.network.places[sources[0]]))
            found = self._bound(dual, of, order, rows, stated, here)
        np.maximum.at(known[0], (of[~above], entries[~above]), found[~above])
        np.minimum.at(known[1], (of[above], entries[above]), -found[above])
        return replace(dual, network=self.network.on(ends := {**dual.ends, name: known}), ends=ends)

    def _bound(
        self, dual: Dual, of: Index, order: Index, rows: Callable[[Index], Rows], stated: Any, where: str, by: Cases | None = None
    ) -> Floats:
        """The bounds of rows or their leaves, each about the part ``of``, a set of them at a time, in an ``order``."""
        count = dual.ends[""].shape[1]
        chosen = self._multipliers(stated.get("multipliers"), of, count, where)
        given = self._weights(stated["given"], where, len(of), self.given) if "given" in stated else None
        found, most = np.zeros(len(of)), max(_ROWS, _NUMBERS // max(self.network.sizes.values()))
        for first in range(0, len(of), most):
            some = order[first : first + most]
            own, part = dual, None if count == 1 else of[some]
            if by is not None:
                own, part = replace(dual, ends=by.narrowed(dual.ends, of[some], some)), np.arange(len(some))
            start = rows(some) if given is None else self._weighted(self.given, given[some], *rows(some))
            found[some] = own.bound(*start, chosen(some), part)
        self.rows += len(of)
        return found

    def _multipliers(self, stated: Any, of: Index, count: int, where: str) -> Callable[[Index], Chosen]:
        """Of some of the rows; ``free`` counts the entries of all parts one behind the other."""
        if isinstance(stated, str) and stated in RULES:
            return lambda some: stated
        if not isinstance(stated, dict) or not all(isinstance(m, dict) for m in stated.values()):
            raise Unreadable(f"{self.own.path}: {where}: multipliers are by tensor, or one of {', '.join(RULES)}")
        read = {}
        for tensor, own in stated.items():
            size = self.reads[self._step(tensor, where)]
            free = self.own.indices(own.get("free"), where, count * size, ascending=True)
            counts = np.bincount(free // size, minlength=count)
            ends = np.cumsum(counts[of])
            mu = self.own.floats(own.get("mu"), where, int(ends[-1]) if len(of) else 0)
            read[tensor] = free % size, np.cumsum(counts) - counts, counts, ends, mu

        def chosen(some: Index) -> Chosen:
            found = {}
            for tensor, (free, first, counts, ends, mu) in read.items():
                many = counts[of[some]]
                row = np.arange(len(some)).repeat(many)
                within = np.arange(len(row)) - (np.cumsum(many) - many)[row]
                found[tensor] = row, free[within + first[of[some]][row]], mu[within + (ends[some] - many)[row]]
            return found

        return chosen

    # refutations and splits

    def _refuted(self, dual: Dual, stated: dict[str, Any], numbers: Index, where: str) -> Iterator[tuple[int, int]]:
        """The parts, by their place in the chunk, on which the weighted sum of a conjunction's rows is bounded away from it."""
        k = stated.get("conjunction")
        if type(k) is not int or not 0 <= k < len(self.conjunctions):
            self.own.fail(where, f"there is no conjunction {str(k)[:40]}")
        rows, of = self.conjunctions[k], self.own.indices(stated.get("of"), where, dual.ends[""].shape[1], ascending=True)
        weights = self._weights(stated.get("weights"), where, len(of), rows)
        made = lambda some: self._weighted(rows, weights[some], {}, self.arithmetic.exact(np.zeros(len(some))))  # noqa: E731
        bound = self._bound(dual, of, np.arange(len(of)), made, stated, where)
        strict = (weights * np.array([row.strict for row in rows]) > 0).any(1)
        proved = (bound > 0) | (strict & (bound >= 0))
        for part, good, value in zip(of.tolist(), proved.tolist(), bound.tolist(), strict=True):
            if not good:
                raise NotAProof(
                    f"{where}: in part {numbers[part]} a bound of {value:.9g}, which is what its multipliers give, "
                    f"does not refute conjunction {k}"
                )
            yield part, k
        self.used[k] |= {row for row, some in zip(rows, (weights.max(0, initial=0.0) > 0).tolist(), strict=True) if some}

    def _weights(self, stated: Any, where: str, count: int, rows: Sequence[Row]) -> Floats:
        """Weights (count, K) of rows, at least 0."""
        weights = self.own.floats(stated, where, count, len(rows))
        if (weights < 0).any():
            raise NotAProof(f"{where}: a weight is below 0")
        return weights

    def _weighted(self, rows: Sequence[Row], weights: Floats, start: dict[str, Part], constant: Values) -> Rows:
        """Sums of rows by weights (M, K), added to what there is."""
        own = self.arithmetic
        for k, row in enumerate(rows):
            weight = own.exact(weights[:, k : k + 1])
            constant = constant + (weight * own.numbers([row.constant])).reshape(len(weights))
            for terms, tensors in ((row.outputs, self.network.outputs), (row.inputs, (("", self.network.inputs),))):
                begin = 0
                for name, size in tensors:
                    at = [(i - begin, c) for i, c in terms if begin <= i < begin + size]
                    if at:
                        part = (weight * own.numbers([c for _, c in at])).put(np.array([i for i, _ in at]), size)
                        add(start, name, part, np.arange(size))
                    begin += size
        return start, constant

    def _split(self, dual: Dual, open_: list[set[int]], left: list[set[int]], stated: dict[str, Any], where: str) -> None:
        """Both halves of some parts: an entry of what a step reads, or of the input, at most and at least a number.

        They are for some conjunctions, which need no more of the whole then; a part may be split for others elsewhere.
        """
        count, only = len(self.used), stated.get("conjunctions")
        some = range(count) if only is None else self.own.indices(only, where, count).tolist()
        name = "" if stated.get("tensor") is None else self._step(stated["tensor"], where)
        of = self.own.indices(stated.get("of"), where, len(open_), ascending=True)
        size = dual.ends[name].shape[2]
        entries, at = self.own.indices(stated.get("entry"), where, size), self.own.floats(stated.get("at"), where, len(of))
        if len(entries) != len(of):
            self.own.fail(where, "an entry for each split is needed")
        for i, entry, value in zip(of.tolist(), entries.tolist(), at.tolist(), strict=True):
            ends, own = {n: known[:, i] for n, known in dual.ends.items()}, open_[i].intersection(some)
            left[i] -= own
            self.pending.update((self.count + side, _Part(ends, frozenset(own), name, side, entry, value)) for side in (0, 1))
            self.count += 2
