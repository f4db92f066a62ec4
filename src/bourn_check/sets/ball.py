"""Balls in the l1 and the l2 norm, cut by a box.

For any s and a norm's dual norm, with x in the box and ||x - c|| <= r,

    Lambda . x  =  (Lambda - s) . x + s . c + s . (x - c)  >=  min over the box of (Lambda - s) . x  +  s . c - r ||s||_dual.

Any s does, and so the checker looks for a good one in plain floating point.  No root is taken: ||s||_2 <= (||s||^2 / t + t) / 2 for
any t > 0, with equality at the norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from bourn_check.arithmetic import Arithmetic, Floats, Index, Values
from bourn_check.errors import Unreadable
from bourn_check.sets.box import Box, Ends

_HALVINGS = 64
"""Of a logarithm's interval; the bound loses the square of what is missed."""


@dataclass(frozen=True, eq=False)
class Ball(Box):
    """All x with ||x - center||_norm <= radius; ``norm`` is 1 or 2."""

    norm: int
    center: tuple[Fraction, ...]
    radius: Fraction

    def least(self, row: Values, at: Index, ends: Sequence[Floats], arithmetic: Arithmetic) -> Values:
        center, r = [self.center[i] for i in at.tolist()], arithmetic.numbers([self.radius])
        paid = self._paid(np.nan_to_num(row.about()), *(end - np.array([float(c) for c in center]) for end in ends))
        s = arithmetic.exact(paid)
        total = super().least(row + -s, at, ends, arithmetic) + (s * arithmetic.numbers(center)).total()
        size = np.abs(paid).max(1, initial=0.0)
        if self.norm == 1:
            return total + -(arithmetic.exact(size) * r)
        t = np.where(size > 0, size * np.sqrt(np.square(paid / np.where(size > 0, size, 1.0)[:, None]).sum(1)), 2.0**-900)
        norm = (s * s).total() * arithmetic.numbers([1 / (2 * Fraction(v)) for v in t.tolist()]) + arithmetic.exact(t / 2)
        return total + -(norm * r)

    def _paid(self, row: Floats, low: Floats, high: Floats) -> Floats:
        """What the ball pays of each row, where x - c may go from ``low`` to ``high``.

        In the l2 norm x - c is -a row, for the greatest a inside, and what holds it back the box pays.  In the l1 norm the row is
        cut at the size of the entry that moves last.
        """
        size, radius = np.abs(row).max(1, keepdims=True, initial=0.0) + 1e-300, float(self.radius) or 1.0
        unit, least, most = row / size, np.full((len(row), 1), -60.0), np.full((len(row), 1), 60.0)
        for _ in range(_HALVINGS):
            middle = least / 2 + most / 2
            if self.norm == 2:
                outside = np.square(np.clip(-np.exp(middle) * radius * unit, low, high)).sum(1, keepdims=True) > radius**2
            else:  # entries above the cut move as far as they can: a low cut moves too many
                moved = np.where(np.abs(unit) > np.exp(-middle), np.where(unit > 0, low, high), np.clip(0.0, low, high))
                outside = np.abs(moved).sum(1, keepdims=True) > radius
            least, most = np.where(outside, least, middle), np.where(outside, middle, most)
        if self.norm == 1:  # what is held away from the center pays the whole cut, towards it
            cut = np.exp(-least) * size
            return np.asarray(np.minimum(np.maximum(row, np.where(high < 0, cut, -cut)), np.where(low > 0, -cut, cut)))
        return np.asarray(np.clip(-np.exp(least) * radius * unit, low, high) / (np.exp(least) * radius) * -size)

    def contains(self, x: Sequence[Fraction]) -> bool:
        """Whether a point lies in it, exactly."""
        apart = [abs(v - c) for v, c in zip(x, self.center, strict=True)]
        return sum(a**self.norm for a in apart) <= self.radius**self.norm

    def ends(self) -> Ends:
        return {i: (c - self.radius, c + self.radius) for i, c in enumerate(self.center)}


def read_ball(stated: Any, expression: Callable[[Any], tuple[dict[int, Fraction], Fraction]], inputs: int) -> Ball | None:
    """The ball that is asserted; None where no sum of squares or of absolute values is.

    (<= (+ (* (- X_0 c) (- X_0 c)) ...) (* r r)) or (<= (+ (abs (- X_0 c)) ...) r), with one term for each input.
    """
    match stated:
        case [["<=", ["+", *terms], limit]] if terms and all(_inner(t)[0] for t in terms):
            found, (squared, radius) = [_inner(t) for t in terms], _inner(limit)
            norm, size, centers = found[0][0], expression(radius), [expression(e) for _, e in found]
            around = [own for own, _ in found] == [norm] * inputs and [c[0] for c in centers] == [{i: 1} for i in range(inputs)]
            if not around or (norm == 2) != (squared == 2) or size[0] or size[1] < 0:
                raise Unreadable("a sum of squares or absolute values is read as a ball around all inputs, in order")
            return Ball(norm, tuple(-c[1] for c in centers), size[1])
    return None


def _inner(term: Any) -> tuple[int, Any]:
    """Of (abs e) and (* e e) the norm of which it is a term, and e; 0 of others."""
    if isinstance(term, list) and (term[:1], len(term)) in ((["abs"], 2), (["*"], 3)) and term[1] == term[-1]:
        return len(term) - 1, term[1]
    return 0, term
