"""PRelu, HardSigmoid and HardSwish, made of piecewise linear functions, affine ones and a product."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from bourn_check.network import PiecewiseLinear, Scale
from bourn_check.nodes.product import Multiply
from bourn_check.readers.onnx_reading import Node, Reader, Rules

CLIP = PiecewiseLinear((0.0, 1.0), ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)))


def _prelu(reader: Reader, node: Node) -> None:
    slopes = np.unique(node.weights(1))
    if len(slopes) != 1:
        raise reader.fail("with more than one slope it is not read")
    reader.add(PiecewiseLinear((0.0,), ((float(slopes[0]), 0.0), (1.0, 0.0))), node.inputs[:1], node.shape(), node.outputs[0])


def _gate(reader: Reader, node: Node, alpha: float, beta: float, output: str) -> str:
    """min(max(alpha x + beta, 0), 1)."""
    count = np.zeros(int(np.prod(node.shape())), dtype=np.int64)
    scaled = reader.add(Scale((Fraction(alpha),), count), node.inputs[:1], node.shape())
    return reader.add(CLIP, [reader.shift(scaled, np.array(beta), f"{output}.line")], node.shape(), output)


def _hard_sigmoid(reader: Reader, node: Node) -> None:
    alpha, beta = float(node.attribute("alpha", np.float32(0.2))), float(node.attribute("beta", 0.5))
    _gate(reader, node, alpha, beta, node.outputs[0])


def _hard_swish(reader: Reader, node: Node) -> None:
    """x times its part ``gate``."""
    gate = _gate(reader, node, float(np.float32(1 / 6)), 0.5, f"{node.outputs[0]}.gate")
    reader.add(Multiply(), [node.inputs[0], gate], node.shape(), node.outputs[0])


RULES: Rules = {"HardSigmoid": _hard_sigmoid, "HardSwish": _hard_swish, "PRelu": _prelu}
