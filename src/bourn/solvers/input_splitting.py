"""Branch and bound on the input: boxes are halved until every part of the input set is decided.  For few inputs.

Every part is bounded by back-substitution (CROWN), many in one batch; of a pre-activation only the entries that its parent left
unstable are bounded anew, for a bound that holds on the parent holds on its halves.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bourn.certificates.evidence import refutes
from bourn.certificates.splits import Leaf, Part, Split, SplitTree
from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.affine import Affine
from bourn.problem.input_set import Box
from bourn.problem.problem import Problem
from bourn.program.linear_bounds import back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.relaxations.base import LineRule, Nonlinearity
from bourn.solvers.back_substitution import bound_both
from bourn.solvers.base import output_rows
from bourn.solvers.branching import BRANCHING_INPUTS, Sides
from bourn.solvers.subproblems import Accept, Outcome, Path, Splitting, WeightedRows, best_weights, leaf, try_points
from bourn.solvers.tightening import refine, unstable

METHOD = "CROWN on a part of the input set"


@dataclass(frozen=True)
class InputSplitting(Splitting):
    """``batch`` boxes at a time, the worst bounds first; ``rule``: which side is halved (:data:`BRANCHING_INPUTS`).

    ``memory``: bytes for open parts; beyond them the newest parts come first, which keeps their number down.  Inputs of more
    than ``most_inputs`` entries are not split.
    """

    batch: int = 256
    rule: str = "loss"
    memory: int = 1 << 30
    row_bytes: int = 1 << 23
    most_inputs: int = 10

    name: ClassVar[str] = "splitting the input"

    def refusal(self, problem: Problem, inner: Mapping[int, Interval]) -> str:
        """Where the input set is not a bounded box of few sides."""
        if problem.network.nodes[0].size > self.most_inputs or not isinstance(problem.box, Box):
            return f"the input set is no box of at most {self.most_inputs} sides"
        return "" if bool(torch.isfinite(problem.box.interval.magnitude).all()) else "the input set is unbounded"

    def run(
        self,
        problem: Problem,
        open_: list[int],
        inner: Mapping[int, Interval],
        accept: Accept,
        deadline: Deadline,
        most: float = math.inf,
    ) -> Outcome:
        """A tree for each conjunction, all of the same parts of the box."""
        run = _Run(self, problem, open_, accept)
        return run.loop(inner, deadline, most)


@dataclass(eq=False)
class _Box:
    """A part: its ends (n,), its parent's bounds of all pre-activations (2, N), what is known of its open conjunctions."""

    lower: Tensor
    upper: Tensor
    inner: Tensor
    path: Path
    bounds: dict[int, float]


class _Run:
    """The open parts of one run, and the leaves so far."""

    def __init__(self, how: InputSplitting, problem: Problem, open_: list[int], accept: Accept) -> None:
        self.how, self.problem, self.graph, self.accept = how, problem, problem.network, accept
        self.rows = {k: WeightedRows.of(problem, problem.conjunctions[k].rows) for k in open_}
        self.leaves: dict[int, list[Leaf]] = {k: [] for k in open_}
        self.heap: list[tuple[float, int, _Box]] = []
        self.counter = itertools.count()
        self.stuck: list[_Box] = []
        self.done, self.newest_first = 0, False

    def loop(self, inner: Mapping[int, Interval], deadline: Deadline, most: float) -> Outcome:
        box, graph = self.problem.box, self.graph
        nothing = box.lower.new_zeros(0)  # all that an affine network has
        ends = ((inner[z].lower[0].flatten(), inner[z].upper[0].flatten()) for z in graph.pre_activations)
        known = torch.stack([torch.cat(own) for own in zip((nothing, nothing), *ends, strict=True)])
        self._push(_Box(box.lower[0].flatten(), box.upper[0].flatten(), known, Path(), dict.fromkeys(self.rows, -math.inf)))
        stopped, found, size = "", False, 16 * (known.numel() + box.lower.numel())
        while self.heap and not found:
            if deadline.left <= 0 or self.done >= most:
                stopped = "out of time" if deadline.left <= 0 else f"after {self.done} subproblems"
                break
            if not self.newest_first and len(self.heap) * size > self.how.memory:
                self.newest_first = True
                self.heap = [(-float(n), n, part) for _, n, part in self.heap]
                heapq.heapify(self.heap)
            batch = [heapq.heappop(self.heap)[2] for _ in range(min(self.how.batch, len(self.heap)))]
            found = self._work(batch)
        return self._outcome(stopped, found)

    def _push(self, part: _Box) -> None:
        number = next(self.counter)
        heapq.heappush(self.heap, (-float(number) if self.newest_first else min(part.bounds.values()), number, part))

    def _outcome(self, stopped: str, found: bool) -> Outcome:
        left = [part for _, _, part in self.heap] + self.stuck
        bounds: dict[int, float] = {}
        for part in left:
            for k, bound in part.bounds.items():
                bounds[k] = min(bound, bounds.get(k, math.inf))
        closed = {k: tuple(leaves) for k, leaves in self.leaves.items() if k not in bounds and not found}
        refuted = {k: SplitTree(self.problem.conjunctions[k], leaves) for k, leaves in closed.items()}
        if left and not stopped:
            stopped = "parts left that float64 cannot halve"
        return Outcome(refuted, bounds, self.done, len(left), stopped, found)

    def _work(self, batch: list[_Box]) -> bool:
        """Bound the parts of a batch, close what is refuted, halve the others; True if a counterexample was found."""
        self.done += len(batch)
        shape = (len(batch), *self.graph.input_shape)
        lower, upper = (torch.stack(ends) for ends in zip(*((p.lower, p.upper) for p in batch), strict=True))
        program, inner = self._program(Box(Interval(lower.reshape(shape), upper.reshape(shape))), batch)
        influence, lost = torch.zeros_like(lower), torch.zeros_like(lower)
        moves = _moves(program)
        points = [(lower / 2 + upper / 2).clamp(lower, upper)]
        for k, rows in self.rows.items():
            which = [i for i, part in enumerate(batch) if k in part.bounds]
            if which:
                slope, losses = self._bound(k, rows, program, batch, which, lower, upper, moves)
                influence += slope.abs()
                lost += losses
                points.append(torch.where(slope >= 0, lower, upper))
        alive = [i for i, part in enumerate(batch) if part.bounds]
        if not alive:
            return False
        x = torch.cat([p[alive] for p in points]).reshape(-1, *self.graph.input_shape)
        if any(try_points(rows, [range(len(rows))], x, self.accept) for rows in self.rows.values()):
            for i in alive:
                self._push(batch[i])
            return True
        scores = BRANCHING_INPUTS[self.how.rule](Sides(lower, upper, influence, lost))
        sides = torch.where(scores.amax(1, keepdim=True) > 0, scores, upper - lower).argmax(1)
        for i in alive:
            self._halve(batch[i], int(sides[i]), inner[:, i])
        return False

    def _program(self, box: Box, batch: list[_Box]) -> tuple[RelaxedProgram, Tensor]:
        """The relaxed program of the parts, and its bounds (2, B, N)."""
        program, first = start(self.graph, box, LineRule.AREA), 0
        parents = torch.stack([part.inner for part in batch], 1)
        found = [parents[:, :, :0]]
        for z in self.graph.pre_activations:
            shape, size = self.graph.nodes[z].shape, self.graph.nodes[z].size
            own = parents[:, :, first : first + size].reshape(2, len(batch), *shape)
            known, first = Interval(own[0], own[1]), first + size
            fresh = refine(
                program, z, known, unstable(self.graph, z, known), bound_both, row_bytes=self.how.row_bytes, deadline=NEVER
            )
            known = known.intersect(fresh)
            program = with_bounds(program, z, known)
            found.append(torch.stack([known.lower.flatten(1), known.upper.flatten(1)]))
        return program, torch.cat(found, 2)

    def _bound(
        self,
        k: int,
        rows: WeightedRows,
        program: RelaxedProgram,
        batch: list[_Box],
        which: list[int],
        lower: Tensor,
        upper: Tensor,
        moves: dict[int, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Bound a conjunction on the parts ``which``; close it where that refutes it.  Its slopes and losses, (B, n)."""
        conjunction, count = self.problem.conjunctions[k], len(batch)
        own = rows.objectives
        found = back_substitute(program, output_rows(self.graph, own), own.constant, keep=(0, *moves))
        identity = torch.eye(len(rows), dtype=torch.float64, device=lower.device)
        bounds = found.lower - torch.cat([rows.error(program, w.expand(count, -1)) for w in identity[:, None]], 1)
        nothing = lower.new_zeros(count, len(rows), lower.shape[1])
        matrix = found.kept[0].flatten(2).expand(count, -1, -1) if 0 in found.kept else nothing
        best, row = bounds.max(1)
        weights = identity[row]
        if len(rows) > 1:
            least = torch.where(matrix > 0, lower[:, None], upper[:, None])
            joint = best_weights(matrix, found.lower - (matrix * least).sum(2), lower, upper)
            together = rows.state(program, joint)
            better = together > best
            best, weights = torch.where(better, together, best), torch.where(better[:, None], joint, weights)
        for i in which:
            bound = float(best[i])
            if refutes(conjunction, tuple(weights[i].tolist()), bound):
                self.leaves[k].append(leaf(batch[i].path, weights[i], bound, METHOD))
                del batch[i].bounds[k]
            else:
                batch[i].bounds[k] = max(bound, batch[i].bounds[k])
        mask = torch.zeros(count, 1, dtype=torch.float64, device=lower.device)
        mask[[i for i in which if k in batch[i].bounds]] = 1.0
        lost = torch.zeros_like(lower)
        for v, move in moves.items():
            if v in found.kept:
                row = (weights[:, None] @ found.kept[v].flatten(2).expand(count, -1, -1))[:, 0]
                lines = program.lines[v]
                height = (row.clamp(max=0).abs() + 0.5 * row.clamp(min=0)) * lines.upper_offset.flatten(1).abs()
                lost += (move @ height[..., None])[..., 0]
        return (weights[:, None] @ matrix)[:, 0] * mask, lost * mask

    def _halve(self, part: _Box, side: int, inner: Tensor) -> None:
        low, high = float(part.lower[side]), float(part.upper[side])
        middle = low / 2 + high / 2
        if not low < middle < high:
            self.stuck.append(part)
            return
        name = self.graph.nodes[0].name
        for half in Part:
            lower, upper = part.lower.clone(), part.upper.clone()
            (upper if half is Part.BELOW else lower)[side] = middle
            self._push(_Box(lower, upper, inner, part.path.then(Split(name, side, middle, half)), dict(part.bounds)))


def _moves(program: RelaxedProgram) -> dict[int, Tensor]:
    """By which share every side of a box moves the pre-activation of every nonlinear entry, {node: (B, n, N)}.

    Along the mean of both lines; a heuristic, for which one that reads several inputs has no share.
    """
    lower, upper = program.box.lower, program.box.upper
    count, size = len(lower), lower[0].numel()
    width = (upper - lower).flatten(1)
    values: list[Tensor] = []
    shares = {}
    for number, node in enumerate(program.graph.nodes):
        operation, arguments = node.operation, [values[i] for i in node.inputs]
        if isinstance(operation, Affine):
            value = operation.linear(*arguments) if arguments else width.new_zeros(count * size, *node.shape)
        elif isinstance(operation, Nonlinearity):
            lines = program.lines[number]
            value = width.new_zeros(())
            for low, high, own in zip(lines.lower_slopes, lines.upper_slopes, arguments, strict=True):
                value = value + ((low + high) / 2).repeat_interleave(size, 0) * own
            if len(arguments) == 1:
                moved = arguments[0].reshape(count, size, -1).abs()
                shares[number] = moved / moved.sum(1, keepdim=True).clamp(min=1e-30)
        else:
            value = torch.diag_embed(width).reshape(count * size, *node.shape)
        values.append(value)
    return shares
