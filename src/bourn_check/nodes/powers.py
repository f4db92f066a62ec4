"""Powers with one constant exponent, a whole number or a half; Sqrt and Reciprocal."""

from __future__ import annotations

import math

import numpy as np

from bourn_check.nodes.smooth import Smooth
from bourn_check.readers.onnx_reading import Node, Reader, Rules, function

SQRT = Smooth(lambda z: z.sqrt(), lambda z: z.rsqrt() / 2, lambda z: 0.5 / np.sqrt(z), (-1,), domain=(0.0, math.inf))
RECIPROCAL = Smooth(lambda z: 1 / z, lambda z: -1 / (z * z), lambda z: -1 / (z * z), (-1, 1), ((0.0, 0.0),))
"""Concave below 0 and convex above; at 0 Arb has no value, so that no bound comes of an interval that holds it."""


def power(exponent: int) -> Smooth:
    """z to a whole exponent of at least 2: convex if it is even, concave below 0 and convex above if it is odd."""
    shape = ((-1, 1), ((0.0, 0.0),)) if exponent % 2 else ((1,), ())
    return Smooth(lambda z: z**exponent, lambda z: exponent * z ** (exponent - 1), lambda z: exponent * z ** (exponent - 1), *shape)


def _power(reader: Reader, node: Node) -> None:
    """A negative exponent's is the reciprocal of the part ``power``."""
    given, output, shape = node.weights(1), node.outputs[0], node.shape()
    exponent, name = float(given.ravel()[0]), node.inputs[0]
    if given.size != 1 or not (abs(exponent) == 0.5 or ((exponent.is_integer() and 1 < abs(exponent) <= 64) or exponent == -1)):
        raise reader.fail("one exponent of a half, -1 or a whole number of size 2 to 64 is read")
    if exponent != -1:
        own = SQRT if abs(exponent) == 0.5 else power(abs(int(exponent)))
        name = reader.add(own, [name], shape, f"{output}.power" if exponent < 0 else output)
    if exponent < 0:
        reader.add(RECIPROCAL, [name], shape, output)


RULES: Rules = {"Pow": _power, "Reciprocal": function(RECIPROCAL), "Sqrt": function(SQRT)}
