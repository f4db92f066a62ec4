"""Cutting planes: the relaxed program's LPs, and inequalities across neurons that their points break, added until none is.

Beyond the class of layer-wise relaxations, and so beyond its barrier.  HiGHS is not trusted: of what it returns only the duals are
used, those of the planes too, as multipliers at which the bound is stated anew with its rounding error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.program.feasible import relaxed_values
from bourn.program.linear_bounds import back_substitute
from bourn.program.multi_input_hulls import MultiInputHulls
from bourn.program.planes import Planes
from bourn.program.relaxed import RelaxedProgram
from bourn.solvers.back_substitution import coefficient_error
from bourn.solvers.base import OnProgram, Solution, Solver, Status, identity_rows, output_rows
from bourn.solvers.highs import Model
from bourn.solvers.linear_programs import by_support
from bourn.solvers.simplex import Optimised, Simplex


@dataclass(frozen=True)
class CuttingPlanes(Solver):
    rounds: int = 20
    chunk_bytes: int = 1 << 23
    relaxed: Simplex = field(default=Simplex())
    solved_by = "LP with cutting planes"

    @property
    def relaxation(self) -> str:
        return "hull over all inputs of a neuron"

    def prepare(self, graph, box, *, inner=None, begin=None, outside=None, deadline=NEVER):
        return Cut(self, self.relaxed.prepare(graph, box, inner=inner, begin=begin, outside=outside, deadline=deadline), deadline)


@dataclass(eq=False)
class Cut(OnProgram):
    solver: CuttingPlanes
    linear: Optimised
    deadline: Deadline
    planes: int = 0

    @property
    def program(self):
        return self.linear.program

    def minimise(self, objectives, enough=math.inf):
        closed = back_substitute(self.program, output_rows(self.graph, objectives), objectives.constant).lower
        best = closed.clone()
        for b in range(len(closed)):
            wanted = objectives.take(slice(b, b + 1))
            rows = output_rows(self.graph, wanted)
            best[b] = torch.maximum(best[b], self.rows(b, rows, wanted.constant, enough))
        return Solution(best - coefficient_error(self.program, output_rows(self.graph, objectives), objectives), Status.OPTIMAL)

    def rows(self, b, rows, constant, enough):
        lp, program = self.linear.models.single(b)
        reduced = lp.rows(rows)
        best = torch.full_like(constant[0], -math.inf)
        finder = MultiInputHulls(self.solver.chunk_bytes)
        for group in by_support(reduced.matrix):
            model = Model(lp, reduced.matrix[group])
            pool = []
            for m in group:
                own = {v: r[:, [m]] for v, r in rows.items()}
                log = []
                for r in range(self.solver.rounds + 1):
                    if not model.minimise(reduced.matrix[[m]], self.deadline):
                        print('not optimal'); break
                    log.append(model.value + reduced.constant[m] + float(constant[0, m]))
                    if r == self.solver.rounds:
                        break
                    point = model.point()
                    x, wanted = lp.point(point[None])
                    values = relaxed_values(program, x, wanted, max(program.graph.nonlinear))
                    masks = {e.node: mask for e, mask in zip(lp.entries, model.masks)}
                    found = finder.separate(program, values, masks)
                    if not found: break
                    planes = Planes.join(found, program)
                    on = planes.on_columns(lp, self.solver.chunk_bytes)
                    taken = model.add(on.matrix, planes.limits - on.constant)
                    pool.append(planes.take(taken))
                    self.planes += int(taken.sum())
                mus = {e.node: np.zeros((len(e.rows), 1, len(e.numbers))) for e in lp.entries}
                for e, mask, vals in model.multipliers():
                    mus[e][:, 0, mask] = np.stack(vals)
                all_ = Planes.join(pool, program)
                w = model.weights()
                total, c, error = all_.joined(program, own, constant[:, [m]], w[None])
                low = self.linear.models.evaluate(program, total, c, mus, torch.zeros(1, dtype=torch.int64)).lower - error
                best[m] = float(low)
                print(m, ' '.join(f'{v:.5f}' for v in log), 'stated', float(low), 'cuts', len(all_), 'active', int((w > 0).sum()))
        return best

    def node(self, number):
        return self.linear.node(number)
