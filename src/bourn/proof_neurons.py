"""Proofs by cases of which side of its kink a neuron is on: the run's tree walked anew, with all multipliers written down."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bourn.certificates.splits import Part
from bourn.deadline import NEVER
from bourn.errors import UsageError
from bourn.problem.input_set import Box
from bourn.program.branches import CannotSplit, Multiplied, Parts, Shared
from bourn.program.relaxed import RelaxedProgram
from bourn.proof_cases import rounded
from bourn.proof_sets import in_file, stated_weights
from bourn.proof_trees import Grown, Left, halved, integers, refutations
from bourn.proving import SLACK, Proof, stated_of_parts
from bourn.solvers.base import output_rows
from bourn.solvers.branching import BRANCHING_NEURONS, Scene
from bourn.solvers.leaf_program import PRICES, solve
from bourn.solvers.retightening import climbed
from bourn.solvers.split_ascent import Climb
from bourn.solvers.subproblems import WeightedRows

_AT_ONCE, _ROWS = 128, 2048
"""Parts of a chunk, and rows that are alive at a time."""
_HAIR = 1e-5
"""How far below 0 a value in float32 may be that comes out above it when it is stated."""
_ROOT, _CHILD, _INNER, _LAST = Climb(steps=60, decay=0.96), Climb(), Climb(steps=8), Climb(steps=100, decay=0.97)


@dataclass(eq=False)
class _Node:
    """A part: its number in the file, its neurons' bounds, of open conjunctions their multipliers, the leaves of the run.

    ``after``: the first of the layers that were split since bounds were found anew.
    """

    number: int
    parts: Parts
    chosen: dict[int, Multiplied]
    left: Left
    depth: int
    after: int


def grow_by_neuron(own: Grown, root: Proof) -> None:
    """Write a tree of split neurons, from the whole set on, whose bounds ``root`` proves.

    Raises :class:`UsageError` where the network has unstable neurons that are not split.
    """
    try:
        _Growing(own, root).grow()
    except CannotSplit as error:
        raise UsageError(f"no certificate was written: {error}") from None


@dataclass(eq=False)
class _Growing:
    """A tree on its way."""

    own: Grown
    root: Proof
    rows: WeightedRows = field(init=False)
    groups: list[list[int]] = field(init=False)
    shared: Shared = field(init=False)
    places: dict[tuple[int, int], int] = field(init=False)
    numbers: int = 1
    tried: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        conjunctions = [tree.conjunction for tree in self.own.trees]
        distinct = list(dict.fromkeys(row for c in conjunctions for row in c.rows))
        self.rows = WeightedRows.of(self.own.problem, distinct)
        self.groups = [[distinct.index(row) for row in c.rows] for c in conjunctions]
        program, objectives = self.root.program, self.rows.objectives
        self.shared = Shared(program, output_rows(program.graph, objectives), objectives.constant)
        self.places = {self.shared.name(i): i for i in range(self.shared.count)}

    def grow(self) -> None:
        parts, left = self.shared.root(), self.own.begin()
        chosen = {}
        for k, group in enumerate(self.groups):
            weights = torch.zeros(1, len(self.rows))
            weights[0, group] = 1.0 / len(group)
            chosen[k] = self.shared.begin(parts, weights)
        stack = [_Node(0, parts, chosen, left, 0, len(self.shared.kept))]
        while stack:
            size = 1 if self.numbers == 1 else _AT_ONCE
            batch, stack = stack[-size:], stack[:-size]
            chunk: dict[str, Any] = {"parts": integers(n.number for n in batch), "bounds": [], "refuted": []}
            every = list(range(len(batch)))
            if batch[0].number == 0:
                chunk["bounds"], chunk["refuted"] = self.root.bounds, self._refute(batch, every, _ROOT, True)
            else:
                ended = [(n, k) for n in batch for k in n.chosen if len(n.left[k][0].splits) <= n.depth]
                chunk["refuted"] = self._refute(batch, every, _CHILD, False)
                open_ = {n.number for n, k in ended if k in n.chosen}
                self.tried, self.failed = self.tried + len(ended), self.failed + sum(k in n.chosen for n, k in ended)
                late = [i for i, n in enumerate(batch) if n.chosen and (self.eager or n.number in open_)]
                chunk["bounds"] = self._tighten(batch, late)
                chunk["refuted"] += self._refute(batch, late, _CHILD, True)
            splits = [own for n in batch if n.chosen for own in self._planned(n)]
            chunk["splits"], splits = self._splits(batch, splits)
            self.own.file.chunk(chunk)
            for node, neuron in splits:
                stack.extend(self._halves(node, neuron))
            self.own.tell(len(batch))

    @property
    def eager(self) -> bool:
        """Whether bounds are found anew after every split: where many of the run's leaves were not refuted on those of the root."""
        return 4 * self.failed > self.tried

    # bounds

    def _tighten(self, batch: list[_Node], some: list[int]) -> list[dict[str, Any]]:
        """Bounds of open neurons behind the splits since the last time, anew where these are tighter, of some parts.

        Parts that they leave empty are closed.
        """
        written = []
        for number, v in enumerate(self.shared.kept):
            own = self.shared.place[v]
            which = [i for i in some if batch[i].after < number and bool(batch[i].parts.open[:, own].any())]
            if not which:
                continue
            at_once = max(1, _ROWS // (2 * max(int(batch[i].parts.open[:, own].sum()) for i in which)))
            for first in range(0, len(which), at_once):
                written += self._layer(batch, which[first : first + at_once], v)
        for node in (batch[i] for i in some):
            node.after = len(self.shared.kept)
            if bool((node.parts.lower > node.parts.upper).any()):
                node.chosen.clear()
        return written

    def _layer(self, batch: list[_Node], which: list[int], v: int) -> list[dict[str, Any]]:
        shared, own = self.shared, self.shared.place[v]
        parts = _joined([batch[i].parts for i in which])
        r = climbed(shared, v, parts, _INNER, NEVER)
        most, nodes = r.neurons.shape[1], _free(r.program)
        zero = r.rows.new_zeros(1, 2 * most)
        found, chosen = rounded(r.program, {r.z: r.rows}, zero, nodes, r.multipliers)
        magnitude = r.program.magnitudes[r.z].flatten(1).expand(len(which), -1)
        slack = SLACK * magnitude.gather(1, shared.origin(v)[1][0][r.neurons])
        low, high = parts.lower[:, own].gather(1, r.neurons), parts.upper[:, own].gather(1, r.neurons)
        better = torch.cat([(found[:, :most] - slack > low) & r.real, (-found[:, most:] + slack < high) & r.real], 1)
        low = torch.where(better[:, :most], found[:, :most] - slack, low)
        high = torch.where(better[:, most:], -found[:, most:] + slack, high)
        for j, i in enumerate(which):
            lower, upper = batch[i].parts.lower.clone(), batch[i].parts.upper.clone()
            lower[0, own], upper[0, own] = (
                t[0, own].scatter(0, r.neurons[j], end[j]) for t, end in ((lower, low), (upper, high))
            )
            batch[i].parts = Parts(lower, upper, batch[i].parts.side)
        of, row = torch.nonzero(better, as_tuple=True)
        if not len(of):
            return []
        entries = shared.kept[v].numbers[0][r.neurons[of, row % most]]
        signed = torch.where(row >= most, -1 - entries, entries)
        places = torch.tensor(which)
        stated = stated_of_parts(self.own.names, chosen, places, of, row)
        rows = {"of": places[of].numpy().astype("<i8"), "rows": signed.numpy().astype("<i8")}
        weights = stated_weights(self.own.given, r.program, {r.z: r.rows}, zero, chosen)
        given = {} if weights is None else {"given": in_file(weights[of, row])}
        return [{"tensor": self.own.names[v], "multipliers": stated, **rows, **given}]

    # refutations

    def _refute(self, batch: list[_Node], some: list[int], climb: Climb, last: bool) -> list[dict[str, Any]]:
        """Refute what can be of some parts, and forget it where it is; ``last``: with more steps where the run went no further."""
        pairs = [(i, k) for i in some for k in batch[i].chosen]
        if not pairs:
            return []
        parts, chosen = _joined([batch[i].parts for i, _ in pairs]), _together([batch[i].chosen[k] for i, k in pairs])
        chosen, value, _ = climb.run(self.shared, parts, chosen)
        for j, (i, k) in enumerate(pairs):
            batch[i].chosen[k] = chosen[j : j + 1]
        unsplit = ~parts.open.any(1)
        ended = torch.tensor([len(batch[i].left[k][0].splits) <= batch[i].depth for i, k in pairs])
        again = torch.nonzero((value <= 0) & (ended | unsplit))[:, 0] if last else ended[:0]
        if len(again):
            better, value[again], _ = _LAST.run(self.shared, parts[again], chosen[again])
            for n, j in enumerate(again.tolist()):
                batch[pairs[j][0]].chosen[pairs[j][1]] = better[n : n + 1]
        hopeful, written = ((value > -_HAIR) | unsplit).tolist(), []
        for k in sorted({k for _, k in pairs}):
            which = [i for (i, own), hope in zip(pairs, hopeful, strict=True) if hope and own == k]
            written += self._state(batch, which, k) if which else []
        return written

    def _state(self, batch: list[_Node], which: list[int], k: int) -> list[dict[str, Any]]:
        parts, chosen = _joined([batch[i].parts for i in which]), _together([batch[i].chosen[k] for i in which])
        for j, i in enumerate(which):
            if not bool(parts.open[j].any()) and isinstance(self.own.problem.box, Box):
                chosen = self._by_program(batch[i].parts, self.own.problem.box, k, chosen, j)
        program = self.shared.relaxed(parts)
        weights = chosen.weights.to(torch.float64)
        rows, constant = self.rows.rows(weights)
        multipliers = self.shared.multipliers(program, parts, chosen)
        bounds, own = rounded(program, rows, constant, _free(program), multipliers)
        bounds = bounds - self.rows.error(program, weights)
        given = stated_weights(self.own.given, program, rows, constant, own)
        good, written = refutations(self.own, k, which, weights[:, self.groups[k]], bounds, own, given)
        for j in good:
            del batch[which[j]].chosen[k]
        return written

    def _by_program(self, part: Parts, box: Box, k: int, chosen: Multiplied, j: int) -> Multiplied:
        """A part without unstable neurons is a linear program in the input: its duals, where these are better."""
        for price in PRICES:
            found = solve(self.shared, part, box, self.groups[k], price)
            if found is not None:
                value = self.shared.evaluate(part, _single(found[0]), gradient=False).value
                if value > self.shared.evaluate(part, chosen[j : j + 1], gradient=False).value:
                    one = _single(found[0])
                    chosen = Multiplied(
                        *(torch.cat([a[:j], b, a[j + 1 :]]) for a, b in zip(_tensors(chosen), _tensors(one), strict=True))
                    )
        return chosen

    # splits

    def _planned(self, node: _Node) -> list[tuple[_Node, int]]:
        """Where a part is split, of the conjunctions that the run split at the same neuron together; beyond its leaves that of
        the greatest score.  Of a neuron that is stable here the leaves on the other side are dropped."""
        found, pending = [], [node]
        while pending:
            node = pending.pop()
            groups: dict[tuple[str, int, float], list[int]] = {}
            ended = [k for k in node.chosen if len(node.left[k][0].splits) <= node.depth]
            for k in (k for k in node.chosen if k not in ended):
                groups.setdefault(node.left[k][0].splits[node.depth].place, []).append(k)
            if len(groups) > 1:
                for own in groups.values():
                    some, ended = own + ended, []
                    chosen, left = {k: node.chosen[k] for k in some}, {k: node.left[k] for k in some}
                    pending.append(replace(node, chosen=chosen, left=left))
            elif not groups:
                if not bool(node.parts.open.any()):
                    raise UsageError("no certificate was written: a part without unstable neurons is not refuted again")
                found.append((node, self._best(node)))
            else:
                z, entry = self.own.problem.network.number(next(iter(groups))[0]), next(iter(groups))[1]
                neuron = self.places.get((z, entry))
                if neuron is not None and bool(node.parts.open[0, neuron]):
                    found.append((node, neuron))
                    continue
                low = self.root.program.bounds[z].lower.flatten()[entry] if neuron is None else node.parts.lower[0, neuron]
                left = halved(node.left, node.depth, Part.ABOVE if float(low) >= 0 else Part.BELOW)
                pending.append(replace(node, left=left, depth=node.depth + 1))
        return found

    def _best(self, node: _Node) -> int:
        own, parts = self.shared, node.parts
        k = next(iter(node.chosen))
        found = own.evaluate(parts, node.chosen[k])
        assert found.z is not None
        lower, upper = parts.lower.to(torch.float32), parts.upper.to(torch.float32)
        scene = Scene(lower, upper, found.row, found.z, parts.open, own.slope, node.chosen[k].alpha, own.outgoing, own.layer)
        return int(BRANCHING_NEURONS["early"](scene).masked_fill(~parts.open, -1.0).argmax(1))

    def _splits(self, batch: list[_Node], splits: list[tuple[_Node, int]]) -> tuple[list[dict[str, Any]], list[tuple[_Node, int]]]:
        """The splits as a chunk has them, those of one tensor and of the same conjunctions together, and in this order."""
        place, times = {n.number: i for i, n in enumerate(batch)}, Counter(n.number for n, _ in splits)
        groups: dict[tuple[int, tuple[int, ...]], list[tuple[_Node, int]]] = {}
        for node, neuron in sorted(splits, key=lambda own: place[own[0].number]):
            only = tuple(sorted(node.chosen)) if times[node.number] > 1 else ()
            groups.setdefault((self._node(neuron), only), []).append((node, neuron))
        found = []
        for (v, only), own in groups.items():
            entries = [int(self.shared.kept[v].numbers[0, neuron - self.shared.place[v].start]) for _, neuron in own]
            of, at = integers(place[n.number] for n, _ in own), np.zeros(len(own))
            stated = {"tensor": self.own.names[v], "of": of, "entry": integers(entries), "at": at}
            found.append(stated | ({"conjunctions": integers(only)} if only else {}))
        return found, [split for own in groups.values() for split in own]

    def _node(self, neuron: int) -> int:
        return next(v for v, own in self.shared.place.items() if own.start <= neuron < own.stop)

    def _halves(self, node: _Node, neuron: int) -> list[_Node]:
        after = min(node.after, list(self.shared.kept).index(self._node(neuron)))
        halves = []
        for side, part in ((-1, Part.BELOW), (1, Part.ABOVE)):
            left = halved(node.left, node.depth, part)
            parts = node.parts.split(torch.tensor([neuron]), side)
            halves.append(_Node(self.numbers, parts, dict(node.chosen), left, node.depth + 1, after))
            self.numbers += 1
        return halves


def _free(program: RelaxedProgram) -> list[int]:
    return [v for v in program.graph.nonlinear if bool(program.free(v).any())]


def _single(chosen: Multiplied) -> Multiplied:
    return Multiplied(*(t.to(torch.float32) for t in _tensors(chosen)))


def _tensors(chosen: Multiplied) -> tuple[Tensor, Tensor, Tensor]:
    return chosen.alpha, chosen.beta, chosen.weights


def _joined(parts: list[Parts]) -> Parts:
    return Parts(*(torch.cat(ts) for ts in zip(*((p.lower, p.upper, p.side) for p in parts), strict=True)))


def _together(chosen: list[Multiplied]) -> Multiplied:
    return Multiplied(*(torch.cat(ts) for ts in zip(*map(_tensors, chosen), strict=True)))
