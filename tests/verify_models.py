"""Tiny networks and questions for the tests of verdicts and of the command."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from bourn.formats.model import Model
from bourn.formats.onnx import from_bytes
from onnx_models import model, node

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

Matrix = Sequence[Sequence[float]]


def mlp_bytes(*layers: tuple[Matrix, Sequence[float]], single: bool = True) -> bytes:
    """An ONNX file of dense layers (weight, bias) with ReLU between them, in float32 or float64."""
    kind: Any = np.float32 if single else np.float64
    nodes, source = [], "x"
    constants: dict[str, NDArray[Any]] = {}
    for number, (weight, bias) in enumerate(layers):
        constants |= {f"w{number}": np.array(weight, kind), f"b{number}": np.array(bias, kind)}
        last = number == len(layers) - 1
        result = "y" if last else f"dense_{number}"
        nodes.append(node("Gemm", f"{source} w{number} b{number}", result, name=result, transB=1))
        if not last:
            source = f"relu_{number}"
            nodes.append(node("Relu", result, source, name=source))
    element_type = TensorProto.FLOAT if single else TensorProto.DOUBLE
    made: bytes = model(nodes, {"x": [1, len(layers[0][0][0])]}, constants, element_type=element_type).SerializeToString()
    return made


def mlp(*layers: tuple[Matrix, Sequence[float]], single: bool = True) -> Model:
    """The same as a model, replayed in onnxruntime."""
    data = mlp_bytes(*layers, single=single)
    return Model(from_bytes(data, "test"), data, "test")


IDENTITY = ([[1.0]], [0.0])
RELU_IDENTITY = (([[1.0], [-1.0]], [0.0, 0.0]), ([[1.0, -1.0]], [0.0]))
"""x as relu(x) - relu(-x)."""


def vnnlib(box: Sequence[tuple[Any, Any]], outputs: int, *asserts: str) -> str:
    """A VNN-LIB 1.0 text: the box, and assertions about Y_0, Y_1, ..."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(box))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    for i, (low, high) in enumerate(box):
        lines += [f"(assert (>= X_{i} {low}))", f"(assert (<= X_{i} {high}))"]
    return "\n".join([*lines, *(f"(assert {a})" for a in asserts)]) + "\n"


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def first(self) -> str:
        return self.out.split("\n", 1)[0]


def bourn(*arguments: str | Path, **options: Any) -> Ran:
    """Run the command in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", "from bourn.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    return Ran(done.returncode, done.stdout, done.stderr)


def witness_v1(text: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The inputs and outputs of a witness in VNN-COMP's first form, read anew."""
    found = {letter: re.findall(rf"\({letter}_\d+ (\S+?)\)", text) for letter in "XY"}
    return np.array(found["X"], np.float64), np.array(found["Y"], np.float64)


_TOKEN = re.compile(r"[()]|[^\s()]+")


class Reading:
    """VNN-LIB 1.0 read a second way: a text is evaluated at a point, in fractions, without any normal form."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(re.sub(r";[^\n]*", "", text))
        self.at = 0
        self.asserts = []
        while self.at < len(self.tokens):
            expression = self._next()
            if expression[0] == "assert":
                self.asserts.append(expression[1])

    def _next(self) -> Any:
        token = self.tokens[self.at]
        self.at += 1
        if token != "(":
            return token
        items = []
        while self.tokens[self.at] != ")":
            items.append(self._next())
        self.at += 1
        return items

    def holds(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
        """Whether (x, y) satisfies every assertion."""
        values = {f"X_{i}": Fraction(float(v)) for i, v in enumerate(x)}
        values |= {f"Y_{i}": Fraction(float(v)) for i, v in enumerate(y)}
        return all(self._truth(a, values) for a in self.asserts)

    def _truth(self, e: Any, values: dict[str, Fraction]) -> bool:
        head, *rest = e
        if head in ("and", "or"):
            found = [self._truth(r, values) for r in rest]
            return all(found) if head == "and" else any(found)
        low, high = (self._value(r, values) for r in rest)
        return {"<=": low <= high, ">=": low >= high, "<": low < high, ">": low > high, "=": low == high}[head]

    def _value(self, e: Any, values: dict[str, Fraction]) -> Fraction:
        if isinstance(e, str):
            return values[e] if e in values else Fraction(e)
        head, *rest = e
        numbers = [self._value(r, values) for r in rest]
        if head == "+":
            return sum(numbers, Fraction(0))
        if head == "-":
            return -numbers[0] if len(numbers) == 1 else numbers[0] - sum(numbers[1:], Fraction(0))
        assert head == "*"
        product = Fraction(1)
        for n in numbers:
            product *= n
        return product


def run_onnx(network: Path | bytes, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The outputs that onnxruntime computes at x, by a few lines of its own."""
    import gzip

    import onnxruntime

    data = network if isinstance(network, bytes) else network.read_bytes()
    session = onnxruntime.InferenceSession(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    (declared,) = session.get_inputs()
    kind: Any = np.float64 if declared.type == "tensor(double)" else np.float32
    shape = [s if isinstance(s, int) and s > 0 else 1 for s in declared.shape]
    fed = x.astype(kind)
    assert np.array_equal(fed.astype(np.float64), x), "the witness is no number of the network's type"
    (y,) = session.run(None, {declared.name: fed.reshape(shape)})
    return np.asarray(y, np.float64).reshape(-1)
