"""Witnesses: a counterexample as text, in the form that the question's version of VNN-LIB has for it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bourn.errors import SpecificationError, UsageError
from bourn.problem.problem import Question, Variable

Values = Tensor | NDArray[np.floating] | Sequence[float]
"""The entries of all inputs (or outputs), in any shape."""

STATUSES = ("sat", "unsat", "unknown", "timeout", "error")
"""First lines of a VNN-COMP result file."""

_ENTRY = re.compile(r"\(\s*([XY])_(\d+)\s+([^\s()]+)\s*\)", re.ASCII)


def vnncomp_v1(question: Question, x: Values, y: Values) -> str:
    """``((X_0 v)`` … ``(Y_0 v) …)``, one entry a line: VNN-COMP's form for VNN-LIB 1.0.

    ``y`` may have more entries than the question declares, for it is the network's whole output.  Raises
    :class:`UsageError` if counts do not fit or a value is not finite.
    """
    inputs, outputs = _flat(x, "input"), _flat(y, "output")
    if len(inputs) != question.inputs or len(outputs) < question.outputs:
        raise UsageError(
            f"a witness of {len(inputs)} inputs and {len(outputs)} outputs "
            f"for a question with {question.inputs} and {question.outputs}"
        )
    entries = [f"(X_{i} {_decimal(v)})" for i, v in enumerate(inputs)]
    entries += [f"(Y_{i} {_decimal(v)})" for i, v in enumerate(outputs)]
    return "(" + "\n ".join(entries) + ")"


def standard_v2(question: Question, x: Values, y: Values) -> str:
    """Every variable in the order of declaration: ``X float32 [1,2]``, then one value a line, row-major.

    The form of VNN-LIB 2.0's chapter 5.  Raises :class:`UsageError` if counts do not fit or a value is not
    finite.
    """
    inputs, outputs = question.declared(np.array(_flat(x, "input")), np.array(_flat(y, "output")))
    left = {"input": inputs.tolist(), "output": outputs.tolist()}
    lines = []
    for variable in question.variables:
        size = math.prod(variable.shape)
        values, left[variable.kind] = left[variable.kind][:size], left[variable.kind][size:]
        if len(values) < size:
            raise UsageError(f"a witness with too few {variable.kind}s: {variable.name} has {size} entries")
        lines.append(_header(variable))
        lines += map(_writer(variable), values)
    for kind, rest in left.items():
        if rest:
            raise UsageError(f"a witness with {len(rest)} {kind}s more than the question declares")
    return "\n".join(lines)


def result_file(status: str, question: Question, x: Values | None = None, y: Values | None = None) -> str:
    """What VNN-COMP's result file holds: one of :data:`STATUSES`, and for "sat" the witness (x, y).

    Raises :class:`UsageError` for another status, for a witness that does not fit, and where "sat" has none.
    """
    if status not in STATUSES:
        raise UsageError(f"{status!r} is no result; it must be one of {', '.join(STATUSES)}")
    if status != "sat":
        return f"{status}\n"
    if x is None or y is None:
        raise UsageError("a result 'sat' needs a witness")
    write = vnncomp_v1 if question.version.startswith("1.") else standard_v2
    return f"{status}\n{write(question, x, y)}\n"


def parse_v1(text: str) -> tuple[list[float], list[float]]:
    """The inputs and outputs that a witness in the form of :func:`vnncomp_v1` states.

    Raises :class:`SpecificationError` if the text is not in that form.
    """
    found: dict[str, list[float]] = {"X": [], "Y": []}
    for letter, index, value in _ENTRY.findall(text):
        if int(index) != len(found[letter]):
            raise SpecificationError(f"the witness has {letter}_{index} where {letter}_{len(found[letter])} was expected")
        try:
            found[letter].append(float(value))
        except ValueError:
            raise SpecificationError(f"the witness gives {letter}_{index} the value {value!r}") from None
    if "".join(_ENTRY.sub("", text).split()) != "()":
        raise SpecificationError("a witness must read ((X_0 value) … (Y_0 value) …)")
    return found["X"], found["Y"]


def _flat(values: Values, what: str) -> list[float]:
    """The entries, row-major, as floats of the same value."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    flat: list[float] = array.astype(np.float64).ravel().tolist()
    for index, value in enumerate(flat):
        if not math.isfinite(value):
            raise UsageError(f"a witness must be finite, but {what} {index} is {value}")
    return flat


def _decimal(value: float) -> str:
    """The shortest decimal that reads back as the same float64, without exponent: VNN-LIB 2.0 has none."""
    return np.format_float_positional(value, trim="0")


def _integer(value: float) -> str:
    return str(int(value))


def _header(variable: Variable) -> str:
    return f"{variable.name} {variable.element_type} [{','.join(map(str, variable.shape))}]"


def _writer(variable: Variable) -> Callable[[float], str]:
    return _integer if variable.element_type.startswith(("int", "uint")) else _decimal
