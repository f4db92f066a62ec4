"""What reads a graph node by node: the steps so far, shapes, constants, and the node that is being read.

Shapes are worked out here.  A node without a rule raises :class:`Unreadable`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from bourn_check.errors import Unreadable
from bourn_check.network import Affine, Move, Network, Nonlinear, Product, Scale, Shift, Step

Array = np.ndarray
_MOST = 1 << 28
"""Entries of a tensor."""
_FLOATS = (np.float16, np.float32, np.float64)


class Reader:
    """One model: steps so far, the shapes of activations, and the constants."""

    def __init__(self, model: onnx.ModelProto, source: str, rules: Rules) -> None:
        self.graph, self.source, self.where, self.rules = model.graph, source, "the graph", rules
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self.steps: list[Step] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.constants: dict[str, Array] = {}
        self.parts = 0

    def fail(self, what: str) -> Unreadable:
        return Unreadable(f"{self.source}: {self.where}: {what}")

    def network(self) -> Network:
        graph = self.graph
        if not 8 <= self.opset <= 28 or graph.sparse_initializer:
            raise self.fail("operator sets 8 to 28 without sparse initializers are read")
        self.constants = {t.name: self.tensor(t) for t in graph.initializer}
        inputs = 0
        for info in (i for i in graph.input if i.name not in self.constants):
            sizes = [d.dim_value if k else max(1, d.dim_value) for k, d in enumerate(info.type.tensor_type.shape.dim)]
            if any(s <= 0 for s in sizes) or math.prod(sizes) > _MOST:
                raise self.fail(f"input {info.name!r} has no fixed shape")
            self.shapes[info.name] = tuple(sizes)
            self.steps.append(Step(Move(inputs + np.arange(math.prod(sizes))), ("",), info.name, "an input"))
            inputs += math.prod(sizes)
        wanted, needed = {o.name for o in graph.output}, []
        for node in reversed(graph.node):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                needed.append(node)
        for node in reversed(needed):
            self._node(node)
        self.where = "the graph"
        if missing := [out.name for out in graph.output if out.name not in self.shapes]:
            raise self.fail(f"output {missing[0]!r} is not computed from the input")
        outputs = tuple((out.name, math.prod(self.shapes[out.name])) for out in graph.output)
        counts, places = ({name: math.prod(s[k:]) for name, s in self.shapes.items()} for k in (0, 2))
        return Network(tuple(self.steps), inputs, outputs, counts, places)

    def tensor(self, t: onnx.TensorProto) -> Array:
        if t.data_location == onnx.TensorProto.EXTERNAL:
            raise self.fail(f"tensor {t.name!r} lies in another file")
        try:
            found = numpy_helper.to_array(t)
        except Exception as error:
            raise self.fail(f"tensor {t.name!r}: {type(error).__name__}") from None
        if found.dtype in _FLOATS and not np.isfinite(found).all():
            raise self.fail(f"tensor {t.name!r} holds NaN or infinity")
        return found

    def _node(self, node: onnx.NodeProto) -> None:
        self.where = f"{node.op_type} node {(node.name or next(iter(node.output), ''))!r}"
        if node.domain not in ("", "ai.onnx") or node.op_type not in self.rules:
            raise self.fail("is not known to the checker")
        if any(o in self.shapes or o in self.constants for o in node.output if o):
            raise self.fail("computes what is there already")
        try:
            own = Node(self, node)
            self.rules[node.op_type](self, own)
            if unread := set(own.attributes) - own.read:
                raise self.fail(f"attribute {min(unread)} is not known")
        except Unreadable:
            raise
        except ArithmeticError as error:
            raise self.fail(str(error)) from None
        except Exception as error:  # an axis out of range, shapes that do not fit, a missing input
            raise self.fail(f"{type(error).__name__}: {' '.join(str(error).split())[:150]}") from None

    def add(self, operation: Affine | Nonlinear, inputs: Sequence[str], shape: Sequence[int], output: str = "") -> str:
        """Append a step; without ``output`` it is one on the way."""
        self.parts += 1
        name = output or f"#{self.parts}"
        if math.prod(shape) > _MOST:
            raise self.fail(f"a tensor of shape {tuple(shape)} is too large")
        if not set(inputs) <= set(self.shapes):  # no row would reach it
            raise self.fail("reads a constant where only what depends on the input is read")
        if name in self.shapes or name in self.constants:
            raise self.fail("computes what is there already")
        self.steps.append(Step(operation, tuple(inputs), name, self.where))
        self.shapes[name] = tuple(int(s) for s in shape)
        return name

    def move(self, index: Array, name: str, output: str = "") -> str:
        """A step that picks entries of a tensor by flat number."""
        return self.add(Move(index.ravel().astype(np.int64)), [name], index.shape, output)

    def wide(self, name: str, shape: tuple[int, ...]) -> str:
        """A tensor broadcast to a shape."""
        own = self.shapes[name]
        return name if own == shape else self.move(np.broadcast_to(np.arange(math.prod(own)).reshape(own), shape), name)

    def linear(self, name: str, weight: Array, shape: Sequence[int], output: str = "") -> str:
        """A step of products with matrices."""
        return self.add(Product(np.ascontiguousarray(weight)), [name], shape, output)

    def shift(self, name: str, bias: Array, output: str = "") -> str:
        """A step that adds numbers, broadcast."""
        shape = self.shapes[name]
        return self.add(Shift(np.ascontiguousarray(np.broadcast_to(bias, shape)).ravel()), [name], shape, output)

    def scaled(self, name: str, values: Array, inverse: bool, output: str) -> str:
        """A step that takes every entry times, or by, a number, broadcast."""
        shape = self.shapes[name]
        distinct, index = np.unique(values, return_inverse=True)
        factors = tuple(1 / Fraction(v) if inverse else Fraction(v) for v in distinct.tolist())
        place = np.broadcast_to(index.reshape(values.shape), shape).ravel().astype(np.int64)
        return self.add(Scale(factors, place), [name], shape, output)


_IGNORED = {"momentum", "ratio", "seed"}
"""Attributes that say something of training alone."""


class Node:
    """One node: its inputs and attributes."""

    def __init__(self, reader: Reader, node: onnx.NodeProto) -> None:
        self.reader, self.opset, self.read = reader, reader.opset, set(_IGNORED)
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self.op_type, self.inputs, self.outputs = node.op_type, list(node.input), list(node.output)
        for name in self.inputs:
            if name and name not in reader.shapes and name not in reader.constants:
                raise reader.fail(f"reads {name!r}, which nothing computes")

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value; those that no rule asks for make the node unknown."""
        self.read.add(name)
        return self.attributes.get(name, default)

    def given(self, i: int) -> bool:
        return i < len(self.inputs) and bool(self.inputs[i])

    def is_constant(self, i: int) -> bool:
        return self.inputs[i] in self.reader.constants

    def constant(self, i: int) -> Array:
        if not self.is_constant(i):
            raise self.reader.fail(f"its input {i} is to be a constant")
        return self.reader.constants[self.inputs[i]]

    def weights(self, i: int) -> Array:
        found = self.constant(i)
        if found.dtype not in _FLOATS:
            raise self.reader.fail(f"its input {i} holds {found.dtype}")
        return found.astype(np.float64)

    def ints(self, name: str, i: int | None = None) -> tuple[int, ...] | None:
        """Integers from an attribute or, in later operator sets, an input."""
        if i is not None and self.given(i):
            return tuple(int(v) for v in self.constant(i).ravel())
        found = self.attribute(name)
        return None if found is None else tuple(int(v) for v in np.atleast_1d(found))

    def shape(self, i: int = 0) -> tuple[int, ...]:
        name = self.inputs[i]
        return self.reader.constants[name].shape if self.is_constant(i) else self.reader.shapes[name]

    def index(self, i: int = 0) -> Array:
        """The flat numbers of an input's entries, in its shape."""
        return np.arange(math.prod(self.shape(i))).reshape(self.shape(i))

    def move(self, index: Array, i: int | str = 0, output: str = "") -> str:
        """A step that picks entries of input ``i``."""
        return self.reader.move(index, self.inputs[i] if isinstance(i, int) else i, output)

    def activation(self, i: int) -> str:
        """An input as a tensor of the network; a constant becomes a step without inputs."""
        if not self.is_constant(i):
            return str(self.inputs[i])
        return self.reader.add(Shift(self.weights(i).ravel(), 0), [], self.shape(i))


Rules = Mapping[str, Callable[[Reader, Node], object]]
"""How a node is read, by its operator."""


def function(stated: Nonlinear | Callable[[Node], Nonlinear]) -> Callable[[Reader, Node], object]:
    """The rule of a node that is one function of its first input."""

    def rule(reader: Reader, node: Node) -> None:
        reader.add(stated if isinstance(stated, Nonlinear) else stated(node), node.inputs[:1], node.shape(), node.outputs[0])

    return rule
