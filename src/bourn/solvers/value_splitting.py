"""Branch and bound on pre-activations of any nonlinear function: a value is taken to be at most a number, then at least that.

For what :mod:`bourn.solvers.neuron_splitting` cannot take: functions other than ReLUs are split at their own points (kinks,
inflections) or in the middle, and networks that are too large for shared matrices are bounded through their own operators.  On a
part the bounds behind a split are found anew in closed form, the rows by dual ascent, where every split has its multiplier.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from bourn.certificates.evidence import refutes
from bourn.certificates.splits import Part, Split
from bourn.deadline import Deadline, OutOfTime
from bourn.interval import Interval
from bourn.network.affine import Affine
from bourn.network.graph import Graph
from bourn.problem.problem import Objectives, Problem
from bourn.program.branches import refusal
from bourn.program.linear_bounds import back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.program.restrict import take_problems
from bourn.relaxations.base import ElementWise, LineRule, Nonlinearity
from bourn.relaxations.curves import PiecewiseLinear
from bourn.rounding import down
from bourn.solvers.back_substitution import BackSubstitution
from bourn.solvers.base import join, output_rows
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.frontier import Frontier, OpenPart
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.simplex import Simplex
from bourn.solvers.subproblems import Accept, OpenAt, Outcome, Path, Splitting, WeightedRows, best_weights, over_budget, try_points
from bourn.solvers.tightening import widest

METHOD = "dual ascent with multipliers for splits"
EMPTY = "bounds that contradict each other"

_SAMPLES = (0.25, 0.5, 0.75)
"""Where in an interval it is looked how far a function is from its lines."""
_FEW = 8
"""So many parts take hardly longer than one."""
_MARGIN = 0.05
"""A point of a smooth function is split at only where so much of the interval lies on either side."""


@dataclass(frozen=True)
class ValueSplitting(Splitting):
    """At most ``batch`` parts at a time, as many as take about ``seconds``, the worst bounds first.

    ``ascent`` is that on a part, ``root`` the first one, ``last`` that on a part with nothing left to split.  ``row_bytes``: for
    one set of rows.  ``memory``: bytes for the tree; beyond the share ``worst_first`` of them the newest parts come first, and
    where all are taken it stops.
    """

    batch: int = 64
    seconds: float = 0.5
    root: DualAscent = field(default=DualAscent(steps=40))
    ascent: DualAscent = field(default=DualAscent(steps=12))
    last: DualAscent = field(default=DualAscent(steps=150, decay=0.98))
    row_bytes: int = 1 << 23
    memory: int = 1 << 30
    worst_first: float = 0.5

    name: ClassVar[str] = "splitting pre-activations"

    def refusal(self, problem: Problem, inner: Mapping[int, Interval]) -> str:
        """Where nothing can be split, and where splitting neurons does it."""
        if not problem.network.pre_activations:
            return "the network is affine"
        program = start(problem.network, problem.box, LineRule.AREA)
        for z in problem.network.pre_activations:
            program = with_bounds(program, z, inner[z])
        by_neuron = not NeuronSplitting().refusal(problem, inner) and not refusal(program)
        return "its neurons are split as neurons" if by_neuron else ""

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
        """One tree for all conjunctions, which cannot be dealt out."""
        assert not begin
        found = (run := _Run(self, problem, open_, inner, accept, deadline)).loop(most)
        return run.tree.outcome(problem, run.done, run.stopped, found)


@dataclass(eq=False)
class _Part(OpenPart):
    """An open part: bounds (1, *shape) of all pre-activations, those that splits impose, and the next split, once it is known.

    ``since``: the pre-activation that was split last; bounds behind it can be better than those known.
    """

    bounds: dict[int, Interval]
    imposed: dict[int, Interval]
    since: int = -1
    next: tuple[int, int, float] | None = None

    def half(self, graph: Graph, side: Part) -> _Part:
        """One side of the next split."""
        assert self.next is not None
        z, entry, value = self.next
        known = self.imposed.get(z)
        if known is None:
            infinite = torch.full_like(self.bounds[z].lower, math.inf)
            known = Interval(-infinite, infinite)
        lower, upper = known.lower.clone(), known.upper.clone()
        end = upper if side is Part.BELOW else lower
        end.view(-1)[entry] = value
        path = self.path.then(Split(graph.nodes[z].name, entry, value, side))
        return _Part(path, dict(self.values), dict(self.stated), self.bounds, {**self.imposed, z: Interval(lower, upper)}, z)


class _Run:
    """One tree for all conjunctions."""

    def __init__(
        self,
        how: ValueSplitting,
        problem: Problem,
        open_: list[int],
        inner: Mapping[int, Interval],
        accept: Accept,
        deadline: Deadline,
    ) -> None:
        self.how, self.problem, self.graph, self.accept, self.deadline = how, problem, problem.network, accept, deadline
        distinct = list(dict.fromkeys(row for k in open_ for row in problem.conjunctions[k].rows))
        self.rows = WeightedRows.of(problem, distinct)
        self.groups = {k: [distinct.index(row) for row in problem.conjunctions[k].rows] for k in open_}
        known = {z: inner[z] for z in self.graph.pre_activations}
        nothing = dict.fromkeys(open_, -math.inf)
        self.first = _Part(Path(), dict(nothing), dict(nothing), known, {}, len(self.graph.nodes))
        entries = sum(b.lower.numel() for b in known.values())
        self.tree: Frontier[_Part] = Frontier(open_, 32 * entries, how.memory, how.worst_first)
        self.at_once = max(1, how.row_bytes // (8 * widest(self.graph, self.graph.output)))
        self.closed_form = BackSubstitution(LineRule.AREA)
        self.done, self.stopped = 0, ""

    def loop(self, most: float) -> bool:
        """Split until nothing is open or a limit is reached; True if a counterexample was found."""
        taken, size = [self.first], 1
        try:
            if self._bound(taken, self.how.root):
                return True
            while len(self.tree):
                if self.deadline.left <= 0 or self.done >= most:
                    self.stopped = self.deadline.why if self.deadline.left <= 0 else f"after {self.done} subproblems"
                    return False
                if self.tree.full:
                    self.stopped = over_budget(self.how.memory)
                    return False
                taken, began = self.tree.take(size), time.monotonic()
                children = [part.half(self.graph, side) for part in taken for side in Part]
                if self._bound(children, self.how.ascent):
                    return True
                took = time.monotonic() - began
                size = max(_FEW, min(self.how.batch, 2 * size, int(len(taken) * self.how.seconds / max(took, 1e-6))))
                size = min(size, self.at_once)
        except OutOfTime:
            self.tree.stuck += taken  # whatever became of their halves: the bounds of the whole hold for these
            self.stopped = self.deadline.why
        if self.tree.stuck and not self.stopped:
            self.stopped = "parts with nothing to split that no bound refutes"
        return False

    def _bound(self, parts: list[_Part], ascent: DualAscent) -> bool:
        """Bound parts; close what is refuted, keep the others with their next split; True if a counterexample was found.

        Raises ``OutOfTime`` with some of that done or none; what the parts are halves of then has to stay open beside them.
        """
        program, empty = self._program(parts)
        closed: list[tuple[_Part, int, Tensor, float, str]] = []
        scores = [torch.zeros_like(program.bounds[z].lower).flatten(1) for z in self.graph.pre_activations]
        worst: dict[int, float] = {}
        points = []
        for k, group in self.groups.items():
            which = [i for i, part in enumerate(parts) if k in part.stated]
            if not which:
                continue
            own = torch.tensor(which, device=empty.device)
            bounds, weights, found_scores, x = self._rows(_some(program, own), group, ascent)
            points.append(x)
            for j, i in enumerate(which):
                part = parts[i]
                bound = float(bounds[j])
                part.values[k] = min(max(bound, part.values[k]), 0.0)
                part.stated[k] = max(bound, part.stated[k])
                if bool(empty[i]):
                    uniform = torch.full((len(group),), 1.0 / len(group), dtype=torch.float64)
                    closed.append((part, k, uniform, 1.0, EMPTY))
                elif refutes(self.problem.conjunctions[k], tuple(weights[j].tolist()), bound):
                    closed.append((part, k, weights[j], bound, METHOD))
                elif part.values[k] <= worst.get(i, 0.0):
                    worst[i] = part.values[k]
                    for total, new in zip(scores, found_scores, strict=True):
                        total[i] = new[j]
        self.done += len(parts) if ascent is not self.how.last else 0
        whole: list[_Part] = []
        for part, k, own_weights, bound, method in closed:
            self.tree.close(part, k, own_weights, bound, method)
        for i, part in enumerate(parts):
            if not part.stated:
                continue
            own_bounds = {z: program.bounds[z] for z in part.bounds}
            part.bounds = {z: Interval(b.lower[i : i + 1], b.upper[i : i + 1]) for z, b in own_bounds.items()}
            part.next = next_split(self.graph, [score[i] for score in scores], part.bounds)
            if part.next is not None:
                self.tree.add(part)
            elif ascent is self.how.last:
                self.tree.stuck.append(part)
            else:
                whole.append(part)
        if any(self._by_program(part) for part in whole):
            return True
        if (whole := [part for part in whole if part.stated]) and self._bound(whole, self.how.last):
            return True
        tried = self.problem.box.project(torch.cat(points).reshape(-1, *self.problem.box.shape))
        return try_points(self.rows, list(self.groups.values()), tried, self.accept)

    def _by_program(self, part: _Part) -> bool:
        """A part with nothing left to split is a linear program; True if a counterexample was found."""
        known = {"inner": part.bounds, "outside": part.imposed}
        prepared = Simplex().prepare(self.graph, self.problem.box, deadline=self.deadline, **known)
        whole = self.rows.objectives
        for k in list(part.stated):
            group = self.groups[k]
            inputs = None if whole.inputs is None else whole.inputs[:, group]
            own = Objectives(whole.outputs[:, group], inputs, whole.constant[:, group], whole.inexact)
            best = prepared.weights(own) if len(group) > 1 else None
            weights = torch.zeros(1, len(self.rows), dtype=torch.float64, device=whole.constant.device)
            weights[:, group] = 1.0 / len(group) if best is None else best
            outputs, inputs = ((None if t is None else weights @ t) for t in (whole.outputs, whole.inputs))
            assert outputs is not None
            summed = Objectives(outputs, inputs, weights @ whole.constant.mT)
            bound = float(down(prepared.minimise(summed).bound - self.rows.error(prepared.program, weights)))
            part.stated[k] = max(bound, part.stated[k])
            if refutes(self.problem.conjunctions[k], tuple(weights[0, group].tolist()), bound):
                self.tree.close(part, k, weights[0, group], bound, "LP")
                continue
            x = prepared.points(summed)
            if x is not None and try_points(self.rows, [group], self.problem.box.project(x), self.accept):
                return True
        return False

    def _program(self, parts: Sequence[_Part]) -> tuple[RelaxedProgram, Tensor]:
        """The parts as one relaxed program, bounds behind splits found anew; which of the parts are certainly empty (B,)."""
        box = self.problem.box
        box = box[torch.zeros(len(parts), dtype=torch.int64, device=box.lower.device)]
        program = start(self.graph, box, LineRule.AREA)
        empty = torch.zeros(len(parts), dtype=torch.bool, device=box.lower.device)
        split = {part.since for part in parts}
        for z in self.graph.pre_activations:
            known = join([part.bounds[z] for part in parts])
            lower, upper = known.lower, known.upper
            if any(v < z and v in self.graph.ancestors(z) for v in split):
                found = self.closed_form.pre_activation(program, z, self.deadline)
                lower, upper = torch.maximum(lower, found.lower), torch.minimum(upper, found.upper)
                empty |= (lower > upper).flatten(1).any(1)
            # On an empty part any bounds hold.
            bounds, outside = Interval.between(lower, upper), self._imposed(parts, z)
            if outside is not None:
                against = (outside.lower > bounds.upper) | (outside.upper < bounds.lower)
                empty |= against.flatten(1).any(1)
                infinite = torch.full_like(bounds.lower, math.inf)
                outside = Interval((-infinite).where(against, outside.lower), infinite.where(against, outside.upper))
            program = with_bounds(program, z, bounds, outside)
        return program, empty

    def _imposed(self, parts: Sequence[_Part], z: int) -> Interval | None:
        if not any(z in part.imposed for part in parts):
            return None
        infinite = torch.full_like(parts[0].bounds[z].lower, math.inf)
        return join([part.imposed.get(z, Interval(-infinite, infinite)) for part in parts])

    def _rows(self, program: RelaxedProgram, group: list[int], ascent: DualAscent) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Of a conjunction's rows bounds (B,) of their best sums, the weights (B, K), scores of all pre-activations, points."""
        batch = program.batch
        weights = torch.zeros(batch, len(self.rows), dtype=torch.float64, device=program.box.lower.device)
        weights[:, group] = 1.0 if len(group) == 1 else self._weights(program, group)
        rows, constant = self.rows.rows(weights)
        multipliers = ascent.climb(program, rows, constant, self.deadline)
        keep = {0, *self.graph.nonlinear}
        bounds, found = self.rows.trace(program, weights, keep, multipliers)
        plain = self.rows.state(program, weights)
        x = program.box.minimiser(found.kept[0])[:, 0] if 0 in found.kept else self.problem.box.middle
        return torch.maximum(bounds, plain), weights[:, group], scores_of(program, found.kept), x

    def _weights(self, program: RelaxedProgram, group: list[int]) -> Tensor:
        """Weights (B, K) of rows whose sum has a high bound in closed form."""
        rows = {v: row[:, group] for v, row in output_rows(self.graph, self.rows.objectives).items()}
        found = back_substitute(program, rows, self.rows.objectives.constant[:, group], {0})
        on_input, interval = found.kept[0].flatten(2), self.problem.box.interval
        lower, upper = interval.lower.flatten(1), interval.upper.flatten(1)
        least = torch.where(on_input > 0, lower[:, None], upper[:, None]) * on_input
        constant = found.lower - least.sum(2)
        count = program.batch
        return best_weights(on_input, constant, lower.expand(count, -1), upper.expand(count, -1))


def scores_of(program: RelaxedProgram, kept: Mapping[int, Tensor]) -> list[Tensor]:
    """Of every pre-activation's entries (B, n) how much the rows (B, 1, *shape) may lose at the functions that read them."""
    graph = program.graph
    found = {z: torch.zeros_like(program.bounds[z].lower).flatten(1) for z in graph.pre_activations}
    for v in graph.nonlinear:
        if v not in kept or v not in program.lines:
            continue
        row, loss = kept[v][:, 0], _loss(program, v)
        total = torch.where(row > 0, row * loss[0], -row * loss[1]).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        pairs = zip(program.inputs_of(v), program.lines[v].upper_slopes, strict=True)
        every = torch.stack([((b.upper - b.lower) * s.abs()).nan_to_num(nan=0.0, posinf=0.0) for b, s in pairs])
        shares = every / every.sum(0).clamp(min=1e-300) if len(every) > 1 else torch.ones_like(every)
        for z, share in zip(graph.nodes[v].inputs, shares, strict=True):
            source, numbers = _origin(graph, z)
            own = (total * share).flatten(1)
            if numbers is None:
                found[source] += own
            else:
                found[source].scatter_add_(1, numbers.expand(len(own), -1), own)
    return list(found.values())


def next_split(graph: Graph, scores: Sequence[Tensor], bounds: Mapping[int, Interval]) -> tuple[int, int, float] | None:
    """The pre-activation's entry with the greatest score (of each pre-activation (n,)), and where it is split.

    None if no score is above 0.
    """
    for _ in range(8):
        best = [float(score.max()) if len(score) else 0.0 for score in scores]
        number = max(range(len(best)), key=best.__getitem__)
        if not best[number] > 0:
            return None
        z, entry = graph.pre_activations[number], int(scores[number].argmax())
        ends = bounds[z]
        low, high = float(ends.lower.flatten()[entry]), float(ends.upper.flatten()[entry])
        value = split_value(graph, z, low, high)
        if value is not None:
            return z, entry, value
        scores[number][entry] = 0.0
    return None


def split_value(graph: Graph, z: int, low: float, high: float) -> float | None:
    """Where the interval of a pre-activation is split: at one of its readers' own points, else in the middle.

    None where float64 has no number between its ends.
    """
    middle, width = low / 2 + high / 2, high - low
    points: list[float] = []
    for v in graph.readers(z):
        operation = graph.nodes[v].operation
        if isinstance(operation, ElementWise):
            margin = 0.0 if isinstance(operation, PiecewiseLinear) else _MARGIN * width
            points += [p for p in operation.split_points if low + margin < p < high - margin]
    value = min(points, key=lambda p: abs(p - middle), default=middle)
    return value if low < value < high and math.isfinite(width) else None


def _loss(program: RelaxedProgram, v: int) -> tuple[Tensor, Tensor]:
    """How far a function is above its lower line and below its upper one, (B, *shape) each, at a few points."""
    operation, lines, z = program.graph.nodes[v].operation, program.lines[v], program.inputs_of(v)
    assert isinstance(operation, Nonlinearity)
    above = below = torch.zeros_like(lines.lower_offset)
    for share, other in product(_SAMPLES, (False, True) if len(z) > 1 else (False,)):
        shares = [1 - share if other and j % 2 else share for j in range(len(z))]
        point = [b.lower + t * (b.upper - b.lower) for b, t in zip(z, shares, strict=True)]
        value = operation.evaluate(*point)
        low = lines.lower_offset + sum(s * p for s, p in zip(lines.lower_slopes, point, strict=True))
        high = lines.upper_offset + sum(s * p for s, p in zip(lines.upper_slopes, point, strict=True))
        above, below = torch.maximum(above, value - low), torch.maximum(below, high - value)
    stable = operation.stable(*z)
    return above.masked_fill(stable, 0.0), below.masked_fill(stable, 0.0)


def _origin(graph: Graph, node: int) -> tuple[int, Tensor | None]:
    """The pre-activation that a nonlinear node's input is, or holds entries of, and then which ones (1, n)."""
    numbers: Tensor | None = None
    while node not in graph.pre_activations:
        operation, (source,) = graph.nodes[node].operation, graph.nodes[node].inputs
        assert isinstance(operation, Affine)
        every = torch.arange(graph.nodes[source].size, dtype=torch.float64, device=graph.device)
        moved = operation.linear(every.reshape(1, *graph.nodes[source].shape)).flatten().to(torch.int64)
        numbers, node = moved if numbers is None else moved[numbers], source
    return node, None if numbers is None else numbers[None]


def _some(program: RelaxedProgram, which: Tensor) -> RelaxedProgram:
    return program if len(which) == program.batch else take_problems(program, which)
