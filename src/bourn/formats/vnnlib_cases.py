"""From formulas to cases: the product of all assertions, its boxes apart from its other rows.

The usual file asserts a thousand bounds on single inputs and one disjunction.  So the bounds are kept as a
map from input to its two ends, what holds in every conjunction is held once, and a conjunction is dropped as
soon as its box is empty.  Rows of several inputs and no output cut the box to a polytope, so that bounds know them; they stay
among the conjunction's rows, too, where they mean what is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bourn.errors import EmptyInputSetError
from bourn.formats.formula import Atom, Bound, Formula, guard
from bourn.interval import Interval
from bourn.problem.cutting import cut
from bourn.problem.input_set import Box, InputSet
from bourn.problem.problem import Case
from bourn.problem.specification import Conjunction, Row, Specification, show
from bourn.rounding import float_below

End = Fraction | float
"""An end of an interval: exact, or an infinity."""

Ends = tuple[End, End]
Columns = frozenset[tuple[int, float, float, float, float]]
_EVERYTHING: Ends = (-math.inf, math.inf)

_MOST_POLYTOPES = 100
"""If a question had more of them, its boxes are not cut: each is a case of its own."""


class _Part(NamedTuple):
    """A conjunction of some of the assertions: its box, its other rows, and whether no constant row is false."""

    ends: dict[int, Ends]
    rows: tuple[Row, ...]
    possible: bool


def build_cases(formulas: Iterable[Formula], inputs: int, name: Callable[[int], str]) -> tuple[Case, ...]:
    """The cases of "all formulas hold": one per distinct box, in order of appearance.

    ``inputs`` is the number of inputs, ``name`` how the file calls input i.  Raises
    :class:`EmptyInputSetError` if no conjunction has an input, :class:`SpecificationError` if there are
    too many conjunctions.
    """
    branching = []
    certain: list[Atom | Bound] = []
    for formula in formulas:
        if len(formula) == 1:
            certain.extend(formula[0])
        else:
            branching.append(formula)
    base = _part(certain, {})
    empty = _empty_input(base.ends)
    parts = [] if empty is not None else [_Part({}, base.rows, base.possible)]
    for formula in branching:
        choices, missing = _split([_part(conjunction, base.ends) for conjunction in formula])
        guard(len(parts) * len(choices))
        parts, crossed = _split([_merge(part, choice) for part in parts for choice in choices])
        empty = empty or missing or crossed
    if not parts:
        assert empty is not None
        index, (low, high) = empty
        low_text, high_text = show(Fraction(low)), show(Fraction(high))
        raise EmptyInputSetError(f"the input set is empty: {name(index)} is at least {low_text} and at most {high_text}")
    return _group(parts, base.ends, inputs)


def _part(atoms: Iterable[Atom | Bound], base: Mapping[int, Ends]) -> _Part:
    """The conjunction of ``atoms`` inside a box: only ends that are tighter than the box's are kept."""
    ends: dict[int, Ends] = {}
    rows = []
    possible = True
    for atom in atoms:
        bound = atom if isinstance(atom, Bound) else _hull(atom)
        if bound is not None and bound.variable >= 0:
            index, end, upper = bound
            low, high = ends.get(index) or base.get(index, _EVERYTHING)
            # A float is an infinity; to compare with one is slow.
            if upper and (isinstance(high, float) or end < high):
                ends[index] = low, end
            elif not upper and (isinstance(low, float) or end > low):
                ends[index] = end, high
            # The box is closed: what is strict stays as a row beside it.
            if isinstance(atom, Bound) or not atom.strict:
                continue
        if isinstance(atom, Atom) and not atom.terms:
            possible &= atom.bound > 0 if atom.strict else atom.bound >= 0
        else:
            rows.append(_row(atom))
    return _Part(ends, tuple(rows), possible)


def _hull(atom: Atom) -> Bound | None:
    """The bound that an atom puts on its only variable, strictness aside; None if there are more."""
    if len(atom.terms) != 1:
        return None
    ((index, coefficient),) = atom.terms
    return Bound(index, atom.bound / coefficient, coefficient > 0)


def _row(atom: Atom | Bound) -> Row:
    if isinstance(atom, Bound):
        sign = 1 if atom.upper else -1
        atom = Atom(((atom.variable, sign),), sign * atom.end, False)
    # Outputs are negative and sorted from the last to the first.
    outputs = tuple((-1 - i, Fraction(c)) for i, c in reversed(atom.terms) if i < 0)
    inputs = tuple((i, Fraction(c)) for i, c in atom.terms if i >= 0)
    return Row(outputs, inputs, -atom.bound, atom.strict)


def _merge(first: _Part, second: _Part) -> _Part:
    ends = first.ends or second.ends
    if first.ends and second.ends:
        ends = dict(first.ends)
        for index, (low, high) in second.ends.items():
            other_low, other_high = ends.get(index, _EVERYTHING)
            ends[index] = max(low, other_low), min(high, other_high)
    return _Part(ends, first.rows + second.rows, first.possible and second.possible)


def _split(parts: list[_Part]) -> tuple[list[_Part], tuple[int, Ends] | None]:
    """The parts whose box is not empty, and an input of one whose box is, with its ends."""
    kept = []
    found = None
    for part in parts:
        empty = _empty_input(part.ends)
        found = found or empty
        if empty is None:
            kept.append(part)
    return kept, found


def _empty_input(ends: Mapping[int, Ends]) -> tuple[int, Ends] | None:
    return next(((index, pair) for index, pair in ends.items() if pair[0] > pair[1]), None)


def _group(parts: list[_Part], base: Mapping[int, Ends], inputs: int) -> tuple[Case, ...]:
    """One case per distinct input set.  Sets without a possible conjunction matter only if there is no other."""
    table = _Table(inputs)
    _write(table.ends, table.columns(base))
    # Many parts share one map of ends: its columns are computed once.
    known: dict[int, Columns] = {}
    chosen = [part for part in parts if part.possible] or parts
    cuts = _cuts(chosen)
    sets: dict[tuple[Columns, frozenset[Row]], list[_Part]] = {}
    for part, cut_by in zip(chosen, cuts, strict=True):
        columns = known.get(id(part.ends))
        if columns is None:
            columns = known[id(part.ends)] = table.columns(part.ends)
        sets.setdefault((columns, cut_by), []).append(part)
    cases = []
    for (columns, cut_by), members in sets.items():
        conjunctions = [part.rows for part in members if part.possible]
        if len(conjunctions) > 1:
            conjunctions = list(dict.fromkeys(conjunctions))
        specification = Specification(tuple(Conjunction(rows) for rows in conjunctions))
        cases.append(Case(_cut(table.box(columns), cut_by), specification))
    return tuple(cases)


def _cuts(parts: list[_Part]) -> list[frozenset[Row]]:
    """The rows of several inputs and no output that each part has; none where the parts' sets were too many."""
    found = [frozenset(row for row in part.rows if not row.outputs and len(row.inputs) > 1) for part in parts]
    return found if len({*found}) <= _MOST_POLYTOPES else [frozenset()] * len(parts)


def _cut(box: Box, rows: frozenset[Row]) -> InputSet:
    """The box cut by rows on inputs; the box itself where nothing is left, for then its rows are what refutes it."""
    try:
        return cut(box, [(row.inputs, -row.constant) for row in sorted(rows, key=str)])
    except EmptyInputSetError:
        return box


class _Table:
    """The box that all cases share, as an array: each input's lower end rounded down and up, and its upper end."""

    def __init__(self, inputs: int) -> None:
        self.ends = np.empty((4, inputs))
        self.ends[:2], self.ends[2:] = -math.inf, math.inf
        self.rounded: dict[int, tuple[float, float]] = {}

    def columns(self, ends: Mapping[int, Ends]) -> Columns:
        """The array's columns for some inputs.  Boxes of the same columns hold the same float64 points."""
        return frozenset((index, *self.around(low), *self.around(high)) for index, (low, high) in ends.items())

    def around(self, end: End) -> tuple[float, float]:
        """The float64s next to a number, below and above; twice itself if it is one."""
        # The question's numbers outlive this table, so an identity stands for one number.
        found = self.rounded.get(id(end))
        if found is None:
            found = self.rounded[id(end)] = _around(end)
        return found

    def box(self, columns: Columns) -> Box:
        """The shared box, but for the columns given."""
        ends = self.ends.copy()
        _write(ends, columns)
        lower, inner_lower, inner_upper, upper = torch.from_numpy(ends[:, None, :])
        return Box(Interval(lower, upper), (inner_lower, inner_upper))


def _write(ends: NDArray[np.float64], columns: Columns) -> None:
    if columns:
        indices, *values = zip(*columns, strict=True)
        ends[:, indices] = values


def _around(end: End) -> tuple[float, float]:
    if isinstance(end, float):
        return end, end
    below = float_below(end)
    # Two fractions in lowest terms; to compare a float with a Fraction is slow.
    if math.isfinite(below) and below.as_integer_ratio() == end.as_integer_ratio():
        return below, below
    return below, math.nextafter(below, math.inf)
