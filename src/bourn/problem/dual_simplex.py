"""Linear programs with few rows over the box [-1, 1]^n, many costs at once, numerically: nothing here is a bound.

    minimise  cost . u   with  matrix @ u <= limits,  -1 <= u <= 1.

Where every variable has two finite ends any multipliers are dual feasible, so the dual simplex starts from none.  A step keeps
all reduced costs of the basis at 0 but one and goes to the greatest dual value on that ray, past as many signs of others as
that takes.  Bases are so small that they are inverted anew each time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_FEASIBLE = 1e-9
"""By so much of the box's half width a variable may miss its ends."""

_PIVOT = 1e-9
"""Least entry that may enter a basis."""

_PERTURBED = 1e-11
"""Costs are moved by about so much of the greatest, for equal ones make the simplex go round in circles."""


@dataclass(frozen=True, eq=False)
class Optima:
    """For costs (B, M, n): multipliers (B, M, K) of the rows, points (B, M, n), and where no point meets the rows.

    There the multipliers include a ray along which the dual function grows without end.
    """

    multipliers: Tensor
    points: Tensor
    empty: Tensor


def minimise(costs: Tensor, matrix: Tensor, limits: Tensor) -> Optima:
    """The optima for ``costs`` (B, M, n), ``matrix`` (B, K, n) and ``limits`` (B, K), all of about size 1."""
    batch, rows, n = costs.shape
    count = matrix.shape[1]
    identity = torch.eye(count, dtype=costs.dtype, device=costs.device).expand(batch, -1, -1)
    wide = torch.cat([matrix, identity], dim=2)
    basis = torch.arange(n, n + count, device=costs.device).repeat(batch, rows, 1)
    found = Optima(costs.new_zeros(batch, rows, count), -costs.sign(), costs.new_zeros(batch, rows, dtype=torch.bool))
    spread = (torch.arange(n, device=costs.device) * 0.6180339887498949) % 1.0 + 0.5
    open_ = torch.arange(rows, device=costs.device)
    for _ in range(20 + 10 * count):
        own = costs[:, open_]
        moved = own + _PERTURBED * spread * torch.sign(own + 0.5 * _PERTURBED)
        step = _Step.at(own, moved, wide, limits, basis[:, open_])
        found.multipliers[:, open_] = torch.where(step.sane[..., None], step.multipliers, found.multipliers[:, open_])
        found.points[:, open_] = torch.where(step.sane[..., None], step.points, found.points[:, open_])
        leaving, entering, empty = step.pivot(wide)
        if bool(empty.any()):
            found.empty[:, open_] |= empty
            ray = torch.where(empty[..., None], step.ray(leaving), 0.0)
            found.multipliers[:, open_] += ray
        going = step.sane & ~empty & (entering >= 0)
        if not bool(going.any()):
            break
        changed = basis[:, open_].scatter(2, leaving[..., None], entering.clamp(min=0)[..., None])
        basis[:, open_] = torch.where(going[..., None], changed, basis[:, open_])
        open_ = open_[going.any(0)]
    return found


@dataclass(frozen=True, eq=False)
class _Step:
    """Bases (B, M, K) and what they say: their inverses, reduced costs of all columns, values of the basic ones."""

    basis: Tensor
    inverse: Tensor
    reduced: Tensor
    values: Tensor
    multipliers: Tensor
    points: Tensor
    sane: Tensor

    @classmethod
    def at(cls, costs: Tensor, moved: Tensor, wide: Tensor, limits: Tensor, basis: Tensor) -> _Step:
        """``moved``: the costs by which the simplex goes; ``costs`` those whose multipliers are wanted."""
        batch, rows, n = costs.shape
        count = wide.shape[1]
        square = wide.gather(2, basis.reshape(batch, 1, -1).expand(-1, count, -1)).reshape(batch, count, rows, count)
        square = square.transpose(1, 2)
        inverse, _ = torch.linalg.inv_ex(square)
        sane = torch.isfinite(inverse).flatten(2).all(2)
        inverse = inverse.nan_to_num(0.0, 0.0, 0.0)
        of_slack = costs.new_zeros(batch, rows, count)
        priced = torch.cat([moved, of_slack], dim=2).gather(2, basis)
        prices = (priced[..., None, :] @ inverse)[..., 0, :]
        exact = (torch.cat([costs, of_slack], dim=2).gather(2, basis)[..., None, :] @ inverse)[..., 0, :]
        reduced = torch.cat([moved, of_slack], dim=2) - prices @ wide
        reduced[..., n:].clamp_(min=0)
        reduced.scatter_(2, basis, 0.0)
        at_ends = 1 - 2 * (reduced > 0).to(reduced.dtype)
        at_ends[..., n:] = 0.0
        at_ends.scatter_(2, basis, 0.0)
        rest = limits[:, None] - at_ends @ wide.mT
        values = (inverse @ rest[..., None])[..., 0]
        points = at_ends.scatter(2, basis, values)[..., :n].clamp(-1, 1)
        return cls(basis, inverse, reduced, values, (-exact).clamp(min=0), points, sane)

    def _outside(self) -> tuple[Tensor, Tensor]:
        """By how much basic columns miss their ends, and on which side: +1 below."""
        slack = self.basis >= self.reduced.shape[2] - self.basis.shape[2]
        below = torch.where(slack, 0.0, -1.0) - self.values
        above = torch.where(slack, -torch.inf, self.values - 1.0)
        return torch.maximum(below, above), torch.where(below >= above, 1.0, -1.0)

    def pivot(self, wide: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What leaves each basis, what enters (-1 where it is optimal), and where nothing can: (B, M) each."""
        outside, _ = self._outside()
        # Dual steepest edge; its weights are at hand.
        edge = self.inverse.square().sum(3).clamp(min=1e-300)
        leaving = torch.where(outside > _FEASIBLE, outside.square() / edge, -1.0).argmax(2)
        slope, row = self._leaving(leaving)
        n = self.reduced.shape[2] - self.basis.shape[2]
        pace = (row[..., None, :] @ wide[:, None])[..., 0, :] if len(wide) > 1 else row @ wide[0]
        basic = torch.zeros_like(pace, dtype=torch.bool).scatter(2, self.basis, True)
        crosses = torch.where(self.reduced > 0, pace < -_PIVOT, pace > _PIVOT) & ~basic
        crosses[..., n:] = (pace[..., n:] < -_PIVOT) & ~basic[..., n:]
        when = torch.where(crosses, (self.reduced / pace).abs(), torch.inf)
        lost = torch.where(crosses, 2 * pace.abs(), 0.0)
        lost[..., n:] = torch.where(crosses[..., n:], torch.inf, 0.0)
        _, order = when.sort(dim=2)
        reached = lost.gather(2, order).cumsum(2) >= slope[..., None]
        entering = order.gather(2, reached.to(torch.int8).argmax(2)[..., None])[..., 0]
        optimal = slope <= _FEASIBLE
        empty = self.sane & ~optimal & ~reached.any(2)
        return leaving, torch.where(optimal, -1, entering), empty

    def _leaving(self, leaving: Tensor) -> tuple[Tensor, Tensor]:
        """How far the leaving column is outside, and its row of the inverse, signed so that its reduced cost moves inward."""
        outside, side = self._outside()
        at = leaving[..., None]
        row = self.inverse.gather(2, at[..., None].expand(-1, -1, 1, self.inverse.shape[3]))[..., 0, :]
        return outside.gather(2, at)[..., 0], side.gather(2, at) * row

    def ray(self, leaving: Tensor) -> Tensor:
        """The multipliers' direction of growth where nothing can enter."""
        return self._leaving(leaving)[1].clamp(min=0)
