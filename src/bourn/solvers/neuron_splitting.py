"""Branch and bound on neurons: an unstable neuron is taken to be on one side of its kink, then on the other.

Every subproblem is bounded by ascent on its multipliers, many in one batch on shared matrices, children beginning where their
parent ended; whatever counts as refuted is stated anew in float64, with its rounding error, on the whole network.  Cheap splits and
dear ones, which tighten the inner bounds again under all splits, take turns as it pays (``ways.py``).  Where cheap ones won, every
conjunction goes on in a tree of its own.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from bourn.certificates.evidence import refutes
from bourn.certificates.splits import Part, Split
from bourn.deadline import Deadline
from bourn.interval import Interval
from bourn.problem.input_set import Box
from bourn.problem.problem import Problem
from bourn.program.branches import Multiplied, Parts, Shared
from bourn.program.relaxed import start, with_bounds
from bourn.relaxations.base import LineRule
from bourn.solvers.base import output_rows
from bourn.solvers.branching import BRANCHING_NEURONS, Scene
from bourn.solvers.frontier import Frontier, OpenPart
from bourn.solvers.retightening import tighten
from bourn.solvers.split_ascent import Climb
from bourn.solvers.subproblems import Accept, OpenAt, Outcome, Splitting, WeightedRows, over_budget, try_points
from bourn.solvers.ways import Record, Way, choose, forecast

METHOD = "dual ascent with multipliers for splits"


@dataclass(frozen=True)
class NeuronSplitting(Splitting):
    """At most ``batch`` subproblems at a time, as many as take about ``seconds``, the worst bounds first.

    ``ways``: how a subproblem may be split, the cheapest first.  ``climb`` is the ascent on a subproblem, ``root`` the first one.
    ``memory``: bytes for the tree; beyond the share ``worst_first`` of them the newest subproblems come first, which keeps their
    number down, and where all are taken it stops.  ``matrix_bytes``: what the matrices that subproblems share may take.
    ``patience``: after this share of its time it goes on only while the tree is forecast to end in less time than it took so far.
    """

    batch: int = 128
    seconds: float = 0.5
    ways: tuple[Way, ...] = (Way("babsr"), Way("early", again=Climb(steps=8)))
    root: Climb = field(default=Climb(steps=60, decay=0.96))
    climb: Climb = field(default=Climb())
    memory: int = 1 << 30
    worst_first: float = 0.5
    matrix_bytes: int = 1 << 30
    patience: float = 1.0

    name: ClassVar[str] = "splitting neurons"

    def refusal(self, problem: Problem, inner: Mapping[int, Interval]) -> str:
        """Where the matrices that subproblems share were too large; other reasons show when they are made."""
        free = sum(int(((b.lower < 0) & (b.upper > 0)).sum()) for b in inner.values())
        size = 4 * free * (problem.network.nodes[0].size + free / 2)
        return f"{free} unstable neurons are too many" if size > self.matrix_bytes else ""

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
        """One tree for all conjunctions; raises ``CannotSplit`` where the network has unstable neurons that are not split."""
        run = _Run(self, problem, open_, inner, accept, deadline, begin)
        found = run.loop(most)
        outcome = run.tree.outcome(problem, run.done, run.stopped, found)
        return replace(outcome, ways=tuple(r.taken(outcome.left) for r in run.records if r.tried))


@dataclass(eq=False)
class _Part(OpenPart):
    """An open subproblem: bounds (1, N), and of every open conjunction its multipliers too."""

    parts: Parts
    chosen: dict[int, Multiplied]

    def apart(self) -> list[_Part]:
        """The same for every conjunction alone."""
        if len(self.chosen) == 1:
            return [self]
        return [
            _Part(self.path, {k: self.values[k]}, {k: self.stated[k]}, self.parts, {k: self.chosen[k]}) for k in self.chosen
        ]


class _Run:
    """One tree for all conjunctions: what is open, and the leaves so far."""

    def __init__(
        self,
        how: NeuronSplitting,
        problem: Problem,
        open_: list[int],
        inner: Mapping[int, Interval],
        accept: Accept,
        deadline: Deadline,
        begin: Sequence[OpenAt],
    ) -> None:
        self.how, self.problem, self.accept, self.deadline = how, problem, accept, deadline
        program = start(problem.network, problem.box, LineRule.AREA)
        for z in problem.network.pre_activations:
            program = with_bounds(program, z, inner[z])
        distinct = list(dict.fromkeys(row for k in open_ for row in problem.conjunctions[k].rows))
        self.rows = WeightedRows.of(problem, distinct)
        self.groups = {k: [distinct.index(row) for row in problem.conjunctions[k].rows] for k in open_}
        self.shared = Shared(program, output_rows(problem.network, self.rows.objectives), self.rows.objectives.constant)
        self.layer = torch.zeros(self.shared.count, dtype=torch.int64, device=problem.network.device)
        for number, own in enumerate(self.shared.place.values()):
            self.layer[own] = number
        size = (17 + 8 * len(open_)) * max(1, self.shared.count)
        self.tree: Frontier[_Part] = Frontier(open_, size, how.memory, how.worst_first, not begin)
        self.begin = begin or (OpenAt((), dict.fromkeys(open_, -math.inf)),)
        self.points: list[Tensor] = []
        self.records = [Record(way) for way in how.ways]
        self.done, self.stopped = 0, ""

    def loop(self, most: float) -> bool:
        """Split until nothing is open or a limit is reached; True if a counterexample was found."""
        first = self._first()
        for i in range(0, len(first), self.how.batch):
            if self._bound(first[i : i + self.how.batch], self.how.root, first=True):
                for part in first[i + self.how.batch :]:
                    self.tree.add(part)
                return True
        soft, start = self.deadline.part(self.how.patience), time.monotonic()
        for number in itertools.count():
            if not len(self.tree):
                break
            worth = min(time.monotonic() - start, self.deadline.left)
            if soft.left <= 0 < worth < forecast(self.records, len(self.tree)):
                self.stopped = "forecast to take too long"
                return False
            if self.deadline.left <= 0 or self.done >= most:
                self.stopped = self.deadline.why if self.deadline.left <= 0 else f"after {self.done} subproblems"
                return False
            if self.tree.full:
                self.stopped = over_budget(self.how.memory)
                return False
            record, seconds = choose(self.records, number, len(self.tree), self.deadline.left)
            own = self.tree.take(record.batch)
            if not record.way.again.steps and all(r.tried for r in self.records):
                # Bounds serve all conjunctions, a split only one: those of others would multiply its tree.
                own = [one for part in own for one in part.apart()]
            began, before = time.monotonic(), torch.tensor([part.worst for part in own])
            children = self._halves(own, record.way, self.deadline.within(seconds))
            if self._bound(children, self.how.climb):
                return True
            took = time.monotonic() - began
            gains = (torch.tensor([part.worst for part in children]).reshape(2, -1) - before) / -before
            less, more = gains.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(0, 1).sort(0).values
            record.add(number, took, less, more)
            record.batch = max(1, min(self.how.batch, 2 * record.batch, int(len(own) * self.how.seconds / max(took, 1e-6))))
        if self.tree.stuck:
            self.stopped = "subproblems without an unstable neuron that no bound refutes"
        return False

    def _first(self) -> list[_Part]:
        """The parts to begin with; of those that are split, inner bounds are tightened as the dearest way does it."""
        root, numbers = self.shared.root(), self.shared.numbers()
        parts, after = [], []
        for own in self.begin:
            one, neurons = root, [numbers[s.node, s.entry] for s in own.splits]
            for neuron, split in zip(neurons, own.splits, strict=True):
                one = one.split(torch.tensor([neuron], device=root.lower.device), 1 if split.part is Part.ABOVE else -1)
            parts.append(one)
            after.append(min((int(self.layer[n]) for n in neurons), default=len(self.shared.place)))
        joined = _joined(parts)
        if self.how.ways[-1].again.steps:
            layer = torch.tensor(after, device=self.layer.device)
            joined = tighten(self.shared, joined, layer, self.how.ways[-1].again, self.deadline.part(0.2))
        found = []
        for i, own in enumerate(self.begin):
            part = _Part(own.path, dict(own.bounds), dict(own.bounds), joined[i : i + 1], {})
            for k in own.bounds:
                weights = torch.zeros(1, len(self.rows), device=root.lower.device)
                weights[0, self.groups[k]] = 1.0 / len(self.groups[k])
                part.chosen[k] = self.shared.begin(part.parts, weights)
            found.append(part)
        return found

    def _halves(self, batch: list[_Part], way: Way, deadline: Deadline) -> list[_Part]:
        """Every subproblem of a batch split in two: all the lower halves, then all the upper ones."""
        parts = _joined([p.parts for p in batch])
        worst = [min(p.values, key=p.values.__getitem__) for p in batch]
        neurons = self._neurons(parts, _together([p.chosen[k] for p, k in zip(batch, worst, strict=True)]), way)
        halves = _joined([parts.split(neurons, -1), parts.split(neurons, 1)])
        if way.again.steps:
            halves = tighten(self.shared, halves, self.layer[neurons].repeat(2), way.again, deadline)
        children = []
        for i, (part, own, neuron) in enumerate(
            (part, own, neuron) for part in Part for own, neuron in zip(batch, neurons.tolist(), strict=True)
        ):
            z, entry = self.shared.name(neuron)
            path = own.path.then(Split(self.problem.network.nodes[z].name, entry, 0.0, part))
            children.append(_Part(path, dict(own.values), dict(own.stated), halves[i : i + 1], dict(own.chosen)))
        return children

    def _neurons(self, parts: Parts, chosen: Multiplied, way: Way) -> Tensor:
        """Which neuron (B,) every subproblem is split at."""
        own = self.shared
        found = own.evaluate(parts, chosen)
        assert found.z is not None
        lower, upper = parts.lower.to(torch.float32), parts.upper.to(torch.float32)
        scene = Scene(lower, upper, found.row, found.z, parts.open, own.slope, chosen.alpha, own.outgoing, own.layer)
        scores = BRANCHING_NEURONS[way.rule](scene).masked_fill(~parts.open, -1.0)
        count = min(way.ahead, scores.shape[1])
        if count < 2:
            return scores.argmax(1)
        best, neurons = scores.topk(count, 1)
        worse = []
        for i in range(count):
            halves = [parts.split(neurons[:, i], side) for side in (-1, 1)]
            pair = torch.stack([own.evaluate(half, chosen, gradient=False).value for half in halves]).clamp(max=0)
            worse.append((pair.amin(0) + 0.05 * pair.amax(0)).masked_fill(best[:, i] < 0, -math.inf))
        return neurons.gather(1, torch.stack(worse, 1).argmax(1, keepdim=True))[:, 0]

    def _bound(self, children: list[_Part], climb: Climb, first: bool = False) -> bool:
        """Bound subproblems; close what is refuted, keep the others; True if a counterexample was found.

        Of the ``first`` a bound is stated in any case.
        """
        self.done += len(children)
        pairs = [(child, k) for child in children for k in child.chosen]
        parts = _joined([child.parts for child, _ in pairs])
        chosen, value, x = climb.run(self.shared, parts, _together([child.chosen[k] for child, k in pairs]), self.deadline)
        bounds = torch.full_like(value, -math.inf, dtype=torch.float64)
        for some in torch.split(torch.nonzero((value > 0) | first)[:, 0], 128):
            if len(some):
                bounds[some] = self._state(parts[some], chosen[some])
        weights = chosen.weights.to(torch.float64)
        for i, (child, k) in enumerate(pairs):
            bound, own = max(float(bounds[i]), child.stated[k]), weights[i, self.groups[k]]
            child.values[k] = min(max(float(value[i]), child.values[k]), 0.0)  # the parent's holds for it too
            child.stated[k], child.chosen[k] = bound, chosen[i : i + 1]
            if refutes(self.problem.conjunctions[k], tuple(own.tolist()), float(bounds[i])):
                self._close(child, k, own, float(bounds[i]), METHOD)
        for child in children:
            if not child.chosen:
                continue
            if bool(child.parts.open.any()) or self.deadline.left <= 0:
                self.tree.add(child)
            elif not self._exact(child):
                self.tree.stuck.append(child)
        worst = value.argsort()[:32]
        worst = worst[value[worst] <= 0]
        tried = torch.cat([x[worst].to(torch.float64), *self.points]).reshape(-1, *self.problem.box.shape)
        self.points.clear()
        points = self.problem.box.project(tried)
        return bool(len(points)) and try_points(self.rows, list(self.groups.values()), points, self.accept)

    def _close(self, child: _Part, k: int, weights: Tensor, bound: float, method: str) -> None:
        self.tree.close(child, k, weights, bound, method)
        del child.chosen[k]

    def _state(self, parts: Parts, chosen: Multiplied) -> Tensor:
        """Lower bounds (B,) on the whole network, valid in exact arithmetic."""
        program = self.shared.relaxed(parts)
        return self.rows.state(program, chosen.weights.to(torch.float64), self.shared.multipliers(program, parts, chosen))

    def _exact(self, child: _Part) -> bool:
        """A subproblem without unstable neurons is a linear program; whether that closes it or its point is accepted."""
        from bourn.solvers.leaf_program import PRICES, solve

        box = self.problem.box
        if not isinstance(box, Box):
            return False
        for price in PRICES:
            for k in list(child.chosen):
                found = solve(self.shared, child.parts, box, self.groups[k], price)
                if found is None:
                    continue
                chosen, x = found
                bound, own = float(self._state(child.parts, chosen)), chosen.weights[0, self.groups[k]]
                child.stated[k] = max(bound, child.stated[k])
                if refutes(self.problem.conjunctions[k], tuple(own.tolist()), bound):
                    self._close(child, k, own, bound, "LP")
                else:
                    self.points.append(x)
        return not child.chosen


def _joined(parts: list[Parts]) -> Parts:
    return Parts(*(torch.cat(ts) for ts in zip(*((p.lower, p.upper, p.side) for p in parts), strict=True)))


def _together(chosen: list[Multiplied]) -> Multiplied:
    return Multiplied(*(torch.cat(ts) for ts in zip(*((c.alpha, c.beta, c.weights) for c in chosen), strict=True)))
