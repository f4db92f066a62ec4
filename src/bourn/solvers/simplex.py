"""Linear programs: the relaxed program solved by HiGHS's dual simplex, one model for many objectives.

HiGHS is not trusted.  Of what it returns only the row duals are used, as multipliers at which the dual function is evaluated
anew with its rounding error; whatever the status, the bound is valid, and never below the one in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import highspy
import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import Box
from bourn.problem.problem import Objectives
from bourn.program.linear_bounds import Multipliers, RowBounds, back_substitute
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.program.restrict import take_problems
from bourn.program.sparse import Matrix, SparseProgram
from bourn.relaxations.base import LineRule
from bourn.solvers.back_substitution import BackSubstitution, coefficient_error
from bourn.solvers.base import Prepared, Solution, Solver, Status, identity_rows, output_rows
from bourn.solvers.tightening import unstable, widest


@dataclass(frozen=True)
class Simplex(Solver):
    """The optimum of the relaxed program, by HiGHS; sound, and exact for the relaxation up to rounding.

    ``chunk_bytes`` bounds the memory of one set of rows.  ``patience``: the share of the time left that may go into inner
    bounds; neurons that are not reached by then keep their bounds in closed form.
    """

    chunk_bytes: int = 1 << 23
    patience: float = 1.0
    start: BackSubstitution = field(default=BackSubstitution(LineRule.AREA))
    solved_by = "LP (dual simplex)"

    @property
    def relaxation(self) -> str:
        return "hull"

    def prepare(
        self,
        graph: Graph,
        box: Box,
        *,
        inner: Mapping[int, Interval] | None = None,
        begin: Mapping[int, Interval] | None = None,
        outside: Mapping[int, Interval] | None = None,
        deadline: Deadline = NEVER,
    ) -> Optimised:
        program, soft = start(graph, box, LineRule.AREA), deadline.part(self.patience)
        lps = _Batch(self, program)
        for z in graph.pre_activations:
            known = None if begin is None else begin.get(z)
            bounds = inner[z] if inner is not None else self._pre_activation(program, lps, z, known, deadline, soft)
            bounds = bounds if known is None else bounds.intersect(known)
            program = with_bounds(program, z, bounds, None if outside is None else outside.get(z))
            lps.grow(program)
        return Optimised(self, program, lps, deadline)

    def _pre_activation(
        self, program: RelaxedProgram, lps: _Batch, node: int, known: Interval | None, deadline: Deadline, soft: Deadline
    ) -> Interval:
        """What is known or else closed-form bounds, and the LP where these leave a neuron open."""
        loose = self.start.pre_activation(program, node, deadline) if known is None else known
        deadline.check()
        return lps.entries(node, loose, unstable(program.graph, node, loose), soft)


class _Batch:
    """The LPs of a batch of problems, and what was solved of them."""

    def __init__(self, settings: Simplex, program: RelaxedProgram) -> None:
        self.settings, self.program = settings, program
        self.solved = 0
        self.optimal = True
        self._single = [take_problems(program, slice(b, b + 1)) for b in range(program.batch)]
        self._lps: list[SparseProgram | None] = [_or_none(p) for p in self._single]

    def grow(self, program: RelaxedProgram) -> None:
        """Take over bounds that became known."""
        self.program = program
        self._single = [take_problems(program, slice(b, b + 1)) for b in range(program.batch)]
        for b, lp in enumerate(self._lps):
            if lp is not None:
                try:
                    lp.grow(self._single[b], self.settings.chunk_bytes)
                except ValueError:
                    self._lps[b] = None

    def entries(self, node: int, known: Interval, wanted: Tensor, deadline: Deadline) -> Interval:
        """Bounds of a node's entries, by LP where ``wanted``; never worse than those ``known``."""
        lower, upper = known.lower.clone(), known.upper.clone()
        for b in range(len(self._lps)):
            numbers = torch.nonzero(wanted[b].flatten())[:, 0]
            if not len(numbers) or not self._helps(b, node):
                continue
            both = self._both_sides(b, node, numbers, deadline)
            own_lower, own_upper = lower[b].flatten(), upper[b].flatten()
            own_lower[numbers] = torch.maximum(own_lower[numbers], both[0])
            own_upper[numbers] = torch.minimum(own_upper[numbers], both[1])
            lower[b], upper[b] = own_lower.reshape(lower[b].shape), own_upper.reshape(upper[b].shape)
        return Interval(lower, upper)

    def _helps(self, problem: int, node: int) -> bool:
        """Whether there is an LP, and a free entry before ``node``: without one the closed form is the optimum."""
        program, ancestors = self._single[problem], set(self.program.graph.ancestors(node))
        if self._lps[problem] is None:
            return False
        return any(v in ancestors and bool(program.free(v).any()) for v in program.graph.nonlinear)

    def _both_sides(self, problem: int, node: int, numbers: Tensor, deadline: Deadline) -> tuple[Tensor, Tensor]:
        lp, program = self._lps[problem], self._single[problem]
        assert lp is not None
        try:
            rows = lp.rows({node: None}, numbers, self.settings.chunk_bytes)
        except ValueError:
            nothing = torch.full((len(numbers),), -math.inf, dtype=torch.float64, device=numbers.device)
            return nothing, -nothing
        count = len(numbers)
        mus, solved = self._solve(lp, sparse.vstack([rows.matrix, -rows.matrix], format="csr"), deadline)
        done = torch.from_numpy(np.flatnonzero(solved)).to(numbers.device)
        signs = torch.where(done < count, 1.0, -1.0).to(torch.float64)
        found = torch.full((2 * count,), -math.inf, dtype=torch.float64, device=numbers.device)
        found[done] = self._state(program, node, numbers[done % count], signs, {v: m[solved] for v, m in mus.items()})
        return found[:count], -found[count:]

    def _state(
        self, program: RelaxedProgram, node: int, numbers: Tensor, signs: Tensor, mus: dict[int, np.ndarray]
    ) -> Tensor:
        """The dual function at the multipliers ``mus``, rounded down, for entries of a node, each times its sign."""
        at_once = max(1, self.settings.chunk_bytes // (8 * widest(program.graph, node)))
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
        """Lower bounds (1, M) of rows at the multipliers number ``which`` of ``mus``, {node: (all, free entries)}."""
        chosen = {}
        for v, values in mus.items():
            free = program.free(v)
            mu = constant.new_zeros(1, len(which), free[0].numel())
            mu[..., free.flatten()] = torch.from_numpy(values).to(mu.device)[which]
            chosen[v] = Multipliers(free, mu=mu.reshape(1, len(which), *free.shape[1:]))
        return back_substitute(program, rows, constant, keep, chosen)

    def _solve(self, lp: SparseProgram, costs: Matrix, deadline: Deadline) -> tuple[dict[int, np.ndarray], np.ndarray]:
        """Multipliers for every free entry and every row of ``costs``: 0 where the row does not depend on it.

        Also a mask of the rows that were solved: out of time the rest is left.
        """
        mus = {e.node: np.zeros((costs.shape[0], len(e.numbers))) for e in lp.entries}
        solved = np.zeros(costs.shape[0], dtype=bool)
        for group in _by_support(costs):
            if deadline.left <= 0:
                break
            model = _Model(lp, costs[group])
            for number in group:
                if deadline.left <= 0:
                    break
                self.optimal &= model.minimise(costs[[number]], deadline)
                for e, mask, values in model.multipliers():
                    mus[e][number, mask] = values
                solved[number] = True
        self.solved += int(solved.sum())
        self.optimal &= bool(solved.all())
        return mus, solved

    def minimise(self, objectives: Objectives, closed: Tensor, enough: float, deadline: Deadline) -> Tensor:
        """Lower bounds (B, M) of objectives, by LP where the bound in closed form is not above ``enough``."""
        best = closed.clone()
        for b, (lp, program) in enumerate(zip(self._lps, self._single, strict=True)):
            open_ = torch.nonzero(closed[b] <= enough)[:, 0]
            if lp is None or not len(open_) or not self._helps(b, program.graph.output):
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


    def trace(self, objectives: Objectives, keep: Container[int], deadline: Deadline) -> RowBounds:
        """The rows on the nodes ``keep`` at the optimum of objectives, for a batch of one."""
        (lp,), (program,) = self._lps, self._single
        rows = output_rows(program.graph, objectives)
        if lp is None or not self._helps(0, program.graph.output):
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
        duals = _Model(lp, rows.matrix).greatest(rows.matrix, constant, deadline)
        return None if duals is None else torch.from_numpy(duals).to(objectives.constant.device)


# The binding itself: the class around it writes a banner to stdout when the first one is made, and runs in a thread.
_Highs: Any = getattr(highspy, "_Highs", highspy.Highs)


def _or_none(program: RelaxedProgram) -> SparseProgram | None:
    try:
        return SparseProgram(program)
    except ValueError:
        return None


def _by_support(costs: Matrix) -> Iterator[np.ndarray]:
    """Groups of rows with the same nonzero columns: those of a convolution at one position, all of a dense layer."""
    groups: dict[bytes, list[int]] = {}
    for number in range(costs.shape[0]):
        own = costs.indices[costs.indptr[number] : costs.indptr[number + 1]]
        groups.setdefault(np.sort(own).tobytes(), []).append(number)
    yield from (np.array(g) for g in groups.values())


class _Model:
    """One HiGHS model of the part of a program that some rows depend on; only the objective changes."""

    def __init__(self, lp: SparseProgram, costs: Matrix) -> None:
        masks, used = lp.needed(costs.indices)
        self._lp, self._masks = lp, masks
        self._columns = np.flatnonzero(used)
        self._renumber = np.full(lp.count, -1)
        self._renumber[self._columns] = np.arange(len(self._columns))
        widths = np.concatenate(lp.widths)
        nothing = Matrix((0, lp.count))
        equal, right, most = [nothing], [np.zeros(0)], [nothing]
        for e, mask in zip(lp.entries, masks, strict=True):
            own = sparse.coo_array(e.positions[mask])
            position = Matrix((own.data, (own.coords[0], own.coords[1] + e.first_column)), shape=(int(mask.sum()), lp.count))
            rows = e.rows.matrix[mask]
            rows.resize(position.shape)
            equal.append(position - rows)
            right.append(e.rows.constant[mask] - e.base[0][mask])
            share = Matrix((1 / e.widths, (e.owners, np.arange(len(e.owners)) + e.first_column)), shape=(len(e.numbers), lp.count))
            several = np.bincount(e.owners, minlength=len(e.numbers)) > 1
            most.append(share[mask & several])
        self._equalities = sum(len(r) for r in right)
        self._pass(sparse.vstack([*equal, *most], format="csr")[:, self._columns], np.concatenate(right), widths[self._columns])

    def _pass(self, matrix: Matrix, right: np.ndarray, widths: np.ndarray) -> None:
        model = highspy.HighsLp()
        model.num_row_, model.num_col_ = matrix.shape
        model.col_cost_, model.col_lower_, model.col_upper_ = np.zeros(len(widths)), np.zeros(len(widths)), widths
        model.row_lower_ = np.concatenate([right, np.full(matrix.shape[0] - len(right), -highspy.kHighsInf)])
        model.row_upper_ = np.concatenate([right, np.ones(matrix.shape[0] - len(right))])
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
        self._highs = _Highs()
        # Measured: the dual simplex without presolve, warm, beats the primal fourfold and presolve tenfold.
        for option, value in (
            ("output_flag", False),
            ("threads", 1),
            ("presolve", "off"),
            ("solver", "simplex"),
            ("simplex_strategy", 1),
        ):
            self._highs.setOptionValue(option, value)
        self._highs.passModel(model)
        self._all = np.arange(len(widths), dtype=np.int32)

    def minimise(self, cost: Matrix, deadline: Deadline) -> bool:
        """Solve for one objective (1, columns); whether the optimum was reached."""
        own = np.zeros(len(self._all))
        own[self._renumber[cost.indices]] = cost.data
        if math.isfinite(deadline.left):
            self._highs.setOptionValue("time_limit", self._highs.getRunTime() + max(0.01, deadline.left))
        self._highs.changeColsCost(len(own), self._all, own)
        self._highs.run()
        return bool(self._highs.getModelStatus() == highspy.HighsModelStatus.kOptimal)

    def greatest(self, rows: Matrix, constant: np.ndarray, deadline: Deadline) -> np.ndarray | None:
        """Weights with sum 1, the duals of minimising the greatest of these rows; None where there is no optimum."""
        highs, count = self._highs, len(self._all)
        highs.changeColsCost(count, self._all, np.zeros(count))
        highs.addCol(1.0, -highspy.kHighsInf, highspy.kHighsInf, 0, np.zeros(0, dtype=np.int32), np.zeros(0))
        for number in range(rows.shape[0]):
            own = rows[[number]]
            index = np.append(self._renumber[own.indices], count).astype(np.int32)
            taken = highs.addRow(-highspy.kHighsInf, -constant[number], len(index), index, np.append(own.data, -1.0))
            if taken == highspy.HighsStatus.kError:  # numbers beyond what HiGHS takes
                return None
        if math.isfinite(deadline.left):
            highs.setOptionValue("time_limit", highs.getRunTime() + max(0.01, deadline.left))
        highs.run()
        solution = highs.getSolution()
        if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal or not solution.dual_valid:
            return None
        weights = np.clip(-np.array(solution.row_dual[-rows.shape[0] :]), 0.0, None)
        return weights / weights.sum() if weights.sum() > 0 else None

    def multipliers(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(node, mask of its free entries, their multipliers) of the last objective; 0 where HiGHS has none."""
        solution = self._highs.getSolution()
        duals = np.array(solution.row_dual[: self._equalities]) if solution.dual_valid else np.zeros(self._equalities)
        duals[~np.isfinite(duals)] = 0.0
        first = 0
        for e, mask in zip(self._lp.entries, self._masks, strict=True):
            count = int(mask.sum())
            yield e.node, mask, duals[first : first + count]
            first += count


@dataclass(frozen=True, eq=False)
class Optimised(Prepared):
    """A relaxed program whose pre-activation bounds are all known, as LPs."""

    solver: Simplex
    program: RelaxedProgram
    models: _Batch
    deadline: Deadline

    @property
    def graph(self) -> Graph:  # type: ignore[override]
        return self.program.graph

    @property
    def box(self) -> Box:  # type: ignore[override]
        return self.program.box

    @property
    def bounds(self) -> Mapping[int, Interval]:  # type: ignore[override]
        return self.program.bounds

    @property
    def lps(self) -> int:  # type: ignore[override]
        return self.models.solved

    def node(self, number: int) -> Interval:
        loose = self.solver.start.entries(self.program, number, self.deadline)
        return self.models.entries(number, loose, torch.ones_like(loose.lower, dtype=torch.bool), self.deadline)

    def trace(self, objectives: Objectives, keep: Container[int]) -> tuple[RelaxedProgram, RowBounds]:
        return self.program, self.models.trace(objectives, keep, self.deadline)

    def weights(self, objectives: Objectives) -> Tensor | None:
        return self.models.weights(objectives, self.deadline)

    def minimise(self, objectives: Objectives, enough: float = math.inf) -> Solution:
        self.deadline.check()
        rows = output_rows(self.graph, objectives)
        closed = back_substitute(self.program, rows, objectives.constant).lower
        best = self.models.minimise(objectives, closed, enough, self.deadline)
        status = Status.OPTIMAL if self.models.optimal else Status.STOPPED
        return Solution(best - coefficient_error(self.program, rows, objectives), status)
