"""Sine and cosine, a few periods around 0: at their own zeros the curvature turns."""

from __future__ import annotations

import math

import numpy as np

from bourn_check.nodes.smooth import Smooth
from bourn_check.readers.onnx_reading import Rules, function

_TURNS = range(-6, 7)


def _around(zero: float) -> tuple[float, float]:
    """A zero computed with two roundings, at most, of numbers not far apart lies between these."""
    reach = 2.0**-50 * abs(zero)
    return zero - reach, zero + reach


def _wave(shift: float, first: int) -> tuple[tuple[int, ...], tuple[tuple[float, float], ...], tuple[float, float]]:
    """Curvatures, breaks and domain, the zeros being those of sin(z + shift pi)."""
    breaks = tuple(_around((k - shift) * math.pi) for k in _TURNS)
    signs = tuple(first * (-1) ** k for k in range(len(breaks) + 1))
    return signs, breaks, (breaks[0][0] - 3.0, breaks[-1][1] + 3.0)


# Between -7 pi and -6 pi sin is negative, and so convex; between -7.5 pi and -6.5 pi cos is negative, too.
RULES: Rules = {
    "Sin": function(Smooth(lambda z: z.sin(), lambda z: z.cos(), np.cos, *_wave(0.0, 1))),
    "Cos": function(Smooth(lambda z: z.cos(), lambda z: -z.sin(), lambda z: -np.sin(z), *_wave(0.5, 1))),
}
