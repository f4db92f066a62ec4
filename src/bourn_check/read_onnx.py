"""ONNX files as steps of affine and piecewise linear functions, node by node as they are stored: nothing is rewritten.

onnx parses the protobuf; shapes are worked out here.  A node that is not known raises :class:`Unreadable`.
"""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from bourn_check.errors import Unreadable
from bourn_check.network import Affine, Join, Move, Network, PiecewiseLinear, Product, Scale, Shift, Step, Sum

Array = np.ndarray
_MOST = 1 << 28
"""Entries of a tensor."""
_MOST_BYTES = 1 << 33
_FLOATS = (np.float16, np.float32, np.float64)


def read_network(data: bytes, source: str) -> Network:
    """The network in a file's bytes, which may be gzipped."""
    try:
        if data.startswith(b"\x1f\x8b"):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_MOST_BYTES)
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf has exceptions of its own
        raise Unreadable(f"{source}: no ONNX file: {type(error).__name__}") from None
    return _Reader(model, source).network()


class _Reader:
    """One model: steps so far, the shapes of activations, and the constants."""

    def __init__(self, model: onnx.ModelProto, source: str) -> None:
        self.graph, self.source, self.where = model.graph, source, "the graph"
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
        for t in graph.initializer:
            self.constants[t.name] = self.tensor(t)
        inputs = []
        for info in (i for i in graph.input if i.name not in self.constants):
            sizes = [d.dim_value for d in info.type.tensor_type.shape.dim]
            sizes[:1] = [max(1, s) for s in sizes[:1]]
            if any(s <= 0 for s in sizes) or math.prod(sizes) > _MOST:
                raise self.fail(f"input {info.name!r} has no fixed shape")
            self.shapes[info.name] = tuple(sizes)
            inputs.append((info.name, math.prod(sizes)))
        wanted, needed = {o.name for o in graph.output}, []
        for node in reversed(graph.node):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                needed.append(node)
        for node in reversed(needed):
            self._node(node)
        self.where = "the graph"
        outputs = []
        for out in graph.output:
            if out.name not in self.shapes:
                raise self.fail(f"output {out.name!r} is not computed from the input")
            outputs.append((out.name, math.prod(self.shapes[out.name])))
        sizes_of = {name: math.prod(shape) for name, shape in self.shapes.items()}
        return Network(tuple(self.steps), tuple(inputs), tuple(outputs), sizes_of)

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
        if node.domain not in ("", "ai.onnx") or node.op_type not in _RULES:
            raise self.fail("is not known to the checker")
        if any(o in self.shapes or o in self.constants for o in node.output if o):
            raise self.fail("computes what is there already")
        attributes = _Attributes((a.name, onnx.helper.get_attribute_value(a)) for a in node.attribute)
        try:
            _RULES[node.op_type](self, _Node(self, node, attributes))
            if unread := set(attributes) - attributes.read - _IGNORED:
                raise self.fail(f"attribute {min(unread)} is not known")
        except Unreadable:
            raise
        except ArithmeticError as error:
            raise self.fail(str(error)) from None
        except Exception as error:  # an axis out of range, shapes that do not fit, a missing input
            raise self.fail(f"{type(error).__name__}: {' '.join(str(error).split())[:150]}") from None

    def add(self, operation: Affine | PiecewiseLinear, inputs: Sequence[str], shape: Sequence[int], output: str = "") -> str:
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
        return self.add(Move(index.ravel().astype(np.int64), math.prod(self.shapes[name])), [name], index.shape, output)


_IGNORED = {"momentum", "ratio", "seed"}
"""Attributes that say something of training alone."""


class _Attributes(dict[str, Any]):
    """Attributes that remember which of them were asked for."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


class _Node:
    """One node: its inputs and attributes."""

    def __init__(self, reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> None:
        self.reader, self.attributes, self.opset = reader, attributes, reader.opset
        self.op_type, self.inputs, self.outputs = node.op_type, list(node.input), list(node.output)
        for name in self.inputs:
            if name and name not in reader.shapes and name not in reader.constants:
                raise reader.fail(f"reads {name!r}, which nothing computes")

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
        found = self.attributes.get(name)
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


# What moves numbers, whether they are constants or not


def _axes(node: _Node, since: int, i: int = 1) -> tuple[int, ...] | None:
    return node.ints("axes", i if node.opset >= since else None)


def _reshaped(node: _Node, a: Array) -> Array:
    wanted = node.ints("shape", 1) or ()
    if node.attributes.get("allowzero"):
        raise node.reader.fail("allowzero is not read")
    return a.reshape([a.shape[k] if s == 0 else s for k, s in enumerate(wanted)])


def _flattened(node: _Node, a: Array) -> Array:
    axis = int(node.attributes.get("axis", 1))
    axis += a.ndim if axis < 0 else 0
    return a.reshape(math.prod(a.shape[:axis]), -1)


def _sliced(node: _Node, a: Array) -> Array:
    starts, ends = (node.ints("starts", 1), node.ints("ends", 2)) if node.opset >= 10 else (node.ints("starts"), node.ints("ends"))
    axes = (node.ints("axes", 3) if node.opset >= 10 else node.ints("axes")) or tuple(range(len(starts or ())))
    steps = (node.ints("steps", 4) if node.opset >= 10 else None) or (1,) * len(axes)
    cut = [slice(None)] * a.ndim
    for start, end, axis, step in zip(starts or (), ends or (), axes, steps, strict=True):
        if step <= 0:
            raise node.reader.fail("a step below 1")
        cut[axis] = slice(start, end, step)
    return a[tuple(cut)]


def _pad(reader: _Reader, node: _Node) -> None:
    a = node.index()
    pads = node.ints("pads", 1 if node.opset >= 11 else None) or ()
    value = float(node.constant(2).ravel()[0]) if node.given(2) else float(node.attributes.get("value", 0.0))
    if node.attributes.get("mode", b"constant") != b"constant" or value or min(pads) < 0 or node.given(3):
        raise reader.fail("only zeros at the ends of all axes are padded")
    node.move(np.pad(a, list(zip(pads[: a.ndim], pads[a.ndim :], strict=True)), constant_values=-1), output=node.outputs[0])


_MOVES: dict[str, Callable[[_Node, Array], Array]] = {
    "Reshape": _reshaped,
    "Flatten": _flattened,
    "Squeeze": lambda node, a: a.squeeze(_axes(node, 13)),
    "Slice": _sliced,
    "Unsqueeze": lambda node, a: np.expand_dims(a, _axes(node, 13) or ()),
    "Transpose": lambda node, a: a.transpose(node.ints("perm")),
    "Identity": lambda node, a: a,
    "Dropout": lambda node, a: a,
    "Gather": lambda node, a: np.take(a, node.constant(1), axis=int(node.attributes.get("axis", 0))),
}


def _move(reader: _Reader, node: _Node) -> None:
    rule = _MOVES[node.op_type]
    if node.op_type == "Dropout" and node.given(2) and bool(node.constant(2).any()):
        raise reader.fail("in training mode it is no function")
    if node.is_constant(0):
        reader.constants[node.outputs[0]] = rule(node, node.constant(0))
    else:
        node.move(rule(node, node.index()), output=node.outputs[0])


def _concat(reader: _Reader, node: _Node) -> None:
    axis = int(node.attributes.get("axis"))
    if all(node.is_constant(i) for i in range(len(node.inputs))):
        reader.constants[node.outputs[0]] = np.concatenate([node.constant(i) for i in range(len(node.inputs))], axis)
        return
    names = [_activation(reader, node, i) for i in range(len(node.inputs))]
    sizes, shapes = [math.prod(reader.shapes[n]) for n in names], [reader.shapes[n] for n in names]
    joined = reader.add(Join(tuple(sizes)), names, (sum(sizes),))
    starts = np.cumsum([0, *sizes])
    index = np.concatenate([s + np.arange(n).reshape(shape) for s, n, shape in zip(starts, sizes, shapes, strict=False)], axis)
    node.move(index, joined, node.outputs[0])


def _activation(reader: _Reader, node: _Node, i: int) -> str:
    """An input as a tensor of the network; a constant becomes a step without inputs."""
    if not node.is_constant(i):
        return str(node.inputs[i])
    return reader.add(Shift(node.weights(i).ravel(), 0), [], node.shape(i))


def _wide(reader: _Reader, name: str, shape: tuple[int, ...]) -> str:
    """A tensor broadcast to a shape."""
    own = reader.shapes[name]
    return name if own == shape else reader.move(np.broadcast_to(np.arange(math.prod(own)).reshape(own), shape), name)


def _constant(reader: _Reader, node: _Node) -> None:
    value = node.attributes.get("value")
    if not isinstance(value, onnx.TensorProto):
        raise reader.fail("only a tensor is read as its value")
    reader.constants[node.outputs[0]] = reader.tensor(value)


def _shape(reader: _Reader, node: _Node) -> None:
    reader.constants[node.outputs[0]] = np.array(node.shape(), dtype=np.int64)


def _cast(reader: _Reader, node: _Node) -> None:
    kind = node.attributes.get("to")
    if node.is_constant(0) and kind in (onnx.TensorProto.INT64, onnx.TensorProto.INT32) and node.constant(0).dtype.kind == "i":
        reader.constants[node.outputs[0]] = node.constant(0)
    else:
        raise reader.fail("only integers are cast, to integers")


# Arithmetic


def _linear(reader: _Reader, name: str, weight: Array, shape: Sequence[int], output: str = "") -> str:
    return reader.add(Product(np.ascontiguousarray(weight)), [name], shape, output)


def _shift(reader: _Reader, name: str, bias: Array, output: str = "") -> str:
    shape = reader.shapes[name]
    return reader.add(Shift(np.ascontiguousarray(np.broadcast_to(bias, shape)).ravel()), [name], shape, output)


def _scaled(reader: _Reader, name: str, values: Array, inverse: bool, output: str) -> str:
    """Every entry times, or by, a number."""
    shape = reader.shapes[name]
    distinct, index = np.unique(values, return_inverse=True)
    factors = tuple(1 / Fraction(v) if inverse else Fraction(v) for v in distinct.tolist())
    place = np.broadcast_to(index.reshape(values.shape), shape).ravel().astype(np.int64)
    return reader.add(Scale(factors, place), [name], shape, output)


def _gemm(reader: _Reader, node: _Node) -> None:
    a = node.attributes
    weight = node.weights(1).T if a.get("transB") else node.weights(1)
    if a.get("transA") or a.get("alpha", 1.0) != 1.0 or (a.get("beta", 1.0) != 1.0 and node.given(2)):
        raise reader.fail("transA and factors other than 1 are not read")
    shape = (node.shape()[0], weight.shape[1])
    if node.shape() != (shape[0], weight.shape[0]):
        raise reader.fail(f"a product of {node.shape()} and {weight.shape}")
    product = _linear(reader, node.inputs[0], weight[None], shape, "" if node.given(2) else node.outputs[0])
    if node.given(2):
        _shift(reader, product, node.weights(2), node.outputs[0])


def _matmul(reader: _Reader, node: _Node) -> None:
    constant = 1 if node.is_constant(1) else 0
    weight, shape = node.weights(constant), node.shape(1 - constant)
    if weight.ndim != 2 or len(shape) < 2 or shape[-1 if constant else -2] != weight.shape[0 if constant else 1]:
        raise reader.fail(f"a product of {node.shape(0)} and {node.shape(1)}")
    if constant:
        _linear(reader, node.inputs[0], weight[None], (*shape[:-1], weight.shape[1]), node.outputs[0])
        return
    turned = node.move(np.swapaxes(node.index(1), -1, -2), 1)
    product = _linear(reader, turned, weight.T[None], (*reader.shapes[turned][:-1], weight.shape[0]))
    index = np.arange(math.prod(reader.shapes[product])).reshape(reader.shapes[product])
    node.move(np.swapaxes(index, -1, -2), product, node.outputs[0])


def _windows(node: _Node, kernel: Sequence[int]) -> Array:
    """Flat numbers of the entries under every window, (C, *positions, *kernel); -1 in the padding."""
    index, a, dims = node.index(), node.attributes, len(kernel)
    if index.shape[0] != 1 or index.ndim != dims + 2 or a.get("ceil_mode"):
        raise node.reader.fail(f"an input of shape {index.shape} for windows {list(kernel)}, or ceil_mode")
    strides, dilations = node.ints("strides") or (1,) * dims, node.ints("dilations") or (1,) * dims
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    pads, auto = node.ints("pads") or (0,) * (2 * dims), a.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        need = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(index.shape[2:], strides, reach, strict=True)]
        less, more = [n // 2 for n in need], [n - n // 2 for n in need]
        pads = (*less, *more) if auto == b"SAME_UPPER" else (*more, *less)
    elif auto not in (b"NOTSET", b"VALID"):
        raise node.reader.fail(f"auto_pad {auto!r}")
    if min(pads) < 0:
        raise node.reader.fail("pads below 0")
    padded = np.pad(index[0], [(0, 0), *zip(pads[:dims], pads[dims:], strict=True)], constant_values=-1)
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(1, dims + 1)))
    return views[(slice(None), *(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))]


def _conv(reader: _Reader, node: _Node) -> None:
    weight, groups = node.weights(1), int(node.attributes.get("group", 1))
    windows, dims = _windows(node, weight.shape[2:]), weight.ndim - 2
    channels, positions, kernel = len(windows), windows.shape[1 : 1 + dims], weight.shape[2:]
    if weight.shape[1] * groups != channels or len(weight) % groups or (node.ints("kernel_shape") or kernel) != kernel:
        raise reader.fail(f"a kernel of shape {weight.shape} for {channels} channels")
    count, inner = math.prod(positions), weight.shape[1] * math.prod(kernel)
    apart = windows.reshape(groups, weight.shape[1], count, -1).transpose(2, 0, 1, 3)
    patches = node.move(apart.reshape(count, groups * inner))
    matrix = weight.reshape(groups, len(weight) // groups, inner).transpose(0, 2, 1)
    product = _linear(reader, patches, matrix, (count, len(weight)))
    index = np.arange(count * len(weight)).reshape(count, -1).T.reshape(1, len(weight), *positions)
    moved = node.move(index, product, "" if node.given(2) else node.outputs[0])
    if node.given(2):
        _shift(reader, moved, node.weights(2).reshape(1, -1, *(1,) * dims), node.outputs[0])


def _mean(reader: _Reader, node: _Node, index: Array, shape: Sequence[int], count_padding: bool) -> None:
    """The mean over the last axis of flat numbers (n, k)."""
    summed = _linear(reader, node.move(index), np.ones((1, index.shape[-1], 1)), shape)
    counts = np.full(len(index), index.shape[-1]) if count_padding else (index >= 0).sum(-1)
    _scaled(reader, summed, counts.reshape(shape).astype(np.float64), True, node.outputs[0])


def _average_pool(reader: _Reader, node: _Node) -> None:
    kernel = node.ints("kernel_shape") or ()
    windows = _windows(node, kernel)
    shape = (1, *windows.shape[: 1 + len(kernel)])
    _mean(reader, node, windows.reshape(math.prod(shape), -1), shape, bool(node.attributes.get("count_include_pad", 0)))


def _reduced(reader: _Reader, node: _Node) -> None:
    index, globally = node.index(), node.op_type == "GlobalAveragePool"
    axes = list(range(2, index.ndim)) if globally else _axes(node, 18)
    axes = sorted(a % index.ndim for a in (axes if axes is not None else range(index.ndim)))
    if not axes or node.attributes.get("noop_with_empty_axes"):
        raise reader.fail("nothing is reduced")
    kept = [a for a in range(index.ndim) if a not in axes]
    flat = index.transpose(*kept, *axes).reshape(math.prod(index.shape[a] for a in kept), -1)
    keep = globally or bool(node.attributes.get("keepdims", 1))
    shape = [1 if a in axes else index.shape[a] for a in range(index.ndim) if keep or a not in axes]
    _mean(reader, node, flat, shape, True)


def _batch_norm(reader: _Reader, node: _Node) -> None:
    shape = (1, -1, *(1,) * (len(node.shape()) - 2))
    scale, bias, mean, variance = (node.weights(i) for i in range(1, 5))
    if node.attributes.get("training_mode") or len(node.outputs) != 1 or len(node.shape()) < 2:
        raise reader.fail("in training mode it is no function")
    epsilon = Fraction(float(np.float32(node.attributes.get("epsilon", 1e-5))))
    roots = tuple(Fraction(v) + epsilon for v in variance.tolist())
    if min(roots) <= 0:
        raise reader.fail("a variance is not positive")
    name = _shift(reader, node.inputs[0], -mean.reshape(shape))
    channel = np.broadcast_to(np.arange(len(scale)).reshape(shape), node.shape()).ravel().astype(np.int64)
    name = reader.add(Scale(tuple(Fraction(v) for v in scale.tolist()), channel, roots), [name], node.shape())
    _shift(reader, name, bias.reshape(shape), node.outputs[0])


def _sum(reader: _Reader, node: _Node) -> None:
    """Add and Sub, of tensors or constants."""
    names, signs = [_activation(reader, node, i) for i in (0, 1)], (1, -1 if node.op_type == "Sub" else 1)
    shape = tuple(np.broadcast_shapes(*(reader.shapes[n] for n in names)))
    wide = [_wide(reader, name, shape) for name in names]
    reader.add(Sum(signs), wide, shape, node.outputs[0])


def _product(reader: _Reader, node: _Node) -> None:
    """Mul and Div by constants, and Neg."""
    if node.op_type == "Neg":
        reader.add(Sum((-1,)), node.inputs, node.shape(), node.outputs[0])
        return
    constant = 1 if node.is_constant(1) or node.op_type == "Div" else 0
    shape = tuple(np.broadcast_shapes(node.shape(0), node.shape(1)))
    own = _wide(reader, node.inputs[1 - constant], shape)
    _scaled(reader, own, node.weights(constant), node.op_type == "Div", node.outputs[0])


# Nonlinear functions of one variable


def _relu(node: _Node) -> PiecewiseLinear:
    return PiecewiseLinear((0.0,), ((0.0, 0.0), (1.0, 0.0)))


def _leaky(node: _Node) -> PiecewiseLinear:
    return PiecewiseLinear((0.0,), ((float(node.attributes.get("alpha", np.float32(0.01))), 0.0), (1.0, 0.0)))


def _clip(node: _Node) -> PiecewiseLinear:
    if node.opset >= 11:
        low, high = (float(node.weights(i).reshape(())) if node.given(i) else None for i in (1, 2))
    else:
        low, high = (node.attributes.get(k) for k in ("min", "max"))
    below = [] if low is None else [(low, (0.0, low))]
    above = [] if high is None else [(high, (0.0, high))]
    knots = tuple(k for k, _ in (*below, *above))
    if list(knots) != sorted(knots):
        raise node.reader.fail("its least is above its greatest")
    return PiecewiseLinear(knots, (*(p for _, p in below), (1.0, 0.0), *(p for _, p in above)))


_FUNCTIONS: dict[str, Callable[[_Node], PiecewiseLinear]] = {
    "Relu": _relu,
    "LeakyRelu": _leaky,
    "Clip": _clip,
    "Abs": lambda node: PiecewiseLinear((0.0,), ((-1.0, 0.0), (1.0, 0.0))),
}


def _function(reader: _Reader, node: _Node) -> None:
    reader.add(_FUNCTIONS[node.op_type](node), node.inputs[:1], node.shape(), node.outputs[0])


_RULES: dict[str, Callable[[_Reader, _Node], None]] = {
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_FUNCTIONS, _function),
    **dict.fromkeys(("Add", "Sub"), _sum),
    **dict.fromkeys(("Mul", "Div", "Neg"), _product),
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), _reduced),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Shape": _shape,
}
