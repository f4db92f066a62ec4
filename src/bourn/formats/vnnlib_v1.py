"""VNN-LIB 1.0: constants X_i and Y_i, and assertions over them.

Files of 100 MB are real, so this reads in one pass, evaluates every list as it closes (nothing nests on
Python's stack), and takes the commonest form, a bound such as ``(<= X_3 0.5)``, as a single token.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import NoReturn

from bourn.errors import SpecificationError
from bourn.formats import formula as f
from bourn.formats.formula import Affine, Bound, Formula
from bourn.formats.vnnlib_cases import build_cases
from bourn.problem.problem import Question, Variable

_TOKEN = re.compile(
    rf"""
    \(\s*(<=|>=)\s+([XY]_\d+)\s+({f.NUMBER})\s*\)  # a bound
    | (\() | (\)) | ([^\s();]+)                    # a list, a word
    | ;[^\n]*
    """,
    re.VERBOSE | re.ASCII,
)
_BOUND, _OPEN, _CLOSE = 3, 4, 5  # the last group of each kind of token
_NAME = re.compile(r"([XY])_(0|[1-9]\d*)", re.ASCII)

Value = str | Affine | Formula
"""A word, or what a list came to: an expression or a formula."""

_ARITHMETIC: dict[str, Callable[..., Affine]] = {"+": f.add, "-": f.subtract, "*": f.multiply, "/": f.divide}
_COMPARISONS: dict[str, Callable[..., Formula]] = {
    symbol: partial(f.compare, meaning)
    for symbol, meaning in {"<=": "<=", "<": "<", ">=": ">=", ">": ">", "=": "==", "==": "==", "!=": "!="}.items()
}
_CONNECTIVES: dict[str, Callable[..., Formula]] = {"and": f.conjoin, "or": f.disjoin, "not": f.negate}


def parse(text: str, source: str = "") -> Question:
    """The question that a VNN-LIB 1.0 text asks.

    Raises :class:`SpecificationError`, naming the line, where the text is malformed or a row is not linear,
    and :class:`EmptyInputSetError` if no input satisfies it.
    """
    reader = _Reader(text, source)
    reader.read()
    inputs, outputs = reader.count("X", "input"), reader.count("Y", "output")
    try:
        cases = build_cases(reader.assertions, inputs, lambda index: f"X_{index}")
    except SpecificationError as error:
        raise type(error)(reader.locate(str(error))) from None
    variables = (Variable("X", "input", "real", (inputs,)), Variable("Y", "output", "real", (outputs,)))
    return Question(cases, inputs, outputs, variables, "1.0", (), source)


class _Reader:
    """One text being read: what it declared and asserted so far."""

    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.source = source
        self.variables: dict[str, int] = {}
        self.assertions: list[Formula] = []
        self.numbers: dict[str, Fraction] = {}
        self.commands: dict[str, Callable[[list[Value]], None]] = {
            "declare-const": self.declare,
            "declare-fun": self.declare,
            "assert": self.state,
            "vnnlib-version": lambda arguments: None,
        }

    def read(self) -> None:
        """Evaluate every list of the text as it closes."""
        open_lists: list[tuple[int, list[Value]]] = []
        for token in _TOKEN.finditer(self.text):
            kind = token.lastindex
            if kind is None:
                continue
            try:
                if kind == _OPEN:
                    open_lists.append((token.start(), []))
                    continue
                if kind == _CLOSE:
                    if not open_lists:
                        raise SpecificationError("a ')' that closes nothing")
                    value = self.close(open_lists.pop()[1], not open_lists)
                    if value is None:
                        continue
                else:
                    value = self.bound(*token.group(1, 2, 3)) if kind == _BOUND else token.group()
                if not open_lists:
                    raise SpecificationError(f"{f.shorten(token.group())!r} outside an assertion")
                open_lists[-1][1].append(value)
            except SpecificationError as error:
                self.fail(str(error), token.start())
        if open_lists:
            self.fail("this '(' is never closed", open_lists[-1][0])

    def fail(self, message: str, position: int) -> NoReturn:
        line = self.text.count("\n", 0, position) + 1
        raise SpecificationError(self.locate(message, line)) from None

    def locate(self, message: str, line: int | None = None) -> str:
        """``message``, preceded by the file and the line, as far as they are known."""
        return f.locate(message, self.source, line)

    def close(self, values: list[Value], outermost: bool) -> Value | None:
        """What a list comes to; None for a command, which is carried out."""
        head, *arguments = values or [""]
        if not isinstance(head, str):
            raise SpecificationError("a list that starts with a list; an operator was expected")
        if outermost:
            command = self.commands.get(head)
            if command is None:
                raise SpecificationError(f"unknown command {f.shorten(head)!r}")
            command(arguments)
            return None
        if not values:
            return ""
        if not arguments:
            raise SpecificationError(f"{f.shorten(head)!r} has no arguments")
        if head in _CONNECTIVES:
            return _CONNECTIVES[head](*map(self.formula, arguments))
        operation = _COMPARISONS.get(head) or _ARITHMETIC.get(head)
        if operation is None:
            raise SpecificationError(f"unknown operator {f.shorten(head)!r}")
        return operation(*map(self.expression, arguments))

    def bound(self, symbol: str, name: str, literal: str) -> Formula:
        """The commonest comparison, without the detour over expressions."""
        return [(Bound(self.index(name), self.number(literal), symbol == "<="),)]

    def expression(self, value: Value) -> Affine:
        if isinstance(value, Affine):
            return value
        if not isinstance(value, str):
            raise SpecificationError("a comparison where an expression was expected")
        if value[:1].isalpha():
            return f.variable(self.index(value))
        return f.constant(self.number(value))

    def formula(self, value: Value) -> Formula:
        if isinstance(value, list):
            return value
        what = f.shorten(value) if isinstance(value, str) else "an expression"
        raise SpecificationError(f"{what} where a comparison was expected")

    def index(self, name: str) -> int:
        index = self.variables.get(name)
        if index is None:
            raise SpecificationError(f"the assertion names {f.shorten(name)}, which is not declared")
        return index

    def number(self, literal: str) -> Fraction:
        number = self.numbers.get(literal)
        if number is None:
            number = self.numbers[literal] = f.exact(literal)
        return number

    def declare(self, arguments: list[Value]) -> None:
        name, kind = (arguments[0], arguments[-1]) if arguments else ("", "")
        if not isinstance(name, str) or kind != "Real" or arguments[1:-1] not in ([], [""]):
            raise SpecificationError("a declaration must read (declare-const X_0 Real)")
        match = _NAME.fullmatch(name)
        if match is None:
            raise SpecificationError(f"{f.shorten(name)} is declared, but inputs are called X_0, X_1, … and outputs Y_0, Y_1, …")
        if name in self.variables:
            raise SpecificationError(f"{name} is declared twice")
        letter, index = match.groups()
        if len(index) > 9:
            raise SpecificationError(f"{f.shorten(name)} is beyond what bourn reads")
        self.variables[name] = int(index) if letter == "X" else -1 - int(index)

    def state(self, arguments: list[Value]) -> None:
        if len(arguments) != 1:
            raise SpecificationError(f"'assert' takes one formula, not {len(arguments)}")
        self.assertions.append(self.formula(arguments[0]))

    def count(self, letter: str, what: str) -> int:
        """How many inputs (outputs) are declared; their indices must be 0, 1, …"""
        names = {name for name in self.variables if name[0] == letter}
        if not names:
            raise SpecificationError(self.locate(f"no {what} is declared"))
        for index in range(len(names)):
            if f"{letter}_{index}" not in names:
                raise SpecificationError(self.locate(f"{len(names)} {what}s are declared, but {letter}_{index} is not among them"))
        return len(names)
