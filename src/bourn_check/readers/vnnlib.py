"""VNN-LIB 1.0 and 2.0, as far as questions about one network use them: boxes and linear rows, combined by and, or and not.

Every number is an exact rational.  What is not known here raises :class:`Unreadable`; nothing is passed over.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from bourn_check.certificate import exact
from bourn_check.errors import Unreadable
from bourn_check.readers import unpacked
from bourn_check.sets.ball import read_ball
from bourn_check.sets.box import Box, End, Ends
from bourn_check.specification import Disjunct, Row, Specification

_TOKEN = re.compile(r"\(|\)|;[^\n]*|[A-Za-z_]\w*\[[^\]()]*\]|\[[^\]()]*\]|[^\s();]+")
_ELEMENT = re.compile(r"([A-Za-z_]\w*)\s*\[([\d\s,]*)\]")
_PLAIN = re.compile(r"([XY])_(0|[1-9]\d*)")
_NEGATIONS = {"<=": ">", "<": ">=", ">=": "<", ">": "<=", "=": "!=", "==": "!=", "!=": "=="}
"""Twice applied it makes == of =."""
_MEANINGS = {"<=": [[(1, False)]], "<": [[(1, True)]], ">=": [[(-1, False)]], ">": [[(-1, True)]]}
_MEANINGS |= {"==": [[(1, False), (-1, False)]], "!=": [[(1, True)], [(-1, True)]]}
"""An OR of ANDs of the left side less the right one, or minus that, being at most 0, or below it."""
_MOST = 1 << 20
"""Disjuncts of a specification, and entries of a tensor."""


class _Sum(NamedTuple):
    """sum of terms[v] * v + constant; input i is i, output j is -1 - j."""

    terms: dict[int, Fraction]
    constant: Fraction


class _Atom(NamedTuple):
    """sum of terms + constant <= 0, or < 0."""

    terms: tuple[tuple[int, Fraction], ...]
    constant: Fraction
    strict: bool


Formula = list[tuple[_Atom, ...]]
"""An OR of ANDs."""


def read_specification(data: bytes, source: str) -> Specification:
    """The specification in a file's bytes, which may be gzipped."""
    try:
        return _Reader(unpacked(data).decode("utf-8-sig"), source).specification()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise Unreadable(f"{source}: {type(error).__name__}") from None


class _Reader:
    """One text: what it declares and asserts."""

    def __init__(self, text: str, source: str) -> None:
        self.text, self.source, self.line = text, source, 1
        self.variables: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        self.counts = {1: 0, -1: 0}
        self.plain: set[str] = set()
        self.assertions: list[Formula] = []
        self.inside: Box = Box()

    def fail(self, what: str) -> Unreadable:
        return Unreadable(f"{self.source}, line {self.line}: {what}")

    def specification(self) -> Specification:
        for form in self._forms():
            head, *rest = form if isinstance(form, list) and form else [None]
            if head == "vnnlib-version":
                if rest not in (["<1.0>"], ["<2.0>"]):
                    raise self.fail("VNN-LIB 1.0 and 2.0 are read")
            elif head in ("declare-const", "declare-fun") and len(rest) >= 2 and rest[-1] == "Real" and rest[1:-1] in ([], [[]]):
                self._declare_plain(rest[0])
            elif head == "declare-network" and rest and not self.variables:
                for part in rest[1:]:
                    self._declare_tensor(part)
            elif head == "assert" and type(self.inside) is Box and (ball := read_ball(rest, self.expression, self.counts[1])):
                self.inside = ball
            elif head == "assert" and len(rest) == 1:
                self.assertions.append(self.formula(rest[0], True))
            else:
                raise self.fail(f"{str(head)[:40]!r} is not read here")
        return self._joined()

    def _forms(self) -> Iterator[Any]:
        """The lists at the outermost level, as lists of words and lists."""
        stack: list[list[Any]] = []
        seen = 0
        for token in _TOKEN.finditer(self.text):
            word = token.group()
            if word == "(":
                if not stack:
                    self.line, seen = self.line + self.text.count("\n", seen, token.start()), token.start()
                if len(stack) == 200:
                    raise self.fail("lists are nested too deep")
                stack.append([])
            elif not word.startswith(";"):
                if not stack:
                    raise self.fail(f"{word[:40]!r} outside a list")
                value = stack.pop() if word == ")" else word
                if not stack:
                    yield value
                else:
                    stack[-1].append(value)
        if stack:
            raise self.fail("a list is never closed")

    # declarations

    def _declare_plain(self, name: Any) -> None:
        found = _PLAIN.fullmatch(name) if isinstance(name, str) else None
        if found is None or name in self.plain or len(found[2]) > 8:
            raise self.fail(f"a declaration of {str(name)[:40]!r}")
        side = 1 if found[1] == "X" else -1
        self.plain.add(name)
        self.variables[name] = side, int(found[2]), ()
        self.counts[side] += 1

    def _declare_tensor(self, part: Any) -> None:
        head = part[0] if isinstance(part, list) and len(part) == 4 else None
        if head not in ("declare-input", "declare-output") or not all(isinstance(p, str) for p in part):
            raise self.fail(f"{str(part)[:60]} in a declaration of a network")
        side, name, shape = (1 if head == "declare-input" else -1), part[1], self._numbers(part[3].strip("[]"))
        if name in self.variables or math.prod(shape) > _MOST or not part[3].startswith("["):
            raise self.fail(f"a declaration of {name[:40]!r}")
        self.variables[name] = side, self.counts[side], shape
        self.counts[side] += math.prod(shape)

    def _numbers(self, text: str) -> tuple[int, ...]:
        try:
            return tuple(int(n) for n in text.split(",") if n.strip())
        except ValueError:
            raise self.fail(f"{text[:40]!r} are no whole numbers") from None

    # formulas

    def formula(self, form: Any, positive: bool) -> Formula:
        """The disjunctive normal form of a formula, or of its negation."""
        head, *rest = form if isinstance(form, list) and form else [None]
        if head == "not" and len(rest) == 1:
            return self.formula(rest[0], not positive)
        if head in ("and", "or") and rest:
            parts = [self.formula(r, positive) for r in rest]
            if (head == "or") == positive:
                return [c for part in parts for c in part]
            return self._all_of(parts)
        if not isinstance(head, str) or len(rest) != 2:
            raise self.fail(f"{str(form)[:60]} is no formula")
        gap = _minus(*map(self.expression, rest))
        if head not in _NEGATIONS:
            raise self.fail(f"{head[:40]!r} is no comparison")
        meaning = _MEANINGS[_NEGATIONS[_NEGATIONS[head]] if positive else _NEGATIONS[head]]
        return [tuple(_atom(_scaled(gap, Fraction(sign)), strict) for sign, strict in atoms) for atoms in meaning]

    def _all_of(self, formulas: Iterable[Formula]) -> Formula:
        """All of them at once."""
        product: Formula = [()]
        for formula in formulas:
            if len(product) * len(formula) > _MOST:
                raise self.fail("too many conjunctions")
            product = [(*a, *b) for a in product for b in formula]
        return product

    def expression(self, form: Any) -> _Sum:
        if isinstance(form, str):
            return self._word(form)
        head, *rest = form or [None]
        if head not in ("+", "-", "*", "/") or not rest:
            raise self.fail(f"{str(form)[:60]} is no sum, product or quotient")
        parts = [self.expression(r) for r in rest]
        if head == "-" and len(parts) == 1:
            return _scaled(parts[0], Fraction(-1))
        result = parts[0]
        for part in parts[1:]:
            if head in ("+", "-"):
                result = _minus(result, part if head == "-" else _scaled(part, Fraction(-1)))
            elif head == "*" and (not part.terms or not result.terms):
                result = _scaled(result, part.constant) if not part.terms else _scaled(part, result.constant)
            elif head == "/" and not part.terms and part.constant:
                result = _scaled(result, 1 / part.constant)
            else:
                raise self.fail(f"{str(form)[:60]} is not linear, or not known")
        return result

    def _word(self, word: str) -> _Sum:
        element = _ELEMENT.fullmatch(word)
        name = element[1] if element else word
        if name in self.variables:
            side, start, shape = self.variables[name]
            place = self._numbers(element[2]) if element else ()
            if len(place) != len(shape) or any(not 0 <= p < n for p, n in zip(place, shape, strict=True)):
                raise self.fail(f"{word[:40]!r} is no element of a tensor of shape {list(shape)}")
            start += sum(p * math.prod(shape[k + 1 :]) for k, p in enumerate(place))
            return _Sum({start if side > 0 else -1 - start: Fraction(1)}, Fraction(0))
        if not re.match(r"[-+.\d]", word) or "/" in word or "_" in word:
            raise self.fail(f"{word[:40]!r} is not declared")
        return _Sum({}, exact(word, f"{self.source}, line {self.line}"))

    # the whole

    def _joined(self) -> Specification:
        inputs, outputs = self.counts[1], self.counts[-1]
        expected = {f"X_{i}" for i in range(inputs)} | {f"Y_{j}" for j in range(outputs)}
        if not inputs or not outputs or (self.plain and self.plain != expected):
            raise self.fail("inputs and outputs are to be declared, X_0, X_1, ... and Y_0, Y_1, ..., or a network's")
        certain = [atom for formula in self.assertions if len(formula) == 1 for atom in formula[0]]
        base, rows, possible = _apart(certain)
        base |= {i: _within(base.get(i), end) for i, end in self.inside.ends().items()}
        disjuncts = []
        for atoms in self._all_of(f for f in self.assertions if len(f) != 1) if possible else []:
            own, more, possible = _apart(atoms)
            ends = {i: _within(base.get(i), end) for i, end in own.items()}
            if possible and all(low <= high for low, high in {**base, **ends}.values()):
                disjuncts.append(Disjunct(base, ends, (*rows, *more), inputs))
        return Specification(inputs, outputs, tuple(disjuncts), self.inside)


def _minus(a: _Sum, b: _Sum) -> _Sum:
    terms = dict(a.terms)
    for v, c in b.terms.items():
        terms[v] = terms.get(v, Fraction(0)) - c
    return _Sum({v: c for v, c in terms.items() if c}, a.constant - b.constant)


def _scaled(a: _Sum, factor: Fraction) -> _Sum:
    return _Sum({v: c * factor for v, c in a.terms.items() if c * factor}, a.constant * factor)


def _atom(a: _Sum, strict: bool) -> _Atom:
    return _Atom(tuple(sorted(a.terms.items())), a.constant, strict)


def _within(known: tuple[End, End] | None, own: tuple[End, End]) -> tuple[End, End]:
    return own if known is None else (max(known[0], own[0]), min(known[1], own[1]))


def _apart(atoms: tuple[_Atom, ...] | list[_Atom]) -> tuple[Ends, tuple[Row, ...], bool]:
    """Bounds of single inputs, the other rows, and whether no constant row is false.  A strict bound is a row, too."""
    ends: Ends = {}
    rows = []
    for terms, constant, strict in atoms:
        if not terms:
            if constant > 0 or (strict and constant == 0):
                return {}, (), False
            continue
        if len(terms) == 1 and terms[0][0] >= 0:
            ((i, c),) = terms
            end = -constant / c
            ends[i] = _within(ends.get(i), (-math.inf, end) if c > 0 else (end, math.inf))
            if not strict:
                continue
        outputs = tuple(sorted((-1 - v, c) for v, c in terms if v < 0))
        rows.append(Row(outputs, tuple((v, c) for v, c in terms if v >= 0), constant, strict))
    return ends, tuple(rows), True
