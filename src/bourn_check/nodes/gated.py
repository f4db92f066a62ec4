"""GELU (the exact one) and SiLU: concave, convex between two inflections, and concave again."""

from __future__ import annotations

import math
from typing import Any

import flint
import numpy as np

from bourn_check.arithmetic import Floats
from bourn_check.nodes.sigmoids import sigmoid
from bourn_check.nodes.smooth import Smooth
from bourn_check.readers.onnx_reading import Node, Rules, function

ROOT = (math.nextafter(math.sqrt(2), 0), math.nextafter(math.sqrt(2), 2))
"""Around the root of 2.  With the normal density p, gelu''(z) = p(z) (2 - z^2)."""
BEND = (2.3993572805154, 2.3993572805155)
"""Around the only positive root of z tanh(z / 2) = 2, whose left side grows: silu''(z) = s(z) (1 - s(z)) (2 - z tanh(z / 2))."""


def _density(z: Any) -> Any:
    return (-z * z / 2).exp() / (2 * flint.arb.pi()).sqrt()


def _normal(z: Any) -> Any:
    return (-z / flint.arb(2).sqrt()).erfc() / 2


def _between(root: tuple[float, float]) -> tuple[tuple[float, float], ...]:
    return ((-root[1], -root[0]), root)


def _rough_normal(z: Floats) -> Floats:
    """Of which tightness alone depends."""
    return np.asarray(0.5 + 0.5 * np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def _gelu(node: Node) -> Smooth:
    if node.attribute("approximate", b"none") != b"none":
        raise node.reader.fail("only the exact function is read")
    return GELU


GELU = Smooth(
    lambda z: z * _normal(z),
    lambda z: _normal(z) + z * _density(z),
    lambda z: _rough_normal(z) + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi),
    (-1, 1, -1),
    _between(ROOT),
)


def _rough_silu(z: Floats) -> Floats:
    y = 0.5 + 0.5 * np.tanh(z / 2)
    return y + z * y * (1 - y)


SILU = Smooth(
    lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * sigmoid(-z)), _rough_silu, (-1, 1, -1), _between(BEND)
)

RULES: Rules = {"Gelu": function(_gelu)}
