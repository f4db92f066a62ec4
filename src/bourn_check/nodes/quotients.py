"""Mul, Div and MatMul where both sides depend on the input; where one is a constant they are affine."""

from __future__ import annotations

import numpy as np

from bourn_check.nodes.gated import SILU
from bourn_check.nodes.powers import RECIPROCAL, power
from bourn_check.nodes.product import Multiply
from bourn_check.readers.onnx_affine import AFFINE
from bourn_check.readers.onnx_reading import Node, Reader, Rules


def _multiplied(reader: Reader, node: Node) -> None:
    """Mul and Div; z z is a square, and z Sigmoid(z) one function too.  Below the line is a part ``reciprocal``."""
    if node.is_constant(1) or (node.op_type == "Mul" and node.is_constant(0)):
        AFFINE[node.op_type](reader, node)
        return
    (a, b), output = node.inputs, node.outputs[0]
    shape = tuple(np.broadcast_shapes(node.shape(0), node.shape(1)))
    if node.op_type == "Div":
        alone = node.is_constant(0) and shape == node.shape(1) and bool((node.weights(0) == 1).all())
        b = reader.add(RECIPROCAL, [b], node.shape(1), output if alone else f"{output}.reciprocal")
        if node.is_constant(0) and not alone:
            reader.scaled(reader.wide(b, shape), node.weights(0), False, output)
        if node.is_constant(0):
            return
    gates = {(s.inputs[0], s.output) for s in reader.steps if "Sigmoid" in s.where.split()[:1]}
    if a == b or (a, b) in gates or (b, a) in gates:
        reader.add(power(2) if a == b else SILU, [b if (b, a) in gates else a], node.shape(), output)
        return
    reader.add(Multiply(), [reader.wide(a, shape), reader.wide(b, shape)], shape, output)


def _matrices(reader: Reader, node: Node) -> None:
    """MatMul of two activations: the sums of the part ``products``."""
    if node.is_constant(0) or node.is_constant(1):
        AFFINE["MatMul"](reader, node)
        return
    left, right = node.index(0)[..., :, None, :], node.index(1).swapaxes(-1, -2)[..., None, :, :]
    every = np.broadcast_shapes(left.shape, right.shape)
    pair = [node.move(np.broadcast_to(index, every), i) for i, index in enumerate((left, right))]
    name = reader.add(Multiply(), pair, every, f"{node.outputs[0]}.products")
    reader.linear(name, np.ones((1, every[-1], 1)), every[:-1], node.outputs[0])


RULES: Rules = {**dict.fromkeys(("Mul", "Div"), _multiplied), "MatMul": _matrices}
