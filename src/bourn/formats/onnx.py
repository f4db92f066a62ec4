"""ONNX files: the network as a graph, the tensors it declares, and what stops it from being read.

Importing this module imports onnx; the rest of bourn imports it only when a file is read.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from bourn.errors import NetworkError, UnsupportedOperatorError
from bourn.formats import (  # noqa: F401  (they fill the table of rules)
    onnx_activations,
    onnx_arithmetic,
    onnx_choices,
    onnx_extremes,
    onnx_moves,
    onnx_norms,
    onnx_resize,
    onnx_softmax,
    onnx_windows,
)
from bourn.formats.onnx_constants import Constant
from bourn.formats.onnx_folding import FOLDED, fold, stored
from bourn.formats.onnx_reading import REASONS, RULES, Use, Value
from bourn.network import affine, rewrite
from bourn.network.graph import Graph, GraphBuilder
from bourn.relaxations.base import REGISTRY

Shape = tuple[int, ...]

OPSETS = range(8, 29)
"""Versions of the operator set that are read: the operators' meaning did not change among them without a new attribute."""

ELEMENT_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
}
"""Element types that inputs and outputs may have."""


@dataclass(frozen=True, slots=True)
class Port:
    """A declared input or output; ``shape`` has 1 for the batch, and None if the file does not say."""

    name: str
    element_type: str
    shape: Shape | None


@dataclass(frozen=True, slots=True)
class Signature:
    """The model's inputs and outputs in declaration order; flat vectors follow it, each tensor row-major."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A node of the file that stops the reading; ``reason`` is the whole message of the error that it causes."""

    node: str
    op_type: str
    reason: str


def supported_operators() -> tuple[str, ...]:
    """Bare names of the operators that are read, sorted."""
    return tuple(sorted({*RULES, *REGISTRY}))


def load(path: str | Path, *, simplify: bool = True) -> Graph:
    """The network in a file, ``.onnx`` or ``.onnx.gz``, its weights held exactly in float64.

    One input keeps its own shape; several become one input node (1, n), flat in declaration order.
    One output keeps its shape; several are joined likewise.  Raises :class:`UnsupportedOperatorError`
    for an operator that is not read, :class:`NetworkError` for everything else that is wrong with it.
    """
    return from_model(read_model(path), str(path), simplify=simplify)


def from_model(model: onnx.ModelProto, source: str = "the model", *, simplify: bool = True) -> Graph:
    """The network of a model in memory; ``source`` names it in messages.  See :func:`load`."""
    reading = _Reading(model, source)
    for node in reading.needed:
        reading.read(node)
    graph = rewrite.give_axes(reading.graph())
    return rewrite.simplify(graph) if simplify else graph


def diagnose(path: str | Path) -> list[Obstacle]:
    """Every node that stops the reading of a file, in order; empty if it can be loaded.

    Raises :class:`NetworkError` where the fault is the file's, not a node's.
    """
    reading = _Reading(read_model(path), str(path))
    found: list[Obstacle] = []
    for node in reading.needed:
        try:
            reading.read(node)
        except NetworkError as error:
            found.append(Obstacle(_name(node), node.op_type, str(error)))
    if not found:
        reading.graph()
    return found


def read_model(path: str | Path) -> onnx.ModelProto:
    """The model in a file, decompressed if its name ends in ``.gz``, external weights included."""
    path = Path(path)
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or _one_line(error)
        raise NetworkError(f"{path}: cannot be read: {reason}") from None
    return _parsed(data, str(path), path.parent)


def from_bytes(data: bytes, source: str = "the model", *, simplify: bool = True) -> Graph:
    """The network in the bytes of an ONNX file; see :func:`load`."""
    return from_model(_parsed(data, source), source, simplify=simplify)


def _parsed(data: bytes, source: str, folder: Path | None = None) -> onnx.ModelProto:
    """The model, with the weights that lie in files in ``folder``."""
    try:
        model = onnx.load_model_from_string(data)
        if folder is not None:
            onnx.load_external_data_for_model(model, str(folder))
    except Exception as error:
        # Protobuf, onnx and the system each have exceptions of their own for a broken file or missing data.
        raise NetworkError(f"{source}: is not a readable ONNX file: {_one_line(error)}") from None
    if not model.HasField("graph") or not model.graph.output:
        raise NetworkError(f"{source}: is not a readable ONNX file: it holds no network")
    return model


def with_open_batch(data: bytes, source: str) -> bytes:
    """The file with a symbolic batch wherever an input states 0, which onnxruntime would take at its word."""
    model = _parsed(data, source)
    for info in model.graph.input:
        dimensions = info.type.tensor_type.shape.dim
        if len(dimensions) and dimensions[0].dim_value == 0:
            dimensions[0].dim_param = "batch"
    return bytes(model.SerializeToString())


def signature(model: onnx.ModelProto) -> Signature:
    """The declared inputs and outputs; raises :class:`NetworkError` for types other than floats."""
    constants = {t.name for t in model.graph.initializer}
    inputs = tuple(_port(v) for v in model.graph.input if v.name not in constants)
    return Signature(inputs, tuple(_port(v) for v in model.graph.output))


def _port(info: onnx.ValueInfoProto) -> Port:
    declared = info.type.tensor_type
    if declared.elem_type not in ELEMENT_TYPES:
        raise NetworkError(f"tensor {info.name!r} does not hold floats of 16, 32 or 64 bits")
    if not declared.HasField("shape"):
        return Port(info.name, ELEMENT_TYPES[declared.elem_type], None)
    # A size that is 0 or symbolic is a batch's, if it comes first; one question is one batch entry.
    sizes = [d.dim_value for d in declared.shape.dim]
    sizes[:1] = [size if size > 0 else 1 for size in sizes[:1]]
    return Port(info.name, ELEMENT_TYPES[declared.elem_type], tuple(sizes) if all(s > 0 for s in sizes) else None)


class _Reading:
    """A model on its way to a graph: tensors already read, by name."""

    def __init__(self, model: onnx.ModelProto, source: str) -> None:
        self._model = model
        self._source = source
        self._opset = self._checked_opset()
        graph = model.graph
        try:
            self.signature = signature(model)
        except NetworkError as error:
            raise NetworkError(f"{source}: {error}") from None
        self._initializers = {t.name: t for t in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self.needed = self._needed()
        self._values: dict[str, Value] = {}
        self._failed: set[str] = set()
        self._builder = self._inputs()

    def _checked_opset(self) -> int:
        if self._model.graph.sparse_initializer:
            raise NetworkError(f"{self._source}: sparse initializers are not read")
        versions = [o.version for o in self._model.opset_import if o.domain in ("", "ai.onnx")]
        opset = versions[0] if versions else 1
        if opset not in OPSETS:
            raise NetworkError(f"{self._source}: operator set {opset} is not read; {OPSETS[0]} to {OPSETS[-1]} are")
        return opset

    def _needed(self) -> list[onnx.NodeProto]:
        """The nodes that the outputs depend on, in the file's order."""
        wanted = {v.name for v in self._model.graph.output}
        needed = []
        for node in reversed(self._model.graph.node):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                needed.append(node)
        return needed[::-1]

    def _inputs(self) -> GraphBuilder:
        """The builder with its input node, and every declared input as a value."""
        ports = self.signature.inputs
        for port in ports:
            if port.shape is None:
                raise NetworkError(f"{self._source}: the shape of input {port.name!r} is not fixed")
        shapes = [port.shape or () for port in ports]
        if not ports:
            raise NetworkError(f"{self._source}: the network has no input")
        if len(ports) == 1:
            builder = GraphBuilder(shapes[0], ports[0].name)
            self._values[ports[0].name] = 0
            return builder
        sizes = [int(np.prod(shape)) for shape in shapes]
        builder = GraphBuilder((1, sum(sizes)), "inputs")
        start = 0
        for port, shape, size in zip(ports, shapes, sizes, strict=True):
            self._values[port.name] = _part(builder, start, shape, port.name)
            start += size
        return builder

    def read(self, node: onnx.NodeProto) -> None:
        """Read one node; raises :class:`NetworkError` alone, whatever is wrong with it."""
        try:
            self._read(node)
        except NetworkError as error:
            self._failed.update(node.output)
            if isinstance(error, UnsupportedOperatorError):
                raise
            raise NetworkError(f"{self._source}: {node.op_type} node {_name(node)!r}: {error}") from None
        except ArithmeticError as error:
            self._failed.update(node.output)
            raise UnsupportedOperatorError(node.op_type, _name(node), str(error)) from None
        except Exception as error:
            # A malformed node can fail anywhere (an axis out of range, shapes that do not fit, a missing attribute).
            self._failed.update(node.output)
            raise NetworkError(f"{self._source}: {node.op_type} node {_name(node)!r}: {_one_line(error)}") from error

    def _read(self, node: onnx.NodeProto) -> None:
        if node.domain not in ("", "ai.onnx"):
            raise UnsupportedOperatorError(f"{node.domain}.{node.op_type}", _name(node), "only ONNX's own operators are read")
        known = node.op_type in RULES or node.op_type in REGISTRY or node.op_type in FOLDED
        if known and self._failed.intersection(node.input):
            # Nothing more can be said about a node behind one that was not read.
            self._failed.update(node.output)
            return
        if not known:
            raise UnsupportedOperatorError(node.op_type, _name(node), REASONS.get(node.op_type, ""))
        attributes = {a.name: _attribute(a) for a in node.attribute}
        inputs = [self._value(name) if name else None for name in node.input]
        use = Use(node.op_type, _name(node), self._opset, attributes, inputs, node.output, self._builder)
        if node.op_type in FOLDED and not any(isinstance(v, int) for v in inputs):
            result: Value | tuple[Value, ...] = fold(use)
        elif node.op_type in RULES:
            result = RULES[node.op_type](use)
        else:
            result = use.nonlinear()
        if use.unread_attributes():
            raise use.refuse(f"attribute {', '.join(use.unread_attributes())} is not known")
        values = result if isinstance(result, tuple) else (result,)
        self._values.update(zip(node.output, values, strict=False))

    def _value(self, name: str) -> Value:
        if name not in self._values and name in self._initializers:
            self._values[name] = stored(self._initializers[name])
        if name in self._values:
            return self._values[name]
        if name in self._producers:
            node = self._producers[name]
            read = node.output[0] in self._values
            why = "is not read" if read else "is not computed before it is used"
            raise UnsupportedOperatorError(node.op_type, _name(node), f"its output {name!r} {why}")
        raise NetworkError(f"tensor {name!r} is read but nothing produces it")

    def graph(self) -> Graph:
        """The graph of what was read: one output as it is, several flat and side by side."""
        try:
            values = [self._value(port.name) for port in self.signature.outputs]
        except UnsupportedOperatorError:
            raise
        except NetworkError as error:
            raise NetworkError(f"{self._source}: {error}") from None
        numbers = [v if isinstance(v, int) else self._constant_output(v) for v in values]
        if len(numbers) == 1:
            return self._builder.build(numbers[0])
        flat = []
        for number in numbers:
            shape = self._builder.shape(number)
            reshape = affine.Reshape(in_shapes=(shape,), out_shape=(1, int(np.prod(shape))))
            flat.append(self._builder.add(reshape, number, name=f"{self._builder.node(number).name}.flat"))
        shapes = tuple(self._builder.shape(n) for n in flat)
        joined = affine.Concat(in_shapes=shapes, out_shape=(1, sum(s[1] for s in shapes)), axis=1)
        return self._builder.build(self._builder.add(joined, *flat, name="outputs"))

    def _constant_output(self, value: Constant) -> int:
        use = Use("Constant", "output", self._opset, {}, [], ["output"], self._builder)
        return use.activation(value)


def _part(builder: GraphBuilder, start: int, shape: Shape, name: str) -> int:
    """One of several inputs: a stretch of the flat input node."""
    import torch

    whole = builder.shape(0)
    index = start + torch.arange(int(np.prod(shape))).reshape(shape)
    return builder.add(affine.Select(in_shapes=(whole,), out_shape=shape, index=index), 0, name=name)


def _attribute(attribute: onnx.AttributeProto) -> object:
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _name(node: onnx.NodeProto) -> str:
    """A node's name, or that of its first output where the file gives it none."""
    return node.name or next(iter(node.output), "")


def _one_line(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
