"""The relaxed program of one problem as arrays for an LP, with maps back to multipliers.

Stable entries are substituted out.  What is left are columns, all of them at least 0: the input's entries (from their lower
ends) and, for every free entry of a nonlinear node, one column for every vertex of its hull but one, the base.  With base
b and the other vertices v_k, z = b + sum of +-y_k, 0 <= y_k <= |v_k - b|, sum of y_k / |v_k - b| <= 1, and x is linear in
y.  For a ReLU these are z - t = pre-activation, 0 <= z <= u, 0 <= t <= -l, z / u - t / l <= 1.

Of an l1 ball the input's columns are how far its entries go up and down from the center, and a row limits their sum.  A
polytope's half-spaces are rows on the input's columns.  An l2 ball is no polyhedron: the program has its enclosing box, from
which the solver cuts.  Of a product's balls it has the enclosing boxes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from bourn.network.affine import Affine
from bourn.network.graph import Input
from bourn.problem.balls import Ball
from bourn.problem.input_set import Box
from bourn.problem.polytopes import Polytope
from bourn.problem.products import ProductSet
from bourn.program.cuts import CutHull, Matrix
from bourn.program.relaxed import RelaxedProgram
from bourn.relaxations.base import Nonlinearity
from bourn.relaxations.curves import PiecewiseLinear

_HUGE = 1e20
"""From here on HiGHS takes numbers for infinite."""

_NARROW = 1e-9
"""Vertices nearer than this to the base are moved away in the LP (not where bounds are stated), for its scaling's sake."""

_CUT_STEP = 0.2
"""How fast the point that cuts start from moves: 0 takes three times as many cuts, large steps end short of the optimum."""


@dataclass(frozen=True, eq=False)
class LinearRows:
    """M rows over the columns: value = matrix @ columns + constant."""

    matrix: Matrix
    constant: np.ndarray


@dataclass(frozen=True, eq=False)
class Entries:
    """The free entries of one nonlinear node: their flat numbers, their rows on earlier columns, their own columns.

    ``owners`` says to which entry a column belongs; ``imposed`` marks those whose bounds the program does not imply, and
    which therefore matter to every row; ``heights`` and ``positions`` map the columns of this node to x - x(base)
    and z - z(base); ``base`` holds (z, x) there.
    """

    node: int
    numbers: np.ndarray
    rows: tuple[LinearRows, ...]
    first_column: int
    owners: np.ndarray
    imposed: np.ndarray
    positions: tuple[Matrix, ...]
    heights: Matrix
    widths: np.ndarray
    base: tuple[tuple[np.ndarray, ...], np.ndarray]
    hull: CutHull | None = None

    @property
    def columns(self) -> slice:
        """Its columns among all."""
        return slice(self.first_column, self.first_column + len(self.owners))


@dataclass(frozen=True, eq=False)
class Sphere:
    """An l2 ball in terms of the input's columns, which are at ``offset`` from its center where they are 0.

    ``nearest``: how near to the center the box lets each column come; ``fixed``: the squared distance of entries without column.
    """

    radius: float
    offset: np.ndarray
    nearest: np.ndarray
    fixed: float

    @classmethod
    def of(cls, ball: Ball, moved: np.ndarray) -> Sphere:
        """For columns that are the flat entries ``moved``, from their lower ends; the others have one point."""
        center, near = ball.center.flatten().cpu().numpy(), ball.middle.flatten().cpu().numpy()
        distance = np.abs(near - center)
        rest = float(np.square(np.delete(distance, moved)).sum())
        return cls(ball.radius, ball.lower.flatten().cpu().numpy()[moved] - center[moved], distance[moved], rest)

    def tangent(self, columns: np.ndarray, values: np.ndarray, stable: np.ndarray) -> tuple[np.ndarray, float, np.ndarray] | None:
        """The half-space normal . y <= limit that touches the ball between ``stable`` and these values of some columns.

        None where the values lie in the ball.  ``stable`` is a point of it, relative to the center; also returned is the next,
        a step towards the point touched.  Columns that are left out are as near to the center as they can be.
        """
        others = float(np.square(np.delete(self.nearest, columns)).sum())
        radius = max(self.radius**2 - self.fixed - others, 0.0) ** 0.5
        way = self.offset[columns] + values - stable
        if float(np.linalg.norm(way + stable)) <= radius + 1e-9 * self.radius:
            return None
        square, mixed = float(way @ way), float(way @ stable)
        rest = max(mixed**2 + square * (radius**2 - float(stable @ stable)), 0.0)
        touched = stable + (rest**0.5 - mixed) / square * way
        normal = touched / max(float(np.linalg.norm(touched)), 1e-300)
        following = (1 - _CUT_STEP) * stable + _CUT_STEP * radius * normal
        return normal, radius - float(normal @ self.offset[columns]), following


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """Rows over the input's columns, ``matrix`` @ columns <= ``limits``, and which columns need one another to meet them.

    An l1 ball's columns need nothing: they cost least at 0, so that those which matter to nothing can be left out.
    """

    matrix: np.ndarray
    limits: np.ndarray
    joined: np.ndarray


class SparseProgram:
    """The LP of a relaxed program (a batch of one), grown as its pre-activation bounds become known.

    Raises ValueError where the input set or a node that matters is not bounded.
    """

    def __init__(self, program: RelaxedProgram) -> None:
        lower, upper = (t.flatten().cpu().numpy() for t in (program.box.lower, program.box.upper))
        if not (np.abs(lower) < _HUGE).all() or not (np.abs(upper) < _HUGE).all():
            raise ValueError("the input set is not bounded")
        self.program = program
        ball = program.box if isinstance(program.box, Ball) else None
        center = lower if ball is None else ball.center.flatten().cpu().numpy()
        base = np.clip(center, lower, upper) if ball is not None and ball.norm == 1 else lower
        above, below = np.flatnonzero(upper > base), np.flatnonzero(lower < base)
        self._base = torch.from_numpy(base).to(program.box.lower.device)
        self._moved, self._signs = np.concatenate([above, below]), np.repeat([1.0, -1.0], [len(above), len(below)])
        self.widths = [np.concatenate([upper[above] - base[above], base[below] - lower[below]])]
        self.inputs = self.count = len(self._moved)
        self.half_spaces = self._half_spaces(base, center)
        self.sphere = None if ball is None or ball.norm != 2 else Sphere.of(ball, above)
        self.entries: list[Entries] = []
        self._by_node: dict[int, Entries] = {}

    @property
    def whole(self) -> bool:
        """Whether the program has all of the input set: not a product's balls, nor several half-spaces where windows see less."""
        sets = self.program.box
        if isinstance(sets, Polytope):
            return sets.matrix.shape[1] <= 1 or len(sets.shape) < 4
        return not isinstance(sets, ProductSet) or all(isinstance(p, Box | Polytope) and len(p.shape) < 4 for p in sets.parts)

    def _half_spaces(self, base: np.ndarray, center: np.ndarray) -> HalfSpaces:
        """What limits the input's columns together, in rows of values of about 1."""
        sets, matrix, limits = self.program.box, np.zeros((0, self.inputs)), np.zeros(0)
        if isinstance(sets, Ball) and sets.norm == 1:
            budget = sets.radius - float(np.abs(base - center).sum())
            if budget > 0 and self.inputs:
                matrix, limits = np.full((1, self.inputs), 1 / budget), np.ones(1)
            return HalfSpaces(matrix, limits, np.zeros(self.inputs, dtype=bool))
        parts = sets.parts if isinstance(sets, ProductSet) else (sets,)
        for part in (p for p in parts if isinstance(p, Polytope)):
            rows = part.matrix[0].flatten(1).cpu().numpy()
            matrix = np.concatenate([matrix, rows[:, self._moved] * self._signs])
            limits = np.concatenate([limits, part.limits[0].cpu().numpy() - rows @ base])
        if len(limits):
            sizes = (np.abs(matrix) * self.widths[0]).max(1, initial=0.0)
            kept = sizes > 0
            matrix, limits = matrix[kept] / sizes[kept, None], limits[kept] / sizes[kept]
        return HalfSpaces(matrix, limits, (matrix != 0).any(0))

    def grow(self, program: RelaxedProgram, row_bytes: int) -> None:
        """Take over the nonlinear nodes whose bounds ``program`` knows by now."""
        self.program = program
        for v in program.graph.nonlinear:
            if v in program.lines and v not in self._by_node:
                self._add(v, row_bytes)

    def _add(self, node: int, row_bytes: int) -> None:
        operation, inputs = self.program.graph.nodes[node].operation, self.program.graph.nodes[node].inputs
        assert isinstance(operation, Nonlinearity)
        numbers = torch.nonzero(self.program.free(node).flatten())[:, 0]
        for z in inputs:
            if not bool((self.program.bounds[z].magnitude.flatten()[numbers] < _HUGE).all()):
                raise ValueError(f"node {self.program.graph.nodes[z].name!r} is not bounded")
        rows = tuple(self.rows({z: None}, numbers, row_bytes) for z in inputs)
        imposed = np.zeros(len(numbers), dtype=bool)
        for z in inputs:
            if z in self.program.imposed:
                imposed |= self.program.imposed[z].flatten()[numbers].cpu().numpy()
        make = self._vertices if isinstance(operation, PiecewiseLinear) else self._cut
        found = make(node, numbers, rows, imposed)
        self.entries.append(found)
        self._by_node[node] = found
        self.widths.append(found.widths)
        self.count += len(found.owners)

    def _vertices(self, node: int, numbers: Tensor, rows: tuple[LinearRows, ...], imposed: np.ndarray) -> Entries:
        """One column for every vertex of the hull but one."""
        operation, (bounds,) = self.program.graph.nodes[node].operation, self.program.inputs_of(node)
        assert isinstance(operation, PiecewiseLinear)
        points, values = (np.stack([t.flatten()[numbers].cpu().numpy() for t in ts]) for ts in operation.vertices(bounds))
        # A knot inside the interval is the base, where the hull is narrow for small y; an end where there is none.
        inside = (points > points[0]) & (points < points[-1])
        base = np.where(inside.any(0), inside.argmax(0), 0)
        entry = np.arange(len(numbers))
        base_point, base_value = points[base, entry], values[base, entry]
        kept = (points != base_point) & _first_of_each(points)
        which, columns_of = np.nonzero(kept)
        order = np.argsort(columns_of, kind="stable")
        which, columns_of = which[order], columns_of[order]
        reach = points[which, columns_of] - base_point[columns_of]
        width = np.maximum(np.abs(reach), _NARROW)
        rise = (values[which, columns_of] - base_value[columns_of]) / np.abs(reach)
        shape, columns = (len(numbers), len(which)), np.arange(len(which))
        return Entries(
            node,
            numbers.cpu().numpy(),
            rows,
            self.count,
            columns_of,
            imposed,
            (Matrix((np.sign(reach), (columns_of, columns)), shape=shape),),
            Matrix((rise, (columns_of, columns)), shape=shape),
            width,
            ((base_point,), base_value),
        )

    def _cut(self, node: int, numbers: Tensor, rows: tuple[LinearRows, ...], imposed: np.ndarray) -> Entries:
        """A column for every input, one for the value, and lines of both sides."""
        operation = self.program.graph.nodes[node].operation
        assert isinstance(operation, Nonlinearity)
        hull, widths = CutHull.of(operation, self.program.inputs_of(node), numbers)
        count, width = widths.shape
        entry, shape = np.arange(count), (count, count * width)
        parts = tuple(Matrix((np.ones(count), (entry, entry * width + k)), shape=shape) for k in range(width))
        owners = np.repeat(entry, width)
        base = tuple(hull.inputs), hull.value
        return Entries(
            node, numbers.cpu().numpy(), rows, self.count, owners, imposed, parts[:-1], parts[-1], widths.ravel(), base, hull
        )

    def rows(self, on: Mapping[int, Tensor | None], numbers: Tensor | None = None, row_bytes: int = 1 << 23) -> LinearRows:
        """Rows on nodes, {node: (1, M, *shape)}, as rows on the columns; None stands for the entries ``numbers`` of a node."""
        if numbers is None:
            return self._reduce({node: row for node, row in on.items() if row is not None})
        (node,) = on
        shape = self.program.graph.nodes[node].shape
        size = max(self.program.graph.nodes[v].size for v in self.program.graph.ancestors(node))
        parts = []
        for piece in torch.split(numbers, max(1, row_bytes // (8 * size))):
            row = torch.zeros(1, len(piece), int(np.prod(shape)), dtype=torch.float64, device=piece.device)
            row[0, torch.arange(len(piece), device=piece.device), piece] = 1.0
            parts.append(self._reduce({node: row.reshape(1, len(piece), *shape)}))
        if not parts:
            return LinearRows(Matrix((0, self.count)), np.zeros(0))
        matrix = Matrix(sparse.vstack([p.matrix for p in parts]))
        return LinearRows(matrix, np.concatenate([p.constant for p in parts]))

    def _reduce(self, pending: dict[int, Tensor]) -> LinearRows:
        """Carry rows back to the input and the free entries, stable entries by their own slopes."""
        program, nodes = self.program, self.program.graph.nodes
        count = next(iter(pending.values())).shape[1]
        constant = torch.zeros(count, dtype=torch.float64, device=program.box.lower.device)
        pieces: list[tuple[int, Matrix]] = []
        for number in range(max(pending), -1, -1):
            row = pending.pop(number, None)
            if row is None:
                continue
            node, operation, flat = nodes[number], nodes[number].operation, row[0].flatten(1)
            if isinstance(operation, Input):
                constant = constant + flat @ self._base
                pieces.append((0, Matrix(flat.cpu().numpy()[:, self._moved] * self._signs)))
                continue
            if isinstance(operation, Affine):
                if operation.bias is not None:
                    constant = constant + flat @ operation.bias.expand(1, *operation.out_shape).flatten()
                parts = operation.transpose(row[0])
            else:
                entries, lines = self._by_node[number], program.lines[number]
                own = flat[:, torch.from_numpy(entries.numbers).to(flat.device)].cpu().numpy()
                pieces.append((entries.first_column, Matrix(Matrix(own) @ entries.heights)))
                constant = constant + torch.from_numpy(own @ entries.base[1]).to(constant.device)
                rest = row.masked_fill(program.free(number)[:, None], 0.0)
                offset = lines.lower_offset.masked_fill(program.free(number), 0.0)
                constant = constant + rest[0].flatten(1) @ offset.flatten()
                parts = tuple((rest * slope[:, None])[0] for slope in lines.lower_slopes)
            for source, part in zip(node.inputs, parts, strict=True):
                pending[source] = pending[source] + part[None] if source in pending else part[None]
        if not bool(torch.isfinite(constant).all()):
            raise ValueError("a node that matters is not bounded")
        return LinearRows(_side_by_side(pieces, count, self.count), constant.cpu().numpy())

    def before(self, node: int, on: Matrix) -> LinearRows:
        """Rows (M, size) on what free entries of an element-wise node read, as rows on that node's own columns."""
        entries = self._by_node[node]
        own = on[:, entries.numbers]
        return LinearRows(_side_by_side([(entries.first_column, Matrix(own @ entries.positions[0]))], own.shape[0], self.count),
                          own @ entries.base[0][0])

    def point(self, columns: np.ndarray) -> tuple[Tensor, dict[int, Tensor]]:
        """What columns (M, count) say: inputs (M, *input_shape), and values (M, *shape) of nonlinear nodes' free entries."""
        graph, count = self.program.graph, len(columns)
        x = self._base.repeat(count, 1)
        # An entry may have two columns, one up and one down, which add up.
        moved, ways = torch.from_numpy(self._moved).to(x.device), torch.from_numpy(columns[:, : self.inputs] * self._signs)
        x = x.index_add(1, moved, ways.to(x.device))
        wanted = {}
        for e in self.entries:
            value = torch.zeros(count, graph.nodes[e.node].size, dtype=torch.float64, device=x.device)
            value[:, e.numbers] = torch.from_numpy(e.base[1] + (e.heights @ columns[:, e.columns].T).T).to(x.device)
            wanted[e.node] = value.reshape(count, *graph.nodes[e.node].shape)
        return x.reshape(count, *graph.input_shape), wanted

    def needed(self, row_columns: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Which entries of each node (masks), and which columns (a mask), rows over the columns ``row_columns`` depend on."""
        used = np.zeros(self.count, dtype=bool)
        used[row_columns] = True
        masks: list[np.ndarray] = []
        for e in reversed(self.entries):
            mask = e.imposed.copy()
            mask[e.owners[used[e.columns]]] = True
            used[e.columns] |= mask[e.owners]
            for rows in e.rows:
                used[rows.matrix[mask].indices] = True
            masks.append(mask)
        used[: self.inputs] |= self.half_spaces.joined
        return masks[::-1], used


def _first_of_each(points: np.ndarray) -> np.ndarray:
    """Marks the vertices (K, n) that differ from the one before them."""
    first = np.ones_like(points, dtype=bool)
    first[1:] = points[1:] != points[:-1]
    return first


def _side_by_side(pieces: list[tuple[int, Matrix]], rows: int, columns: int) -> Matrix:
    """One matrix from blocks that start at given columns."""
    blocks = [block.tocoo() for _, block in pieces]
    if not blocks:
        return Matrix((rows, columns))
    data = np.concatenate([b.data for b in blocks])
    row = np.concatenate([b.coords[0] for b in blocks])
    column = np.concatenate([b.coords[1] + first for (first, _), b in zip(pieces, blocks, strict=True)])
    return Matrix((data, (row, column)), shape=(rows, columns))
