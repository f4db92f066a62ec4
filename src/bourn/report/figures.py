"""The report's figures as numbers: axes, lanes, and where every mark stands, in percent of the drawing's width.

The template turns them into SVG.  Positions in percent let a figure take any width while its text keeps its size.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST = 1e-6
"""Of the greatest value on a logarithmic axis, the smallest share that is still told apart from 0."""


@dataclass(frozen=True)
class Axis:
    """From values to percent of the width, linear or logarithmic; ``ticks`` are (position, text)."""

    low: float
    high: float
    logarithmic: bool
    title: str
    ticks: tuple[tuple[float, str], ...] = ()

    @classmethod
    def linear(cls, values: Sequence[float], title: str, low: float | None = None, high: float | None = None) -> Axis:
        """An axis over all values, ended by round numbers unless its ends are stated."""
        least, most = min(values, default=0.0) if low is None else low, max(values, default=1.0) if high is None else high
        step = _round_step(max(most - least, 1e-12) / 8)
        least = math.floor(least / step + 1e-9) * step if low is None else low
        most = math.ceil(most / step - 1e-9) * step if high is None else high
        most = most if most > least else least + step
        axis = cls(least, most, False, title)
        first = math.ceil(least / step - 1e-9)
        numbers = [step * i for i in range(first, math.floor(most / step + 1e-9) + 1)]
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return cls(least, most, False, title, tuple((axis.at(n), minus(f"{n:.{decimals}f}")) for n in numbers))

    @classmethod
    def powers(cls, values: Sequence[float], title: str) -> Axis:
        """A logarithmic axis from decade to decade; what is 0, below it or too small stands at its lower end, marked "≤"."""
        positive = [v for v in values if v > 0]
        most = math.ceil(math.log10(max(positive, default=1.0)) - 1e-9)
        floor = max(positive, default=1.0) * SMALLEST
        least = math.floor(math.log10(min((v for v in positive if v >= floor), default=1.0)) + 1e-9)
        least = min(least, most - 1)
        axis = cls(10.0**least, 10.0**most, True, title)
        every = max(1, math.ceil((most - least) / 7))
        below = any(v < axis.low for v in values)
        ticks = [(axis.at(10.0**k), f"{'≤ ' if below and k == least else ''}{_power(k)}") for k in range(least, most + 1, every)]
        return cls(axis.low, axis.high, True, title, tuple(ticks))

    def at(self, value: float) -> float:
        """The position of a value, in percent; what lies outside stands at the end."""
        if self.logarithmic:
            share = (math.log10(max(value, self.low)) - math.log10(self.low)) / math.log10(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 3)


def _round_step(step: float) -> float:
    unit = 10.0 ** math.floor(math.log10(step))
    return next(m for m in (1, 2, 5, 10) if m * unit >= step * (1 - 1e-9)) * unit


def _power(k: int) -> str:
    if -3 <= k <= 4:
        return f"{10.0**k:.{max(0, -k)}f}"
    return "10" + str(k).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


@dataclass(frozen=True)
class Box:
    """A box plot after Tukey: quartiles, the median, whiskers to the last value within 1.5 box lengths, outliers beyond.

    On a logarithmic axis lengths are those that are seen.  ``count``: of values.
    """

    count: int
    low: float
    first: float
    median: float
    third: float
    high: float
    outliers: tuple[float, ...]
    tip: str

    @classmethod
    def of(cls, values: Sequence[float], axis: Axis, name: str) -> Box:
        """The box of one or more values, placed on an axis."""
        first, median, third = statistics.quantiles(values, method="inclusive") if len(values) > 1 else [values[0]] * 3
        low, middle, high = (axis.at(q) for q in (first, median, third))
        reach = 1.5 * (high - low)
        at = sorted(axis.at(v) for v in values)
        inside = [p for p in at if low - reach - 1e-9 <= p <= high + reach + 1e-9]
        whiskers = min(inside[0], low), max(inside[-1], high)
        # Marks that lie on each other are drawn once.
        outliers = sorted({round(p, 1) for p in at if not whiskers[0] <= p <= whiskers[1]})
        tip = f"{name}: median {short(median)}, half of all from {short(first)} to {short(third)}, "
        tip += f"all from {short(min(values))} to {short(max(values))} ({len(values)} values)"
        return cls(len(values), whiskers[0], low, middle, high, whiskers[1], tuple(outliers), tip)


@dataclass(frozen=True)
class Mark:
    """A symbol: ``series`` gives its colour and shape."""

    at: float
    series: int
    tip: str


@dataclass(frozen=True)
class Segment:
    """A piece of a stacked bar: ``kind`` is its colour's name, ``shade`` from 0 (the first layer) to 1."""

    at: float
    width: float
    kind: str
    shade: float
    tip: str


@dataclass(frozen=True)
class Lane:
    """One line of a figure: what stands left of it, and what is drawn in it.  ``span``: a bar behind the marks."""

    label: str
    note: str
    network: str
    mode: str
    series: int = 0
    box: Box | None = None
    marks: tuple[Mark, ...] = ()
    segments: tuple[Segment, ...] = ()
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Chart:
    """A figure: lanes over one axis.  ``zero``: the position of a line to be stressed, if any."""

    title: str
    note: str
    axis: Axis
    lanes: tuple[Lane, ...]
    legend: tuple[tuple[int, str], ...] = ()
    zero: float | None = None
    name: str = ""


def stack(parts: Sequence[tuple[str, str, float, float]], total: float, axis: Axis) -> tuple[Segment, ...]:
    """Parts (label, kind, value, shade) as shares of their total: those above 0 to the right of 0, the others to the left."""
    left = right = 0.0
    found = []
    for label, kind, value, shade in parts:
        share = 100 * value / total
        start = right if share >= 0 else left + share
        tip = f"{label}: {short(value)} ({share:.1f} %)"
        found.append(Segment(axis.at(start), round(axis.at(start + abs(share)) - axis.at(start), 3), kind, shade, tip))
        right, left = (right + share, left) if share >= 0 else (right, left + share)
    return tuple(found)


def short(value: float) -> str:
    """A number in a few digits."""
    if value == 0:
        return "0"
    return minus(f"{value:.3g}" if 1e-4 <= abs(value) < 1e5 else f"{value:.1e}")


def minus(text: str) -> str:
    """A number with a true minus sign, as wide as a digit."""
    return text.replace("-", "\N{MINUS SIGN}")
