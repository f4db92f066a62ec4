"""Questions as VNN-LIB 1.0, with exact decimals: what was asked in Python becomes a file that others can read.

VNN-LIB has no form of its own for balls: they are written as what they are in arithmetic, sums of squares or of absolute values.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch

from bourn.errors import UsageError
from bourn.problem.balls import Ball
from bourn.problem.input_set import Box, InputSet
from bourn.problem.polytopes import Polytope
from bourn.problem.problem import Question
from bourn.problem.specification import Row


def as_vnnlib(question: Question) -> str:
    """The text of a question; raises :class:`UsageError` where it has several input sets, or one that is a product of others."""
    if len(question.cases) != 1:
        raise UsageError(f"a question with {len(question.cases)} input sets is not written as VNN-LIB")
    (case,) = question.cases
    conjunctions = [f"(and {' '.join(map(_row, c.rows))})" for c in case.specification.conjunctions]
    lines = [f"(declare-const X_{i} Real)" for i in range(question.inputs)]
    lines += [f"(declare-const Y_{j} Real)" for j in range(question.outputs)]
    lines += [f"(assert {formula})" for formula in (*_within(case.box), f"(or {' '.join(conjunctions)})")]
    return "\n".join([*lines, ""])


def half_spaces(polytope: Polytope) -> tuple[Row, ...]:
    """A polytope's half-spaces as exact rows on inputs."""
    pairs = zip(polytope.matrix[0].flatten(1).tolist(), polytope.limits[0].tolist(), strict=True)
    return tuple(Row((), tuple((i, Fraction(c)) for i, c in enumerate(row) if c), -Fraction(b), False) for row, b in pairs)


def _within(inside: InputSet) -> list[str]:
    """Formulas that say of the inputs where they lie."""
    if isinstance(inside, Polytope):
        return [*_within(inside.sides), *map(_row, half_spaces(inside))]
    if not isinstance(inside, Box | Ball):
        raise UsageError("an input set that is a product of others is not written as VNN-LIB")
    sides = inside.sides if isinstance(inside, Ball) else inside.interval
    found = []
    for i, (low, high) in enumerate(zip(sides.lower.flatten().tolist(), sides.upper.flatten().tolist(), strict=True)):
        found += [f"({sign} X_{i} {_exact(end)})" for sign, end in ((">=", low), ("<=", high)) if torch.inf != abs(end)]
    return found + ([_ball(inside)] if isinstance(inside, Ball) else [])


def _ball(ball: Ball) -> str:
    apart = [f"(- X_{i} {_exact(c)})" for i, c in enumerate(ball.center.flatten().tolist())]
    radius = _exact(ball.radius)
    if ball.norm == 1:
        return f"(<= (+ {' '.join(f'(abs {a})' for a in apart)}) {radius})"
    return f"(<= (+ {' '.join(f'(* {a} {a})' for a in apart)}) (* {radius} {radius}))"


def _row(row: Row) -> str:
    """A row as a comparison: what is added on the left, what is taken away on the right."""
    terms = [(f"Y_{j}", c) for j, c in row.outputs] + [(f"X_{i}", c) for i, c in row.inputs]
    left = [_times(c, name) for name, c in terms if c > 0] + [_exact(c) for c in (row.constant,) if c > 0]
    right = [_times(-c, name) for name, c in terms if c < 0] + [_exact(-c) for c in (row.constant,) if c < 0]
    return f"({'<' if row.strict else '<='} {_sum(left)} {_sum(right)})"


def _sum(terms: Sequence[str]) -> str:
    return f"(+ {' '.join(terms)})" if len(terms) > 1 else next(iter(terms), "0.0")


def _times(factor: Fraction, name: str) -> str:
    return name if factor == 1 else f"(* {_exact(factor)} {name})"


def _exact(value: float | Fraction) -> str:
    """A number as a decimal or, where it has none that ends, a quotient."""
    number = Fraction(value)
    whole, rest = number.denominator, 0
    for prime in (2, 5):
        count = 0
        while whole % prime == 0:
            whole, count = whole // prime, count + 1
        rest = max(rest, count)
    if whole != 1:
        return f"(/ {_exact(Fraction(number.numerator))} {_exact(Fraction(number.denominator))})"
    digits = str(abs(number.numerator) * 10**rest // number.denominator).rjust(rest + 1, "0")
    return f"{'-' if number < 0 else ''}{digits[: len(digits) - rest]}.{digits[len(digits) - rest :] or '0'}"
