"""What moves numbers, whether they are constants or not, and constants."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from bourn_check.network import Sum
from bourn_check.readers.onnx_reading import Array, Node, Reader, Rules


def stated_axes(node: Node, since: int, i: int = 1) -> tuple[int, ...] | None:
    return node.ints("axes", i if node.opset >= since else None)


def _reshaped(node: Node, a: Array) -> Array:
    wanted = node.ints("shape", 1) or ()
    if node.attribute("allowzero"):
        raise node.reader.fail("allowzero is not read")
    return a.reshape([a.shape[k] if s == 0 else s for k, s in enumerate(wanted)])


def _flattened(node: Node, a: Array) -> Array:
    axis = int(node.attribute("axis", 1))
    axis += a.ndim if axis < 0 else 0
    return a.reshape(math.prod(a.shape[:axis]), -1)


def _sliced(node: Node, a: Array) -> Array:
    names = ("starts", "ends", "axes", "steps")[: 4 if node.opset >= 10 else 3]
    stated = [node.ints(name, i if node.opset >= 10 else None) for i, name in enumerate(names, 1)]
    starts, ends, axes, steps = (*stated, None)[:4]
    cut, count = [slice(None)] * a.ndim, range(len(starts or ()))
    for start, end, axis, step in zip(starts or (), ends or (), axes or count, steps or (1 for _ in count), strict=True):
        if step <= 0:
            raise node.reader.fail("a step below 1")
        cut[axis] = slice(start, end, step)
    return a[tuple(cut)]


def _pad(reader: Reader, node: Node) -> None:
    a = node.index()
    pads = node.ints("pads", 1 if node.opset >= 11 else None) or ()
    value = float(node.constant(2).ravel()[0]) if node.given(2) else float(node.attribute("value", 0.0))
    if node.attribute("mode", b"constant") != b"constant" or value or min(pads) < 0 or node.given(3):
        raise reader.fail("only zeros at the ends of all axes are padded")
    node.move(np.pad(a, list(zip(pads[: a.ndim], pads[a.ndim :], strict=True)), constant_values=-1), output=node.outputs[0])


_MOVES: dict[str, Callable[[Node, Array], Array]] = {
    "Reshape": _reshaped,
    "Flatten": _flattened,
    "Squeeze": lambda node, a: a.squeeze(stated_axes(node, 13)),
    "Slice": _sliced,
    "Unsqueeze": lambda node, a: np.expand_dims(a, stated_axes(node, 13) or ()),
    "Transpose": lambda node, a: a.transpose(node.ints("perm")),
    "Identity": lambda node, a: a,
    "Dropout": lambda node, a: a,
    "Gather": lambda node, a: np.take(a, node.constant(1), axis=int(node.attribute("axis", 0))),
}


def _move(reader: Reader, node: Node) -> None:
    rule = _MOVES[node.op_type]
    if node.op_type == "Dropout" and node.given(2) and bool(node.constant(2).any()):
        raise reader.fail("in training mode it is no function")
    if node.is_constant(0):
        reader.constants[node.outputs[0]] = rule(node, node.constant(0))
    else:
        node.move(rule(node, node.index()), output=node.outputs[0])


def _concat(reader: Reader, node: Node) -> None:
    axis = int(node.attribute("axis"))
    if all(node.is_constant(i) for i in range(len(node.inputs))):
        reader.constants[node.outputs[0]] = np.concatenate([node.constant(i) for i in range(len(node.inputs))], axis)
        return
    names = [node.activation(i) for i in range(len(node.inputs))]
    shapes = [reader.shapes[n] for n in names]
    numbers = [np.arange(math.prod(shape)).reshape(shape) for shape in shapes]
    apart = [[x if i == k else np.full_like(x, -1) for i, x in enumerate(numbers)] for k in range(len(names))]
    wide = [reader.move(np.concatenate(own, axis), name) for own, name in zip(apart, names, strict=True)]
    reader.add(Sum((1,) * len(wide)), wide, reader.shapes[wide[0]], node.outputs[0])


def _constant(reader: Reader, node: Node) -> None:
    value = node.attribute("value")
    if not isinstance(value, onnx.TensorProto):
        raise reader.fail("only a tensor is read as its value")
    reader.constants[node.outputs[0]] = reader.tensor(value)


def _cast(reader: Reader, node: Node) -> None:
    kinds = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    if node.attribute("to") not in kinds or not node.is_constant(0) or node.constant(0).dtype.kind != "i":
        raise reader.fail("only integers are cast, to integers")
    reader.constants[node.outputs[0]] = node.constant(0)


MOVES: Rules = {
    **dict.fromkeys(_MOVES, _move),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "Pad": _pad,
    "Shape": lambda reader, node: reader.constants.update({node.outputs[0]: np.array(node.shape(), dtype=np.int64)}),
}
