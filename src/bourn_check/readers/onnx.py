"""ONNX files as steps of affine and nonlinear functions, node by node as they are stored: nothing is rewritten."""

from __future__ import annotations

import numpy as np
import onnx

from bourn_check.errors import Unreadable
from bourn_check.network import Network, PiecewiseLinear
from bourn_check.nodes import OTHERS
from bourn_check.readers import unpacked
from bourn_check.readers.onnx_affine import AFFINE
from bourn_check.readers.onnx_moves import MOVES
from bourn_check.readers.onnx_reading import Node, Reader, Rules, function


def read_network(data: bytes, source: str) -> Network:
    """The network in a file's bytes, which may be gzipped; onnx parses the protobuf, and no more."""
    try:
        model = onnx.load_model_from_string(unpacked(data))
    except Exception as error:  # protobuf has exceptions of its own
        raise Unreadable(f"{source}: no ONNX file: {type(error).__name__}") from None
    return Reader(model, source, {**MOVES, **AFFINE, **_PIECEWISE, **OTHERS}).network()


def _leaky(node: Node) -> PiecewiseLinear:
    return PiecewiseLinear((0.0,), ((float(node.attribute("alpha", np.float32(0.01))), 0.0), (1.0, 0.0)))


def _clip(node: Node) -> PiecewiseLinear:
    if node.opset >= 11:
        low, high = (float(node.weights(i).reshape(())) if node.given(i) else None for i in (1, 2))
    else:
        low, high = (node.attribute(k) for k in ("min", "max"))
    below = [] if low is None else [(low, (0.0, low))]
    above = [] if high is None else [(high, (0.0, high))]
    knots = tuple(k for k, _ in (*below, *above))
    if list(knots) != sorted(knots):
        raise node.reader.fail("its least is above its greatest")
    return PiecewiseLinear(knots, (*(p for _, p in below), (1.0, 0.0), *(p for _, p in above)))


_PIECEWISE: Rules = {
    "Relu": function(PiecewiseLinear((0.0,), ((0.0, 0.0), (1.0, 0.0)))),
    "LeakyRelu": function(_leaky),
    "Clip": function(_clip),
    "Abs": function(PiecewiseLinear((0.0,), ((-1.0, 0.0), (1.0, 0.0)))),
}
