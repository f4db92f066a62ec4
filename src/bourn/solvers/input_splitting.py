"""Branch and bound on the input: boxes are halved until every part of the input set is decided.  For few inputs.

Every part is bounded by back-substitution (CROWN), many in one batch; of a pre-activation only the entries that its parent left
unstable are bounded anew, for a bound that holds on the parent holds on its halves.  Where that refutes no conjunction, a few
steps of ascent (``box_ascent.py``) choose slopes for the objective, and weights for the conjunction's rows.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bourn.certificates.evidence import refutes
from bourn.certificates.splits import Leaf, Part, Split, SplitTree
from bourn.deadline import Deadline
from bourn.interval import Interval
from bourn.problem.input_set import Box
from bourn.problem.problem import Problem
from bourn.solvers.box_bounds import BoundedBoxes, bounded
from bourn.solvers.branching import BRANCHING_INPUTS, Sides
from bourn.solvers.subproblems import (
    Accept,
    OpenAt,
    Outcome,
    Path,
    Splitting,
    WeightedRows,
    best_weights,
    leaf,
    leaf_bytes,
    over_budget,
    try_points,
)
from bourn.solvers.tightening import widest

METHOD = "CROWN on a part of the input set, or alpha-CROWN where that is better"


@dataclass(frozen=True)
class InputSplitting(Splitting):
    """``batch`` boxes at a time, the worst bounds first; ``rule``: which side is halved (:data:`BRANCHING_INPUTS`).

    ``memory``: bytes for the tree; beyond the share ``worst_first`` of them the newest parts come first, which keeps their number
    down, and where all are taken it stops.  ``row_bytes`` bounds the memory of one node's functions, and with it the batch.
    Inputs of more than ``most_inputs`` entries are not split.
    """

    batch: int = 256
    rule: str = "loss"
    memory: int = 1 << 30
    worst_first: float = 0.5
    row_bytes: int = 1 << 22
    most_inputs: int = 20

    name: ClassVar[str] = "splitting the input"

    def refusal(self, problem: Problem, inner: Mapping[int, Interval]) -> str:
        """Where the input set is not a bounded box of few sides."""
        inputs = problem.network.nodes[0].size
        if inputs > self.most_inputs:
            return f"there are {inputs:,} inputs, and of more than {self.most_inputs} halving one is of little use"
        if not isinstance(problem.box, Box):
            return "the input set is no box"
        return "" if bool(torch.isfinite(problem.box.interval.magnitude).all()) else "the input set is unbounded"

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
        """A tree for each conjunction, all of the same parts of the box."""
        return _Run(self, problem, open_, accept, begin).loop(inner, deadline, most)


@dataclass(frozen=True, eq=False)
class _Parts:
    """B parts: their ends (B, 2, n), parents' bounds of all pre-activations (B, 2, N), and how many entries these leave open (B,).

    ``bounds`` (B, K) of the K conjunctions' best sums of rows, inf where one is refuted on the part.
    """

    ends: Tensor
    inner: Tensor
    open: Tensor
    bounds: Tensor
    paths: tuple[Path, ...]

    def __getitem__(self, which: Tensor) -> _Parts:
        paths = tuple(self.paths[i] for i in which.tolist())
        return _Parts(self.ends[which], self.inner[which], self.open[which], self.bounds[which], paths)


class _Pool:
    """Open parts in shared tensors, which grow; a part is a number."""

    def __init__(self, parts: _Parts) -> None:
        self._stored = parts.ends, parts.inner, parts.open, parts.bounds
        self._paths: list[Path] = list(parts.paths)
        self._free: list[int] = []

    def put(self, parts: _Parts) -> list[int]:
        """Store parts; their numbers."""
        missing = len(parts.paths) - len(self._free)
        if missing > 0:
            count = len(self._paths)
            more = max(missing, count)
            self._stored = tuple(torch.cat([t, t.new_zeros(more, *t.shape[1:])]) for t in self._stored)  # type: ignore[assignment]
            self._paths += [Path()] * more
            self._free += range(count, count + more)
        numbers = [self._free.pop() for _ in parts.paths]
        index = torch.tensor(numbers, dtype=torch.int64, device=parts.ends.device)
        for own, new in zip(self._stored, (parts.ends, parts.inner, parts.open, parts.bounds), strict=True):
            own[index] = new
        for number, path in zip(numbers, parts.paths, strict=True):
            self._paths[number] = path
        return numbers

    def take(self, numbers: Sequence[int]) -> _Parts:
        """Parts by number, which are no longer stored."""
        index = torch.tensor(numbers, dtype=torch.int64, device=self._stored[0].device)
        ends, inner, open_, bounds = (t[index] for t in self._stored)
        self._free += numbers
        return _Parts(ends, inner, open_, bounds, tuple(self._paths[i] for i in numbers))


class _Run:
    """The open parts of one run, and the leaves so far."""

    def __init__(
        self, how: InputSplitting, problem: Problem, open_: list[int], accept: Accept, begin: Sequence[OpenAt]
    ) -> None:
        self.how, self.problem, self.graph, self.accept, self.open = how, problem, problem.network, accept, open_
        self.begin = begin
        every = list(dict.fromkeys(row for k in open_ for row in problem.conjunctions[k].rows))
        self.rows = WeightedRows.of(problem, every)
        self.groups = [[every.index(row) for row in problem.conjunctions[k].rows] for k in open_]
        self.leaves: list[list[Leaf]] = [[] for _ in open_]
        self.heap: list[tuple[float, int, int, int]] = []
        self.stuck: list[_Parts] = []
        self.pushed, self.done, self.newest_first, self.depth, self.leaf_bytes = 0, 0, False, 0, 0
        self.width = widest(self.graph, self.graph.output)

    def loop(self, inner: Mapping[int, Interval], deadline: Deadline, most: float) -> Outcome:
        box, graph = self.problem.box, self.graph
        nothing = box.lower.new_zeros(0)  # all that an affine network has
        ends = ((inner[z].lower[0].flatten(), inner[z].upper[0].flatten()) for z in graph.pre_activations)
        known = torch.stack([torch.cat(own) for own in zip((nothing, nothing), *ends, strict=True)])
        first = self._first(known)
        self.pool = _Pool(first[torch.zeros(0, dtype=torch.int64)])
        self._push(first)
        stopped, found, size = "", False, 16 * (known.numel() + box.lower.numel())
        while self.heap and not found:
            if deadline.left <= 0 or self.done >= most:
                stopped = deadline.why if deadline.left <= 0 else f"after {self.done} subproblems"
                break
            taken = len(self.heap) * size + self.leaf_bytes
            if self.done and taken > self.how.memory:
                stopped = over_budget(self.how.memory)
                break
            if not self.newest_first and taken > self.how.worst_first * self.how.memory:
                self.newest_first = True
                self.heap = [(-float(number), number, part, open_) for _, number, part, open_ in self.heap]
                heapq.heapify(self.heap)
            found = self._work(self._pop())
        return self._outcome(stopped, found)

    def _first(self, known: Tensor) -> _Parts:
        """The parts to begin with, on the bounds of the whole set (2, N)."""
        box = self.problem.box
        begin = self.begin or (OpenAt((), dict.fromkeys(self.open, -math.inf)),)
        ends = torch.stack([box.lower.flatten(1), box.upper.flatten(1)], 1).repeat(len(begin), 1, 1)
        bounds = torch.full((len(begin), len(self.open)), math.inf, dtype=torch.float64)
        for i, part in enumerate(begin):
            for split in part.splits:
                ends[i, 1 if split.part is Part.BELOW else 0, split.entry] = split.value
            for k, bound in part.bounds.items():
                bounds[i, self.open.index(k)] = bound
        count = torch.full((len(begin),), known.shape[1], device=known.device)
        return _Parts(ends, known.expand(len(begin), -1, -1), count, bounds.to(known.device), tuple(p.path for p in begin))

    def _push(self, parts: _Parts) -> None:
        bounds, opens = parts.bounds.amin(1).tolist(), parts.open.tolist()
        for bound, number, open_ in zip(bounds, self.pool.put(parts), opens, strict=True):
            self.pushed += 1
            heapq.heappush(self.heap, (-float(self.pushed) if self.newest_first else bound, self.pushed, number, open_))

    def _pop(self) -> _Parts:
        """The next parts, as many as fit the memory for one node's functions."""
        numbers: list[int] = []
        most, at_once = 0, self.how.row_bytes / (8 * self.width)
        while self.heap and len(numbers) < self.how.batch:
            most = max(most, self.heap[0][3] + self.graph.nodes[0].size + 1)
            if numbers and (len(numbers) + 1) * most > at_once:
                break
            numbers.append(heapq.heappop(self.heap)[2])
        return self.pool.take(numbers)

    def _outcome(self, stopped: str, found: bool) -> Outcome:
        left = [*self.stuck, *([self.pool.take([part for _, _, part, _ in self.heap])] if self.heap else [])]
        count = sum(len(parts.paths) for parts in left)
        least = torch.cat([parts.bounds for parts in left]).amin(0).tolist() if count else [math.inf] * len(self.open)
        bounds = {k: bound for k, bound in zip(self.open, least, strict=True) if bound < math.inf}
        closed = {k: tuple(own) for k, own in zip(self.open, self.leaves, strict=True) if k not in bounds and not found}
        refuted = {} if self.begin else {k: SplitTree(self.problem.conjunctions[k], leaves) for k, leaves in closed.items()}
        if count and not stopped and not found:
            stopped = "parts left that float64 cannot halve"
        parts = tuple(
            OpenAt(path.splits(), {k: bound for k, bound in zip(self.open, own, strict=True) if bound < math.inf})
            for some in left
            for path, own in zip(some.paths, some.bounds.tolist(), strict=True)
        )
        leaves = {k: tuple(own) for k, own in zip(self.open, self.leaves, strict=True) if k not in refuted}
        return Outcome(refuted, bounds, self.done, count, stopped, found, self.depth, parts=parts, leaves=leaves)

    def _work(self, parts: _Parts) -> bool:
        """Bound the parts of a batch, close what is refuted, halve the others; True if a counterexample was found."""
        self.done += len(parts.paths)
        self.depth = max(self.depth, *(path.depth for path in parts.paths))
        boxes = self._bounded(parts)
        bounds, weights = self._decide(parts, boxes)
        alive = torch.nonzero((bounds < math.inf).any(1))[:, 0]
        if not len(alive):
            return False
        lower, upper = parts.ends[alive].unbind(1)
        influence, points = torch.zeros_like(lower), [(lower / 2 + upper / 2).clamp(lower, upper)]
        for number, own in enumerate(weights):
            here = (bounds[:, number] < math.inf)[alive]
            slope = (own[:, None] @ boxes.on_input)[alive, 0] * here[:, None]
            influence += slope.abs()
            points.append(torch.where(slope >= 0, lower, upper)[here])
        parts = _Parts(parts.ends, boxes.inner, boxes.open, bounds, parts.paths)[alive]
        if try_points(self.rows, self.groups, torch.cat(points).reshape(-1, *self.graph.input_shape), self.accept):
            self._push(parts)
            return True
        lost = torch.zeros_like(boxes.on_input[:, 0])
        for number, own in enumerate(weights):
            lost += boxes.losses(own * (bounds[:, number] < math.inf)[:, None])
        scores = BRANCHING_INPUTS[self.how.rule](Sides(lower, upper, influence, lost[alive]))
        self._halve(parts, torch.where(scores.amax(1, keepdim=True) > 0, scores, upper - lower).argmax(1))
        return False

    def _bounded(self, parts: _Parts) -> BoundedBoxes:
        """Bounds of the parts."""
        shape = (len(parts.paths), *self.graph.input_shape)
        box = Box(Interval(*(end.reshape(shape) for end in parts.ends.unbind(1))))
        known, first = {}, 0
        for z in self.graph.pre_activations:
            last = first + self.graph.nodes[z].size
            own = parts.inner[:, :, first:last].reshape(len(parts.paths), 2, *self.graph.nodes[z].shape)
            known[z], first = Interval(own[:, 0], own[:, 1]), last
        return bounded(self.graph, box, known, self.rows, self.how.row_bytes)

    def _decide(self, parts: _Parts, boxes: BoundedBoxes) -> tuple[Tensor, list[Tensor]]:
        """Bounds (B, K) of the conjunctions, inf where refuted, and the weights (B, M) of all rows behind each."""
        found, weights = parts.bounds.clone(), []
        for number, group in enumerate(self.groups):
            # One that overflowed is none: neither a maximum nor a comparison may take it for a bound.
            bound, row = boxes.bounds[:, group].nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).max(1)
            own = torch.zeros_like(boxes.bounds)
            own.scatter_(1, torch.tensor(group, device=row.device)[row][:, None], 1.0)
            open_ = (found[:, number] < math.inf) & ~(bound > 0)
            if len(group) > 1 and bool(open_.any()):
                joint = self._joint(parts, boxes, group, open_)
                together = boxes.together(joint)
                better = open_ & (together > bound)
                bound, own = torch.where(better, together, bound), torch.where(better[:, None], joint, own)
            which = torch.nonzero((found[:, number] < math.inf) & ~(bound > 0))[:, 0]
            if len(which):
                climbed, joint = boxes.climbed(own[which], group, which)
                better = climbed > bound[which]
                bound[which] = torch.where(better, climbed, bound[which])
                own[which] = torch.where(better[:, None], joint, own[which])
            weights.append(own)
            self._close(number, parts, bound, own[:, group], found)
        return found, weights

    def _joint(self, parts: _Parts, boxes: BoundedBoxes, group: list[int], open_: Tensor) -> Tensor:
        """Weights (B, M) that raise the minimum of a sum of a conjunction's linear functions, where ``open_``."""
        lower, upper = parts.ends[open_].unbind(1)
        matrix = boxes.on_input[open_][:, group]
        least = torch.where(matrix > 0, lower[:, None], upper[:, None])
        constant = boxes.bounds[open_][:, group] - (matrix * least).sum(2)
        joint = torch.zeros_like(boxes.bounds)
        index = torch.tensor(group, device=joint.device)
        joint[open_] = torch.zeros_like(joint[open_]).index_copy(1, index, best_weights(matrix, constant, lower, upper))
        return joint

    def _close(self, number: int, parts: _Parts, bound: Tensor, weights: Tensor, found: Tensor) -> None:
        """Note a conjunction's bounds, and leaves where they refute it."""
        conjunction = self.problem.conjunctions[self.open[number]]
        open_ = found[:, number] < math.inf
        found[:, number] = torch.where(open_, torch.maximum(found[:, number], bound), math.inf)
        for i in torch.nonzero(open_ & (bound >= 0))[:, 0].tolist():
            if refutes(conjunction, tuple(weights[i].tolist()), float(bound[i])):
                self.leaves[number].append(leaf(parts.paths[i], weights[i], float(bound[i]), METHOD))
                self.leaf_bytes += leaf_bytes(parts.paths[i].depth, weights.shape[1])
                found[i, number] = math.inf

    def _halve(self, parts: _Parts, sides: Tensor) -> None:
        """Push the halves of parts, each cut in the middle of one side."""
        index = sides[:, None]
        low, high = (parts.ends[:, e].gather(1, index)[:, 0] for e in (0, 1))
        middle = low / 2 + high / 2
        fits = (low < middle) & (middle < high)
        if not bool(fits.all()):
            self.stuck.append(parts[torch.nonzero(~fits)[:, 0]])
            parts, index, middle = parts[torch.nonzero(fits)[:, 0]], index[fits], middle[fits]
        name, places = self.graph.nodes[0].name, list(zip(index[:, 0].tolist(), middle.tolist(), strict=True))
        for half in Part:
            ends = parts.ends.clone()
            ends[:, 1 if half is Part.BELOW else 0].scatter_(1, index, middle[:, None])
            paths = tuple(p.then(Split(name, side, at, half)) for p, (side, at) in zip(parts.paths, places, strict=True))
            self._push(_Parts(ends, parts.inner, parts.open, parts.bounds, paths))
