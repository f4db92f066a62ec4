"""Hidden nodes: tensors inside of a network as further outputs of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from bourn.errors import NetworkError, SpecificationError
from bourn.formats.onnx import read_model


def exposed(path: str | Path, tensors: Sequence[str]) -> bytes:
    """The file with these tensors, or the only outputs of nodes of these names, as outputs before its own ones.

    Raises :class:`NetworkError` where the file cannot be read, :class:`SpecificationError` where it has no such tensor.
    """
    model = read_model(path)
    types = _types(model)
    fallback = model.graph.input[0].type.tensor_type.elem_type if model.graph.input else onnx.TensorProto.FLOAT
    outputs = []
    for number, stated in enumerate(tensors):
        tensor, name = _tensor(model, stated, path), f"{stated}.hidden_{number}"
        # A copy, for the tensor may be an output of the network already, or one of its inputs.
        model.graph.node.append(onnx.helper.make_node("Identity", [tensor], [name], name=name))
        outputs.append(onnx.helper.make_tensor_value_info(name, types.get(tensor, fallback), None))
    own = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend([*outputs, *own])
    try:
        return bytes(model.SerializeToString())
    except ValueError as error:  # protobuf's limit of 2 GB
        raise NetworkError(f"{path}: hidden nodes of so large a network cannot be read: {error}") from None


def _tensor(model: onnx.ModelProto, stated: str, path: str | Path) -> str:
    computed = {name for node in model.graph.node for name in node.output if name}
    given = {info.name for info in model.graph.input} | {t.name for t in model.graph.initializer}
    if stated in computed | given:
        return stated
    for node in model.graph.node:
        if node.name == stated and len(node.output) == 1:
            return str(node.output[0])
    some = ", ".join(sorted(computed)[:8]) + (", ..." if len(computed) > 8 else "")
    raise SpecificationError(f"{path} has no tensor and no node {stated!r}; tensors in it are {some}")


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of tensors, as far as they are known."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except (ValueError, RuntimeError):  # too large, or of operators that onnx cannot type
        inferred = model
    infos = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return {info.name: info.type.tensor_type.elem_type for info in infos if info.type.tensor_type.elem_type}
