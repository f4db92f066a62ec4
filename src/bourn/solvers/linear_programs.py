"""The linear programs of a batch of problems: built from their relaxed programs, solved by HiGHS, stated by their duals."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.problem.problem import Objectives
from bourn.program.cuts import Matrix
from bourn.program.feasible import value_at
from bourn.program.linear_bounds import Multipliers, RowBounds, back_substitute
from bourn.program.relaxed import RelaxedProgram
from bourn.program.restrict import take_problems
from bourn.program.sparse import SparseProgram
from bourn.solvers.base import identity_rows, output_rows
from bourn.solvers.highs import Model
from bourn.solvers.tightening import widest


class LinearPrograms:
    """The LPs of a batch of problems, and what was solved of them."""

    def __init__(self, program: RelaxedProgram, row_bytes: int) -> None:
        self.program, self.row_bytes = program, row_bytes
        self.solved = 0
        self._single = [take_problems(program, slice(b, b + 1)) for b in range(program.batch)]
        self._lps: list[SparseProgram | None] = [_or_none(p) for p in self._single]
        self.optimal = all(lp is None or lp.whole for lp in self._lps)

    def grow(self, program: RelaxedProgram) -> None:
        """Take over bounds that became known."""
        self.program = program
        self._single = [take_problems(program, slice(b, b + 1)) for b in range(program.batch)]
        for b, lp in enumerate(self._lps):
            if lp is not None:
                try:
                    lp.grow(self._single[b], self.row_bytes)
                except ValueError:
                    self._lps[b] = None

    def single(self, problem: int) -> tuple[SparseProgram | None, RelaxedProgram]:
        """The LP of one problem, where it has one, and its relaxed program, a batch of one."""
        return self._lps[problem], self._single[problem]

    def entries(self, node: int, known: Interval, wanted: Tensor, deadline: Deadline) -> Interval:
        """Bounds of a node's entries, by LP where ``wanted``; never worse than those ``known``."""
        lower, upper = known.lower.clone(), known.upper.clone()
        for b in range(len(self._lps)):
            numbers = torch.nonzero(wanted[b].flatten())[:, 0]
            if not len(numbers) or not self.helps(b, node):
                continue
            both = self._both_sides(b, node, numbers, deadline)
            own_lower, own_upper = lower[b].flatten(), upper[b].flatten()
            own_lower[numbers] = torch.maximum(own_lower[numbers], both[0])
            own_upper[numbers] = torch.minimum(own_upper[numbers], both[1])
            lower[b], upper[b] = own_lower.reshape(lower[b].shape), own_upper.reshape(upper[b].shape)
        return Interval(lower, upper)

    def helps(self, problem: int, node: int) -> bool:
        """Whether there is an LP, and a free entry before ``node``: without one the closed form is the optimum."""
        program, ancestors = self._single[problem], set(self.program.graph.ancestors(node))
        if self._lps[problem] is None:
            return False
        return any(v in ancestors and bool(program.free(v).any()) for v in program.graph.nonlinear)

    def _both_sides(self, problem: int, node: int, numbers: Tensor, deadline: Deadline) -> tuple[Tensor, Tensor]:
        lp, program = self._lps[problem], self._single[problem]
        assert lp is not None
        try:
            rows = lp.rows({node: None}, numbers, self.row_bytes)
        except ValueError:
            nothing = torch.full((len(numbers),), -math.inf, dtype=torch.float64, device=numbers.device)
            return nothing, -nothing
        count = len(numbers)
        mus, solved = self._solve(lp, sparse.vstack([rows.matrix, -rows.matrix], format="csr"), deadline)
        done = torch.from_numpy(np.flatnonzero(solved)).to(numbers.device)
        signs = torch.where(done < count, 1.0, -1.0).to(torch.float64)
        found = torch.full((2 * count,), -math.inf, dtype=torch.float64, device=numbers.device)
        found[done] = self._state(program, node, numbers[done % count], signs, {v: m[:, solved] for v, m in mus.items()})
        return found[:count], -found[count:]

    def _state(
        self, program: RelaxedProgram, node: int, numbers: Tensor, signs: Tensor, mus: dict[int, np.ndarray]
    ) -> Tensor:
        """The dual function at the multipliers ``mus``, rounded down, for entries of a node, each times its sign."""
        at_once = max(1, self.row_bytes // (8 * widest(program.graph, node)))
        bounds = [signs[:0]]
        for piece in torch.split(torch.arange(len(numbers), device=numbers.device), at_once) if len(numbers) else ():
            own = identity_rows(program.graph, node, numbers[piece])
            rows = {node: own * signs[piece].reshape(1, -1, *(1,) * (own.dim() - 2))}
            bounds.append(self.evaluate(program, rows, rows[node].new_zeros(1, len(piece)), mus, piece).lower[0])
        return torch.cat(bounds)

    def evaluate(
        self,
        program: RelaxedProgram,
        rows: dict[int, Tensor],
        constant: Tensor,
        mus: Mapping[int, np.ndarray],
        which: Tensor,
        keep: Container[int] = (),
    ) -> RowBounds:
        """Lower bounds (1, M) of rows at the multipliers number ``which`` of ``mus``, {node: (inputs, all, free entries)}."""
        return back_substitute(program, rows, constant, keep, self._chosen(program, mus, which))

    @staticmethod
    def _chosen(program: RelaxedProgram, mus: Mapping[int, np.ndarray], which: Tensor) -> dict[int, Multipliers]:
        chosen = {}
        for v, values in mus.items():
            free = program.free(v)
            mu = torch.zeros(len(values), 1, len(which), free[0].numel(), dtype=torch.float64, device=free.device)
            mu[..., free.flatten()] = torch.from_numpy(values).to(mu.device)[:, None, which]
            chosen[v] = Multipliers(free, mu=tuple(mu.reshape(len(values), 1, len(which), *free.shape[1:])))
        return chosen

    def _solve(
        self, lp: SparseProgram, costs: Matrix, deadline: Deadline, points: np.ndarray | None = None
    ) -> tuple[dict[int, np.ndarray], np.ndarray]:
        """Multipliers for every free entry and every row of ``costs``: 0 where the row does not depend on it.

        Also a mask of the rows that were solved: out of time the rest is left.  ``points`` (rows, columns) takes the solutions.
        """
        mus = {e.node: np.zeros((len(e.rows), costs.shape[0], len(e.numbers))) for e in lp.entries}
        solved = np.zeros(costs.shape[0], dtype=bool)
        for group in by_support(costs):
            if deadline.left <= 0:
                break
            model = Model(lp, costs[group])
            for number in group:
                if deadline.left <= 0:
                    break
                self.optimal &= model.minimise(costs[[number]], deadline)
                for e, mask, values in model.multipliers():
                    mus[e][:, number, mask] = np.stack(values)
                if points is not None:
                    points[number] = model.point()
                solved[number] = True
        self.solved += int(solved.sum())
        self.optimal &= bool(solved.all())
        return mus, solved

    def minimise(self, objectives: Objectives, closed: Tensor, enough: float, deadline: Deadline) -> Tensor:
        """Lower bounds (B, M) of objectives, by LP where the bound in closed form is not above ``enough``."""
        best = closed.clone()
        for b, (lp, program) in enumerate(zip(self._lps, self._single, strict=True)):
            open_ = torch.nonzero(closed[b] <= enough)[:, 0]
            if lp is None or not len(open_) or not self.helps(b, program.graph.output):
                continue
            wanted = objectives.take(slice(b, b + 1))
            rows = {v: row[:, open_] for v, row in output_rows(program.graph, wanted).items()}
            try:
                reduced = lp.rows(rows)
            except ValueError:
                continue
            mus, _ = self._solve(lp, reduced.matrix, deadline)
            found = self.evaluate(program, rows, wanted.constant[:, open_], mus, torch.arange(len(open_), device=open_.device))
            best[b, open_] = torch.maximum(best[b, open_], found.lower[0])
        return best

    def both_sides(self, objectives: Objectives, closed: Tensor, deadline: Deadline) -> tuple[Tensor, Tensor | None]:
        """Lower bounds (1, M) of objectives, and their values (1, M) at feasible points near the same LPs' solutions.

        For a batch of one; no values where there is no LP.  The values are not rounded outward.
        """
        (lp,), (program,) = self._lps, self._single
        rows = output_rows(program.graph, objectives)
        if lp is None:
            return closed, None
        try:
            costs = lp.rows(rows).matrix
        except ValueError:
            return closed, None
        points = np.zeros((len(objectives), lp.count))
        mus, _ = self._solve(lp, costs, deadline, points)
        x, wanted = lp.point(points)
        values = value_at(program, x, wanted, rows, objectives.constant)
        if not self.helps(0, program.graph.output):
            return closed, values
        which = torch.arange(len(objectives), device=closed.device)
        return torch.maximum(closed, self.evaluate(program, rows, objectives.constant, mus, which).lower), values

    def points(self, objectives: Objectives, deadline: Deadline) -> Tensor | None:
        """The inputs (M, *input_shape) of the LPs' solutions, for a batch of one; None where there is no LP."""
        (lp,), (program,) = self._lps, self._single
        if lp is None:
            return None
        try:
            costs = lp.rows(output_rows(program.graph, objectives)).matrix
        except ValueError:
            return None
        points = np.zeros((len(objectives), lp.count))
        self._solve(lp, costs, deadline, points)
        return lp.point(points)[0]

    def multipliers(self, rows: dict[int, Tensor]) -> dict[int, Multipliers] | None:
        """The optimal multipliers of rows {node: (1, M, *shape)}, for a batch of one; None where there is no LP for them."""
        (lp,), (program,) = self._lps, self._single
        if lp is None:
            return None
        try:
            mus, _ = self._solve(lp, lp.rows(rows).matrix, NEVER)
        except ValueError:
            return None
        return self._chosen(program, mus, torch.arange(next(iter(rows.values())).shape[1]))

    def trace(self, objectives: Objectives, keep: Container[int], deadline: Deadline) -> RowBounds:
        """The rows on the nodes ``keep`` at the optimum of objectives, for a batch of one."""
        (lp,), (program,) = self._lps, self._single
        rows = output_rows(program.graph, objectives)
        if lp is None or not self.helps(0, program.graph.output):
            return back_substitute(program, rows, objectives.constant, keep)
        try:
            mus, _ = self._solve(lp, lp.rows(rows).matrix, deadline)
        except ValueError:
            return back_substitute(program, rows, objectives.constant, keep)
        which = torch.arange(len(objectives), device=objectives.constant.device)
        return self.evaluate(program, rows, objectives.constant, mus, which, keep)

    def weights(self, objectives: Objectives, deadline: Deadline) -> Tensor | None:
        """The best weights for the sum of objectives, of a batch of one: duals of the LP that minimises their greatest."""
        (lp,) = self._lps
        if lp is None:
            return None
        try:
            rows = lp.rows(output_rows(self.program.graph, objectives))
        except ValueError:
            return None
        constant = rows.constant + objectives.constant[0].cpu().numpy()
        duals = Model(lp, rows.matrix).greatest(rows.matrix, constant, deadline)
        return None if duals is None else torch.from_numpy(duals).to(objectives.constant.device)


def _or_none(program: RelaxedProgram) -> SparseProgram | None:
    try:
        return SparseProgram(program)
    except ValueError:
        return None


def by_support(costs: Matrix) -> Iterator[np.ndarray]:
    """Groups of rows with the same nonzero columns: those of a convolution at one position, all of a dense layer."""
    groups: dict[bytes, list[int]] = {}
    for number in range(costs.shape[0]):
        own = costs.indices[costs.indptr[number] : costs.indptr[number + 1]]
        groups.setdefault(np.sort(own).tobytes(), []).append(number)
    yield from (np.array(g) for g in groups.values())
