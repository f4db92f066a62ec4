"""Branch and bound on neurons: an unstable neuron is taken to be on one side of its kink, then on the other.

Every subproblem is bounded by ascent on its multipliers, many in one batch on shared matrices, children beginning where their
parent ended; whatever counts as refuted is stated anew in float64, with its rounding error, on the whole network.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bourn.certificates.evidence import refutes
from bourn.certificates.splits import Leaf, Part, Split, SplitTree
from bourn.deadline import Deadline
from bourn.interval import Interval
from bourn.problem.problem import Problem
from bourn.program.branches import Multiplied, Parts, Shared
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.relaxations.base import LineRule
from bourn.solvers.base import output_rows
from bourn.solvers.branching import BRANCHING_NEURONS, Scene
from bourn.solvers.split_ascent import Climb
from bourn.solvers.subproblems import Accept, Outcome, Path, WeightedRows, leaf, try_points

METHOD = "dual ascent with multipliers for splits"


@dataclass(frozen=True)
class NeuronSplitting:
    """``batch`` subproblems at a time, the worst bounds first.

    ``rule``: which neuron is split (:data:`BRANCHING_NEURONS`); ``ahead``: of so many of the highest scores both children are
    bounded without ascent, and the neuron whose worse child is best is split.  ``memory``: bytes for open subproblems; beyond
    them the newest come first, which keeps their number down.
    """

    batch: int = 128
    rule: str = "babsr"
    ahead: int = 4
    root: Climb = field(default=Climb(steps=60, decay=0.96))
    climb: Climb = field(default=Climb())
    memory: int = 1 << 30

    def run(
        self,
        problem: Problem,
        open_: list[int],
        inner: Mapping[int, Interval],
        accept: Accept,
        deadline: Deadline,
        most: float = math.inf,
    ) -> Outcome:
        """Decide the conjunctions numbered ``open_`` of a problem from implied bounds ``inner``, one after the other.

        Ends out of time, after ``most`` subproblems, or when all is decided.  Raises ValueError where the network has unstable
        neurons that are not split.
        """
        program = start(problem.network, problem.box, LineRule.AREA)
        for z in problem.network.pre_activations:
            program = with_bounds(program, z, inner[z])
        refuted: dict[int, SplitTree] = {}
        bounds: dict[int, float] = {}
        done, left = 0, 0
        stopped = ""
        for k in open_:
            run = _Tree(self, problem, k, program, accept)
            found = run.loop(deadline, most - done)
            done, left = done + run.done, left + run.left
            if found:
                return Outcome(refuted, bounds, done, left, "", True)
            if run.left:
                bounds[k], stopped = run.bound(), run.stopped
                if deadline.left <= 0 or done >= most:
                    break
            else:
                refuted[k] = SplitTree(problem.conjunctions[k], tuple(run.leaves))
        return Outcome(refuted, bounds, done, left, stopped)


@dataclass(eq=False)
class _Part:
    """An open subproblem: bounds and multipliers (1, N), its value so far, a bound that was stated, its path."""

    parts: Parts
    chosen: Multiplied
    value: float
    stated: float
    path: Path


class _Tree:
    """One conjunction's tree: what is open, and the leaves so far."""

    def __init__(self, how: NeuronSplitting, problem: Problem, number: int, program: RelaxedProgram, accept: Accept) -> None:
        self.how, self.problem, self.accept = how, problem, accept
        self.conjunction = problem.conjunctions[number]
        self.rows = WeightedRows.of(problem, self.conjunction)
        self.shared = Shared(program, output_rows(problem.network, self.rows.objectives), self.rows.objectives.constant)
        self.heap: list[tuple[float, int, _Part]] = []
        self.counter = itertools.count()
        self.leaves: list[Leaf] = []
        self.stuck: list[_Part] = []
        self.done = 0
        self.stopped = ""

    @property
    def left(self) -> int:
        return len(self.heap) + len(self.stuck)

    def bound(self) -> float:
        """A lower bound over everything that is open."""
        return min((part.stated for part in (*(p for _, _, p in self.heap), *self.stuck)), default=math.inf)

    def loop(self, deadline: Deadline, most: float) -> bool:
        """Split until nothing is open or a limit is reached; True if a counterexample was found."""
        parts, count = self.shared.root(), len(self.rows)
        weights = torch.full((1, count), 1.0 / count, dtype=torch.float32, device=parts.lower.device)
        chosen = self.shared.begin(parts, weights)
        if self._bound(parts, chosen, [Path()], [-math.inf], self.how.root, deadline):
            return True
        size = 40 * max(1, self.shared.count)
        deepest_first = False
        while self.heap:
            if deadline.left <= 0 or self.done >= most:
                self.stopped = "out of time" if deadline.left <= 0 else f"after {self.done} subproblems"
                return False
            if not deepest_first and len(self.heap) * size > self.how.memory:
                deepest_first = True
                self.heap = [(-float(n), n, part) for _, n, part in self.heap]
                heapq.heapify(self.heap)
            batch = [heapq.heappop(self.heap)[2] for _ in range(min(self.how.batch, len(self.heap)))]
            if self._branch(batch, deadline):
                return True
        if self.stuck:
            self.stopped = "subproblems without an unstable neuron that no bound refutes"
        return False

    def _branch(self, batch: list[_Part], deadline: Deadline) -> bool:
        """Split every subproblem of a batch in two and bound the halves."""
        parts = _joined([p.parts for p in batch])
        chosen = _joined_multipliers([p.chosen for p in batch])
        neurons = self._neurons(parts, chosen)
        both = Parts(*(torch.cat([t, t]) for t in (parts.lower, parts.upper, parts.side)))
        halves = [parts.split(neurons, -1), parts.split(neurons, 1)]
        both = _joined(halves)
        twice = _joined_multipliers([chosen, chosen])
        paths = []
        for part in Part:
            for own, neuron in zip(batch, neurons.tolist(), strict=True):
                z, entry = self.shared.name(neuron)
                paths.append(own.path.then(Split(self.problem.network.nodes[z].name, entry, 0.0, part)))
        return self._bound(both, twice, paths, [p.stated for p in batch] * 2, self.how.climb, deadline)

    def _neurons(self, parts: Parts, chosen: Multiplied) -> Tensor:
        """Which neuron (B,) every subproblem is split at."""
        found = self.shared.evaluate(parts, chosen)
        assert found.z is not None
        lower, upper = parts.lower.to(torch.float32), parts.upper.to(torch.float32)
        scene = Scene(lower, upper, found.row, found.z, parts.open, self.shared.slope, chosen.alpha)
        scores = BRANCHING_NEURONS[self.how.rule](scene).masked_fill(~parts.open, -1.0)
        count = min(self.how.ahead, scores.shape[1])
        if count < 2:
            return scores.argmax(1)
        best, neurons = scores.topk(count, 1)
        worse = []
        for i in range(count):
            values = []
            for side in (-1, 1):
                half = parts.split(neurons[:, i], side)
                values.append(self.shared.evaluate(half, chosen, gradient=False).value)
            pair = torch.stack(values).clamp(max=0)
            worse.append((pair.amin(0) + 0.05 * pair.amax(0)).masked_fill(best[:, i] < 0, -math.inf))
        return neurons.gather(1, torch.stack(worse, 1).argmax(1, keepdim=True))[:, 0]

    def _bound(
        self, parts: Parts, chosen: Multiplied, paths: list[Path], stated: list[float], climb: Climb, deadline: Deadline
    ) -> bool:
        """Bound subproblems; close what is refuted, keep the others; True if a counterexample was found."""
        self.done += len(paths)
        chosen, value, x = climb.run(self.shared, parts, chosen, deadline)
        bounds = torch.tensor(stated, dtype=torch.float64)
        settled = torch.nonzero(value > 0)[:, 0]
        if len(paths) == 1 and not len(settled):
            settled = torch.zeros(1, dtype=torch.int64)
        for some in torch.split(settled, 64):
            if len(some):
                bounds[some] = torch.maximum(bounds[some], self._state(parts[some], chosen[some]))
        weights = chosen.weights.to(torch.float64)
        open_ = []
        for i, bound in enumerate(bounds.tolist()):
            if refutes(self.conjunction, tuple(weights[i].tolist()), bound):
                self.leaves.append(leaf(paths[i], weights[i], bound, METHOD))
            else:
                open_.append(i)
        if not open_:
            return False
        for i in open_:
            one = slice(i, i + 1)
            own = _Part(parts[one], chosen[one], min(float(value[i]), 0.0), float(bounds[i]), paths[i])
            if bool(own.parts.open.any()):
                heapq.heappush(self.heap, (own.value, next(self.counter), own))
            else:
                self._exact(own, deadline)
        worst = torch.tensor(open_)[torch.argsort(value[open_])[:32]]
        points = x[worst].to(torch.float64).reshape(-1, *self.problem.box.shape)
        return try_points([self.rows], self.problem.box.project(points), self.accept)

    def _state(self, parts: Parts, chosen: Multiplied) -> Tensor:
        """Lower bounds (B,) on the whole network, valid in exact arithmetic."""
        program = self.shared.relaxed(parts)
        return self.rows.state(program, chosen.weights.to(torch.float64), self.shared.multipliers(program, parts, chosen))

    def _exact(self, part: _Part, deadline: Deadline) -> None:
        """A subproblem without unstable neurons is a linear program."""
        from bourn.solvers.combination import joint_bound
        from bourn.solvers.simplex import Simplex

        program = self.shared.relaxed(part.parts)
        self.stuck.append(part)
        outside = {z: program.bounds[z] for z in self.problem.network.pre_activations}
        root = self.shared.program
        inner = {z: root.bounds[z] for z in outside}
        prepared = Simplex().prepare(self.problem.network, self.problem.box, inner=inner, outside=outside, deadline=deadline)
        found = prepared.minimise(self.rows.objectives).bound[0]
        identity = torch.eye(len(self.rows), dtype=torch.float64)
        tried = [(float(b), tuple(w.tolist())) for b, w in zip(found, identity, strict=True)]
        tried.append(joint_bound(prepared, self.problem, self.conjunction))
        for bound, weights in tried:
            if refutes(self.conjunction, weights, bound):
                self.stuck.remove(part)
                self.leaves.append(leaf(part.path, torch.tensor(weights, dtype=torch.float64), bound, prepared.solver.solved_by))
                return


def _joined(parts: list[Parts]) -> Parts:
    return Parts(*(torch.cat(ts) for ts in zip(*((p.lower, p.upper, p.side) for p in parts), strict=True)))


def _joined_multipliers(chosen: list[Multiplied]) -> Multiplied:
    return Multiplied(*(torch.cat(ts) for ts in zip(*((c.alpha, c.beta, c.weights) for c in chosen), strict=True)))
