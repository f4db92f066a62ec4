"""Input sets: where the network's input may lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from bourn.errors import EmptyInputSetError, UsageError
from bourn.interval import Interval
from bourn.rounding import TINY, gamma


class InputSet(ABC):
    """A batch of B convex sets of inputs of one shape: what solvers and attacks need of them."""

    interval: Interval
    """The smallest boxes around the sets, (B, *shape), rounded outward."""

    inner: tuple[Tensor, Tensor] | None = None
    """The ends within which a float64 point lies in the boxes as written, where these are not those of ``interval``."""

    @property
    def batch(self) -> int:
        return self.interval.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.interval.shape[1:])

    @property
    def lower(self) -> Tensor:
        return self.interval.lower

    @property
    def upper(self) -> Tensor:
        return self.interval.upper

    @property
    @abstractmethod
    def middle(self) -> Tensor:
        """A finite point of every set, away from its ends where it can be, (B, *shape)."""

    @abstractmethod
    def extremes(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Minimum and maximum over the set of rows . x, and a bound of their rounding error: (B, M) each.

        ``rows`` is (B or 1, M, *shape).  Minimum less error and maximum plus error hold in exact arithmetic.  Where a row
        needs an infinite end the extreme is infinite too (or NaN, which the caller takes for "no bound").
        """

    def minimise_linear(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Minimum over the set of rows . x and a bound of its rounding error, as in :meth:`extremes`."""
        low, _, error = self.extremes(rows)
        return low, error

    @abstractmethod
    def minimiser(self, rows: Tensor) -> Tensor:
        """Where rows . x is least over the set, up to rounding: (B, M, *shape); ends beyond reach as in :meth:`finite`."""

    @abstractmethod
    def contains(self, x: Tensor) -> Tensor:
        """Whether each x (B, *shape) lies in its set as written, exactly: (B,).  A batch of one takes any number of points."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the set, up to rounding, but inside.  A batch of one takes any number of points."""

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` points (B, count, *shape), spread over the set."""

    @abstractmethod
    def finite(self) -> tuple[Tensor, Tensor]:
        """The ends of :attr:`interval`, infinite ones replaced by ends of a bounded subset."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The step across the set's width along which a function with this ``gradient`` (N, *shape) grows most (batch 1)."""

    @abstractmethod
    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The set whose entries are moved by ``change``: chosen, repeated, reshaped or, where it pads with 0, the point 0."""

    def __getitem__(self, index: slice | Tensor) -> Self:
        return self.map(lambda t: t[index])

    def to(self, device: torch.device | str) -> Self:
        """The same sets on ``device``."""
        return self.map(lambda t: t.to(device))

    def reshape(self, shape: tuple[int, ...]) -> Self:
        """The same sets with entries in another shape, (B, *shape)."""
        return self.map(lambda t: t.reshape(len(t), *shape))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch={self.batch}, shape={self.shape})"


@dataclass(frozen=True, eq=False, repr=False)
class Box(InputSet):
    """A batch of B boxes: ``interval`` of shape (B, *shape); entries may be infinite.

    ``inner``, where given, is the box rounded inward instead of outward: a float64 point lies in the box
    *as written* (in decimals) exactly if it lies in ``inner``, whose ends may cross where no float64 does.
    """

    interval: Interval
    inner: tuple[Tensor, Tensor] | None = None

    @property
    def middle(self) -> Tensor:
        lower, upper = self.finite()
        return (lower / 2 + upper / 2).clamp(lower, upper)

    def extremes(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = rows.flatten(2)
        terms = flat.shape[2]
        if self._bounded:
            center, radius = self.interval.center.flatten(1), self.interval.radius.flatten(1)
            middle = dot(flat, center[..., None])[..., 0]
            sizes = dot(flat.abs(), torch.stack([radius, center.abs() + radius], dim=-1))
            # The center-radius form rounds once more and sums terms of at most |row| (|center| + radius).
            error = gamma(terms + 8) * sizes[..., 1] + TINY * (1 + terms)
            return middle - sizes[..., 0], middle + sizes[..., 0], error
        lower, upper = self.lower.flatten(1)[:, None], self.upper.flatten(1)[:, None]
        low = torch.where(flat > 0, flat * lower, flat * upper).masked_fill(flat == 0, 0.0)
        high = torch.where(flat > 0, flat * upper, flat * lower).masked_fill(flat == 0, 0.0)
        error = gamma(terms + 8) * torch.maximum(low.abs().sum(2), high.abs().sum(2)) + TINY * (1 + terms)
        return low.sum(2), high.sum(2), error

    def minimiser(self, rows: Tensor) -> Tensor:
        lower, upper = (t[:, None] for t in self.finite())
        return torch.where(rows > 0, lower, upper)

    @cached_property
    def _bounded(self) -> bool:
        return bool(torch.isfinite(self.interval.magnitude).all())

    def contains(self, x: Tensor) -> Tensor:
        lower, upper = self.inner if self.inner is not None else (self.lower, self.upper)
        return ((x >= lower) & (x <= upper)).flatten(1).all(1)

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(self.lower, self.upper)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` points (B, count, *shape), uniform; an infinite side is cut at 1e3 from its other end or 0."""
        lower, upper = self.finite()
        u = torch.rand(self.batch, count, *self.shape, dtype=torch.float64, generator=generator).to(lower.device)
        return (lower[:, None] + u * (upper - lower)[:, None]).clamp(lower[:, None], upper[:, None])

    def finite(self, reach: float = 1e3) -> tuple[Tensor, Tensor]:
        """The ends, an infinite one replaced by one ``reach`` from the other or from 0: a bounded subset."""
        lower = torch.where(torch.isinf(self.lower), torch.where(torch.isinf(self.upper), -reach, self.upper - reach), self.lower)
        upper = torch.where(torch.isinf(self.upper), torch.where(torch.isinf(self.lower), reach, self.lower + reach), self.upper)
        return lower, upper

    def steepest(self, gradient: Tensor) -> Tensor:
        lower, upper = self.finite()
        return (upper - lower) * gradient.sign()

    def map(self, change: Callable[[Tensor], Tensor]) -> Box:
        inner = None if self.inner is None else (change(self.inner[0]), change(self.inner[1]))
        return Box(Interval(change(self.lower), change(self.upper)), inner)


def dot(rows: Tensor, x: Tensor) -> Tensor:
    """rows (B or 1, M, n) . x (B, n, K) -> (B, M, K); rows that all problems share make one matrix product."""
    if len(rows) == 1 and len(x) > 1:
        product = rows[0] @ x.permute(1, 0, 2).flatten(1)
        return product.reshape(rows.shape[1], x.shape[0], x.shape[2]).transpose(0, 1)
    return torch.matmul(rows, x)


def as_tensor(values: object, what: str) -> Tensor:
    """Numbers in float64; raises :class:`UsageError` for NaN."""
    tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    tensor = tensor.detach().to(torch.float64)
    if bool(tensor.isnan().any()):
        raise UsageError(f"{what} holds NaN")
    return tensor


def box(lower: object, upper: object) -> Box:
    """The box lower <= x <= upper, for arrays of shape (B, *shape), the batch included.

    Raises :class:`EmptyInputSetError` where a lower end is above its upper end, :class:`UsageError` for NaN
    or shapes that differ.
    """
    low, high = as_tensor(lower, "the lower bound"), as_tensor(upper, "the upper bound")
    if low.shape != high.shape or low.dim() < 1:
        raise UsageError(f"the lower bound has shape {tuple(low.shape)}, the upper {tuple(high.shape)}; both need (B, *shape)")
    crossed = low > high
    if bool(crossed.any()):
        where = tuple(int(i) for i in torch.nonzero(crossed)[0])
        raise EmptyInputSetError(
            f"the input set is empty: lower bound {low[where].item()} above upper bound {high[where].item()} at index {where}"
        )
    return Box(Interval(low, high))


def linf_ball(center: object, radius: float | Tensor, *, clip: Sequence[float] | None = None) -> Box:
    """The ball of all x with |x_i - center_i| <= radius, for centers (B, *shape), rounded outward.

    ``radius``: one number, or one for each center, a float64 tensor (B,).  ``clip``: the two ends of an interval that every
    entry must also lie in, such as (0, 1).  Raises :class:`UsageError` for a radius that is negative or not finite,
    :class:`EmptyInputSetError` if the intersection is empty.
    """
    c = as_tensor(center, "the center")
    r = torch.as_tensor(radius, dtype=torch.float64, device=c.device)
    if not bool(((r >= 0) & (r < torch.inf)).all()):
        raise UsageError(f"the radius is {radius}; it must be at least 0 and finite")
    if r.dim():
        if r.shape != c.shape[:1]:
            raise UsageError(f"radii of shape {tuple(r.shape)} for centers of shape {tuple(c.shape)}: one number each is wanted")
        r = r.reshape(-1, *(1,) * (c.dim() - 1))
    low, high = subtract_down(c, r), -subtract_down(-c, r)
    inner_low, inner_high = -subtract_down(-c, -r), subtract_down(c, -r)
    if clip is not None:
        low, inner_low = low.clamp(min=float(clip[0])), inner_low.clamp(min=float(clip[0]))
        high, inner_high = high.clamp(max=float(clip[1])), inner_high.clamp(max=float(clip[1]))
    return Box(box(low, high).interval, (inner_low, inner_high))


def subtract_down(c: Tensor, r: float | Tensor) -> Tensor:
    """c - r rounded down: the rounding error of a difference is itself a float64 (Knuth's TwoSum)."""
    difference = c - r
    back = difference - c
    error = (c - (difference - back)) + (-r - back)
    return torch.where(error < 0, torch.nextafter(difference, difference.new_tensor(-torch.inf)), difference)
