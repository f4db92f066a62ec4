"""Weights for conjunctions: the lambda with which a weighted sum of rows is bounded above 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bourn.errors import SpecificationError
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives, Problem
from bourn.problem.specification import Conjunction
from bourn.program.linear_bounds import back_substitute
from bourn.program.relaxed import RelaxedProgram
from bourn.solvers.base import Prepared, output_rows

_LEAST_WEIGHT = 1e-12
"""Rows of less weight are left out of a weighted sum."""


def joint_bound(
    prepared: Prepared, problem: Problem, conjunction: Conjunction, enough: float = math.inf
) -> tuple[float, tuple[float, ...]]:
    """A lower bound of a weighted sum of the conjunction's rows, and the weights that the prepared solver proposes.

    -inf, with equal weights, where it proposes none.
    """
    count = len(conjunction.rows)
    nothing = -math.inf, (1.0 / max(1, count),) * count
    found = prepared.weights(problem.objectives(conjunction.rows)) if count > 1 else None
    if found is None:
        return nothing
    weights = tuple(w if w > _LEAST_WEIGHT else 0.0 for w in found.tolist())
    try:
        joint = problem.objectives([conjunction.weighted(weights)])
    except SpecificationError:  # the sum has a coefficient that float64 does not hold
        return nothing
    return float(prepared.minimise(joint, enough).bound[0, 0]), weights


def linear_weights(program: RelaxedProgram, objectives: Objectives) -> Tensor | None:
    """Weights (K,) for the sum of objectives on a batch of one, by the linear functions below them; None without any."""
    matrix, bounds = rows_on_input(program, objectives)
    low, _ = program.box.minimise_linear(matrix[None])
    if not bool(torch.isfinite(bounds).all() & torch.isfinite(low).all()):
        return None
    return best_weights(program.box, matrix, bounds - low[0])


def rows_on_input(program: RelaxedProgram, objectives: Objectives) -> tuple[Tensor, Tensor]:
    """The rows on the input (M, *input_shape) that the linear bounds below objectives have, for a batch of one, and these (M,)."""
    found = back_substitute(program, output_rows(program.graph, objectives), objectives.constant, keep=(0,))
    if 0 not in found.kept:  # the output does not depend on the input
        return program.box.lower.new_zeros(len(objectives), *program.box.shape), found.lower[0]
    return found.kept[0][0], found.lower[0]


def best_weights(box: InputSet, matrix: Tensor, constant: Tensor, steps: int = 200) -> Tensor:
    """Weights (K,), at least 0 with sum 1, that raise the minimum over the input set of their sum of linear functions.

    ``matrix`` (K, *input_shape) and ``constant`` (K,) are functions below K rows on a batch of one.  The
    minimum is concave in the weights; exponentiated supergradient ascent, the best weights kept.  No bound
    comes from here: the caller bounds the weighted row anew.
    """
    count = len(constant)
    flat = matrix.reshape(count, -1)
    lower, upper = (t.reshape(-1) for t in box.finite())
    scale = (flat.abs() @ (upper - lower) + 1e-12).max()
    weights = torch.full((count,), 1.0 / count, dtype=torch.float64, device=flat.device)
    best, best_value = weights, -torch.inf
    for step in range(steps):
        row = weights @ flat
        x = box.minimiser(row.reshape(1, 1, *box.shape)).reshape(-1)
        values = flat @ x + constant
        value = float(weights @ values)
        if value > best_value:
            best, best_value = weights, value
        raised = weights * torch.exp(4.0 / (1 + step) ** 0.5 * (values - values.max()) / scale)
        weights = raised / raised.sum()
    return best
