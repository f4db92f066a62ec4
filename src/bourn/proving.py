"""The multipliers behind bounds and refutations on one input box, found again and written into a certificate's file.

Layer after layer each pre-activation's bounds are proved from those before it, by the cheapest multipliers that do: by a rule
that the checker follows too, or rounded to float32, and stated anew for these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.errors import UsageError
from bourn.interval import Interval
from bourn.network.affine import Affine
from bourn.network.graph import Graph
from bourn.problem.problem import Problem
from bourn.problem.specification import Row
from bourn.program.linear_bounds import Multipliers, back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.program.restrict import receptive_fields, take_problems
from bourn.proof_cases import by_cases, rounded, rows_by_cases
from bourn.proof_sets import HalfSpaces, in_file, stated_weights
from bourn.relaxations.base import LineRule, Nonlinearity, Tensors
from bourn.relaxations.curves import PiecewiseLinear
from bourn.relaxations.several import SeveralInputs
from bourn.relaxations.smooth import Smooth
from bourn.solvers.back_substitution import bound_both, coefficient_error
from bourn.solvers.base import output_rows
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.row_trees import RowTrees
from bourn.solvers.tightening import unstable, widest

SLACK = 2.0**-34
"""How far bounds are moved outward, relative to a node's magnitude: room for the rounding errors of the checker's own sums,
which are those of the network as stored."""
_CHUNK_BYTES, _TOGETHER = 1 << 24, 128

INTERVAL, LINES, PARALLEL = RULES = "interval", "lines", "parallel"
"""Rules for multipliers that a certificate need not hold."""


class Level(IntEnum):
    """What may be spent on multipliers; each tries those before it, too."""

    INTERVALS = 0
    LINES = 1
    CLOSED_FORM = 2
    ASCENT = 3
    LINEAR_PROGRAM = 4

    @property
    def rules(self) -> tuple[str, ...]:
        """Those that are tried."""
        return RULES[: min(self + 1, len(RULES))]


Chosen = dict[int, Multipliers]

def slopes(operation: Nonlinearity, *z: Interval) -> tuple[Tensors, Tensors]:
    """The checker's lines for what is not stable, slopes for the positive and the negative part of a row, one an input."""
    found: tuple[Tensors, Tensors] = next(rule for kind, rule in _LINES if isinstance(operation, kind))(operation, *z)
    return found


def _piecewise_lines(operation: PiecewiseLinear, z: Interval) -> tuple[Tensors, Tensors]:
    """Of the piece a little left of the middle, and of the chord."""
    middle = z.lower / 2 + z.upper / 2 - 2.0**-30 * (z.upper - z.lower)
    own = torch.full_like(middle, operation.pieces[0][0])
    for knot, (slope, _) in zip(operation.knots, operation.pieces[1:], strict=True):
        own = own.masked_fill(middle > knot, slope)
    low, high = operation.evaluate(z.lower), operation.evaluate(z.upper)
    chord = ((high - low) / (z.upper - z.lower)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return (own,), (torch.where(operation.stable(z), own, chord),)


def _smooth_lines(operation: Smooth, z: Interval) -> tuple[Tensors, Tensors]:
    """The slope in the middle and about that of the chord; across an inflection the lesser slope of both ends."""
    first, middle, last = (operation.derivative(t).nan_to_num() for t in (z.lower, z.lower / 2 + z.upper / 2, z.upper))
    chord, rises = (first + 4 * middle + last) / 6, last > first
    across, least = operation.bends(z), torch.minimum(first, last)
    return (
        (torch.where(across, least, torch.where(rises, middle, chord)),),
        (torch.where(across, least, torch.where(rises, chord, middle)),),
    )


_LINES: tuple[tuple[type[Nonlinearity], Any], ...] = (
    (PiecewiseLinear, _piecewise_lines),
    (Smooth, _smooth_lines),
    (SeveralInputs, lambda operation, *z: operation.slopes(LineRule.AREA, *z)),
)


@dataclass(eq=False)
class Proof:
    """One box on its way: the relaxed program on the bounds proved so far, and what proves them, as a chunk has it.

    ``inner``: trees for bounds that ascent leaves open; ``given``: half-spaces that cut the box.
    """

    problem: Problem
    names: dict[int, str]
    level: Level
    inner: RowTrees | None = None
    deadline: Deadline = NEVER
    given: HalfSpaces | None = None
    program: RelaxedProgram = field(init=False)
    lps: Any = None
    bounds: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.program = start(self.problem.network, self.problem.box, LineRule.AREA)

    @property
    def graph(self) -> Graph:
        return self.program.graph

    def nonlinear(self, target: int) -> list[int]:
        """Nonlinear nodes before ``target`` with free entries."""
        ancestors = set(self.graph.ancestors(target))
        return [v for v in self.graph.nonlinear if v in ancestors and bool(self.program.free(v).any())]

    # Multipliers for rows (1, M, *shape)

    def rounded(self, rows: dict[int, Tensor], constant: Tensor, chosen: Chosen) -> tuple[Tensor, Chosen]:
        """The bounds (M,) at multipliers rounded to float32, and these."""
        found, own = rounded(self.program, rows, constant, self.nonlinear(max(rows)), chosen)
        return found[0], own

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
        """Prove bounds of pre-activation ``z`` and let the program stand on them."""
        size, shape = self.graph.nodes[z].size, self.graph.nodes[z].shape
        slack = SLACK * self.program.magnitudes[z].expand(1, *shape).reshape(-1).repeat(2)
        signed = torch.cat([torch.arange(size), -1 - torch.arange(size)])
        best = torch.full((2 * size,), -torch.inf, dtype=torch.float64)
        for rule in self.level.rules if self.nonlinear(z) else (INTERVAL,):
            wanted = self._open(z, best)
            if not len(wanted):
                break
            found = self._by_rule(rule, z, wanted, signed) - slack[wanted]
            if bool((found > best[wanted]).any()):
                best[wanted] = torch.maximum(best[wanted], found)
                self._rule(z, rule, signed[wanted])
        if self.level >= Level.ASCENT and self.nonlinear(z):
            for piece in self._pieces(z, self._open(z, best)):
                rows, zero = self._unit(z, signed[piece])
                for found, chosen in self.improved(rows, zero, DualAscent()):
                    better = found - slack[piece] > best[piece]
                    best[piece[better]] = (found - slack[piece])[better]
                    self._rows(z, signed[piece[better]].numpy(), chosen, better, self.weights(rows, zero, chosen))
        if self.inner is not None and self.given is None and self.nonlinear(z):
            self._by_trees(z, best, slack)
        bounds = self._as_interval(best, shape)
        if not bool(torch.isfinite(bounds.magnitude).all()):
            raise UsageError(f"no certificate can be written: node {self.graph.nodes[z].name!r} has no finite bounds")
        self.program = with_bounds(self.program, z, bounds)

    def _by_rule(self, rule: str, z: int, wanted: Tensor, signed: Tensor) -> Tensor:
        """The bounds of some rows of a pre-activation, where it can be by receptive fields."""
        # On a polytope's projections half-spaces have other weights.
        local = receptive_fields(self.program, z) if self.given is None else None
        _, _, *places = (1, 1, *self.graph.nodes[z].shape[2:])
        if local is None:
            return torch.cat([by_rule(self.program, rule, *self._unit(z, signed[p]))[0] for p in self._pieces(z, wanted)])
        count, channels = math.prod(places), local.graph.nodes[local.graph.output].size
        unit = torch.eye(channels, dtype=torch.float64)
        rows = torch.cat([unit, -unit])[None].reshape(1, 2 * channels, *local.graph.output_shape)
        size = max(local.graph.nodes[v].size for v in range(len(local.graph.nodes)))
        at_once = max(1, _CHUNK_BYTES // (16 * channels * size))
        found = torch.full((count, 2 * channels), -torch.inf, dtype=torch.float64)
        entries = wanted % (count * channels)
        for some in torch.unique(entries % count).split(at_once):
            small = take_problems(local, some)
            found[some] = by_rule(small, rule, {small.graph.output: rows}, torch.zeros(1, 2 * channels, dtype=torch.float64))
        return found[entries % count, entries // count + channels * (wanted >= count * channels)]

    def _by_trees(self, z: int, best: Tensor, slack: Tensor) -> None:
        """Better bounds of entries that are open, by cases, where the run had them so."""
        assert self.inner is not None
        size, open_ = self.graph.nodes[z].size, self._open(z, best)
        for leaves in by_cases(self.inner, self.program, z, open_[open_ < size], self.deadline) if len(open_) else ():
            rows = torch.where(leaves.signed < 0, size - 1 - leaves.signed, leaves.signed)
            found = leaves.bounds - slack[rows]
            better = found > best[rows]
            best[rows[better]] = found[better]
            kept = torch.nonzero(better)[:, 0]
            for v in self.graph.readers(z):
                which, numbers = self._rows_of(z, v, leaves.signed[kept].numpy())
                if len(numbers):
                    self.bounds.append(rows_by_cases(leaves, self.names, self.names[v], kept.numpy()[which], numbers))

    def _open(self, z: int, best: Tensor) -> Tensor:
        """Numbers of the rows, both ends of an entry, of entries that are not stable."""
        if not bool(torch.isfinite(best).all()):
            return torch.arange(len(best))
        known = self._as_interval(best, self.graph.nodes[z].shape)
        return torch.nonzero(unstable(self.graph, z, known).flatten().repeat(2))[:, 0]

    def _pieces(self, z: int, wanted: Tensor) -> tuple[Tensor, ...]:
        return () if not len(wanted) else torch.split(wanted, max(1, _CHUNK_BYTES // (8 * widest(self.graph, z))))

    def _unit(self, z: int, signed: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        return unit_rows(self.graph, z, signed[None]), torch.zeros(1, len(signed), dtype=torch.float64)

    @staticmethod
    def _as_interval(best: Tensor, shape: tuple[int, ...]) -> Interval:
        size = len(best) // 2
        return Interval(best[:size].reshape(1, *shape), -best[size:].reshape(1, *shape))

    def weights(self, rows: dict[int, Tensor], constant: Tensor, chosen: Chosen) -> Tensor | None:
        """The weights (M, K) of half-spaces with which rows are bounded at these multipliers, where there are any."""
        found = stated_weights(self.given, self.program, rows, constant, chosen)
        return None if found is None else found[0]

    def _rule(self, z: int, rule: str, signed: Tensor) -> None:
        """Write that a pre-activation's bounds are proved by a rule, for every node that reads it; by default of what is open."""
        weights = None
        if self.given is not None:
            rows, zero = self._unit(z, signed)
            weights = self.weights(rows, zero, ruled(self.program, rule, z, len(signed)))
        for v in self.graph.readers(z):
            own: dict[str, Any] = {"tensor": self.names[v], "multipliers": rule}
            if len(self.graph.nodes[v].inputs) > 1 or weights is not None:  # others of its inputs may not have their turn yet
                which, numbers = self._rows_of(z, v, signed.numpy())
                own |= {"of": np.zeros_like(numbers), "rows": numbers}
                own |= {} if weights is None else {"given": in_file(weights[which])}
            self.bounds.append(own)

    def _rows(self, z: int, signed: np.ndarray, chosen: Chosen, some: Tensor, weights: Tensor | None) -> None:
        """Write how some rows of a pre-activation are proved, for every node that reads them."""
        kept = torch.nonzero(some)[:, 0]
        for v in self.graph.readers(z):
            which, rows = self._rows_of(z, v, signed)
            # Rows that stand on the same entries go together.
            place = np.where(rows < 0, -1 - rows, rows) % math.prod(self.graph.nodes[v].shape[2:])
            order = np.argsort(place, kind="stable")
            for own in np.split(order, range(_TOGETHER, len(order), _TOGETHER)) if len(order) else ():
                of = kept[torch.from_numpy(which[own])]
                stated = {"tensor": self.names[v], "of": np.zeros_like(own), "rows": rows[own]} | self.stated(chosen, of, weights)
                self.bounds.append(stated)

    def _rows_of(self, z: int, v: int, signed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of some rows of a pre-activation are about what node ``v`` reads, and their numbers there."""
        size, node = self.graph.nodes[z].size, self.graph.nodes[v]
        row_of = np.full(2 * size, -1)
        row_of[np.where(signed < 0, size - 1 - signed, signed)] = np.arange(len(signed))
        which, own = [], []
        for i, reads in enumerate(node.inputs):
            if reads == z or reads in self.graph.moved[z]:
                place = place_of(self.graph, z, reads)
                which += [row_of[place], row_of[size + place]]
                entries = i * node.size + np.arange(len(place))
                own += [entries, -1 - entries]
        found = np.concatenate(which)
        return found[found >= 0], np.concatenate(own)[found >= 0].astype("<i8")

    def stated(self, chosen: Chosen, some: Tensor, weights: Tensor | None) -> dict[str, Any]:
        """Multipliers of some rows, and the weights of half-spaces if there are any, as a chunk has them."""
        found = {}
        for v, m in chosen.items():
            mu = torch.cat([own[0][some].flatten(1) for own in m.mu], 1)
            used = torch.nonzero(m.free[0].flatten().repeat(len(m.mu)) & (mu != 0).any(0))[:, 0]  # 0 is what is left out, too
            if len(used):
                found[self.names[v]] = {"free": used.numpy().astype("<i8"), "mu": mu[:, used].to(torch.float32).numpy().reshape(-1)}
        return {"multipliers": found} | ({} if weights is None else {"given": in_file(weights[some])})

    # Refutations

    def refute(self, row: Row, weights: tuple[float, ...], rows: tuple[Row, ...]) -> dict[str, Any] | None:
        """What refutes a conjunction by the weighted sum ``row`` of its rows; None where no bound does."""
        objectives = self.problem.objectives([row])
        start_rows, constant = output_rows(self.graph, objectives), objectives.constant
        error = float(torch.as_tensor(coefficient_error(self.program, start_rows, objectives)).max())
        strict = any(w > 0 and r.strict for w, r in zip(weights, rows, strict=True))
        for bound, stated in self._attempts(start_rows, constant):
            value = bound - error
            if value - abs(value) * 1e-6 > 0 or (strict and value >= 0):
                return stated
        return None

    def _attempts(self, rows: dict[int, Tensor], constant: Tensor) -> Iterator[tuple[float, dict[str, Any]]]:
        """Bounds of one row, cheapest first, each with its multipliers."""
        one = torch.zeros(1, dtype=torch.int64)
        for rule in self.level.rules:
            weights = self.weights(rows, constant, ruled(self.program, rule, max(rows), 1))
            yield float(by_rule(self.program, rule, rows, constant)[0, 0]), self.stated({}, one, weights) | {"multipliers": rule}
        for found, chosen in self.improved(rows, constant, DualAscent(steps=60)):
            yield float(found[0]), self.stated(chosen, one, self.weights(rows, constant, chosen))


def by_rule(program: RelaxedProgram, rule: str, rows: dict[int, Tensor], constant: Tensor) -> Tensor:
    """The bounds (B, M) of rows by a rule."""
    if rule == INTERVAL:
        return back_substitute(program, rows, constant, ends=program.graph.nonlinear).lower
    return back_substitute(program, rows, constant, multipliers=ruled(program, rule, max(rows), constant.shape[1])).lower


def ruled(program: RelaxedProgram, rule: str, target: int, count: int) -> Chosen:
    """A rule's multipliers of ``count`` rows on ``target``."""
    ancestors, chosen = set(program.graph.ancestors(target)), {}
    for v in (v for v in program.graph.nonlinear if v in ancestors):
        operation, z = program.graph.nodes[v].operation, program.inputs_of(v)
        assert isinstance(operation, Nonlinearity)
        if rule == INTERVAL:
            zero = torch.zeros(1, count, *program.graph.nodes[v].shape, dtype=torch.float64)
            chosen[v] = Multipliers(torch.ones_like(zero[:, 0], dtype=torch.bool), mu=(zero,) * len(z))
        else:
            below, above = (tuple(s[:, None] for s in own) for own in slopes(operation, *z))
            chosen[v] = Multipliers(program.free(v), above if rule == PARALLEL else below, above)
    return chosen


def lines_of(program: RelaxedProgram, target: int, count: int) -> Chosen | None:
    """The multipliers of the rule of lines; None where those lines are the program's own."""
    functions = (program.graph.nodes[v].operation for v in program.graph.nonlinear)
    return None if all(isinstance(own, PiecewiseLinear) for own in functions) else ruled(program, LINES, target, count)


def bound_by_lines(program: RelaxedProgram, rows: dict[int, Tensor], problems: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds (B, M) of rows by the rule of lines, whatever problems these are."""
    target, count = max(rows), next(iter(rows.values())).shape[1]
    chosen, zero = lines_of(program, target, count), torch.zeros(1, count, dtype=torch.float64)
    if chosen is None:
        return bound_both(program, rows)
    low, high = (back_substitute(program, {v: s * row for v, row in rows.items()}, zero, multipliers=chosen) for s in (1, -1))
    return low.lower, -high.lower


def stated_of_parts(names: dict[int, str], chosen: Chosen, places: Tensor, of: Tensor, row: Tensor) -> dict[str, Any]:
    """Multipliers of rows ``row`` of problems ``of``, ascending, which are the parts ``places`` of the chunk, as it has them."""
    found = {}
    for v, m in chosen.items():
        free = m.free.expand(len(places), *m.free.shape[1:]).flatten(1).repeat(1, len(m.mu))
        part, entry = torch.nonzero(free, as_tuple=True)
        if not len(part):
            continue
        mu = torch.cat([own.flatten(2).expand(len(places), -1, -1)[of, row] for own in m.mu], 1)
        flat = (places[part] * free.shape[1] + entry).numpy().astype("<i8")
        found[names[v]] = {"free": flat, "mu": mu[free[of]].to(torch.float32).numpy()}
    return found


def unit_rows(graph: Graph, z: int, signed: Tensor) -> dict[int, Tensor]:
    """Rows (B, M, *shape) on a node for numbers (B, M): e is entry e, -1 - e is less entry e."""
    node = graph.nodes[z]
    rows = torch.zeros(*signed.shape, node.size, dtype=torch.float64)
    entries = torch.where(signed < 0, -1 - signed, signed)
    rows.scatter_(2, entries[..., None], torch.where(signed < 0, -1.0, 1.0).to(torch.float64)[..., None])
    return {z: rows.reshape(*signed.shape, *node.shape)}


def place_of(graph: Graph, z: int, reads: int) -> np.ndarray:
    """For every entry of what a node reads the entry of the pre-activation that it is."""
    path, node = [], reads
    while node != z:
        path.append(graph.nodes[node].operation)
        node = graph.nodes[node].inputs[0]
    numbers = torch.arange(1, graph.nodes[z].size + 1, dtype=torch.float64).reshape(1, *graph.nodes[z].shape)
    for operation in reversed(path):
        assert isinstance(operation, Affine)
        numbers = operation.linear(numbers)
    place: np.ndarray = numbers.flatten().to(torch.int64).numpy() - 1
    if (place < 0).any():
        raise UsageError("no certificate can be written yet: a nonlinear operator reads a constant")
    return place
