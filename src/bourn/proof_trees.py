"""Proofs by cases, written chunk after chunk: the trees of branch and bound walked anew, depth first, many parts at a time.

Where a leaf of the run is not refuted again it is split on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bourn.certificates.evidence import refutes
from bourn.certificates.file import CertificateFile
from bourn.certificates.splits import Leaf, Part, SplitTree
from bourn.deadline import NEVER, Deadline
from bourn.errors import UsageError
from bourn.interval import Interval
from bourn.problem.input_set import Box
from bourn.problem.problem import Problem
from bourn.program.linear_bounds import Multipliers, back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.program.restrict import take_problems
from bourn.proof_cases import rounded
from bourn.proof_sets import HalfSpaces, in_file
from bourn.proving import LINES, Level, Proof, bound_by_lines, lines_of, stated_of_parts
from bourn.relaxations.base import LineRule
from bourn.solvers.base import output_rows
from bourn.solvers.box_ascent import BoxClimb
from bourn.solvers.condensed import Condensed, applies
from bourn.solvers.row_trees import RowTrees
from bourn.solvers.subproblems import WeightedRows
from bourn.solvers.tightening import refine, unstable

_INPUTS_AT_ONCE, _EVERY = 256, 4
"""Parts of a chunk, and at every how manieth level of a tree those within it are bounded anew; leaves always are."""
_ROW_BYTES = 1 << 23
_LAST = BoxClimb(steps=30, step=0.3, decay=0.9)
"""How leaves are refuted for which the lines of a rule do not do."""


@dataclass(eq=False)
class Grown:
    """What is to be refuted by cases, and where that is written; ``inner``: trees of the inner bounds, where the run had such;
    ``given``: half-spaces that cut the box.
    """

    file: CertificateFile
    problem: Problem
    names: dict[int, str]
    trees: Sequence[SplitTree]
    log: Callable[[str], None] | None
    deadline: Deadline
    inner: RowTrees | None = None
    given: HalfSpaces | None = None
    done: int = 0
    rows: list[WeightedRows] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = [WeightedRows.of(self.problem, t.conjunction.rows) for t in self.trees]

    def tell(self, parts: int) -> None:
        """Raises :class:`UsageError` where the time is over."""
        self.done += parts
        if self.log is not None:
            self.log(f"{self.done} parts proved or split")
        if self.deadline.left <= 0:
            raise UsageError(f"no certificate was written: out of time after {self.done} parts of a proof by cases")

    def begin(self) -> dict[int, list[Leaf]]:
        """Of every conjunction all leaves."""
        return {k: list(tree.leaves) for k, tree in enumerate(self.trees)}


Left = dict[int, list[Leaf]]
"""Of every conjunction that is open on a part the leaves of the run within it; one leaf may be larger than the part."""


def planned(left: Left, depth: int) -> tuple[str, int, float] | None:
    """The split that the run made of a part, where any of the conjunctions was split there."""
    return next((leaves[0].splits[depth].place for leaves in left.values() if len(leaves[0].splits) > depth), None)


def halved(left: Left, depth: int, part: Part) -> Left:
    """What is left of the leaves in one half."""
    return {
        k: [leaf for leaf in leaves if len(leaf.splits) <= depth or leaf.splits[depth].part is part] for k, leaves in left.items()
    }


def ready(left: Left, depth: int) -> list[int]:
    """The conjunctions that the run refuted on a part."""
    return [k for k, leaves in left.items() if len(leaves) == 1 and len(leaves[0].splits) <= depth]


# by the input


@dataclass(eq=False)
class _Box:
    """A part: its number in the file, its ends (n,), its parent's bounds of all pre-activations (2, N), leaves of the run."""

    number: int
    lower: Tensor
    upper: Tensor
    inner: Tensor
    left: Left
    depth: int


def grow_by_input(own: Grown) -> None:
    """Write a tree of halved boxes: bounds are the checker's own, by its rule of lines, so that nothing but the tree is stored."""
    growing = _Growing(own)
    stack = [growing.root]
    while stack:
        size = 1 if growing.numbers == 1 else _INPUTS_AT_ONCE
        batch, stack = stack[-size:], stack[:-size]
        within = [p for p in batch if p.depth % _EVERY and not ready(p.left, p.depth)]
        others = [p for p in batch if not (p.depth % _EVERY and not ready(p.left, p.depth))]
        for some, refined in ((within, False), (others, True)):
            if some:
                stack.extend(growing.chunk(some, refined))
                own.tell(len(some))


class _Growing:
    """A tree of boxes on its way: how many numbers are given, and what proves the root's bounds."""

    def __init__(self, own: Grown) -> None:
        box, graph = own.problem.box, own.problem.network
        proof = Proof(own.problem, own.names, Level.CLOSED_FORM)
        for z in graph.pre_activations:
            proof.add(z)
        known = [proof.program.bounds[z] for z in graph.pre_activations]
        nothing = box.lower.new_zeros(0)  # all that an affine network has
        inner = torch.stack(
            [torch.cat([nothing, *(t.flatten() for t in ends)]) for ends in ([b.lower for b in known], [b.upper for b in known])]
        )
        self.own, self.numbers = own, 1
        self.lines = [{"tensor": own.names[v], "multipliers": LINES} for v in graph.nonlinear]
        self.first = [*proof.bounds, *self.lines]
        self.root = _Box(0, box.lower[0].flatten(), box.upper[0].flatten(), inner, own.begin(), 0)

    def chunk(self, batch: list[_Box], refined: bool) -> list[_Box]:
        """Write a chunk; what is left of its parts, halved.  Bounds of parts that are not ``refined`` are their parents'."""
        own, shape = self.own, (len(batch), *self.own.problem.network.input_shape)
        bounds = [] if not refined else self.first if self.numbers == 1 else self.lines
        chunk: dict[str, Any] = {"parts": integers(p.number for p in batch), "bounds": bounds}
        program, inner = None, torch.stack([p.inner for p in batch], 1)
        if refined:
            lower, upper = (torch.stack(ends).reshape(shape) for ends in zip(*((p.lower, p.upper) for p in batch), strict=True))
            program, inner = _refined(own.problem, Box(Interval(lower, upper)), batch)
            every = sorted({k for p in batch for k in ready(p.left, p.depth)})
            chunk["refuted"] = [r for k in every for r in _refute(own, k, program, batch)]
        open_ = [i for i, p in enumerate(batch) if p.left]
        sides = _sides(own, program, batch)
        if open_:
            at = np.array([middle for _, middle in sides], dtype="<f8")
            chunk["splits"] = [{"of": integers(open_), "entry": integers(side for side, _ in sides), "at": at}]
        own.file.chunk(chunk)
        return [half for i, (side, at) in zip(open_, sides, strict=True) for half in self._halves(batch[i], side, at, inner[:, i])]

    def _halves(self, part: _Box, side: int, at: float, inner: Tensor) -> list[_Box]:
        halves = []
        for which in Part:
            low, high = part.lower.clone(), part.upper.clone()
            (high if which is Part.BELOW else low)[side] = at
            left = halved(part.left, part.depth, which)
            halves.append(_Box(self.numbers, low, high, inner.clone(), left, part.depth + 1))
            self.numbers += 1
        return halves


def _refined(problem: Problem, box: Box, batch: list[_Box]) -> tuple[RelaxedProgram, Tensor]:
    """The relaxed program of the parts, and its bounds (2, B, N): of entries that the parent left open found anew."""
    graph = problem.network
    program, first = start(graph, box, LineRule.AREA), 0
    parents = torch.stack([part.inner for part in batch], 1)
    found = [parents[:, :, :0]]
    for z in graph.pre_activations:
        shape, size = graph.nodes[z].shape, graph.nodes[z].size
        own = parents[:, :, first : first + size].reshape(2, len(batch), *shape)
        known, first = Interval(own[0], own[1]), first + size
        fresh = refine(program, z, known, unstable(graph, z, known), bound_by_lines, row_bytes=_ROW_BYTES, deadline=NEVER)
        known = known.intersect(fresh)
        program = with_bounds(program, z, known)
        found.append(torch.stack([known.lower.flatten(1), known.upper.flatten(1)]))
    return program, torch.cat(found, 2)


def _refute(own: Grown, k: int, program: RelaxedProgram, batch: list[_Box]) -> list[dict[str, Any]]:
    """The parts on which a conjunction is refuted by its leaf's weights or, by ascent, better ones; it is no longer left there."""
    which = [i for i, p in enumerate(batch) if k in ready(p.left, p.depth)]
    weights = torch.zeros(len(batch), len(own.rows[k]), dtype=torch.float64)
    for i in which:
        weights[i] = torch.tensor(batch[i].left[k][0].weights, dtype=torch.float64)
    bounds = own.rows[k].state(program, weights, lines_of(program, own.problem.network.output, 1)).tolist()
    good = [
        i for i in which
        if refutes(own.trees[k].conjunction, tuple(weights[i].tolist()), bounds[i] - 1e-9 * abs(bounds[i]))
    ]
    found = [{"conjunction": k, "of": integers(good), "weights": weights[good].numpy(), "multipliers": LINES}] if good else []
    rest = [i for i in which if i not in set(good)]
    if rest and applies(program.graph):
        climbed, more = _by_ascent(own, k, take_problems(program, torch.tensor(rest)), weights[rest], rest)
        good, found = good + climbed, found + more
    for i in good:
        del batch[i].left[k]
    return found


def _by_ascent(
    own: Grown, k: int, program: RelaxedProgram, weights: Tensor, places: list[int]
) -> tuple[list[int], list[dict[str, Any]]]:
    """The same for some parts by slopes of their own."""
    graph, rows = program.graph, own.rows[k]
    assert isinstance(program.box, Box)
    condensed = Condensed(graph, program.box, {z: program.bounds[z] for z in graph.pre_activations})
    on = condensed.rows(output_rows(graph, rows.objectives), rows.objectives.constant).on
    slopes, weights = _LAST.run(condensed, on, weights, torch.arange(len(weights)))
    chosen = {}
    for v in graph.nonlinear:
        lines = program.lines[v]
        below, above = lines.lower_slopes[0], lines.upper_slopes[0]
        if v in slopes:
            symbols = condensed.symbols[v]
            flat = below.flatten(1)
            own_slopes = torch.where(symbols.real, slopes[v], flat.gather(1, symbols.numbers))
            below = flat.scatter(1, symbols.numbers, own_slopes).reshape(below.shape)
        chosen[v] = Multipliers(program.free(v), (below[:, None],), (above[:, None],))
    summed, constant = rows.rows(weights)
    free = [v for v in graph.nonlinear if bool(program.free(v).any())]
    bounds, stated = rounded(program, summed, constant, free, chosen)
    good, found = refutations(own, k, places, weights, bounds - rows.error(program, weights), stated)
    return [places[j] for j in good], found


def refutations(
    own: Grown,
    k: int,
    places: Sequence[int],
    weights: Tensor,
    bounds: Tensor,
    chosen: dict[int, Multipliers],
    given: Tensor | None = None,
) -> tuple[list[int], list[dict[str, Any]]]:
    """Which of some parts ``bounds`` (B, 1) of sums by ``weights`` (B, M) at multipliers refute, and these as a chunk has them.

    ``places``: the parts' places in the chunk; ``given`` (B, 1, K): weights of half-spaces, where there are any.
    """
    conjunction = own.trees[k].conjunction
    good = [
        j for j, bound in enumerate(bounds[:, 0].tolist())
        if refutes(conjunction, tuple(weights[j].tolist()), bound - 1e-6 * abs(bound))
    ]
    if not good:
        return [], []
    some, at = torch.tensor(good), torch.arange(len(good))
    of = torch.tensor(places)[some]
    free = {v: m.free.expand(len(places), *m.free.shape[1:])[some] for v, m in chosen.items()}
    taken = {v: Multipliers(free[v], mu=tuple(mu[some] for mu in m.mu)) for v, m in chosen.items()}
    stated = stated_of_parts(own.names, taken, of, at, torch.zeros_like(at))
    refuted = {"conjunction": k, "of": integers(of.tolist()), "weights": weights[some].numpy(), "multipliers": stated}
    return good, [refuted | ({} if given is None else {"given": in_file(given[some, 0])})]


def _sides(own: Grown, program: RelaxedProgram | None, batch: list[_Box]) -> list[tuple[int, float]]:
    """Of every part that is open the entry at which the run split it and where, or else that along which its rows vary most."""
    slopes: dict[int, Tensor] = {}
    found = []
    for number, part in ((i, p) for i, p in enumerate(batch) if p.left):
        place = planned(part.left, part.depth)
        if place is not None:
            found.append((place[1], place[2]))
            continue
        assert program is not None  # a leaf of the run was bounded
        k = next(iter(part.left))
        if k not in slopes:
            slopes[k] = _slopes(own, k, program, batch)
        width, slope = part.upper - part.lower, slopes[k][number]
        # What a line does not show is in the bounds that it stands on: wide sides are halved in the end.
        side = int(((slope + 0.05 * slope.max().clamp(min=1e-300)) * width).argmax())
        low, high = float(part.lower[side]), float(part.upper[side])
        middle = low / 2 + high / 2
        if not low < middle < high:
            raise UsageError("no certificate was written: a part that cannot be halved is not refuted again")
        found.append((side, middle))
    return found


def _slopes(own: Grown, k: int, program: RelaxedProgram, batch: list[_Box]) -> Tensor:
    """How steeply a conjunction's rows, by the weights of a leaf, depend on the input, (B, n)."""
    weights = torch.zeros(len(batch), len(own.rows[k]), dtype=torch.float64)
    for i, part in enumerate(batch):
        if k in part.left:
            weights[i] = torch.tensor(part.left[k][0].weights, dtype=torch.float64)
    rows, constant = own.rows[k].rows(weights)
    lines = lines_of(program, program.graph.output, 1)
    kept = back_substitute(program, rows, constant, keep=(0,), multipliers=lines).kept
    return kept[0].flatten(1).abs() if 0 in kept else torch.zeros(len(batch), batch[0].lower.numel(), dtype=torch.float64)


def integers(values: Iterable[int]) -> np.ndarray:
    """As a chunk has them."""
    return np.array(list(values), dtype="<i8")

