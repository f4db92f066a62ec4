"""What a specification asks: an OR of disjuncts, each a box and rows c . y + e . x + d <= 0 (or < 0), in exact numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from bourn_check.arithmetic import Floats
from bourn_check.sets.box import Box, End, Ends

Terms = tuple[tuple[int, Fraction], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """outputs . y + inputs . x + constant <= 0, or < 0 if ``strict``."""

    outputs: Terms
    inputs: Terms
    constant: Fraction
    strict: bool


@dataclass(frozen=True, eq=False)
class Disjunct:
    """All rows at once, for inputs whose entries lie within ``ends`` and, where these say nothing, those of ``base``."""

    base: Ends
    ends: Ends
    rows: tuple[Row, ...]
    inputs: int

    @cached_property
    def rows_as_set(self) -> frozenset[Row]:
        return frozenset(self.rows)

    def end(self, i: int) -> tuple[End, End]:
        return self.ends.get(i) or self.base.get(i, (-math.inf, math.inf))

    def within(self, lower: Floats, upper: Floats) -> bool:
        """Whether its box lies in a box of float64 ends, exactly."""
        ends = (self.end(i) for i in range(self.inputs))
        return all(a <= low and high <= b for a, (low, high), b in zip(lower.tolist(), ends, upper.tolist(), strict=True))

    def nearest(self, x: Sequence[Fraction]) -> tuple[Fraction, ...]:
        """The point of its box nearest to x."""
        return tuple(Fraction(min(max(v, low), high)) for v, (low, high) in zip(x, map(self.end, range(self.inputs)), strict=True))

    def __str__(self) -> str:
        shown = [*(f"{float(c):+g} Y_{i}" for row in self.rows[:1] for i, c in row.outputs[:6])]
        return " ".join([*shown, "..."])


@dataclass(frozen=True, eq=False)
class Specification:
    """The counterexamples: those of any disjunct."""

    inputs: int
    outputs: int
    disjuncts: tuple[Disjunct, ...]
    inside: Box
