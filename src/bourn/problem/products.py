"""Products of input sets: each says where some entries of the network's input lie, and all hold at once.

Every part is a set of the whole input's shape in which the other parts' entries are 0, so that the product is the parts' sum:
extremes add up, and whatever moves entries moves them in each part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from bourn.errors import UsageError
from bourn.interval import Interval
from bourn.problem.input_set import InputSet
from bourn.rounding import gamma


@dataclass(frozen=True, eq=False, repr=False)
class ProductSet(InputSet):
    """All sums of one point of each part; ``own`` marks each part's entries by 1, (B, *shape).  :func:`product_set` makes one."""

    parts: tuple[InputSet, ...]
    own: tuple[Tensor, ...]

    @cached_property
    def interval(self) -> Interval:  # type: ignore[override]
        return Interval(_sum(p.lower for p in self.parts), _sum(p.upper for p in self.parts))

    @cached_property
    def inner(self) -> tuple[Tensor, Tensor] | None:  # type: ignore[override]
        """As :attr:`InputSet.inner`, from the sets' own."""
        if all(p.inner is None for p in self.parts):
            return None
        ends = [p.inner if p.inner is not None else (p.lower, p.upper) for p in self.parts]
        return _sum(low for low, _ in ends), _sum(high for _, high in ends)

    @property
    def middle(self) -> Tensor:
        return _sum(p.middle for p in self.parts)

    def extremes(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = [p.extremes(rows) for p in self.parts]
        low, high = (_sum(f[i] for f in found) for i in (0, 1))
        size = _sum(torch.maximum(f[0].abs(), f[1].abs()) for f in found)
        return low, high, _sum(f[2] for f in found) + gamma(len(found) + 2) * size

    def minimise_linear(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        found = [p.minimise_linear(rows) for p in self.parts]
        size = _sum(low.abs() for low, _ in found)
        return _sum(low for low, _ in found), _sum(error for _, error in found) + gamma(len(found) + 2) * size

    def minimiser(self, rows: Tensor) -> Tensor:
        return _sum(p.minimiser(rows) for p in self.parts)

    def contains(self, x: Tensor) -> Tensor:
        inside = torch.stack([p.contains(self._only(x, own)) for p, own in zip(self.parts, self.own, strict=True)])
        return inside.all(0)

    def project(self, x: Tensor) -> Tensor:
        return _sum(p.project(self._only(x, own)) for p, own in zip(self.parts, self.own, strict=True))

    def _only(self, x: Tensor, own: Tensor) -> Tensor:
        """A part's entries of x, the others 0."""
        return torch.where(own > 0, x, 0.0)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return _sum(p.sample(count, generator) for p in self.parts)

    def finite(self) -> tuple[Tensor, Tensor]:
        ends = [p.finite() for p in self.parts]
        return _sum(low for low, _ in ends), _sum(high for _, high in ends)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Each part's own step."""
        return _sum(
            self._only(p.steepest(self._only(gradient, own)), own) for p, own in zip(self.parts, self.own, strict=True)
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> ProductSet:
        return ProductSet(tuple(p.map(change) for p in self.parts), tuple(change(own) for own in self.own))

    def __getitem__(self, index: slice | Tensor) -> ProductSet:
        return ProductSet(tuple(p[index] for p in self.parts), tuple(own[index] for own in self.own))

    def to(self, device: torch.device | str) -> ProductSet:
        return ProductSet(tuple(p.to(device) for p in self.parts), tuple(own.to(device) for own in self.own))

    def reshape(self, shape: tuple[int, ...]) -> ProductSet:
        moved = tuple(own.reshape(len(own), *shape) for own in self.own)
        return ProductSet(tuple(p.reshape(shape) for p in self.parts), moved)


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, tensors)


def product_set(parts: Sequence[InputSet]) -> ProductSet:
    """The product of input sets of one batch, their entries flattened one after the other: (B, n).

    Raises :class:`UsageError` without any parts or for batches that differ.
    """
    if not parts:
        raise UsageError("a product needs at least one input set")
    batch = parts[0].batch
    if any(p.batch != batch for p in parts):
        raise UsageError(f"the input sets of a product have batches {', '.join(str(p.batch) for p in parts)}; they need one")
    sizes = [p.lower[0].numel() for p in parts]
    placed, own = [], []
    for number, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        before, after = sum(sizes[:number]), sum(sizes[number + 1 :])
        placed.append(part.reshape((size,)).map(lambda t, around=(before, after): F.pad(t, around)))  # type: ignore[misc]
        own.append(F.pad(torch.ones_like(part.lower.reshape(batch, size)), (before, after)))
    return ProductSet(tuple(placed), tuple(own))
