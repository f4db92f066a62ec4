"""Ascent on many boxes at once, each with symbols of its own: slopes of lower lines, and weights of a conjunction's rows.

Both move together, since the slopes that are best for one sum of rows are not for another.  Only the symbols of (leaky) ReLUs
have slopes to choose; other lines stay.  No bound comes from here: :meth:`bourn.solvers.condensed.Condensed.carry` states it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.program.branches import split_slope
from bourn.solvers.adam import direction
from bourn.solvers.condensed import Condensed

_LEAST = 1e-30


@dataclass(frozen=True)
class BoxClimb:
    """Adam's steps: ``steps`` of them, the first of length ``step`` (1: the range of a slope), each ``decay`` times the last."""

    steps: int = 5
    step: float = 0.4
    decay: float = 0.8
    memory: float = 0.8

    def run(self, program: Condensed, rows: Tensor, weights: Tensor, which: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """The best slopes (A, u) of symbols, by node, and weights (A, M) of rows (A, M, C), of the boxes numbered ``which``."""
        climb = _Climb(self, program, rows, weights, which)
        for step in range(self.steps + 1):
            climb.look(step)
        return climb.best, climb.best_weights


@dataclass(frozen=True, eq=False)
class _Layer:
    """One node's symbols on some boxes: columns from ``first`` to ``last``; lines, and the rows (B, u, first) of what they read."""

    first: int
    last: int
    above: Tensor
    low: Tensor
    high: Tensor
    z: Tensor


class _Climb:
    """Iterates of some boxes, and the best of all."""

    def __init__(self, how: BoxClimb, program: Condensed, rows: Tensor, weights: Tensor, which: Tensor) -> None:
        self.how, self.rows, self.weights = how, rows, weights
        self.lower, self.upper = program.lower[which], program.upper[which]
        self.layers: dict[int, _Layer] = {}
        self.slopes: dict[int, Tensor] = {}
        self.least: dict[int, float] = {}
        for v, own in program.symbols.items():
            if own.first >= rows.shape[2]:
                continue
            low, high = own.offsets
            self.layers[v] = _Layer(own.first, own.last, own.above[which], low[which], high[which], own.z.on[which])
            self.slopes[v] = own.below[which]
            slope = split_slope(program.graph.nodes[v].operation)
            if slope is not None:
                self.least[v] = slope
        self.moments = {v: (torch.zeros_like(self.slopes[v]), torch.zeros_like(self.slopes[v])) for v in self.least}
        self.value = torch.full_like(weights[:, 0], -torch.inf)
        self.best = {v: self.slopes[v] for v in self.least}
        self.best_weights = weights

    def look(self, step: int) -> None:
        """Evaluate the iterate, keep it where it is the best so far, and move on."""
        on = (self.weights[:, None] @ self.rows)[:, 0]
        behind: dict[int, Tensor] = {}
        for v in reversed(self.layers):
            layer = self.layers[v]
            behind[v] = row = on[:, layer.first : layer.last]
            positive = row.clamp(min=0)
            negative = row - positive
            mu = positive * self.slopes[v] + negative * layer.above
            shift = (positive * layer.low + negative * layer.high).sum(1)
            on = on[:, : layer.first] + (mu[:, None] @ layer.z)[:, 0]
            on[:, 0] += shift
        x = torch.where(on[:, 1:] > 0, self.lower, self.upper)
        value = on[:, 0] + (on[:, 1:] * x).sum(1)
        better = value > self.value
        self.value = torch.where(better, value, self.value)
        self.best = {v: torch.where(better[:, None], self.slopes[v], self.best[v]) for v in self.least}
        self.best_weights = torch.where(better[:, None], self.weights, self.best_weights)
        if step < self.how.steps:
            self._move(step, x, behind)

    def _move(self, step: int, x: Tensor, behind: Mapping[int, Tensor]) -> None:
        length = self.how.step * self.how.decay**step
        point = x.new_zeros(len(x), self.rows.shape[2])
        point[:, 0], point[:, 1 : 1 + x.shape[1]] = 1.0, x
        for v, layer in self.layers.items():
            z = (layer.z @ point[:, : layer.first, None])[..., 0]
            rising = behind[v] >= 0
            point[:, layer.first : layer.last] = torch.where(rising, self.slopes[v] * z + layer.low, layer.above * z + layer.high)
            if v in self.least:
                gradient = behind[v].clamp(min=0) * z
                moved = self.slopes[v] + length * direction(*self.moments[v], gradient, step, self.how.memory, rows=1)
                self.slopes[v] = moved.clamp(self.least[v], 1.0)
        values = (self.rows @ point[..., None])[..., 0]
        if values.shape[1] > 1:
            values = values - (self.weights * values).sum(1, keepdim=True)
            most = values.abs().amax(1, keepdim=True) + _LEAST
            raised = self.weights.clamp(min=1e-4) * torch.exp(5 * length * values / most)
            self.weights = raised / raised.sum(1, keepdim=True)
