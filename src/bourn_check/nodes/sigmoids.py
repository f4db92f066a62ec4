"""Sigmoid, Tanh, Atan, Erf and Softsign: f'' has the sign of -z, for each is odd (the sigmoid but for 1/2) and concave above 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flint
import numpy as np

from bourn_check.arithmetic import Floats
from bourn_check.nodes.smooth import Smooth
from bourn_check.readers.onnx_reading import Rules, function


def _shaped(value: Callable[[Any], Any], derivative: Callable[[Any], Any], steep: Callable[[Floats], Floats]) -> Smooth:
    return Smooth(value, derivative, steep, (1, -1), ((0.0, 0.0),))


def sigmoid(z: Any) -> Any:
    return 1 / (1 + (-z).exp())


SIGMOID = _shaped(sigmoid, lambda z: sigmoid(z) * sigmoid(-z), lambda z: 0.25 / np.cosh(z / 2) ** 2)

RULES: Rules = {
    "Sigmoid": function(SIGMOID),
    "Tanh": function(_shaped(lambda z: z.tanh(), lambda z: z.sech() ** 2, lambda z: 1 / np.cosh(z) ** 2)),
    "Atan": function(_shaped(lambda z: z.atan(), lambda z: 1 / (1 + z * z), lambda z: 1 / (1 + z * z))),
    "Erf": function(
        _shaped(
            lambda z: z.erf(),
            lambda z: 2 * (-z * z).exp() / flint.arb.pi().sqrt(),
            lambda z: 2 / np.sqrt(np.pi) * np.exp(-z * z),
        )
    ),
    "Softsign": function(
        _shaped(lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2, lambda z: 1 / (1 + np.abs(z)) ** 2)
    ),
}
