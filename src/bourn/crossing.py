"""Crossing: where functions of a radius, above 0 at first, are found to be no longer, with few evaluations; many side by side.

Every function has a bracket: the greatest radius at which its value was above 0 since the bracket began, and the least one
at which it was not.  What is stated of the two was evaluated, whatever the function's shape; where it falls for good the bracket
holds the only crossing.  The next radius comes from inverse quadratic interpolation where that is safe (the condition is
Chandrupatla's, 1997), else from secants, a little beyond it so that the far end moves too (Brent 1973), and further
beyond it where the bracket does not shrink by half, at most to the geometric mean of its ends.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bourn.errors import UsageError

_WIDEST = 16.0
"""The greatest factor between one radius and the next while one end of the bracket is not known."""

_BEND = 20.0
"""Beyond so many times the value at radius 0 a value counts as large."""

LEAST = 1e-9
"""A function that is not above 0 at this share of the first guess has no radius."""


class Crossing:
    """The brackets of B functions: ``low`` (0 at first) and ``high`` (infinite at first), (B,) each.

    ``at_zero``: values at radius 0; where they are not above 0 there is nothing to search.  ``guess``: the first radii.
    ``slope``: the functions' slopes near their crossings, as far as known (NaN where not).  ``cap``: no radius exceeds it.
    A bracket is closed when ``high / low`` is at most 1 + ``precision``, ``low`` at its cap, or ``high`` next to nothing.
    """

    def __init__(self, at_zero: Tensor, guess: Tensor, cap: Tensor, precision: float, slope: Tensor | None = None) -> None:
        if not 1e-9 <= precision <= 1:
            raise UsageError(f"the precision is {precision:g}; it must lie between 1e-9 and 1")
        self.precision, self.cap = precision, cap
        self.guess = torch.where((guess > 0) & (guess <= cap), guess, cap)
        self.slope = torch.full_like(cap, math.nan) if slope is None else slope
        self.at_zero = at_zero
        self.low, self.low_value = torch.zeros_like(cap), at_zero.clone()
        self.high, self.high_value = torch.full_like(cap, math.inf), torch.full_like(cap, -math.inf)
        self.third, self.third_value = torch.full_like(cap, math.nan), torch.full_like(cap, math.nan)
        self.evaluations = torch.zeros(len(cap), dtype=torch.int64, device=cap.device)
        self._same = torch.zeros_like(self.evaluations)  # evaluations of one outcome from the start on
        self._width, self._waited = torch.full_like(cap, math.inf), torch.zeros_like(self.evaluations)

    @property
    def open(self) -> Tensor:
        """Which brackets are not closed, (B,)."""
        closed = (self.high <= self.low * (1 + self.precision)) | (self.low >= self.cap) | (self.high <= LEAST * self.guess)
        return ~closed & (self.low_value > 0)

    def propose(self) -> Tensor:
        """The radii to evaluate next, (B,); meaningless where a bracket is closed."""
        q = 1 + 0.99 * self.precision  # so that rounding leaves the ratio of the ends within the precision
        growth = (1 + self.precision * 4.0 ** (self._same - 1).to(self.low.dtype)).clamp(max=_WIDEST)
        root, low, high = self._root(), self.low, self.high
        # Beyond what is known: to the estimate and a little more, at least by a step that grows, at most by the widest.
        out = torch.maximum(root * (1 + self.precision / 2), low * growth.clamp(min=q))
        out = torch.minimum(torch.where(root <= low * q, low * growth.clamp(min=q), out), low * _WIDEST)
        down = torch.minimum(root * (1 - self.precision / 2), high / growth.clamp(min=q))
        down = torch.maximum(torch.where(root >= high / q, high / growth.clamp(min=q), down), high / _WIDEST)
        # Between two ends: from the near one to the estimate and a little more, at least by a step that closes the bracket,
        # by more and more where the bracket does not shrink, at most to the middle.
        below = root / low < high / root
        step = torch.where(below, root / low, high / root) * (1 + self.precision / 2)
        step = torch.where(step <= q * (1 + self.precision / 2), q, step) ** (2.0 ** (self._waited - 1).clamp(min=0).to(low.dtype))
        step = torch.minimum(step, (high / low).sqrt())
        inside = torch.where(below, low * step, high / step)
        inside = torch.where((inside > low) & (inside < high), inside, (low + high) / 2)
        found = torch.where(torch.isinf(high), out, torch.where(low > 0, inside, down))
        return torch.minimum(torch.where(self.evaluations == 0, self.guess, found), self.cap)

    def _scaled(self, values: Tensor) -> Tensor:
        """Values as they are interpolated: large ones by their logarithms, nearer to a line, for bounds fall ever faster."""
        return values.sign() * (values.abs() / (_BEND * self.at_zero)).log1p()

    def _root(self) -> Tensor:
        """Estimates of the crossings; the nearest radius allowed where there is no idea."""
        a, b, c = self.low, self.high, self.third
        fa, fb, fc = map(self._scaled, (self.low_value, self.high_value, self.third_value))
        both = (a * fb - b * fa) / (fb - fa)
        # The third point lies beyond one of the ends: that one is the middle of the three.
        left = c < a
        x1, x2, f1, f2 = torch.where(left, a, b), torch.where(left, b, a), torch.where(left, fa, fb), torch.where(left, fb, fa)
        xi, phi = (x1 - x2) / (c - x2), (f1 - f2) / (fc - f2)
        safe = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        quadratic = (
            x1 * (f2 / (f1 - f2)) * (fc / (f1 - fc))
            + x2 * (f1 / (f2 - f1)) * (fc / (f2 - fc))
            + c * (f1 / (fc - f1)) * (f2 / (fc - f2))
        )
        # Of a function that bends one way the line through the ends and that through the other two err to different sides.
        beyond = x1 - f1 * (c - x1) / (fc - f1)
        both = torch.where((beyond > a) & (beyond < b), (both + beyond) / 2, both)
        both = torch.where(safe & (quadratic > a) & (quadratic < b), quadratic, both)
        both = torch.where(torch.isfinite(both), both, (a * b).sqrt())
        # With one end alone: along the slope that is known, or the secant of the last two values.
        end, value = torch.where(torch.isinf(b), a, b), torch.where(torch.isinf(b), fa, fb)
        secant = (value - fc) / (end - c)
        slope = torch.where((self.evaluations == 1) & (self.slope < 0), self.slope / (_BEND * self.at_zero), secant)
        one = torch.where(slope < 0, end - value / slope, math.inf)
        one = torch.where(torch.isfinite(one), one, torch.where(torch.isinf(b), a * 4, both / 4))
        return torch.where(torch.isinf(b) | ((a == 0) & (self.evaluations == 1) & (self.slope < 0)), one, both)

    def tell(self, which: Tensor, radii: Tensor, values: Tensor, at: Tensor | None = None) -> None:
        """The ``values`` (N,) of the functions ``which`` (N,) at ``radii`` (N,); ``at``: smaller radii where these are as low."""
        positive, found = values > 0, radii if at is None else at
        low, high = self.low[which], self.high[which]
        known_high = torch.isfinite(high)
        for name, value, end in (("third", low, high), ("third_value", self.low_value[which], self.high_value[which])):
            own = getattr(self, name)
            own[which] = torch.where(positive, value, torch.where(known_high, end, own[which]))
        passed = ~positive & (found <= low)  # the function is not what it seemed: begin anew below
        self.low[which] = torch.where(positive, radii, torch.where(passed, 0.0, low))
        self.high[which] = torch.where(positive, high, found)
        self.low_value[which] = torch.where(positive, values, torch.where(passed, self.at_zero[which], self.low_value[which]))
        self.high_value[which] = torch.where(positive, self.high_value[which], values)
        self.evaluations[which] += 1
        low, high = self.low[which], self.high[which]
        started = (low > 0) & torch.isfinite(high)
        self._same[which] = torch.where(started, 0, self._same[which] + 1)
        width = torch.where(started, (high / low).log(), math.inf)
        halved = width <= self._width[which] / 2
        first = started & torch.isinf(self._width[which])
        self._width[which] = torch.where(halved | first, width, self._width[which])
        self._waited[which] = torch.where(halved | ~started, 0, self._waited[which] + 1)
