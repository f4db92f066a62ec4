"""Input sets beyond boxes in certificates: what the checker needs to be told of them.

Of a ball nothing: it is the question's, and the checker finds what it pays of a row by itself.  Of a polytope, which is a box and
half-spaces that are rows of every conjunction: the rows, and of every bound weights by which they are added to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bourn.errors import UsageError
from bourn.formats.vnnlib_writing import half_spaces
from bourn.problem.balls import Ball
from bourn.problem.half_spaces import rounded_row
from bourn.problem.input_set import Box
from bourn.problem.polytopes import Polytope
from bourn.problem.problem import Problem
from bourn.problem.specification import Row
from bourn.program.linear_bounds import Multipliers, back_substitute
from bourn.program.relaxed import RelaxedProgram


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """Rows on inputs that hold with every conjunction, and how many times each is in the polytope (K,)."""

    rows: tuple[Row, ...]
    scales: Tensor

    def weights(
        self, program: RelaxedProgram, rows: dict[int, Tensor], constant: Tensor, chosen: dict[int, Multipliers]
    ) -> Tensor:
        """The weights (B, M, K) with which rows are bounded at these multipliers."""
        assert isinstance(program.box, Polytope)
        found = back_substitute(program, rows, constant, (0,), chosen).kept.get(0)
        if found is None:
            return torch.zeros(program.batch, constant.shape[1], len(self.rows), dtype=torch.float64)
        return program.box.weights(found) * self.scales


def stated_set(problem: Problem, made: bool) -> tuple[Problem, HalfSpaces | None]:
    """The problem as it is proved, on the set's sides as written, and its half-spaces if there are any.

    ``made``: whether it was made in Python, so that half-spaces are rows of the file that is written and of nothing else.  Raises
    :class:`UsageError` for sets that certificates are not written for yet.
    """
    box = problem.box
    sides = box.sides if isinstance(box, Polytope) else box
    if not isinstance(sides, Box | Ball) or not bool(torch.isfinite(sides.interval.magnitude).all()):
        raise UsageError("no certificate can be written yet for input sets that are unbounded, or a product of others")
    if not isinstance(box, Polytope):
        return problem, None
    proved = replace(problem, box=replace(box, interval=sides.interval))
    if made:
        rows = half_spaces(box)
        if any(len(row.inputs) < 2 for row in rows):
            raise UsageError("no certificate can be written yet for half-spaces of fewer than two inputs; the box has ends")
        return proved, HalfSpaces(rows, torch.ones(len(rows), dtype=torch.float64))
    cut = (row for row in problem.conjunctions[0].rows if not row.outputs and len(row.inputs) > 1)
    reach = sides.interval.magnitude.flatten().tolist()
    found, scales = [], []
    for row in sorted(set(cut), key=str):
        numbers = rounded_row([c for _, c in row.inputs], -row.constant, [reach[i] for i, _ in row.inputs])
        if numbers is not None:
            found.append(row)
            scales.append(float(numbers[0][0] / row.inputs[0][1]))
    if len(found) != box.matrix.shape[1] or not all(set(found) <= set(c.rows) for c in problem.conjunctions):
        raise UsageError("no certificate can be written yet for half-spaces that are not rows of the question")
    return proved, HalfSpaces(tuple(found), torch.tensor(scales, dtype=torch.float64))


def stated_weights(
    given: HalfSpaces | None, program: RelaxedProgram, rows: dict[int, Tensor], constant: Tensor, chosen: dict[int, Multipliers]
) -> Tensor | None:
    """As :meth:`HalfSpaces.weights`, where there are any."""
    return None if given is None else given.weights(program, rows, constant, chosen)


def in_file(weights: Tensor) -> np.ndarray:
    """Weights as a chunk has them."""
    return weights.numpy().astype("<f8")
