"""Making polytopes: half-spaces read into float64, the box around them tightened, empty ones refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from bourn.errors import EmptyInputSetError, UsageError
from bourn.interval import Interval
from bourn.problem.half_spaces import exact_end, propagate, rounded_row
from bourn.problem.input_set import Box, as_tensor, box
from bourn.problem.polytopes import Polytope

_PASSES = 2
"""How often the half-spaces bound the entries one by one before linear programs do."""

_MOST_WORK = 1 << 20
"""Problems x entries x entries x half-spaces up to which linear programs tighten the box."""

_REACH = 1e6
"""Where infinite ends are cut while multipliers are searched for them, in units of the other numbers."""


def polytope(lower: object, upper: object, matrix: object, limits: object) -> Polytope:
    """The polytopes lower <= x <= upper, matrix . x <= limits, for arrays of shape (B, *shape), the batch included.

    ``matrix`` is (K, *shape) for half-spaces that all problems share or (B, K, *shape), ``limits`` (K,) or (B, K): float64, or
    fractions, decimals and integers of any size, which are taken exactly.  The box may have infinite ends.  Raises
    :class:`EmptyInputSetError` where a set is proved empty, :class:`UsageError` for NaN, infinity or shapes that do not fit.
    """
    sides = box(lower, upper)
    rows, right = _numbers(matrix, "the matrix"), _numbers(limits, "the limits")
    entries = sides.lower.dim() - 1
    each = rows.ndim - entries == 2
    count = rows.shape[int(each)] if rows.ndim > int(each) else -1
    if rows.ndim - entries not in (1, 2) or rows.shape[rows.ndim - entries :] != sides.shape or (each and len(rows) != sides.batch):
        needed = f"(K, *shape) or (B, K, *shape) for a box {(sides.batch, *sides.shape)}"
        raise UsageError(f"the matrix has shape {rows.shape}; it needs {needed}")
    if right.shape not in ((count,), (sides.batch, count)):
        raise UsageError(f"the limits have shape {right.shape}; {count} half-spaces need ({count},) or ({sides.batch}, {count})")
    if rows.dtype != object and right.dtype != object:
        a = torch.from_numpy(rows).expand(sides.batch, count, *sides.shape)
        b = torch.from_numpy(right).expand(sides.batch, count)
        return tightened(sides, a, b, b)
    every = np.broadcast_to(rows, (sides.batch, count, *sides.shape))
    return tightened(sides, *_rounded(sides, every, np.broadcast_to(right, (sides.batch, count))))


def _numbers(values: object, what: str) -> np.ndarray:
    """An array of float64 or, where that may lose something, of fractions."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype == object or array.dtype.kind in "iu":
        try:
            exact = [v if isinstance(v, float) else Fraction(v) for v in array.ravel().tolist()]
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"{what} holds something that is no finite number: {error}") from None
        flat = np.empty(len(exact), dtype=object)
        flat[:] = exact
        array = flat.reshape(array.shape)
        if all(isinstance(v, float) or (abs(v) < 2**1000 and float(v) == v) for v in exact):
            array = array.astype(np.float64)
    try:
        found = array if array.dtype == object else as_tensor(array, what).numpy()
    except TypeError:
        raise UsageError(f"{what} is no array of numbers") from None
    if not all(np.isfinite(v) for v in found.ravel() if isinstance(v, float)):
        raise UsageError(f"{what} holds infinity or NaN")
    return np.ascontiguousarray(found)


def _rounded(sides: Box, rows: np.ndarray, limits: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Exact half-spaces of every problem in float64: rows, and limits rounded outward and inward."""
    found: list[list[float]] = []
    outer, inner = [], []
    for b in range(sides.batch):
        reach = sides.interval.magnitude[b].flatten().tolist()
        for row, limit in zip(rows[b], limits[b], strict=True):
            made = rounded_row([Fraction(v) for v in row.ravel().tolist()], Fraction(limit), reach)
            if made is None:
                raise UsageError(f"half-space {len(found) % len(rows[b])} has a coefficient that float64 does not hold well enough")
            found.append(made[0])
            outer.append(made[1])
            inner.append(made[2])
    shape = rows.shape[:2]
    numbers = (torch.tensor(v, dtype=torch.float64).reshape(shape) for v in (outer, inner))
    return torch.tensor(found, dtype=torch.float64).reshape(rows.shape), *numbers  # type: ignore[return-value]


def cut(sides: Box, half_spaces: Iterable[tuple[Sequence[tuple[int, Fraction]], Fraction]]) -> Box | Polytope:
    """A set in a flat box (1, n) that holds all that meets exact half-spaces, each the terms of its left side and its limit.

    Where float64 does not hold a half-space it is rounded outward, or left out.  Raises :class:`EmptyInputSetError` where the set
    is proved empty.
    """
    reach = sides.interval.magnitude[0].tolist()
    rows, limits = [], []
    for terms, limit in half_spaces:
        made = rounded_row([c for _, c in terms], limit, [reach[i] for i, _ in terms])
        if made is not None:
            row = torch.zeros(len(reach), dtype=torch.float64)
            row[[i for i, _ in terms]] = torch.tensor(made[0], dtype=torch.float64)
            rows.append(row)
            limits.append(made[1])
    if not rows:
        return sides
    outer = torch.tensor([limits], dtype=torch.float64)
    return tightened(sides, torch.stack(rows)[None], outer, outer)


def tightened(sides: Box, matrix: Tensor, limits: Tensor, inner_limits: Tensor) -> Polytope:
    """The polytope of ``sides`` and half-spaces, its box tightened; raises :class:`EmptyInputSetError` where it is proved empty."""
    flat, interval = matrix.flatten(2), sides.interval

    def around(lower: Tensor, upper: Tensor) -> Polytope:
        crossed = lower > upper
        if bool(crossed.any()):
            problem = int(torch.nonzero(crossed)[0, 0])
            raise EmptyInputSetError(f"the input set is empty: the half-spaces of polytope {problem} miss its box")
        shape = (len(lower), *sides.shape)
        return Polytope(Interval(lower.reshape(shape), upper.reshape(shape)), matrix, limits, sides, inner_limits)

    made = around(interval.lower.flatten(1), interval.upper.flatten(1))
    if not matrix.shape[1] or not flat.shape[2]:
        return made
    for _ in range(_PASSES):
        made = around(*propagate(flat, limits, made.interval))
    if not bool(torch.isfinite(made.interval.magnitude).all()):
        made = around(*_bounded_by_programs(made))
    batch, count, n = flat.shape
    # One half-space alone has said everything by then.
    if count > 1 and batch * count * n * n <= _MOST_WORK:
        rows = torch.eye(n, dtype=torch.float64, device=flat.device).reshape(1, n, *sides.shape)
        (low, below), (high, above) = made.minimise_linear(rows), made.minimise_linear(-rows)
        lower, upper = low - below * (1 + 2.0**-20), -high + above * (1 + 2.0**-20)
        lower, upper = (torch.nextafter(t, torch.full_like(t, end)) for t, end in ((lower, -torch.inf), (upper, torch.inf)))
        known = made.interval
        made = around(torch.maximum(known.lower.flatten(1), lower), torch.minimum(known.upper.flatten(1), upper))
    value, error = made.minimise_linear(torch.zeros_like(made.matrix[:, :1]))
    empty = value - error > 0
    if bool(empty.any()):
        raise EmptyInputSetError(
            f"the input set is empty: a sum of half-spaces of polytope {int(torch.nonzero(empty)[0, 0])} holds nowhere in its box"
        )
    return made


def _bounded_by_programs(made: Polytope) -> tuple[Tensor, Tensor]:
    """The box's ends, infinite ones replaced where multipliers of the half-spaces bound them in exact arithmetic."""
    lower, upper = made.interval.lower.flatten(1).clone(), made.interval.upper.flatten(1).clone()
    for b in range(made.batch):
        rows, limits = made.matrix[b].flatten(1), made.limits[b]
        sizes = rows.abs().amax(1)
        known = torch.cat([lower[b], upper[b], limits / torch.where(sizes > 0, sizes, 1.0)])
        reach = _REACH * max(1.0, float(known[torch.isfinite(known)].abs().max()))
        searched = Box(Interval(lower[b : b + 1], upper[b : b + 1])).finite(reach)
        search = Polytope(Interval(*searched), rows[None], limits[None], Box(Interval(*searched)), limits[None])
        ends = list(zip(lower[b].tolist(), upper[b].tolist(), strict=True))
        open_ = [(j, sign) for j, (low, high) in enumerate(ends) for sign, end in ((1, low), (-1, high)) if abs(end) == torch.inf]
        costs = torch.zeros(1, len(open_), len(ends), dtype=torch.float64, device=rows.device)
        for m, (j, sign) in enumerate(open_):
            costs[0, m, j] = sign
        guesses = search.multipliers(costs)[0].tolist()
        for (j, sign), guess in zip(open_, guesses, strict=True):
            found = exact_end(j, sign, rows.tolist(), limits.tolist(), ends, guess)
            if sign > 0:
                lower[b, j] = max(lower[b, j].item(), found)
            else:
                upper[b, j] = min(upper[b, j].item(), -found)
    return lower, upper
