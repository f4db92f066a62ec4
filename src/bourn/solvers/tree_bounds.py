"""Inner bounds by branch and bound: every open pre-activation's both ends by a tree over the neurons before it, layer after layer.

Beyond the class of layer-wise relaxations: with enough leaves a pre-activation's bounds are its exact ones under those before it.
(MILP does this where it is used as an oracle for inner bounds: Tjeng, Xiao and Tedrake 2019; Singh et al. 2019, RefineZono.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.program.branches import CannotSplit, split_slope
from bourn.program.reduced import reduced_products
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.program.restrict import take_problems
from bourn.relaxations.base import LineRule
from bourn.solvers.base import Solver, identity_rows
from bourn.solvers.dual_ascent import Ascended, DualAscent
from bourn.solvers.row_trees import RowTrees
from bourn.solvers.tightening import unstable

_MOST = 1 << 27
"""Of how many numbers the matrices that subproblems share may be."""


@dataclass(frozen=True)
class TreeBounds(Solver):
    """``trees``: how a pre-activation's ends are bounded where ascent leaves it open; sound, exact in the limit of many leaves.

    ``ascent`` bounds what comes before, nodes whose neurons are not split, and the objectives.  ``patience``: the share of the time
    left that may go into inner bounds; neurons that are not reached by then keep those of ascent or in closed form.
    """

    trees: RowTrees = field(default=RowTrees())
    ascent: DualAscent = field(default=DualAscent())
    patience: float = 1.0
    solved_by = "dual ascent, inner bounds by branch and bound"

    @property
    def relaxation(self) -> str:
        return "hull on the halves of split neurons"

    def prepare(
        self,
        graph: Graph,
        box: InputSet,
        *,
        inner: Mapping[int, Interval] | None = None,
        begin: Mapping[int, Interval] | None = None,
        outside: Mapping[int, Interval] | None = None,
        deadline: Deadline = NEVER,
    ) -> Ascended:
        if inner is not None:
            return self.ascent.prepare(graph, box, inner=inner, begin=begin, outside=outside, deadline=deadline)
        program, soft = start(graph, box, LineRule.AREA), deadline.part(self.patience)
        for z in graph.pre_activations:
            bounds = self.ascent.start.pre_activation(program, z, deadline) if begin is None or z not in begin else begin[z]
            bounds = self.ascent.entries(program, z, bounds, unstable(graph, z, bounds), soft, inner=True)
            bounds = self._by_trees(program, z, bounds, soft)
            program = with_bounds(program, z, bounds, None if outside is None else outside.get(z))
        return Ascended(self.ascent, program, deadline)

    def _by_trees(self, program: RelaxedProgram, z: int, known: Interval, deadline: Deadline) -> Interval:
        """Better bounds of a node's open entries."""
        wanted = unstable(program.graph, z, known).flatten(1)
        if not bool(wanted.any()) or not _splits(program, z):
            return known
        readers = [program.graph.nodes[v].operation for v in program.graph.readers(z)]
        enough = math.inf if any(split_slope(r) is None for r in readers) else 0.0
        lower, upper = known.lower.flatten(1).clone(), known.upper.flatten(1).clone()
        for b in range(program.batch):
            entries = torch.nonzero(wanted[b])[:, 0]
            own = before(take_problems(program, slice(b, b + 1)), z)
            rows = identity_rows(own.graph, own.graph.output, entries).flatten(2)
            both = torch.cat([rows, -rows], dim=1)
            try:
                found = self.trees.bound(own, Objectives(both, None, both.new_zeros(1, both.shape[1])), enough, deadline)
            except CannotSplit:
                return known
            low, high = found.chunk(2)
            lower[b, entries] = torch.maximum(lower[b, entries], low)
            upper[b, entries] = torch.minimum(upper[b, entries], -high)
        return Interval(lower.reshape(known.shape), upper.reshape(known.shape))


def _splits(program: RelaxedProgram, z: int) -> bool:
    """Whether there is something to split before a node, in matrices that are not too large."""
    ancestors = program.graph.ancestors(z)
    free = [v for v in program.graph.nonlinear if v in ancestors and bool(program.free(v).any())]
    products = reduced_products(program, ancestors) if free else None
    return products is not None and products <= _MOST


def before(program: RelaxedProgram, z: int) -> RelaxedProgram:
    """The program of the network that ends in ``z``, whose bounds are those known here."""
    kept, graph = sorted({0, *program.graph.ancestors(z)}), program.graph.cut(z)
    found = start(graph, program.box, program.rule)
    for number in graph.pre_activations:
        found = with_bounds(found, number, program.bounds[kept[number]])
    return found
