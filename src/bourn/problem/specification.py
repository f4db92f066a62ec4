"""Specifications: the set of counterexamples, as an OR of conjunctions of linear rows.

Numbers are exact rationals here, as written in the file: rounding happens where bounds are computed, and
a counterexample is checked against the rows themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from bourn.errors import SpecificationError

Number = int | float | Fraction
Terms = tuple[tuple[int, Fraction], ...]


def _terms(coefficients: Mapping[int, Number] | Iterable[tuple[int, Number]]) -> Terms:
    items = coefficients.items() if isinstance(coefficients, Mapping) else coefficients
    total: dict[int, Fraction] = {}
    for index, value in items:
        total[index] = total.get(index, Fraction(0)) + Fraction(value)
    return tuple(sorted((i, v) for i, v in total.items() if v))


@dataclass(frozen=True, slots=True)
class Row:
    """c . y + e . x + d <= 0, or < 0 if ``strict``: y and x are the flat (row-major) output and input."""

    outputs: Terms
    inputs: Terms
    constant: Fraction
    strict: bool = False

    @classmethod
    def of(
        cls,
        outputs: Mapping[int, Number] | Iterable[tuple[int, Number]] = (),
        inputs: Mapping[int, Number] | Iterable[tuple[int, Number]] = (),
        constant: Number = 0,
        strict: bool = False,
    ) -> Row:
        """A row from coefficients by index; repeated indices add up, zeros are dropped."""
        return cls(_terms(outputs), _terms(inputs), Fraction(constant), strict)

    def value(self, x: Sequence[float], y: Sequence[float]) -> Fraction:
        """The row's left-hand side, exactly, at flat x and y (which must be finite)."""
        total = self.constant
        for i, c in self.outputs:
            total += c * Fraction(float(y[i]))
        for i, c in self.inputs:
            total += c * Fraction(float(x[i]))
        return total

    def holds(self, x: Sequence[float], y: Sequence[float]) -> bool:
        """Whether the row is satisfied, exactly."""
        value = self.value(x, y)
        return value < 0 if self.strict else value <= 0

    def __str__(self) -> str:
        parts = [f"{_show(c)}Y_{i}" for i, c in self.outputs] + [f"{_show(c)}X_{i}" for i, c in self.inputs]
        if self.constant or not parts:
            parts.append(f"{'-' if self.constant < 0 else '+'} {show(abs(self.constant))}")
        text = " ".join(parts).removeprefix("+ ")
        return f"{text} {'<' if self.strict else '<='} 0"


def _show(coefficient: Fraction) -> str:
    sign = "-" if coefficient < 0 else "+"
    size = abs(coefficient)
    return f"{sign} " if size == 1 else f"{sign} {show(size)} "


def show(number: Fraction) -> str:
    """A number for messages: a few digits, of whatever size it is."""
    return f"{Decimal(number.numerator) / number.denominator:.6g}" if abs(number) > 10**300 else f"{float(number):g}"


@dataclass(frozen=True, slots=True)
class Conjunction:
    """All rows at once; without rows it always holds."""

    rows: tuple[Row, ...]

    def holds(self, x: Sequence[float], y: Sequence[float]) -> bool:
        """Whether every row is satisfied, exactly."""
        return all(row.holds(x, y) for row in self.rows)

    def weighted(self, weights: Sequence[float]) -> Row:
        """The sum of the rows by weight, exactly."""
        exact = [Fraction(w) for w in weights]
        outputs = [(i, w * c) for w, row in zip(exact, self.rows, strict=True) for i, c in row.outputs]
        inputs = [(i, w * c) for w, row in zip(exact, self.rows, strict=True) for i, c in row.inputs]
        return Row.of(outputs, inputs, sum((w * row.constant for w, row in zip(exact, self.rows, strict=True)), Fraction(0)))

    def __str__(self) -> str:
        return " and ".join(map(str, self.rows)) if self.rows else "true"


@dataclass(frozen=True, slots=True)
class Specification:
    """The counterexamples: those (x, y) that satisfy any of the conjunctions; none if there is none.

    Combine by ``|`` and ``&`` (the product of the conjunctions).
    """

    conjunctions: tuple[Conjunction, ...]

    @classmethod
    def of(cls, *conjunctions: Iterable[Row]) -> Specification:
        """A specification from rows: each argument is one conjunction."""
        return cls(tuple(Conjunction(tuple(rows)) for rows in conjunctions))

    def __or__(self, other: Specification) -> Specification:
        return Specification(self.conjunctions + other.conjunctions)

    def __and__(self, other: Specification) -> Specification:
        return Specification(tuple(Conjunction(a.rows + b.rows) for a in self.conjunctions for b in other.conjunctions))

    def holds(self, x: Sequence[float], y: Sequence[float]) -> bool:
        """Whether (x, y) is a counterexample, exactly."""
        return any(c.holds(x, y) for c in self.conjunctions)

    def check_indices(self, inputs: int, outputs: int) -> None:
        """Raise :class:`SpecificationError` if a row names an input or output that is not there."""
        for conjunction in self.conjunctions:
            for row in conjunction.rows:
                for terms, count, letter in ((row.inputs, inputs, "X"), (row.outputs, outputs, "Y")):
                    for index, _ in terms:
                        if not 0 <= index < count:
                            what = "inputs" if letter == "X" else "outputs"
                            raise SpecificationError(
                                f"the specification names {letter}_{index}, but the network has {count} {what}"
                            )

    def __str__(self) -> str:
        return " or ".join(f"({c})" for c in self.conjunctions) if self.conjunctions else "false"


def class_margins(label: int, classes: int) -> Specification:
    """Counterexamples of "the class is ``label``": some other output is at least as great."""
    if not 0 <= label < classes:
        raise SpecificationError(f"label {label} is not one of the {classes} classes")
    return Specification.of(*([Row.of({label: 1, j: -1})] for j in range(classes) if j != label))
