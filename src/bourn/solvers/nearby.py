"""Slopes that an ascent found, for the next one on input sets near to its own to begin with: another radius of a search.

Any slopes give a valid bound, so no bound rests on what is kept here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.program.hulls import Choice
from bourn.program.lagrangian import Lagrangian
from bourn.program.reduced import ReducedLagrangian

Dual = Lagrangian | ReducedLagrangian

MARGINS = -1
"""Stands for the objectives where others are a node's number."""

_MOST = 1 << 28
"""Bytes of slopes that are kept; rows beyond that begin anew."""
_FAR = 10.0
"""Steps begin with so many times the share by which the radius has changed, of their usual length: measured."""
_LEAST = 0.1
"""And with this share at least."""

Slopes = dict[tuple[int, int], Tensor]
"""By nonlinear node and number of the parameter: values (rows, entries of the node), NaN where none was chosen."""


@dataclass(eq=False)
class _Found:
    """``slots`` (B, places, count): which of ``slopes`` a row has, -1 for none."""

    slots: Tensor
    slopes: Slopes


class Nearby:
    """What the last ascent on a batch of problems found, and what the present one finds."""

    def __init__(self) -> None:
        self._which: Tensor | None = None
        self._radii: Tensor | None = None
        self._share: Tensor | None = None
        self._last: dict[int, _Found] = {}
        self._now: dict[int, list[tuple[Rows, Slopes]]] = {}
        self._bytes = 0

    def move(self, which: Tensor, radii: Tensor) -> None:
        """Go on with the problems ``which`` (B,), rising numbers and some of those before, at ``radii`` (B,)."""
        self._last = {}
        if self._which is not None and self._radii is not None:
            own = torch.searchsorted(self._which, which)
            ratio = (radii / self._radii[own]).log().abs()
            self._share = (_FAR * ratio).clamp(_LEAST, 1.0).nan_to_num(1.0)
            self._last = {target: _joined(pieces, len(self._which), own) for target, pieces in self._now.items()}
        self._which, self._radii, self._now, self._bytes = which, radii, {}, 0

    def begin(self, rows: Rows, dual: Dual) -> tuple[dict[int, Choice], Tensor]:
        """The choices to start from, and the shares (B', M') of the usual length that the first steps have."""
        choices, last = dual.start(), self._last.get(rows.target)
        share = dual.constant.new_ones(dual.batch, dual.count)
        if last is None or self._share is None:
            return choices, share
        slots = last.slots.flatten(0, 1)[rows.problems[:, None], rows.numbers]
        known = slots >= 0
        for v, choice in choices.items():
            tensors, hull = choice.tensors(), dual.hulls[v]
            least, greatest = hull.below.least + hull.above.least, hull.below.greatest + hull.above.greatest
            for i, own in enumerate(tensors):
                if (v, i) not in last.slopes:
                    continue
                found = _gathered(dual, v, last.slopes[v, i][slots.clamp(min=0)]).to(own.dtype)
                found = torch.where(known.reshape(*known.shape, *(1,) * (found.dim() - 2)) & ~found.isnan(), found, own)
                tensors[i] = torch.minimum(torch.maximum(found, least[i]), greatest[i]) if i < len(least) else found
            choices[v] = choice.replaced(tensors)
        near = self._share[rows.problems // rows.places].to(share.dtype)
        return choices, torch.where(known, near[:, None], share)

    def keep(self, rows: Rows, dual: Dual, choices: dict[int, Choice]) -> None:
        """Remember what was found for rows."""
        wide = (dual.batch, dual.count)
        slopes = {
            (v, i): _scattered(dual, v, t).flatten(0, 1)
            for v, choice in choices.items()
            for i, t in enumerate(choice.tensors())
            if t.shape[:2] == wide
        }
        self._bytes += sum(t.numel() * t.element_size() for t in slopes.values())
        if self._bytes <= _MOST:
            self._now.setdefault(rows.target, []).append((rows, slopes))


@dataclass(frozen=True, eq=False)
class Rows:
    """Which rows those of an ascent are: ``numbers`` (B', M') of the ``count`` that every one of ``problems`` (B',) has.

    ``target``: the node that they are on.  ``places``: so many problems are one of the batch, a receptive field each.
    """

    near: Nearby
    target: int
    problems: Tensor
    numbers: Tensor
    count: int
    places: int = 1

    def begin(self, dual: Dual) -> tuple[dict[int, Choice], Tensor]:
        """As :meth:`Nearby.begin`."""
        return self.near.begin(self, dual)

    def keep(self, dual: Dual, choices: dict[int, Choice]) -> None:
        """As :meth:`Nearby.keep`."""
        self.near.keep(self, dual, choices)


def _joined(pieces: list[tuple[Rows, Slopes]], batch: int, chosen: Tensor) -> _Found:
    """What was found in pieces, for some of the batch."""
    first = pieces[0][0]
    slots = torch.full((batch * first.places, first.count), -1, dtype=torch.int64, device=chosen.device)
    total, collected = 0, dict[tuple[int, int], list[Tensor]]()
    names = set.intersection(*(set(slopes) for _, slopes in pieces))
    for rows, slopes in pieces:
        slots[rows.problems[:, None], rows.numbers] = total + torch.arange(rows.numbers.numel(), device=slots.device).reshape(
            rows.numbers.shape
        )
        total += rows.numbers.numel()
        for name in names:
            collected.setdefault(name, []).append(slopes[name])
    return _Found(slots.reshape(batch, first.places, -1)[chosen], {name: torch.cat(own) for name, own in collected.items()})


def _scattered(dual: Dual, node: int, t: Tensor) -> Tensor:
    """A parameter of a node's free entries as (B', M', all entries) in float32, NaN where an entry is not free."""
    if not isinstance(dual, ReducedLagrangian):
        return t.masked_fill(~dual.hulls[node].free, math.nan).flatten(2).to(torch.float32)
    kept, size = dual.kept[node], dual.program.graph.nodes[node].size
    full = t.new_full((*t.shape[:2], size + 1), math.nan, dtype=torch.float32)
    numbers = kept.numbers.masked_fill(~kept.real, size)  # what is filled up goes to an entry of its own
    return full.scatter_(2, numbers[:, None].expand(t.shape), t.to(torch.float32))[..., :size]


def _gathered(dual: Dual, node: int, t: Tensor) -> Tensor:
    """The inverse of :func:`_scattered`."""
    if not isinstance(dual, ReducedLagrangian):
        return t.reshape(*t.shape[:2], *dual.program.graph.nodes[node].shape)
    numbers = dual.kept[node].numbers
    return t.gather(2, numbers[:, None].expand(*t.shape[:2], -1))
