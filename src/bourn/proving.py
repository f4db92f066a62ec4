"""The multipliers behind bounds and refutations on one input box, found again and written into a certificate's file.

Layer after layer each pre-activation's bounds are proved from those before it, by the cheapest multipliers that do, rounded to
float32, and stated anew for these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bourn.certificates.file import CertificateFile
from bourn.errors import UsageError
from bourn.interval import Interval
from bourn.network.affine import Affine
from bourn.network.graph import Graph
from bourn.problem.problem import Problem
from bourn.problem.specification import Row
from bourn.program.linear_bounds import Multipliers, back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.relaxations.base import ElementWise, LineRule
from bourn.solvers.back_substitution import coefficient_error
from bourn.solvers.base import output_rows
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.tightening import unstable, widest

SLACK = 2.0**-34
"""How far stated bounds are moved outward, relative to a node's magnitude: room for the rounding errors of the checker's own sums,
which are those of the network as stored."""
_CHUNK_BYTES = 1 << 24


class Level(IntEnum):
    """What may be spent on multipliers; each tries those before it, too."""

    CLOSED_FORM = 0
    ASCENT = 1
    LINEAR_PROGRAM = 2


Chosen = dict[int, Multipliers]
Arrays = dict[int, tuple[np.ndarray, ...]]
"""Of nonlinear nodes mu (rows, free entries), or the slopes (free entries,) of both sides, in float32."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows of a pre-activation that one set of multipliers proves: entry e for a lower end, -1 - e for an upper one.

    ``chosen``: of each node before it; None for intervals.
    """

    rows: np.ndarray
    chosen: Arrays | None


@dataclass(eq=False)
class Proof:
    """One case on its way: the relaxed program on the bounds proved so far, and what proves them."""

    file: CertificateFile
    problem: Problem
    names: dict[int, str]
    level: Level
    program: RelaxedProgram
    outside: Mapping[int, Interval] = field(default_factory=dict)
    empty: bool = False
    lps: Any = None
    bounds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def graph(self) -> Graph:
        return self.program.graph

    def nonlinear(self, target: int) -> list[int]:
        """Nonlinear nodes before ``target`` with free entries."""
        ancestors = set(self.graph.ancestors(target))
        return [v for v in self.graph.nonlinear if v in ancestors and bool(self.program.free(v).any())]

    # Multipliers for rows (1, M, *shape)

    def closed(self, rows: dict[int, Tensor], constant: Tensor, rule: LineRule) -> tuple[Tensor, Chosen]:
        """The bounds (M,) by a rule's lines, their slopes rounded to float32."""
        chosen = {}
        for v in self.nonlinear(max(rows)):
            operation, (bounds,) = self.graph.nodes[v].operation, self.program.inputs_of(v)
            assert isinstance(operation, ElementWise)
            lines = operation.lines(rule, bounds)
            below, above = (s[0].to(torch.float32).to(torch.float64)[:, None] for s in (lines.lower_slopes, lines.upper_slopes))
            chosen[v] = Multipliers(self.program.free(v), (below,), (above,))
        return back_substitute(self.program, rows, constant, multipliers=chosen).lower[0], chosen

    def interval(self, rows: dict[int, Tensor], constant: Tensor) -> Tensor:
        """The bounds (M,) by interval propagation on the bounds known: all multipliers 0."""
        ancestors, chosen = set(self.graph.ancestors(max(rows))), {}
        for v in (v for v in self.graph.nonlinear if v in ancestors):
            everything = torch.ones(1, *self.graph.nodes[v].shape, dtype=torch.bool)
            chosen[v] = Multipliers(everything, mu=(torch.zeros(1, 1, *self.graph.nodes[v].shape, dtype=torch.float64),))
        return back_substitute(self.program, rows, constant, multipliers=_expanded(chosen, constant.shape[1])).lower[0]

    def rounded(self, rows: dict[int, Tensor], constant: Tensor, chosen: Chosen) -> tuple[Tensor, Chosen]:
        """The bounds (M,) at multipliers rounded to float32, and these."""
        nodes = self.nonlinear(max(rows))
        passed = back_substitute(self.program, rows, constant, nodes, chosen).passed
        own = {}
        for v in nodes:
            if v in passed:
                mu = passed[v][0].to(torch.float32).to(torch.float64).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
                own[v] = Multipliers(self.program.free(v), mu=(mu,))
        return back_substitute(self.program, rows, constant, multipliers=own).lower[0], own

    def improved(self, rows: dict[int, Tensor], constant: Tensor, ascent: DualAscent) -> list[tuple[Tensor, Chosen]]:
        """What ascent and, on the highest level, linear programs find."""
        if not self.nonlinear(max(rows)) or self.level < Level.ASCENT:
            return []
        found = [self.rounded(rows, constant, ascent.climb(self.program, rows, constant))]
        if self.level == Level.LINEAR_PROGRAM and (chosen := self._lp().multipliers(rows)) is not None:
            found.append(self.rounded(rows, constant, chosen))
        return found

    def _lp(self) -> Any:
        if self.lps is None:
            from bourn.solvers.linear_programs import LinearPrograms  # late, as everything that loads HiGHS

            self.lps = LinearPrograms(start(self.graph, self.program.box, LineRule.AREA), _CHUNK_BYTES)
        self.lps.grow(self.program)
        return self.lps

    # Bounds of a pre-activation

    def add(self, z: int) -> None:
        """Prove bounds of pre-activation ``z``, write them, and let the program stand on them."""
        size, shape = self.graph.nodes[z].size, self.graph.nodes[z].shape
        slack = SLACK * self.program.magnitudes[z].expand(1, *shape).reshape(-1).repeat(2)
        signed = torch.cat([torch.arange(size), -1 - torch.arange(size)])
        best, which = self._cheap(z, signed, slack)
        best = best - slack
        parts = [_Part(signed[which == k].numpy(), self._of_kind(z, k)) for k in range(3) if bool((which == k).any())]
        known = self._as_interval(best, shape)
        open_ = unstable(self.graph, z, known).flatten()
        if self.level >= Level.ASCENT and self.nonlinear(z) and bool(open_.any()):
            wanted = torch.nonzero(open_.repeat(2))[:, 0]
            for piece in torch.split(wanted, max(1, _CHUNK_BYTES // (8 * widest(self.graph, z)))):
                rows = self._unit(z, signed[piece])
                for found, chosen in self.improved(rows, torch.zeros(1, len(piece), dtype=torch.float64), DualAscent()):
                    better = found - slack[piece] > best[piece]
                    best[piece[better]] = (found - slack[piece])[better]
                    parts.append(_Part(signed[piece[better]].numpy(), self._mu(chosen, better)))
        self._state(z, self._as_interval(best, shape), parts)

    def _cheap(self, z: int, signed: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """A bound of every row without a search, and of which kind it is: 0 interval, 1 and 2 lines."""
        kinds: list[list[Tensor]] = [[], [], []] if self.nonlinear(z) else [[]]
        for piece in torch.split(signed, max(1, _CHUNK_BYTES // (8 * widest(self.graph, z)))):
            rows, zero = self._unit(z, piece), torch.zeros(1, len(piece), dtype=torch.float64)
            kinds[0].append(self.interval(rows, zero))
            for k in range(1, len(kinds)):
                kinds[k].append(self.closed(rows, zero, _RULES[k])[0])
        found = torch.stack([torch.cat(k) for k in kinds])
        best, which = found.max(0)
        # The numbers of bounds that prove a neuron stable enter nothing: the first kind that does is enough.
        for k in range(len(kinds) - 1, -1, -1):
            closed = ~unstable(self.graph, z, self._as_interval(found[k] - slack, self.graph.nodes[z].shape)).flatten().repeat(2)
            best, which = torch.where(closed, found[k], best), which.masked_fill(closed, k)
        return best, which

    def _of_kind(self, z: int, kind: int) -> Arrays | None:
        if kind == 0:
            return None
        rows = self._unit(z, torch.zeros(1, dtype=torch.int64))
        return _slopes(self.closed(rows, torch.zeros(1, 1, dtype=torch.float64), _RULES[kind])[1])

    @staticmethod
    def _mu(chosen: Chosen, some: Tensor) -> Arrays:
        return {v: (m.mu[0][0][some][:, m.free[0]].to(torch.float32).numpy(),) for v, m in chosen.items()}

    def _unit(self, z: int, signed: Tensor) -> dict[int, Tensor]:
        node = self.graph.nodes[z]
        rows = torch.zeros(len(signed), node.size, dtype=torch.float64)
        entries = torch.where(signed < 0, -1 - signed, signed)
        rows[torch.arange(len(signed)), entries] = torch.where(signed < 0, -1.0, 1.0).to(torch.float64)
        return {z: rows.reshape(1, len(signed), *node.shape)}

    @staticmethod
    def _as_interval(best: Tensor, shape: tuple[int, ...]) -> Interval:
        size = len(best) // 2
        return Interval(best[:size].reshape(1, *shape), -best[size:].reshape(1, *shape))

    def _state(self, z: int, bounds: Interval, parts: list[_Part]) -> None:
        """Write the bounds for every node that reads them; of several proofs of an end the last is its best."""
        if not bool(torch.isfinite(bounds.magnitude).all()):
            raise UsageError(f"no certificate can be written: node {self.graph.nodes[z].name!r} has no finite bounds")
        size = self.graph.nodes[z].size
        flat = [np.where(part.rows < 0, size - 1 - part.rows, part.rows) for part in parts]
        owner = np.full(2 * size, -1)
        for number, ends in enumerate(flat):
            owner[ends] = number
        for v in self.graph.readers(z):
            place = self._place(z, self.graph.nodes[v].inputs[0])
            proved = []
            for number, (part, ends) in enumerate(zip(parts, flat, strict=True)):
                row_of = np.full(2 * size, -1)
                kept = np.flatnonzero(owner[ends] == number)
                row_of[ends[kept]] = kept
                # Of what the node reads the entries that are this part's: their lower ends, then their upper ones.
                which = np.concatenate([row_of[place], row_of[size + place]])
                signed = np.concatenate([np.arange(len(place)), -1 - np.arange(len(place))])[which >= 0]
                if len(signed):
                    multipliers = self._written(part.chosen, which[which >= 0])
                    proved.append({"rows": self.file.array(signed.astype("<i8")), "multipliers": multipliers})
            low, high = (self.file.array(end[0].flatten().numpy()[place].astype("<f8")) for end in (bounds.lower, bounds.upper))
            self.bounds.append({"tensor": self.names[v], "lower": low, "upper": high, "parts": proved})
        try:
            self.program = with_bounds(self.program, z, bounds, self.outside.get(z))
        except UsageError:  # the splits leave nothing between these bounds
            self.empty = True

    def _place(self, z: int, reads: int) -> np.ndarray:
        """For every entry of what a node reads the entry of the pre-activation that it is."""
        path, node = [], reads
        while node != z:
            path.append(self.graph.nodes[node].operation)
            node = self.graph.nodes[node].inputs[0]
        numbers = torch.arange(1, self.graph.nodes[z].size + 1, dtype=torch.float64).reshape(1, *self.graph.nodes[z].shape)
        for operation in reversed(path):
            assert isinstance(operation, Affine)
            numbers = operation.linear(numbers)
        place = numbers.flatten().to(torch.int64).numpy() - 1
        if (place < 0).any():
            raise UsageError("no certificate can be written yet: a nonlinear operator reads a constant")
        return place

    def _written(self, chosen: Arrays | None, which: np.ndarray | None) -> dict[str, Any] | str:
        """Multipliers as the manifest has them; ``which``: rows of them."""
        if chosen is None:
            return "interval"
        found = {}
        for v, own in chosen.items():
            free = np.flatnonzero(self.program.free(v)[0].flatten().numpy())
            arrays = {"free": free.astype("<i8")}
            if len(own) == 2:
                arrays |= {"below": own[0], "above": own[1]}
            else:
                arrays["mu"] = own[0] if which is None else own[0][which]
            found[self.names[v]] = {key: self.file.array(values) for key, values in arrays.items()}
        return found

    # Refutations

    def refute(self, row: Row, weights: tuple[float, ...], rows: tuple[Row, ...]) -> dict[str, Any] | None:
        """The refutation of a conjunction by the weighted sum ``row`` of its rows; None where no bound does it."""
        objectives = self.problem.objectives([row])
        start_rows, constant = output_rows(self.graph, objectives), objectives.constant
        error = coefficient_error(self.program, start_rows, objectives)
        strict = any(w > 0 and r.strict for w, r in zip(weights, rows, strict=True))
        for bound, multipliers in self._attempts(start_rows, constant):
            value = bound - float(torch.as_tensor(error).max())
            claimed = value - abs(value) * 1e-6
            if claimed > 0 or (strict and value >= 0):
                return {
                    "weights": [str(Fraction(w)) for w in weights],
                    "bound": max(claimed, 0.0),
                    "multipliers": self._written(multipliers, None),
                }
        return None

    def _attempts(self, rows: dict[int, Tensor], constant: Tensor) -> Iterator[tuple[float, Arrays | None]]:
        """Bounds of one row, cheapest first, each with its multipliers."""
        yield float(self.interval(rows, constant)[0]), None
        for rule in _RULES[1:]:
            found, chosen = self.closed(rows, constant, rule)
            yield float(found[0]), _slopes(chosen)
        for found, chosen in self.improved(rows, constant, DualAscent(steps=60)):
            yield float(found[0]), self._mu(chosen, torch.ones(1, dtype=torch.bool))


def _slopes(chosen: Chosen) -> Arrays:
    """The slopes of both sides of the free entries, alike for all rows."""
    return {v: tuple(side[0][:, 0][m.free].to(torch.float32).numpy() for side in (m.below, m.above)) for v, m in chosen.items()}


_RULES = (LineRule.AREA, LineRule.AREA, LineRule.PARALLEL)
"""Of the kinds 1 and 2 of multipliers without a search."""


def _expanded(chosen: Chosen, count: int) -> Chosen:
    return {v: Multipliers(m.free, mu=(m.mu[0].expand(-1, count, *m.mu[0].shape[2:]),)) for v, m in chosen.items()}
