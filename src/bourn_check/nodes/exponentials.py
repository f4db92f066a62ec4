"""Exp, Log and Softplus; Elu, Selu and Celu, which are an exponential below 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import flint
import numpy as np
from numpy.typing import NDArray

from bourn_check.arithmetic import Floats
from bourn_check.network import Scale
from bourn_check.nodes.sigmoids import sigmoid
from bourn_check.nodes.smooth import Smooth
from bourn_check.readers.onnx_reading import Node, Reader, Rules, function


@dataclass(frozen=True, eq=False)
class Linear(Smooth):
    """A function that is slope z where z is at least 0."""

    slope: float = 1.0

    def affine(self, lower: Floats, upper: Floats) -> tuple[NDArray[np.bool_], Floats, Floats]:
        return lower < 0, np.where(lower < 0, 0.0, self.slope), np.zeros(lower.shape)


def elu(alpha: float, gamma: float) -> Smooth:
    """gamma alpha (exp z - 1) for z < 0, gamma z above: either stretch is convex by itself, for alpha of at least 0."""
    if not (0 <= alpha < math.inf and 0 < gamma < math.inf):
        raise ValueError(f"alpha {alpha} and gamma {gamma} are not read")
    left, right = flint.arb(gamma) * flint.arb(alpha), flint.arb(gamma)

    def derivative(z: Any) -> Any:  # at 0 of either side
        return left * z.exp() if z < 0 else right if z > 0 else left.union(right)

    return Linear(
        lambda z: left * z.expm1() if z < 0 else right * z,
        derivative,
        lambda z: np.where(z < 0, gamma * alpha * np.exp(np.minimum(z, 0)), gamma),
        (1, 1),
        ((0.0, 0.0),),
        slope=gamma,
    )


def _elu(node: Node) -> Smooth:
    defaults = (1.0, 1.0) if node.op_type == "Elu" else map(np.float32, (1.67326319217681884765625, 1.05070102214813232421875))
    alpha, gamma = (float(node.attribute(name, default)) for name, default in zip(("alpha", "gamma"), defaults, strict=True))
    return elu(alpha, gamma)


def _celu(reader: Reader, node: Node) -> object:
    """alpha (exp(z / alpha) - 1) below 0: alpha Elu(z / alpha), as the part ``elu`` where alpha is not 1."""
    alpha, name = Fraction(float(node.attribute("alpha", 1.0))), f"{node.outputs[0]}.elu"
    if alpha == 1:
        return function(elu(1.0, 1.0))(reader, node)
    index = np.zeros(math.prod(node.shape()), dtype=np.int64)
    inner = reader.add(Scale((1 / alpha,), index), node.inputs, node.shape())
    reader.add(elu(1.0, 1.0), [inner], node.shape(), name)
    return reader.add(Scale((alpha,), index), [name], node.shape(), node.outputs[0])


EXP = Smooth(lambda z: z.exp(), lambda z: z.exp(), np.exp, (1,))

RULES: Rules = {
    "Celu": _celu,
    "Exp": function(EXP),
    "Log": function(Smooth(lambda z: z.log(), lambda z: 1 / z, lambda z: 1 / z, (-1,), domain=(5e-324, math.inf))),
    "Softplus": function(Smooth(lambda z: z.exp().log1p(), sigmoid, lambda z: 0.5 + 0.5 * np.tanh(z / 2), (1,))),
    **dict.fromkeys(("Elu", "Selu"), function(_elu)),
}
