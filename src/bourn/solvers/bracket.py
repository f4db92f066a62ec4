"""The bracket of LP-ALL's exact value: a certified lower bound, and a ceiling that no layer-wise method can exceed.

LP-ALL's *exact* program F has, for every pre-activation z, the least and the greatest value [L, U] that z has in what comes
before it in F, the convex hull C(L, U) of the function on it, the network's affine nodes and the input set as written.  A
method of the class replaces hulls by supersets and intervals by wider ones, so that its program contains F: what it proves
of a row is at most the row's value at *any* point of F.

**Theorem.**  Take an input x of the set, and go forward through the network: behind affine nodes take their value; behind a
nonlinear node with pre-activation z take either the function's value at z, or any value v with (z, v) in C(l, u), where l <= u
lie between values that this very entry has at points made in this way before.  The point lies in F.

*Proof*, by induction over the nodes.  What was taken before z is a point of what comes before z in F, hence L <= z <= U, by the
definition of L and U.  So (z, f(z)) lies in C(L, U), which contains f's graph on [L, U].  The other points' values of the entry
lie in [L, U] for the same reason, hence [l, u] is within [L, U].  A hull is that of a graph, and the graph on [l, u] is part of
the graph on [L, U]: C(l, u) is within C(L, U).  For functions of several inputs read boxes for intervals.  QED.

Nothing here rests on outer bounds, nor on which neurons are stable: where the function is affine on [L, U], C(L, U) is its graph,
and so is C(l, u).  Where z lies outside [l, u] the function's value is always there to take, so that every wish can be repaired,
one layer after the other: no point has to be strictly feasible.

How good a ceiling is depends on the points; whether it holds does not.  They come from the *inner program*, whose intervals are
those attained so far.  For every neuron that outer bounds leave open, both ways, and for every objective it is asked where that
is least: by back-substitution, which is cheap and often enough, or by an LP.  The points found are moved into the hulls
(:mod:`bourn.solvers.enclosures`, with all roundings accounted for), and the values there are the next layer's intervals.  A ReLU
passes on no more of an error than it is given, so that with LPs HiGHS's tolerance is all that is lost.  HiGHS is not trusted:
whatever it returns, only points evaluated anew count.

Of a conjunction, which weights of its rows may refute, the ceiling is the greatest of its rows at one point: no weighted sum
of them, weights of sum 1, is more there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from bourn.deadline import NEVER, Deadline, OutOfTime
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.program.cuts import Matrix
from bourn.program.linear_bounds import back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.program.sparse import SparseProgram
from bourn.relaxations.base import LineRule
from bourn.solvers.base import Prepared, identity_rows, output_rows
from bourn.solvers.enclosures import Attained, Enclosures, enclose
from bourn.solvers.highs import Model
from bourn.solvers.linear_programs import by_support
from bourn.solvers.tightening import unstable, widest

_TOLERANCE = 1e-9
"""How far HiGHS's points may leave the program: what the ceiling is above the optimum is of this size."""

_FAR = 1e300
"""A wish for the end of a hull, whichever that is."""

Wishes = tuple[Tensor, Mapping[int, Tensor]]
"""Inputs (M, *input_shape), and values (M, *shape) wanted behind nonlinear nodes."""


@dataclass(frozen=True, eq=False)
class Bracket:
    """What is certain of LP-ALL's exact values, for B problems: ``lower`` <= exact <= ``ceiling``.

    ``lower`` and ``ceiling`` are (B, M), one for every objective; ``together`` (B, G) is the ceiling of the best weighted sum of
    each group of objectives.  A ceiling is infinite where no point was found before the time was over.  ``seconds``: of all.
    """

    lower: Tensor
    ceiling: Tensor
    together: Tensor
    seconds: float

    @property
    def beyond(self) -> Tensor:
        """Which objectives (B, M) no layer-wise method can prove to be above 0."""
        return self.ceiling <= 0


def bracket(
    graph: Graph,
    box: InputSet,
    objectives: Objectives,
    *,
    outer: Prepared | None = None,
    groups: Sequence[Sequence[int]] = (),
    enough: float = -math.inf,
    deadline: Deadline = NEVER,
) -> Bracket:
    """Bounds of LP-ALL's exact value from both sides, of M objectives on B input sets.

    An objective whose ceiling is at most 0 can be proved to be above 0 by no layer-wise method; one whose lower bound is above 0
    is proved; between them it is undecided.  ``outer``: the prepared method that lower bounds come from, by default LP-ALL;
    ceilings hold whatever it says, and take longer where it leaves more neurons open.  ``groups``: numbers of the objectives
    that are the rows of one conjunction.  ``enough``: see :func:`ceilings`.  Sound, and exact up to HiGHS's tolerance.

    Raises :class:`bourn.deadline.OutOfTime` where the time is over before lower bounds are there.
    """
    began = time.monotonic()
    if outer is None:
        from bourn.solvers.simplex import Simplex

        outer = Simplex().prepare(graph, box, deadline=deadline)
    lower = outer.minimise(objectives).bound
    found = []
    for b in range(box.batch):
        one = slice(b, b + 1)
        known = {z: Interval(i.lower[one], i.upper[one]) for z, i in outer.bounds.items()}
        found.append(ceilings(graph, box[one], known, objectives.take(one), groups, enough=enough, deadline=deadline))
    single, together = (torch.stack(own) for own in zip(*found, strict=True))
    return Bracket(lower, single, together, time.monotonic() - began)


def ceilings(
    graph: Graph,
    box: InputSet,
    outer: Mapping[int, Interval],
    objectives: Objectives,
    groups: Sequence[Sequence[int]] = (),
    *,
    enough: float = -math.inf,
    deadline: Deadline = NEVER,
) -> tuple[Tensor, Tensor]:
    """Ceilings of one problem's objectives, (M,), and of the best weighted sum of each group of them, (G,).

    ``outer``: sound bounds of every pre-activation, (1, *shape), by any method.  Points in closed form come first, LPs then: one
    ceiling (of a group, where there are any) that is at most ``enough`` ends it.  Out of time it returns what it has, infinity at
    worst.
    """
    single = box.lower.new_full((len(objectives),), math.inf)
    together = box.lower.new_full((len(groups),), math.inf)
    for exact in (False, True):
        try:
            own = InnerProgram(graph, box, outer, exact=exact, deadline=deadline).ceilings(objectives, groups)
        except OutOfTime:
            break
        single, together = torch.minimum(single, own[0]), torch.minimum(together, own[1])
        if bool(((together if groups else single) <= enough).any()):
            break
    return single, together


class InnerProgram:
    """The relaxed program of one problem on intervals that points of the exact one attain.

    ``outer``: sound bounds of every pre-activation, (1, *shape); what they leave open is looked into: by LPs where it is to be
    ``exact``, else at the points where linear bounds have their least values, at a fraction of the time.  ``chunk_bytes`` bounds
    the memory of one set of points.  Raises :class:`bourn.deadline.OutOfTime`.
    """

    def __init__(
        self,
        graph: Graph,
        box: InputSet,
        outer: Mapping[int, Interval],
        *,
        exact: bool = True,
        deadline: Deadline = NEVER,
        chunk_bytes: int = 1 << 23,
    ) -> None:
        self.graph, self.box, self.deadline, self.chunk_bytes = graph, box, deadline, chunk_bytes
        self.attained: dict[int, Attained] = {}
        self._program: RelaxedProgram = start(graph, box, LineRule.AREA)
        self._lp: SparseProgram | None = None
        if exact:
            with suppress(ValueError):  # not bounded
                self._lp = SparseProgram(self._program)
        for z in graph.pre_activations:
            self._attain(z, outer[z])

    def _attain(self, z: int, outer: Interval) -> None:
        """Points at which the open entries of a pre-activation are least and greatest, and with them its interval."""
        moved = (z, *self.graph.moved[z])
        open_ = unstable(self.graph, z, outer)
        ends: dict[int, tuple[Tensor, Tensor]] = {}
        for points in self._extreme_points(z, torch.nonzero(open_.flatten())[:, 0], max(moved)):
            for i in moved:
                own, valid = points.values[i], points.valid.reshape(-1, *(1,) * len(self.graph.nodes[i].shape))
                least = own.upper.masked_fill(~valid, math.inf).amin(0, keepdim=True)
                most = own.lower.masked_fill(~valid, -math.inf).amax(0, keepdim=True)
                before = ends.get(i, (least, most))
                ends[i] = torch.minimum(before[0], least), torch.maximum(before[1], most)
        self.attained |= {i: Attained.of(*both) for i, both in ends.items()}
        # In the LP an entry that outer bounds prove stable stays what they say.
        inside = self.attained[z].interval
        known = Interval(torch.where(open_, inside.lower, outer.lower), torch.where(open_, inside.upper, outer.upper))
        self._program = with_bounds(self._program, z, known)
        if self._lp is not None:
            try:
                self._lp.grow(self._program, self.chunk_bytes)
            except ValueError:  # not bounded
                self._lp = None

    def _extreme_points(self, z: int, numbers: Tensor, target: int) -> Iterator[Enclosures]:
        """Points at which entries ``numbers`` of a node are least and greatest in the inner program, one at the middle first."""
        yield self._enclosed((self.box.middle, {}), target)
        if self._lp is not None and self._helps(z):
            with suppress(ValueError):  # a node that matters is not bounded
                rows = self._lp.rows({z: None}, numbers, self.chunk_bytes).matrix
                for columns in self._solved(sparse.vstack([rows, -rows], format="csr"), z):
                    yield self._enclosed(self._lp.point(columns), target)
                return
        at_once = max(1, self.chunk_bytes // (8 * widest(self.graph, z)))
        for piece in torch.split(numbers, at_once) if len(numbers) else ():
            rows = identity_rows(self.graph, z, piece)
            for sign in (1.0, -1.0):
                yield self._enclosed(self._nearest({z: sign * rows}), target)

    def _helps(self, node: int) -> bool:
        """Whether there is anything for an LP to choose before ``node``: without it the closed form is as good."""
        before = set(self.graph.ancestors(node))
        return any(v in before and bool(self._program.free(v).any()) for v in self.graph.nonlinear if v in self._program.lines)

    def _nearest(self, rows: Mapping[int, Tensor]) -> Wishes:
        """Where linear functions below the rows are least: an input, and behind every nonlinear node an end of its hull.

        Exact for rows that are affine in the input.
        """
        count = next(iter(rows.values())).shape[1]
        constant = self.box.lower.new_zeros(1, count)
        kept = dict(back_substitute(self._program, rows, constant, keep={0, *self.graph.nonlinear}).kept)
        on_input = kept.pop(0, None)
        x = self.box.middle.expand(count, *self.box.shape) if on_input is None else self.box.minimiser(on_input)[0]
        return x, {v: -_FAR * row[0].sign() for v, row in kept.items()}

    def _enclosed(self, wishes: Wishes, target: int) -> Enclosures:
        self.deadline.check()
        return enclose(self.graph, self.box, self.attained, *wishes, target)

    def _solved(self, costs: Matrix, node: int) -> Iterator[np.ndarray]:
        """The columns (M, count) of the LP's solutions for rows of ``costs``, some at a time, in any order."""
        lp = self._lp
        assert lp is not None
        at_once = max(1, self.chunk_bytes // (8 * max(widest(self.graph, node), lp.count)))
        found: list[np.ndarray] = []
        for group in by_support(costs):
            model = Model(lp, costs[group], tolerance=_TOLERANCE)
            for number in group:
                self.deadline.check()
                model.minimise(costs[[number]], self.deadline)
                found.append(model.point())
                if len(found) >= at_once:
                    yield np.stack(found)
                    found = []
        if found:
            yield np.stack(found)

    def ceilings(self, objectives: Objectives, groups: Sequence[Sequence[int]] = ()) -> tuple[Tensor, Tensor]:
        """Ceilings of objectives, (M,), and of the best weighted sum of each group of them, (G,)."""
        rows, output = output_rows(self.graph, objectives), self.graph.output
        values = [self._enclosed((self.box.middle, {}), output).rows(objectives)]
        values.extend(points.rows(objectives) for points in self._least(rows, objectives, groups))
        found = torch.cat(values)
        several = [found[:, list(group)].amax(1).amin() if len(group) else found.new_tensor(math.inf) for group in groups]
        return found.amin(0), torch.stack(several) if several else found.new_zeros(0)

    def _least(self, rows: dict[int, Tensor], objectives: Objectives, groups: Sequence[Sequence[int]]) -> Iterator[Enclosures]:
        """Points at which objectives are least, and the greatest of each group of several."""
        lp, output = self._lp, self.graph.output
        yield self._enclosed(self._nearest(rows), output)
        if lp is None:
            return
        try:
            reduced = lp.rows(rows)
        except ValueError:
            return
        for columns in self._solved(reduced.matrix, output):
            yield self._enclosed(lp.point(columns), output)
        constant = reduced.constant + objectives.constant[0].cpu().numpy()
        for group in (list(g) for g in groups if len(g) > 1):
            self.deadline.check()
            model = Model(lp, reduced.matrix[group], tolerance=_TOLERANCE)
            model.greatest(reduced.matrix[group], constant[group], self.deadline)
            yield self._enclosed(lp.point(model.point()[None]), output)
