"""VNN-LIB 2.0, parsed and type-checked by the standard's own parser.

The parser's tree is evaluated here, exactly: its own linear forms are float64.  What the standard's grammar
lacks but files hold (exponents, integers for real variables, ``Real``) is spelled out before it parses.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import vnnlib

from bourn.errors import SpecificationError
from bourn.formats import formula as f
from bourn.formats.formula import Affine, Formula
from bourn.formats.vnnlib_cases import build_cases
from bourn.formats.vnnlib_sharing import share
from bourn.problem.problem import Declared, Question, Shared, Variable

_DEEPEST = 1000
"""The parser recurses, and ends the process where the stack does: at some 50,000 levels."""

_MOST_ENTRIES = 100_000_000

# Text whose digits are no numbers of the arithmetic comes first, and is left as it is.
_NUMBER = re.compile(rf'(?:;[^\n]*|"[^"]*"|\[[^\]]*\]|<\s*[\d.]+\s*>|[A-Za-z_]\w*)|(?P<number>{f.NUMBER})', re.ASCII)
_CAPITAL_REAL = re.compile(r"(\(\s*declare-(?:input|output|hidden)\s+\w+\s+)Real\b")
_PARENTHESIS = re.compile(r'[()]|;[^\n]*|"[^"]*"')
_SYNTAX_ERROR = re.compile(r"Parse error: syntax error at line (\d+), column (\d+): '(.*)'", re.DOTALL)
_STEP = {"(": 1, ")": -1}
_DECLARATION = re.compile(r"\(\s*declare-(?:input|output)\s+\w+\s+(\w+)")

_REALS = ("real", "float16", "float32", "float64", "bfloat16")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

# The parser's grammar keeps expressions and formulas apart, so the arguments are of the right kind.
_OPERATIONS: dict[type, Callable[..., Affine] | Callable[..., Formula]] = {
    vnnlib.Plus: f.add,
    vnnlib.Minus: f.subtract,
    vnnlib.Negate: f.subtract,
    vnnlib.Multiply: f.multiply,
    vnnlib.And: f.conjoin,
    vnnlib.Or: f.disjoin,
    vnnlib.LessEqual: partial(f.compare, "<="),
    vnnlib.LessThan: partial(f.compare, "<"),
    vnnlib.GreaterEqual: partial(f.compare, ">="),
    vnnlib.GreaterThan: partial(f.compare, ">"),
    vnnlib.Equal: partial(f.compare, "=="),
    vnnlib.NotEqual: partial(f.compare, "!="),
}


def parse(text: str, source: str = "") -> Question:
    """The question that a VNN-LIB 2.0 text asks of one network or several.

    All inputs become one flat X, all outputs and hidden nodes one flat Y: row-major, in the order of declaration.  Inputs of
    several networks that are asserted to be equal become one.  Raises :class:`SpecificationError`, with the line where it is
    known, if the text is malformed or a row is not linear, and :class:`EmptyInputSetError` if no input satisfies it.
    """
    try:
        query = _query(text)
        variables = tuple(v for network in query.networks for v in _variables(network))
        inputs, outputs = (tuple(v for v in variables if v.kind == kind) for kind in ("input", "output"))
        for kind, own in (("input", inputs), ("output", outputs)):
            if sum(math.prod(v.shape) for v in own) > _MOST_ENTRIES:
                raise _Fault(f"more than {_MOST_ENTRIES:,} {kind}s are declared")
        reader = _Reader({**_places(inputs), **_places(outputs)})
        formulas = [reader.evaluate(assertion.expr) for assertion in query.assertions]
        networks = tuple(Declared(n.name, n.equal_to or "", n.isometric_to or "") for n in query.networks)
        shared = Shared(*(tuple(range(sum(math.prod(v.shape) for v in own))) for own in (inputs, outputs)))
        if len(networks) > 1:
            formulas, *places = share(formulas, variables, networks)
            shared = Shared(*places)
        count = len(set(shared.inputs))
        cases = build_cases(formulas, count, lambda index: _name(inputs, shared.inputs.index(index)))
    except _Fault as fault:
        raise SpecificationError(f.locate(str(fault), source, fault.line)) from None
    except SpecificationError as error:
        raise type(error)(f.locate(str(error), source)) from None
    total = len(set(shared.outputs))
    return Question(cases, count, total, variables, "2.0", networks, source, shared if len(networks) > 1 else None)


class _Fault(Exception):
    """What is wrong with a text, and in which line."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def _query(text: str) -> vnnlib.Query:
    """The parser's tree; its complaints as a fault."""
    depth = accumulate(_STEP.get(token, 0) for token in _PARENTHESIS.findall(text))
    if max(depth, default=0) > _DEEPEST:
        raise _Fault(f"parentheses nest deeper than {_DEEPEST} levels")
    try:
        return vnnlib.parse_query_string(_spell_out(text))
    except vnnlib.VNNLibException as error:
        raise _explain(str(error)) from None


def _spell_out(text: str) -> str:
    """The text in the words of the standard's grammar, line by line as it was."""
    text = _CAPITAL_REAL.sub(r"\1real", text)
    # An integer stands for the real number of the same value only where no variable is an integer.
    as_real = not any(kind in _INTEGERS for kind in _DECLARATION.findall(text))

    def spell(match: re.Match[str]) -> str:
        literal = match["number"]
        if literal is None or not (as_real or set(literal) & set(".eE")):
            return match[0]
        try:
            return _decimal(literal)
        except SpecificationError as error:
            raise _Fault(str(error), text.count("\n", 0, match.start()) + 1) from None

    return _NUMBER.sub(spell, text)


def _decimal(literal: str) -> str:
    """The same number without exponent and with a decimal point."""
    whole, point, decimals = literal.partition(".")
    if point and whole.removeprefix("-").isdigit() and decimals.isdigit():
        return literal
    value = f.exact(literal)
    # A decimal literal's denominator divides a power of ten: 10**places does for as many binary digits.
    places = max(1, value.denominator.bit_length())
    digits = str(abs(value.numerator) * (10**places // value.denominator)).rjust(places + 1, "0")
    text = f"{digits[:-places]}.{digits[-places:].rstrip('0') or '0'}"
    return f"-{text}" if value < 0 else text


def _explain(complaint: str) -> _Fault:
    """The parser's complaint, which is a sentence or JSON, as one line."""
    try:
        first = json.loads(complaint)["errors"][0]
        return _Fault(f"{first['message']}: {first['offendingSymbol']}. {first['hint']}", first["line"])
    except (ValueError, LookupError, TypeError):
        syntax = _SYNTAX_ERROR.fullmatch(complaint)
        if syntax is None:
            return _Fault(f.shorten(complaint, 200))
        line, column, token = syntax.groups()
        return _Fault(f"syntax error at column {column}, at {f.shorten(token) or 'the end'}", int(line))


def _variables(network: vnnlib.Network) -> Iterator[Variable]:
    """The declared tensors of a network, in order; hidden nodes are outputs."""
    definitions: list[vnnlib.InputDefinition | vnnlib.HiddenDefinition | vnnlib.OutputDefinition] = [*network.inputs]
    definitions += [*network.hidden, *network.outputs]
    for number, definition in enumerate(definitions):
        # "(declare-input X float32 [1, 2])": the parser keeps no other record of a type it does not know.
        element_type = str(definition).split()[2]
        if element_type not in _REALS + _INTEGERS:
            raise _Fault(f"{definition.name} has element type {element_type}, which bourn does not read")
        kind = "input" if number < len(network.inputs) else "output"
        tensor = (definition.onnx_name or "").strip('"') if isinstance(definition, vnnlib.HiddenDefinition) else ""
        yield Variable(definition.name, kind, element_type, tuple(definition.shape), network.name, tensor)


def _places(variables: tuple[Variable, ...]) -> dict[str, tuple[Variable, int]]:
    """Where each tensor starts in the flat vector of its kind."""
    starts = accumulate((math.prod(v.shape) for v in variables), initial=0)
    return {v.name: (v, start) for v, start in zip(variables, starts, strict=False)}


def _name(variables: tuple[Variable, ...], index: int) -> str:
    """How the file writes entry ``index`` of the flat vector."""
    for variable in variables:
        size = math.prod(variable.shape)
        if index < size:
            break
        index -= size
    indices = []
    for length in reversed(variable.shape):
        index, rest = divmod(index, length)
        indices.append(str(rest))
    return f"{variable.name}[{','.join(reversed(indices))}]" if indices else variable.name


@dataclass(frozen=True, slots=True)
class _Reader:
    """Evaluates the parser's trees; ``places`` says where each tensor starts in its flat vector."""

    places: dict[str, tuple[Variable, int]]

    def evaluate(self, root: vnnlib.BoolExpr) -> Formula:
        """The formula of an assertion, its leaves first, without recursion."""
        order: list[tuple[vnnlib.Node, int]] = []
        pending: list[vnnlib.Node] = [root]
        while pending:
            node = pending.pop()
            children = node.children()
            order.append((node, len(children)))
            pending.extend(children)
        # Backwards, every node follows its children, whose values are the last ones then.
        values: list[Affine | Formula] = []
        for node, count in reversed(order):
            first = len(values) - count
            arguments = values[first:]
            del values[first:]
            try:
                values.append(self.value(node, arguments))
            except SpecificationError as error:
                raise _Fault(str(error), _line(node)) from None
        result = values.pop()
        assert isinstance(result, list)
        return result

    def value(self, node: vnnlib.Node, arguments: list[Affine | Formula]) -> Affine | Formula:
        kind = type(node)
        if isinstance(node, vnnlib.Var):
            return f.variable(self.index(node))
        operation = _OPERATIONS.get(kind)
        if operation is not None:
            return operation(*arguments)
        lexeme = getattr(node, "lexeme", None)
        if lexeme is None:
            raise SpecificationError(f"unknown operator {kind.__name__}")
        return f.constant(f.exact(lexeme))

    def index(self, node: vnnlib.Var) -> int:
        variable, start = self.places[node.name]
        flat = 0
        for index, length in zip(node.indices, variable.shape, strict=True):
            flat = flat * length + index
        return start + flat if variable.kind == "input" else -1 - (start + flat)


def _line(node: vnnlib.Node) -> int | None:
    """The line of the first leaf below: only leaves know theirs."""
    while children := node.children():
        node = children[0]
    line: int | None = getattr(node, "line", None)
    return line
