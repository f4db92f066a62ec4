"""Linear arithmetic and formulas over it, exactly, in disjunctive normal form.

What both versions of VNN-LIB mean by their operators.  A variable is an integer: input i is i, output j is
-1 - j.  Nothing here knows where in a file it stands: messages are completed by the reader that does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from math import prod
from typing import NamedTuple

from bourn.errors import SpecificationError

Exact = Fraction | int
"""An exact number; integers stay integers, which are faster."""

LIMIT = 1_000_000
"""Most conjunctions that a question may come to; a formula beyond it is refused, not expanded."""

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBER = re.compile(NUMBER, re.ASCII)
_GREATEST_EXPONENT = 4000


class Affine(NamedTuple):
    """The sum of coefficient * variable, plus a constant."""

    terms: dict[int, Exact]
    constant: Exact


class Atom(NamedTuple):
    """The sum of coefficient * variable <= bound, or < bound if ``strict``; no coefficient is zero."""

    terms: tuple[tuple[int, Exact], ...]
    bound: Fraction
    strict: bool


class Bound(NamedTuple):
    """Variable <= end if ``upper``, otherwise >= end: an atom of the commonest kind, in its shortest form."""

    variable: int
    end: Fraction
    upper: bool


Formula = list[tuple[Atom | Bound, ...]]
"""An OR of ANDs: no conjunction is "false", a conjunction without atoms is "true"."""


def exact(literal: str) -> Fraction:
    """The number that a decimal literal stands for; raises :class:`SpecificationError` if it is none."""
    if not _NUMBER.fullmatch(literal):
        raise SpecificationError(f"{shorten(literal)!r} is not a number")
    _, _, exponent = literal.lower().partition("e")
    # Fraction would build all the digits of 1e1000000000, and Python refuses to read very long integers.
    if len(exponent) > 6 or abs(int(exponent or 0)) > _GREATEST_EXPONENT or len(literal) > _GREATEST_EXPONENT:
        raise SpecificationError(f"the number {shorten(literal)} is beyond what bourn reads")
    return Fraction(literal)


def shorten(text: str, length: int = 40) -> str:
    """``text`` fit for a message: one line, cut at ``length`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[:length] + "…"


def locate(message: str, source: str, line: int | None = None) -> str:
    """``message``, preceded by the file and the line, as far as they are known."""
    place = ", ".join(part for part in (source, f"line {line}" if line else "") if part)
    return f"{place}: {message}" if place else message


def variable(index: int) -> Affine:
    """One variable."""
    return Affine({index: 1}, 0)


def constant(value: Exact) -> Affine:
    """A number."""
    return Affine({}, value)


def add(*parts: Affine) -> Affine:
    """The sum."""
    terms = dict(parts[0].terms)
    total = parts[0].constant
    for part in parts[1:]:
        total += part.constant
        for index, coefficient in part.terms.items():
            terms[index] = terms.get(index, 0) + coefficient
    return Affine(terms, total)


def scale(affine: Affine, factor: Exact) -> Affine:
    """The product with a number."""
    return Affine({i: factor * c for i, c in affine.terms.items()}, factor * affine.constant)


def subtract(first: Affine, *rest: Affine) -> Affine:
    """first - rest[0] - …; the negative of ``first`` if it stands alone."""
    if not rest:
        return scale(first, -1)
    return add(first, *(scale(part, -1) for part in rest))


def multiply(*factors: Affine) -> Affine:
    """The product; raises :class:`SpecificationError` if two factors hold variables."""
    linear = [f for f in factors if any(f.terms.values())]
    if len(linear) > 1:
        raise SpecificationError("the row is not linear: it multiplies variables by each other")
    scalar = prod((f.constant for f in factors if not any(f.terms.values())), start=Fraction(1))
    return scale(linear[0], scalar) if linear else constant(scalar)


def divide(first: Affine, *divisors: Affine) -> Affine:
    """The quotient; raises :class:`SpecificationError` if a divisor holds a variable or is zero."""
    if not divisors:
        raise SpecificationError("'/' needs at least two arguments")
    if any(any(d.terms.values()) for d in divisors):
        raise SpecificationError("the row is not linear: it divides by a variable")
    divisor = prod((d.constant for d in divisors), start=Fraction(1))
    if not divisor:
        raise SpecificationError("a division by zero")
    return scale(first, 1 / Fraction(divisor))


def _atom(difference: Affine, strict: bool) -> Atom:
    terms = tuple(sorted((i, c) for i, c in difference.terms.items() if c))
    return Atom(terms, Fraction(-difference.constant), strict)


def _at_most(left: Affine, right: Affine) -> Formula:
    return [(_atom(subtract(left, right), False),)]


def _below(left: Affine, right: Affine) -> Formula:
    return [(_atom(subtract(left, right), True),)]


def _equal(left: Affine, right: Affine) -> Formula:
    return [(*_at_most(left, right)[0], *_at_most(right, left)[0])]


def _different(left: Affine, right: Affine) -> Formula:
    return _below(left, right) + _below(right, left)


_COMPARISONS: dict[str, Callable[[Affine, Affine], Formula]] = {
    "<=": _at_most,
    "<": _below,
    ">=": lambda left, right: _at_most(right, left),
    ">": lambda left, right: _below(right, left),
    "==": _equal,
    "!=": _different,
}


def compare(symbol: str, *sides: Affine) -> Formula:
    """A comparison; raises :class:`SpecificationError` if it has other than two sides."""
    if len(sides) != 2:
        raise SpecificationError(f"{symbol!r} compares two expressions, not {len(sides)}")
    return _COMPARISONS[symbol](*sides)


def conjoin(*formulas: Formula) -> Formula:
    """All at once: the product of the disjunctions; raises :class:`SpecificationError` if it is too large."""
    # What does not branch is joined once, not once per combination.
    shared = tuple(atom for f in formulas if len(f) == 1 for atom in f[0])
    branching = [f for f in formulas if len(f) != 1]
    combinations = prod(map(len, branching))
    guard(combinations)
    # Each combination holds its own copy of what is shared: no more of that than memory takes.
    guard(combinations * len(shared) // 100)
    return [sum(choice, shared) for choice in product(*branching)]


def disjoin(*formulas: Formula) -> Formula:
    """Any of them."""
    return [conjunction for formula in formulas for conjunction in formula]


def negate(*formulas: Formula) -> Formula:
    """The opposite of one formula; raises :class:`SpecificationError` for several, or if it is too large."""
    if len(formulas) != 1:
        raise SpecificationError(f"'not' takes one formula, not {len(formulas)}")
    (formula,) = formulas
    refused: list[Formula] = [[(_opposite(atom),) for atom in conjunction] for conjunction in formula]
    return conjoin(*refused)


def _opposite(atom: Atom | Bound) -> Atom:
    if isinstance(atom, Bound):
        sign = -1 if atom.upper else 1
        return Atom(((atom.variable, sign),), sign * atom.end, True)
    return Atom(tuple((i, -c) for i, c in atom.terms), -atom.bound, not atom.strict)


def guard(conjunctions: int) -> None:
    """Raise :class:`SpecificationError` if a question would come to too many conjunctions."""
    if conjunctions > LIMIT:
        raise SpecificationError(f"the question comes to {conjunctions:,} conjunctions; bourn takes up to {LIMIT:,}")
