"""Bounds of a pre-activation by cases, where the run had them from trees: grown anew, with all leaves written down."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bourn.deadline import Deadline
from bourn.problem.problem import Objectives
from bourn.program.branches import CannotSplit, split_slope
from bourn.program.linear_bounds import Multipliers, back_substitute
from bourn.program.relaxed import RelaxedProgram
from bourn.solvers.base import identity_rows
from bourn.solvers.row_trees import Forest, RowTrees
from bourn.solvers.tree_bounds import before

_AT_ONCE = 256
"""How many leaves are stated at a time."""


@dataclass(frozen=True, eq=False)
class Leaves:
    """Trees of some rows on a pre-activation: ``signed`` (R,) the rows, e for entry e and -1 - e for less entry e, ``bounds`` (R,).

    Of every leaf its ``row``, ascending, and its multipliers ``mu`` (L, F) by nonlinear node on the entries ``free`` (F,);
    ``sides`` are (leaf, node, entry, side), the last 1 or -1.
    """

    signed: Tensor
    bounds: Tensor
    row: Tensor
    sides: Tensor
    free: dict[int, Tensor]
    mu: dict[int, Tensor]

    def take(self, rows: Tensor) -> Leaves:
        """The trees of some rows, in this order."""
        place = torch.full((len(self.signed),), -1).scatter(0, rows, torch.arange(len(rows)))
        own = torch.nonzero(place[self.row] >= 0)[:, 0]
        own = own[place[self.row[own]].argsort(stable=True)]
        leaf = torch.full((len(self.row),), -1).scatter(0, own, torch.arange(len(own)))
        sides = self.sides[leaf[self.sides[:, 0]] >= 0]
        sides = torch.cat([leaf[sides[:, :1]], sides[:, 1:]], 1)
        mu = {v: m[own] for v, m in self.mu.items()}
        return Leaves(self.signed[rows], self.bounds[rows], place[self.row[own]], sides, self.free, mu)

    def stated(self, names: dict[int, str]) -> dict[str, Any]:
        """The cases and the multipliers as a chunk has them."""
        sides = []
        for v in sorted(set(self.sides[:, 1].tolist())):
            own = self.sides[self.sides[:, 1] == v]
            entries = torch.where(own[:, 3] < 0, -1 - own[:, 2], own[:, 2])
            sides.append({"tensor": names[v], "leaf": own[:, 0].numpy().astype("<i4"), "entries": entries.numpy().astype("<i4")})
        multipliers = {
            names[v]: {"free": self.free[v].numpy().astype("<i8"), "mu": mu.to(torch.float32).numpy().reshape(-1)}
            for v, mu in self.mu.items()
        }
        return {"cases": {"of": self.row.numpy().astype("<i4"), "sides": sides}, "multipliers": multipliers}


def rounded(
    program: RelaxedProgram, rows: dict[int, Tensor], constant: Tensor, nodes: list[int], chosen: dict[int, Multipliers]
) -> tuple[Tensor, dict[int, Multipliers]]:
    """The bounds (B, M) at multipliers rounded to float32, and these, of ``nodes``."""
    single = {}
    for v in nodes:
        lines, own = program.lines[v], chosen.get(v)
        if own is None:
            below, above = (tuple(s[:, None] for s in slopes) for slopes in (lines.lower_slopes, lines.upper_slopes))
            own = Multipliers(program.free(v), below, above)
        single[v] = replace(own, single=True)
    found = back_substitute(program, rows, constant, nodes, single)
    return found.lower, {v: Multipliers(program.free(v), mu=found.passed[v]) for v in nodes if v in found.passed}


def by_cases(trees: RowTrees, program: RelaxedProgram, z: int, entries: Tensor, deadline: Deadline) -> Iterator[Leaves]:
    """Trees of both ends of some entries of a pre-activation of a program, a batch of one; none where its neurons are not split."""
    graph = program.graph
    ancestors = sorted({0, *graph.ancestors(z)})
    if any(len(graph.readers(u)) != 1 for u in graph.pre_activations if u in ancestors and u != z):
        return  # a side is written for one node's argument only
    enough = math.inf if any(split_slope(graph.nodes[v].operation) is None for v in graph.readers(z)) else 0.0
    own = before(program, z)
    rows = identity_rows(own.graph, own.graph.output, entries).flatten(2)
    both = torch.cat([rows, -rows], dim=1)
    signed = torch.cat([entries, -1 - entries])
    try:
        for forest in trees.grow(own, Objectives(both, None, both.new_zeros(1, both.shape[1])), enough, deadline):
            yield _leaves(forest, signed[forest.pairs], own, ancestors)
    except CannotSplit:
        return


def _leaves(forest: Forest, signed: Tensor, program: RelaxedProgram, number: list[int]) -> Leaves:
    order = forest.row.argsort(stable=True)
    bounds: list[Tensor] = []
    mu: dict[int, list[Tensor]] = {}
    free = {v: torch.nonzero(program.free(v).flatten())[:, 0] for v in program.graph.nonlinear if bool(program.free(v).any())}
    for some in torch.split(order, _AT_ONCE):
        leaves, weights, multipliers = forest.leaves(some)
        rows, constant = forest.rows.rows(weights)
        found, own = rounded(leaves, rows, constant, list(free), multipliers)
        bounds.append(found[:, 0])
        for v, m in own.items():
            mu.setdefault(number[v], []).append(m.mu[0].flatten(1)[:, free[v]].to(torch.float32))
    row = forest.row[order]
    least = torch.full((len(signed),), math.inf, dtype=torch.float64).scatter_reduce(0, row, torch.cat(bounds), "amin")
    leaf, neuron = torch.nonzero(forest.sides[order], as_tuple=True)
    node, entry = torch.zeros_like(neuron), torch.zeros_like(neuron)
    for v, place in forest.shared.place.items():
        here = (neuron >= place.start) & (neuron < place.stop)
        node[here], entry[here] = number[v], forest.shared.kept[v].numbers[0][neuron[here] - place.start]
    sides = torch.stack([leaf, node, entry, forest.sides[order][leaf, neuron].to(torch.int64)], 1)
    every = {number[v]: at for v, at in free.items() if number[v] in mu}
    return Leaves(signed, least, row, sides, every, {v: torch.cat(m) for v, m in mu.items()})


def rows_by_cases(leaves: Leaves, names: dict[int, str], node: str, which: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Bounds of what a node reads: ``rows`` are its numbers of the trees ``which``."""
    return {"tensor": node, "of": np.zeros_like(rows), "rows": rows, **leaves.take(torch.from_numpy(which)).stated(names)}
