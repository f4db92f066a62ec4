"""ONNX operators on constants alone: shapes, indices, and everything that picks or counts without rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from bourn.errors import NetworkError
from bourn.formats.onnx_choices import nonzero
from bourn.formats.onnx_constants import Constant
from bourn.formats.onnx_reading import Use, Value, moved, rule

_EXACT = frozenset(
    {"Abs", "And", "ArgMax", "ArgMin", "Ceil", "Clip", "Equal", "EyeLike", "Floor", "GatherND", "Greater", "GreaterOrEqual"}
    | {"IsInf", "IsNaN", "Less", "LessOrEqual", "Max", "Min", "NonZero", "Not", "OneHot", "Or", "ReduceMax", "ReduceMin"}
    | {"Relu", "Round", "ScatterElements", "ScatterND", "Sign", "Trilu", "Xor"}
)
"""They pick, compare or count, so that nothing rounds."""

_EXACT_ON_INTEGERS = frozenset({"CumSum", "Mod", "Range", "ReduceProd"})

FOLDED = _EXACT | _EXACT_ON_INTEGERS
"""Operators that are folded where all their inputs are constant."""


def fold(use: Use) -> tuple[Value, ...]:
    """The values of a node of :data:`FOLDED` whose inputs are all constant, by the standard's reference implementation."""
    # The reference implementation takes long to import and few networks need it.
    from onnx.reference import ReferenceEvaluator

    given = [v for v in use.inputs if isinstance(v, Constant)]
    if any(c.error for c in given) or (use.op_type in _EXACT_ON_INTEGERS and not all(c.integral for c in given)):
        raise use.refuse("it computes with constants that are not held exactly")
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(use.inputs)]
    outputs = [f"o{k}" for k in range(len(use.outputs))]
    node = onnx.helper.make_node(use.op_type, names, outputs, **{k: use.attribute(k) for k in use.attributes})
    graph = onnx.helper.make_graph(
        [node],
        "folded",
        [onnx.helper.make_tensor_value_info(n, 1, None) for n in names if n],
        [onnx.helper.make_tensor_value_info(o, 1, None) for o in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", use.opset)])
    feed = {name: v.array for name, v in zip(names, use.inputs, strict=True) if isinstance(v, Constant)}
    return tuple(Constant(np.asarray(result)) for result in ReferenceEvaluator(model).run(None, feed))


def stored(proto: onnx.TensorProto) -> Constant:
    """A tensor of the file; floats narrower than float32 are widened, which is exact."""
    array = onnx.numpy_helper.to_array(proto)
    return Constant(array if array.dtype.kind in "iubf" else array.astype(np.float32))


@rule("Constant")
def _constant(use: Use) -> Value:
    kinds: dict[str, Any] = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for name, kind in kinds.items():
        given = use.attribute(name)
        if given is not None:
            return Constant(np.array(given, dtype=kind))
    tensor = use.attribute("value")
    if tensor is None:
        raise use.refuse("only tensors and numbers are read")
    return stored(tensor)


@rule("ConstantOfShape")
def _constant_of_shape(use: Use) -> Value:
    shape, proto = use.integers(0), use.attribute("value")
    if shape is None:
        raise NetworkError("its shape is missing")
    value = Constant(np.zeros(1, dtype=np.float32)) if proto is None else stored(proto)
    return Constant(np.full(shape, value.array.item(), dtype=value.array.dtype))


@rule("Shape")
def _shape(use: Use) -> Value:
    shape = use.shape(use.value(0))
    start, end = use.attribute("start", 0), use.attribute("end", len(shape))
    return Constant(np.array(shape[start:end], dtype=np.int64))


@rule("Size")
def _size(use: Use) -> Value:
    return Constant(np.array(math.prod(use.shape(use.value(0))), dtype=np.int64))


def _type_name(element_type: int) -> str:
    return str(onnx.helper.tensor_dtype_to_string(element_type)).removeprefix("TensorProto.")


@rule("Cast")
def _cast(use: Use) -> Value:
    """Between float32, float64 and from truth values a cast is the identity of real arithmetic; truth values compare with 0.

    On constants others are done as they stand.
    """
    value, target = use.value(0), use.attribute("to")
    use.attribute("saturate")
    use.attribute("round_mode")
    real = target in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    if isinstance(value, int):
        if target == onnx.TensorProto.BOOL:
            return nonzero(use, value)
        if not real:
            raise use.refuse(f"it rounds to {_type_name(target)} what depends on the network's input")
        return moved(use, value, lambda x: x)
    if real and not value.integral:
        return value
    kind = onnx.helper.tensor_dtype_to_np_dtype(target)
    if value.error or kind.kind not in "iubf":
        raise use.refuse(f"its constant cannot be cast to {_type_name(target)} exactly")
    return Constant(value.array.astype(kind))
