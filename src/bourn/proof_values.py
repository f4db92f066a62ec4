"""Proofs by cases of what nonlinear functions read: any function, at any value, through the network's own operators.

Bounds behind a split are the checker's own, by its rule of lines; what refutes a part has its multipliers written down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bourn.certificates.splits import Part
from bourn.errors import UsageError
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.program.linear_bounds import back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.program.restrict import take_problems
from bourn.proof_cases import rounded
from bourn.proof_sets import in_file, stated_weights
from bourn.proof_trees import Grown, Left, halved, integers, planned, refutations
from bourn.proving import LINES, SLACK, Proof, bound_by_lines, place_of, ruled, unit_rows
from bourn.relaxations.base import LineRule
from bourn.solvers.base import join
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.subproblems import WeightedRows
from bourn.solvers.tightening import refine, unstable
from bourn.solvers.value_splitting import next_split, scores_of

_AT_ONCE, _ROW_BYTES = 32, 1 << 23
"""Parts of a chunk, and bytes of one set of rows."""
_ROOT, _CHILD, _LAST = DualAscent(steps=60), DualAscent(steps=15), DualAscent(steps=150, decay=0.98)

Place = tuple[int, int, float]
"""A pre-activation, an entry of it, and a value."""


@dataclass(eq=False)
class _Node:
    """A part: its number in the file, bounds (1, *shape) of all pre-activations, which of these splits impose, leaves of the run.

    ``last``: the split that made it, and its side.
    """

    number: int
    bounds: dict[int, Interval]
    imposed: dict[int, Interval]
    left: Left
    depth: int
    last: tuple[Place, Part] | None = None
    empty: bool = False

    @property
    def since(self) -> int:
        """The pre-activation that was split last."""
        return -1 if self.last is None else self.last[0][0]


def grow_by_value(own: Grown, root: Proof) -> None:
    """Write a tree of values split, from the whole set on, whose bounds ``root`` proves."""
    _Growing(own, root).grow()


@dataclass(eq=False)
class _Growing:
    """A tree on its way."""

    own: Grown
    root: Proof
    rows: WeightedRows = field(init=False)
    groups: list[list[int]] = field(init=False)
    numbers: int = 1

    def __post_init__(self) -> None:
        conjunctions = [tree.conjunction for tree in self.own.trees]
        distinct = list(dict.fromkeys(row for c in conjunctions for row in c.rows))
        self.rows = WeightedRows.of(self.own.problem, distinct)
        self.groups = [[distinct.index(row) for row in c.rows] for c in conjunctions]

    @property
    def graph(self) -> Graph:
        return self.own.problem.network

    def grow(self) -> None:
        known = {z: self.root.program.bounds[z] for z in self.graph.pre_activations}
        stack = [_Node(0, known, {}, self.own.begin(), 0)]
        while stack:
            batch, stack = stack[-_AT_ONCE:], stack[:-_AT_ONCE]
            whole = batch[0].number == 0
            program = self._program(batch)
            chunk: dict[str, Any] = {"parts": integers(n.number for n in batch)}
            chunk["bounds"] = self.root.bounds if whole else self._bounds(batch, program)
            chunk["refuted"], scores = self._refute(batch, program, _ROOT if whole else _CHILD)
            places = {i: self._place(node, [s[i] for s in scores]) for i, node in enumerate(batch) if node.left and not node.empty}
            order = sorted(places, key=lambda i: (self._reader(places[i])[0], i))
            chunk["splits"] = self._splits(places, order)
            self.own.file.chunk(chunk)
            stack.extend(half for i in order for half in self._halves(batch[i], places[i]))
            self.own.tell(len(batch))

    # bounds

    def _program(self, batch: list[_Node]) -> RelaxedProgram:
        """The parts as one relaxed program, open bounds behind their splits found anew; parts are told whether they are empty."""
        graph, count = self.graph, len(batch)
        program = start(graph, self.own.problem.box[torch.zeros(count, dtype=torch.int64)], LineRule.AREA)
        empty = torch.zeros(count, dtype=torch.bool)
        infinite = Interval(*(torch.full((1,), end, dtype=torch.float64) for end in (-torch.inf, torch.inf)))
        for z in graph.pre_activations:
            known = join([node.bounds[z] for node in batch])
            lower, upper = known.lower, known.upper
            if self._behind(z, batch):
                slack = SLACK * program.magnitudes[z]
                open_ = unstable(graph, z, known)
                found = refine(program, z, known, open_, bound_by_lines, row_bytes=_ROW_BYTES, deadline=self.own.deadline)
                lower = torch.where(open_, torch.maximum(lower, found.lower - slack), lower)
                upper = torch.where(open_, torch.minimum(upper, found.upper + slack), upper)
            outside = None
            if any(z in node.imposed for node in batch):
                shaped = Interval(*(end.expand(1, *known.shape[1:]) for end in (infinite.lower, infinite.upper)))
                outside = join([node.imposed.get(z, shaped) for node in batch])
                lower, upper = torch.maximum(lower, outside.lower), torch.minimum(upper, outside.upper)
            empty |= (lower > upper).flatten(1).any(1)
            bounds = Interval.between(lower, upper)  # on an empty part any bounds hold
            if outside is not None:
                outside = Interval(
                    torch.where(outside.lower == lower, bounds.lower, -torch.inf),
                    torch.where(outside.upper == upper, bounds.upper, torch.inf),
                )
            program = with_bounds(program, z, bounds, outside)
        for i, node in enumerate(batch):
            node.bounds = {z: Interval(program.bounds[z].lower[i : i + 1], program.bounds[z].upper[i : i + 1]) for z in node.bounds}
            node.empty = bool(empty[i])
        return program

    def _behind(self, z: int, batch: list[_Node]) -> bool:
        """Whether a pre-activation is behind some of the last splits."""
        before = set(self.graph.ancestors(z)) - {z}
        return any(node.since in before for node in batch)

    def _bounds(self, batch: list[_Node], program: RelaxedProgram) -> list[dict[str, Any]]:
        """What proves the bounds of the program, in order: what other nodes read of a value split, and what is behind."""
        found: list[dict[str, Any]] = []
        for z in self.graph.pre_activations:
            if self._behind(z, batch):
                for v in self.graph.readers(z):
                    found.append(self._by_lines(z, v, program))
            found += [passed for v in self.graph.readers(z) for passed in self._passed(z, v, batch)]
        return found

    def _by_lines(self, z: int, v: int, program: RelaxedProgram) -> dict[str, Any]:
        """Both ends of what a node reads of a pre-activation, by the rule of lines; by default of what is open."""
        own: dict[str, Any] = {"tensor": self.own.names[v], "multipliers": LINES}
        if len(self.graph.nodes[v].inputs) == 1 and self.own.given is None:
            return own
        # Others of its inputs may not have their turn yet, and half-spaces have a weight in every row.
        entries, places = (np.concatenate(each) for each in zip(*self._entries(z, v), strict=True))
        rows, signed = np.concatenate([entries, -1 - entries]), torch.from_numpy(np.concatenate([places, -1 - places]))
        own |= {"of": np.arange(program.batch, dtype="<i8").repeat(len(rows)), "rows": np.tile(rows, program.batch)}
        unit, zero = unit_rows(self.graph, z, signed[None]), torch.zeros(1, len(rows), dtype=torch.float64)
        weights = stated_weights(self.own.given, program, unit, zero, ruled(program, LINES, z, len(rows)))
        return own if weights is None else own | {"given": in_file(weights.flatten(0, 1))}

    def _entries(self, z: int, v: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Entries of what a node reads that are entries of a pre-activation, and which, for every input that reads it."""
        node = self.graph.nodes[v]
        found = []
        for i, reads in enumerate(node.inputs):
            if reads == z or reads in self.graph.moved[z]:
                place = place_of(self.graph, z, reads)
                found.append((i * node.size + np.arange(len(place)), place))
        return found

    def _reader(self, place: Place) -> tuple[int, int]:
        """The node at whose argument a value is split, the first that reads it, and the entry of that argument."""
        z, entry, _ = place
        for v in self.graph.readers(z):
            for entries, own in self._entries(z, v):
                at = np.flatnonzero(own == entry)
                if len(at):
                    return v, int(entries[at[0]])
        raise UsageError(f"no certificate was written: nothing reads entry {entry} of {self.graph.nodes[z].name!r}")

    def _passed(self, z: int, v: int, batch: list[_Node]) -> list[dict[str, Any]]:
        """The end that a split of a value gives to what other nodes, or other inputs, read of it: mu of the split one proves it."""
        found = []
        for i, node in enumerate(batch):
            if node.since != z or node.last is None:
                continue
            place, side = node.last
            reader, entry = self._reader(place)
            sign = 1 if side is Part.ABOVE else -1
            same = [int(e) for entries, own in self._entries(z, v) for e in entries[own == place[1]] if (v, e) != (reader, entry)]
            if same:
                size = self.graph.nodes[reader].size * len(self.graph.nodes[reader].inputs)
                mu = np.full(len(same), -sign, dtype="<f4")
                stated = {self.own.names[reader]: {"free": np.array([i * size + entry], dtype="<i8"), "mu": mu}}
                rows = np.array([e if sign > 0 else -1 - e for e in same], dtype="<i8")
                of = np.full(len(same), i, dtype="<i8")
                found.append({"tensor": self.own.names[v], "of": of, "rows": rows, "multipliers": stated})
        return found

    # refutations

    def _refute(self, batch: list[_Node], program: RelaxedProgram, ascent: DualAscent) -> tuple[list[dict[str, Any]], list[Tensor]]:
        """Refute what can be, and forget it where it is; scores of all pre-activations for what is left."""
        written = []
        scores = [torch.zeros_like(program.bounds[z].lower).flatten(1) for z in self.graph.pre_activations]
        for k in range(len(self.groups)):
            which = [i for i, node in enumerate(batch) if k in node.left and not node.empty]
            for how in (ascent, _LAST):
                if how is _LAST:  # of leaves of the run
                    which = [i for i in which if len(batch[i].left[k][0].splits) <= batch[i].depth]
                if which:
                    stated, own = self._state(batch, program, which, k, how)
                    written += stated
                    for total, new in zip(scores, own, strict=True):
                        total[which] = torch.maximum(total[which], new)
                    which = [i for i in which if k in batch[i].left]
        return written, scores

    def _state(
        self, batch: list[_Node], program: RelaxedProgram, which: list[int], k: int, ascent: DualAscent
    ) -> tuple[list[dict[str, Any]], list[Tensor]]:
        some = torch.tensor(which)
        own = program if len(which) == program.batch else take_problems(program, some)
        weights = torch.zeros(len(which), len(self.rows), dtype=torch.float64)
        for j, i in enumerate(which):
            weights[j, self.groups[k]] = torch.tensor(batch[i].left[k][0].weights, dtype=torch.float64)
        rows, constant = self.rows.rows(weights)
        nodes = [v for v in self.graph.nonlinear if bool(own.free(v).any())]
        bounds, chosen = rounded(own, rows, constant, nodes, ascent.climb(own, rows, constant, self.own.deadline))
        bounds = bounds - self.rows.error(own, weights)
        given = stated_weights(self.own.given, own, rows, constant, chosen)
        good, written = refutations(self.own, k, which, weights[:, self.groups[k]], bounds, chosen, given)
        for j in good:
            del batch[which[j]].left[k]
        return written, scores_of(own, back_substitute(own, rows, constant, {0, *self.graph.nonlinear}, chosen).kept)

    # splits

    def _place(self, node: _Node, scores: list[Tensor]) -> Place:
        """Where a part is split: where the run split it or, beyond its leaves, at the greatest score."""
        while (wanted := planned(node.left, node.depth)) is not None:
            name, entry, value = wanted
            z = self.graph.number(name)
            low, high = (float(end.flatten()[entry]) for end in (node.bounds[z].lower, node.bounds[z].upper))
            if low < value < high:
                return z, entry, value
            node.left = halved(node.left, node.depth, Part.ABOVE if low >= value else Part.BELOW)
            node.depth += 1
        found = next_split(self.graph, scores, node.bounds)
        if found is None:
            raise UsageError("no certificate was written: a part with nothing left to split is not refuted again")
        return found

    def _splits(self, places: dict[int, Place], order: list[int]) -> list[dict[str, Any]]:
        found = []
        readers = {i: self._reader(places[i]) for i in order}
        for v in dict.fromkeys(readers[i][0] for i in order):
            own = [i for i in order if readers[i][0] == v]
            at = np.array([places[i][2] for i in own], dtype="<f8")
            entry = integers(readers[i][1] for i in own)
            found.append({"tensor": self.own.names[v], "of": integers(own), "entry": entry, "at": at})
        return found

    def _halves(self, node: _Node, place: Place) -> list[_Node]:
        z, entry, value = place
        halves = []
        for side in Part:
            known = node.imposed.get(z)
            ends = [torch.full_like(node.bounds[z].lower, end) for end in (-torch.inf, torch.inf)]
            lower, upper = ends if known is None else (known.lower.clone(), known.upper.clone())
            (upper if side is Part.BELOW else lower).view(-1)[entry] = value
            imposed = {**node.imposed, z: Interval(lower, upper)}
            left = halved(node.left, node.depth, side)
            halves.append(_Node(self.numbers, dict(node.bounds), imposed, left, node.depth + 1, (place, side)))
            self.numbers += 1
        return halves
