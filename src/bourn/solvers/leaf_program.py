"""A subproblem whose neurons all have one side is a linear program in the input alone: its duals, and its point.

Splits may be violated at a price, so that there is an optimum where no input satisfies them all.  HiGHS, here through SciPy, is
not trusted: of its duals the bound is stated anew, and its point is a candidate for a counterexample only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bourn.problem.input_set import Box
from bourn.program.branches import Multiplied, Parts, Shared

PRICES = (1e3, 1e7)
"""Of violating a split by 1, relative to the objectives' coefficients."""


def solve(shared: Shared, parts: Parts, box: Box, group: list[int], price: float) -> tuple[Multiplied, Tensor] | None:
    """Multipliers of a subproblem (a batch of one) for the objectives ``group``, and the LP's input (1, n); None if it has none."""
    from scipy.optimize import linprog

    device, own = parts.lower.device, _affine(shared, parts)
    matrix, constant, rows, offsets = (t.cpu() for t in (*own, *_objectives(shared, parts, *own)))
    split = torch.nonzero(parts.side[0] != 0)[:, 0].cpu()
    side = parts.side[0].cpu()[split].to(torch.float64)[:, None]
    rows, offsets = rows[group], offsets[group]
    count, objectives, splits = matrix.shape[1], len(group), len(split)
    height = float(rows.abs().max().clamp(min=1e-12))
    scale = price * height / float(matrix[split].abs().max().clamp(min=1e-12)) if splits else 1.0
    left = np.zeros((objectives + splits, count + 1 + splits))
    left[:objectives, :count], left[:objectives, count] = rows.numpy(), -1.0
    left[objectives:, :count] = -(side * matrix[split]).numpy()
    left[objectives:, count + 1 :] = -np.eye(splits)
    right = np.concatenate([-offsets.numpy(), (side[:, 0] * constant[split]).numpy()])
    cost = np.concatenate([np.zeros(count), [1.0], np.full(splits, scale)])
    if not (np.isfinite(left).all() and np.isfinite(right).all() and np.isfinite(cost).all()):
        return None  # numbers beyond float32
    lower, upper = (end[0].flatten().tolist() for end in box.finite())
    limits = [*zip(lower, upper, strict=True), (None, None), *[(0.0, None)] * splits]
    found = linprog(cost, left, right, bounds=limits, method="highs")
    if found.status != 0:
        return None
    duals = torch.from_numpy(-np.asarray(found.ineqlin.marginals)).clamp(min=0).nan_to_num()
    weights = torch.zeros(1, len(shared.rows.constant), dtype=torch.float64)
    beta = torch.zeros(1, shared.count, dtype=torch.float64)
    weights[0, group] = duals[:objectives]
    beta[0, split] = duals[objectives:]
    weights = weights.to(device)
    alpha = shared.begin(parts, weights).alpha
    chosen = Multiplied(alpha, beta.to(device, parts.lower.dtype), weights / weights.sum().clamp(min=1e-12))
    return chosen, torch.from_numpy(found.x[None, :count]).to(device)


def _affine(shared: Shared, parts: Parts) -> tuple[Tensor, Tensor]:
    """Every kept neuron's pre-activation as a function of the input: matrix (N, n) and constant (N,)."""
    slope = _slope(shared, parts)
    matrix = torch.zeros(shared.count, shared.rows.on_input.shape[1], dtype=torch.float64, device=parts.lower.device)
    constant = torch.zeros(shared.count, dtype=torch.float64, device=parts.lower.device)
    for v, own in shared.place.items():
        layer = shared.layers[v]
        here, offset = layer.on_input.to(torch.float64), layer.constant.to(torch.float64)
        for u, weights in layer.on.items():
            through = weights.to(torch.float64) * slope[shared.place[u]]
            here, offset = here + through @ matrix[shared.place[u]], offset + through @ constant[shared.place[u]]
        matrix[own], constant[own] = here, offset
    return matrix, constant


def _objectives(shared: Shared, parts: Parts, matrix: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
    slope = _slope(shared, parts)
    rows, offsets = shared.rows.on_input.to(torch.float64), shared.rows.constant.to(torch.float64)
    for u, weights in shared.rows.on.items():
        through = weights.to(torch.float64) * slope[shared.place[u]]
        rows, offsets = rows + through @ matrix[shared.place[u]], offsets + through @ constant[shared.place[u]]
    return rows, offsets


def _slope(shared: Shared, parts: Parts) -> Tensor:
    return torch.where(parts.lower[0] >= 0, 1.0, shared.slope.to(torch.float64))
