"""Boxes, on which a row is least at a corner."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from bourn_check.arithmetic import Arithmetic, Floats, Index, Values

End = Fraction | float
"""Exact, or an infinity."""
Ends = dict[int, tuple[End, End]]


class Box:
    """What the inputs lie in, as far as their ends do not say it: here everything."""

    def least(self, row: Values, at: Index, ends: Sequence[Floats], arithmetic: Arithmetic) -> Values:
        """A lower bound of each row (M, n) on the entries ``at`` of x, between two ``ends`` (M or 1, n) of these."""
        return row.scaled(ends[0]).minimum(row.scaled(ends[1])).total()

    def contains(self, x: Sequence[Fraction]) -> bool:
        """Whether a point lies in it, exactly."""
        return True

    def ends(self) -> Ends:
        """Of entries the least and the most that it allows."""
        return {}
