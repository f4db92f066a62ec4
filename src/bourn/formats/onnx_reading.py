"""How one node of an ONNX file is read: the node in use, the table of rules, and what rules share.

A rule reads every node of some operators.  It sees a :class:`Use` (the node, its inputs already read) and
returns the node's value: a :class:`Constant`, or the number of a node of the graph under construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bourn import relaxations  # noqa: F401  (fills the registry)
from bourn.errors import NetworkError, UnsupportedOperatorError
from bourn.formats.onnx_constants import Array, Constant
from bourn.network import affine
from bourn.network.affine import Affine
from bourn.network.graph import GraphBuilder
from bourn.relaxations.base import REGISTRY, ElementWise, Nonlinearity

Shape = tuple[int, ...]
Value = Constant | int
"""A constant, or the number of a graph node that depends on the network's input."""

Rule = Callable[["Use"], Value | tuple[Value, ...]]

RULES: dict[str, Rule] = {}
"""ONNX operator name to the rule that reads it; filled by importing the modules of rules."""


REASONS: dict[str, str] = {}
"""ONNX operators that are known but not read, and why; filled by the modules of rules."""


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Decorator: the function reads nodes of these operators."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            if op_type in RULES:
                raise TypeError(f"two rules read the operator {op_type}")
            RULES[op_type] = function
        return function

    return register


class Use:
    """One node of the model file in use: its attributes, its inputs' values, and the graph under construction.

    ``inputs`` holds None for an optional input that is left out.
    """

    def __init__(
        self,
        op_type: str,
        name: str,
        opset: int,
        attributes: Mapping[str, Any],
        inputs: Sequence[Value | None],
        outputs: Sequence[str],
        builder: GraphBuilder,
    ) -> None:
        self.op_type = op_type
        self.name = name
        self.opset = opset
        self.attributes = attributes
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self._builder = builder
        self._read: set[str] = set()

    def refuse(self, why: str) -> UnsupportedOperatorError:
        """The error that says that this use of the operator is not supported."""
        return UnsupportedOperatorError(self.op_type, self.name, why)

    # What the node says

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute's value; naming it here also says that the rule has taken it into account."""
        self._read.add(name)
        return self.attributes.get(name, default)

    def unread_attributes(self) -> list[str]:
        """Attributes that no rule asked for: the operator may mean something else with them."""
        return sorted(set(self.attributes) - self._read)

    def input(self, position: int) -> Value | None:
        """The value of an input, None where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def value(self, position: int) -> Value:
        """The value of an input that must be there."""
        value = self.input(position)
        if value is None:
            raise NetworkError(f"its input {position + 1} is missing")
        return value

    def constant(self, position: int) -> Constant | None:
        """The value of an input that must be constant, None where it is left out."""
        value = self.input(position)
        if isinstance(value, int):
            raise self.refuse(f"its input {position + 1} depends on the network's input")
        return value

    def integers(self, position: int) -> tuple[int, ...] | None:
        """A constant input as integers (shapes, axes, indices), None where it is left out."""
        value = self.constant(position)
        if value is None:
            return None
        if not value.integral:
            raise NetworkError(f"its input {position + 1} must hold integers")
        return tuple(int(i) for i in value.array.reshape(-1))

    def setting(self, name: str, position: int, since: int) -> tuple[int, ...] | None:
        """Integers that are an attribute in old opsets and an input from opset ``since`` on."""
        if self.opset >= since:
            return self.integers(position)
        given = self.attribute(name)
        return None if given is None else tuple(int(i) for i in given)

    def shape(self, value: Value) -> Shape:
        """The shape of a value."""
        return self._builder.shape(value) if isinstance(value, int) else value.array.shape

    # What it becomes

    def emit(self, operation: Affine | Nonlinearity, *inputs: int, part: str = "", output: int = 0) -> int:
        """Add a node: the value of an output, or one ``part`` of the way to it."""
        name = f"{self.outputs[output]}.{part}" if part else self.outputs[output]
        return self._builder.add(operation, *inputs, name=name, source=f"{self.op_type} {self.name}")

    def activation(self, value: Value) -> int:
        """The value as a graph node; a constant becomes a node without inputs."""
        if isinstance(value, int):
            return value
        bias = tensor(value.floats)
        return self.emit(
            affine.Constant(out_shape=value.array.shape, bias=bias, bias_error=bias_error(value)),
            part="constant",
        )

    def nonlinear(self) -> Value:
        """The node as the nonlinearity that is registered under its operator's name."""
        if self.op_type not in REGISTRY:
            known = self.op_type in RULES
            raise self.refuse("its inputs depend on the network's input" if known else REASONS.get(self.op_type, ""))
        # The first input is the function's argument; others are parameters unless they too depend on the input.
        arguments = [self.activation(self.value(0)), *(v for v in self.inputs[1:] if isinstance(v, int))]
        parameters = [v for v in self.inputs[1:] if isinstance(v, Constant)]
        if any(p.error for p in parameters):
            raise self.refuse("its parameters are computed and cannot be held exactly")
        constants = [v.array if isinstance(v, Constant) else None for v in self.inputs[1:]]
        self._read.update(self.attributes)
        try:
            operation = REGISTRY[self.op_type].from_onnx(self.op_type, self.attributes, constants)
        except ValueError as error:
            raise self.refuse(str(error)) from None
        if isinstance(operation, ElementWise) and len(arguments) > 1:
            raise self.refuse("its parameters depend on the network's input")
        return self.emit(operation, *arguments)


def tensor(array: Array) -> Tensor:
    """A float64 tensor of its own; raises :class:`NetworkError` for entries that are not finite."""
    if not np.isfinite(array).all():
        raise NetworkError("a weight is NaN or infinite")
    return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))


def bias_error(constant: Constant) -> Tensor | None:
    """Bounds of the absolute errors of a constant used as a bias, None if it is exact."""
    return tensor(np.abs(constant.floats) * constant.error * (1.0 + 2.0**-40)) if constant.error else None


def select(use: Use, number: int, index: Array, *, fill: float = 0.0, part: str = "", output: int = 0) -> int:
    """Entries of a node by flat index; -1 stands for ``fill``.  Numbers that keep their order are only reshaped."""
    shape = use.shape(number)
    in_order = np.arange(int(np.prod(shape, dtype=np.int64)))
    if index.size == in_order.size and (index.reshape(-1) == in_order).all():
        operation: Affine = affine.Reshape(in_shapes=(shape,), out_shape=index.shape)
    else:
        operation = affine.Select(
            in_shapes=(shape,),
            out_shape=index.shape,
            index=torch.from_numpy(np.array(index, dtype=np.int64, order="C")),
            bias=tensor(np.where(index < 0, fill, 0.0)) if fill else None,
        )
    return use.emit(operation, number, part=part, output=output)


def moved(use: Use, value: Value, move: Callable[[Array], Array], *, part: str = "", output: int = 0) -> Value:
    """What ``move``, a NumPy operation that only moves numbers, makes of a value: run on the numbers or their indices."""
    if isinstance(value, Constant):
        return Constant(move(value.array), value.error)
    shape = use.shape(value)
    index = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    return select(use, value, move(index), part=part, output=output)


def assembled(use: Use, parts: Sequence[tuple[Array, int]], part: str = "") -> int:
    """Nodes of one axis put together: each holds, in order, the entries where its mask is true."""
    place, start = np.empty(parts[0][0].shape, dtype=np.int64), 0
    for mask, number in parts:
        place[mask] = start + np.arange(use.shape(number)[0])
        start += use.shape(number)[0]
    joined = affine.Concat(in_shapes=tuple(use.shape(n) for _, n in parts), out_shape=(start,), axis=0)
    return select(use, use.emit(joined, *(n for _, n in parts), part="joined"), place, part=part)


def broadcast(use: Use, value: Value, shape: Shape, *, part: str = "broadcast") -> Value:
    """The value repeated to ``shape``; itself if it has that shape."""
    if use.shape(value) == shape:
        return value
    return moved(use, value, lambda array: np.broadcast_to(array, shape), part=part)
