"""Proofs by cases, written chunk after chunk: the trees of branch and bound walked anew, depth first, many parts at a time.

Where a leaf of the run is not refuted again it is split on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from bourn.program.linear_bounds import back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.proving import LINES, Level, Proof
from bourn.relaxations.base import LineRule
from bourn.solvers.back_substitution import bound_both
from bourn.solvers.subproblems import WeightedRows
from bourn.solvers.tightening import refine, unstable

_INPUTS_AT_ONCE = 256
"""Parts of a chunk."""
_ROW_BYTES = 1 << 23


@dataclass(eq=False)
class Grown:
    """What is to be refuted by cases, and where that is written."""

    file: CertificateFile
    problem: Problem
    names: dict[int, str]
    trees: Sequence[SplitTree]
    log: Callable[[str], None] | None
    deadline: Deadline
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
    box, graph = own.problem.box, own.problem.network
    root = Proof(own.problem, own.names, Level.CLOSED_FORM)
    for z in graph.pre_activations:
        root.add(z)
    ends = [(root.program.bounds[z].lower.flatten(), root.program.bounds[z].upper.flatten()) for z in graph.pre_activations]
    known = torch.stack([torch.cat(side) for side in zip(*ends, strict=True)]) if ends else box.lower.new_zeros(2, 0)
    stack = [_Box(0, box.lower[0].flatten(), box.upper[0].flatten(), known, own.begin(), 0)]
    again = [{"tensor": own.names[v], "multipliers": LINES} for v in graph.nonlinear]
    numbers, refined = 1, [*root.bounds, *again]
    while stack:
        size = 1 if numbers == 1 else _INPUTS_AT_ONCE
        batch, stack = stack[-size:], stack[:-size]
        shape = (len(batch), *graph.input_shape)
        lower, upper = (torch.stack(e) for e in zip(*((p.lower, p.upper) for p in batch), strict=True))
        program, inner = _refined(own.problem, Box(Interval(lower.reshape(shape), upper.reshape(shape))), batch)
        chunk: dict[str, Any] = {"parts": integers(p.number for p in batch), "bounds": refined, "refuted": []}
        refined = again
        for k in {k for p in batch for k in ready(p.left, p.depth)}:
            chunk["refuted"].append(_refute(own, k, program, batch))
        chunk["refuted"] = [r for r in chunk["refuted"] if len(r["of"])]
        open_ = [i for i, p in enumerate(batch) if p.left]
        sides = [_side(own, program, batch[i], i) for i in open_]
        at = [v for _, v in sides]
        if open_:
            entry = integers(s for s, _ in sides)
            chunk["splits"] = [{"of": integers(open_), "entry": entry, "at": np.array(at, dtype="<f8")}]
        own.file.chunk(chunk)
        children = []
        for i, (side, _), middle in zip(open_, sides, at, strict=True):
            for part in Part:
                low, high = batch[i].lower.clone(), batch[i].upper.clone()
                (high if part is Part.BELOW else low)[side] = middle
                left = halved(batch[i].left, batch[i].depth, part)
                children.append(_Box(numbers, low, high, inner[:, i].clone(), left, batch[i].depth + 1))
                numbers += 1
        stack.extend(children)
        own.tell(len(batch))


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
        fresh = refine(program, z, known, unstable(graph, z, known), bound_both, row_bytes=_ROW_BYTES, deadline=NEVER)
        known = known.intersect(fresh)
        program = with_bounds(program, z, known)
        found.append(torch.stack([known.lower.flatten(1), known.upper.flatten(1)]))
    return program, torch.cat(found, 2)


def _refute(own: Grown, k: int, program: RelaxedProgram, batch: list[_Box]) -> dict[str, Any]:
    """The parts on which a conjunction is refuted by its leaf's weights, where it is; it is then no longer left there."""
    which = [i for i, p in enumerate(batch) if k in ready(p.left, p.depth)]
    weights = torch.zeros(len(batch), len(own.rows[k]), dtype=torch.float64)
    for i in which:
        weights[i] = torch.tensor(batch[i].left[k][0].weights, dtype=torch.float64)
    bounds = own.rows[k].state(program, weights).tolist()
    good = [
        i for i in which
        if refutes(own.trees[k].conjunction, tuple(weights[i].tolist()), bounds[i] - 1e-9 * abs(bounds[i]))
    ]
    for i in good:
        del batch[i].left[k]
    return {"conjunction": k, "of": integers(good), "weights": weights[good].numpy(), "multipliers": LINES}


def _side(own: Grown, program: RelaxedProgram, part: _Box, number: int) -> tuple[int, float]:
    """The entry at which the run split a part and where, or else the one along which the rows that are open vary most."""
    place = planned(part.left, part.depth)
    if place is not None:
        return place[1], place[2]
    k = next(iter(part.left))
    weights = torch.tensor([part.left[k][0].weights], dtype=torch.float64).expand(program.batch, -1)
    rows, constant = own.rows[k].rows(weights)
    kept = back_substitute(program, rows, constant, keep=(0,)).kept
    width = part.upper - part.lower
    slope = kept[0].flatten(1)[number if len(kept[0]) > 1 else 0].abs() if 0 in kept else torch.ones_like(width)
    side = int((slope * width).argmax())
    low, high = float(part.lower[side]), float(part.upper[side])
    middle = low / 2 + high / 2
    if not low < middle < high:
        raise UsageError("no certificate was written: a part that cannot be halved is not refuted again")
    return side, middle


def integers(values: Any) -> np.ndarray:
    return np.array(list(values), dtype="<i8")

