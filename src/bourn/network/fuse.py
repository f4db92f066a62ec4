"""Passes that make a graph's relaxation tighter without changing what it computes.

Files state some activations as several operators: relaxed one by one they have no bounds as tight as the one function's hull.
And where a root, a logarithm or a reciprocal reads a sum that cannot fall below a number (squares, exponentials), a linear
bound of the sum can: a clip at that number, which changes nothing, keeps it out of where the function is not defined.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from bourn.network.affine import Affine, Constant, Offset, ReduceSum, Reshape, Scale, Select, Sum
from bourn.network.graph import Graph, GraphBuilder, Input
from bourn.relaxations.absolute import Absolute
from bourn.relaxations.base import Nonlinearity
from bourn.relaxations.clip import Clip
from bourn.relaxations.erf import Erf
from bourn.relaxations.exp import Exp
from bourn.relaxations.gelu import Gelu
from bourn.relaxations.log import Log
from bourn.relaxations.power import Power
from bourn.relaxations.product import Product
from bourn.relaxations.reciprocal import Reciprocal
from bourn.relaxations.relu import ReLU
from bourn.relaxations.sigmoid import Sigmoid
from bourn.relaxations.silu import Silu
from bourn.relaxations.softplus import Softplus
from bourn.relaxations.sqrt import Sqrt
from bourn.relaxations.step import Step
from bourn.rounding import UNIT, down

_SMALL = 2.0**-24
"""Below it the products of relative errors are covered by a share of 2^-20 of their sum."""

Scaled = tuple[int, Fraction, float]
"""A node times a number, and the bound of the number's relative error."""


def fuse_activations(graph: Graph) -> Graph:
    """x sigmoid(a x) becomes SiLU, k x (1 + erf(f x)) GELU between two scales, and k x where x > 0 a scaled ReLU."""
    found = {}
    for number, node in enumerate(graph.nodes):
        if isinstance(node.operation, Product):
            for gate, other in (node.inputs, node.inputs[::-1]):
                match = _silu(graph, gate, other) or _gelu(graph, gate, other) or _gated(graph, gate, other)
                if match is not None:
                    found[number] = match
                    break
    return _rebuilt(graph, found) if found else graph


Steps = tuple[int, list[Affine | Nonlinearity]]
"""The node that a chain of operations reads, and the chain."""


def _silu(graph: Graph, gate: int, other: int) -> Steps | None:
    """x sigmoid(alpha x)."""
    if not isinstance(graph.nodes[gate].operation, Sigmoid):
        return None
    x, alpha, error = _scaled(graph, graph.nodes[gate].inputs[0])
    own, factor, other_error = _scaled(graph, other)
    exact = error == other_error == 0 and Fraction(float(alpha)) == alpha
    if x == own and factor == 1 and alpha > 0 and exact:
        return other, [Silu(float(alpha))]
    return None


def _gelu(graph: Graph, gate: int, other: int) -> Steps | None:
    """k x (1 + erf(f x)) = k / (f sqrt 2) gelu(f sqrt 2 x) * 2: exact but for two constants, whose rounding goes along."""
    offset, outer, outer_error = _scaled(graph, gate)
    operation = graph.nodes[offset].operation
    if not isinstance(operation, Offset) or operation.bias is None or operation.bias_error is not None:
        return None
    erf = graph.nodes[offset].inputs[0]
    if not isinstance(graph.nodes[erf].operation, Erf) or not bool((operation.bias == 1).all()):
        return None
    x, inner, inner_error = _scaled(graph, graph.nodes[erf].inputs[0])
    own, factor, error = _scaled(graph, other)
    if x != own or inner <= 0 or factor * outer == 0 or max(inner_error, error, outer_error) > _SMALL:
        return None
    shape = graph.nodes[x].shape
    into = float(inner) * math.sqrt(2)
    back = float(2 * factor * outer / (inner * Fraction(math.sqrt(2))))
    # The root, its product with the scale, and the quotient round once each.
    spread = inner_error + 8 * UNIT
    return x, [
        Scale(in_shapes=(shape,), out_shape=shape, factor=torch.tensor(into, dtype=torch.float64), weight_error=spread),
        Gelu(),
        Scale(
            in_shapes=(shape,),
            out_shape=shape,
            factor=torch.tensor(back, dtype=torch.float64),
            weight_error=(spread + error + outer_error) * (1 + 2.0**-20),
        ),
    ]


def _gated(graph: Graph, gate: int, other: int) -> Steps | None:
    """k x times the Heaviside step of x: k relu(x), whatever the step is at 0."""
    step = graph.nodes[gate].operation
    if not isinstance(step, Step) or (step.below, step.above) != (0.0, 1.0):
        return None
    x, (own, factor, error) = graph.nodes[gate].inputs[0], _scaled(graph, other)
    if x != own or error or Fraction(float(factor)) != factor:
        return None
    shape = graph.nodes[x].shape
    scale = Scale(in_shapes=(shape,), out_shape=shape, factor=torch.tensor(float(factor), dtype=torch.float64))
    return x, [ReLU(), *([scale] if factor != 1 else [])]


def _scaled(graph: Graph, number: int) -> Scaled:
    """The node that a node is a multiple of, through scales by one number; itself with 1 if it is none."""
    factor, error = Fraction(1), 0.0
    while isinstance(operation := graph.nodes[number].operation, Scale) and operation.bias is None:
        level = float(operation.factor.min())
        if level != float(operation.factor.max()) or operation.in_shapes[0] != operation.out_shape:
            break
        factor, error = factor * Fraction(level), error + operation.weight_error * (1 + 2.0**-20)
        number = graph.nodes[number].inputs[0]
    return number, factor, error


def _rebuilt(graph: Graph, found: dict[int, Steps]) -> Graph:
    """The graph with chains in the place of some nodes; the chain's last node has the node's name."""
    builder = GraphBuilder(graph.input_shape, graph.nodes[0].name)
    new = {0: 0}
    for number, node in enumerate(graph.nodes[1:], start=1):
        assert not isinstance(node.operation, Input)
        if number not in found:
            new[number] = builder.add(node.operation, *(new[i] for i in node.inputs), name=node.name, source=node.source)
            continue
        start, steps = found[number]
        last = new[start]
        for step in steps[:-1]:
            last = builder.add(step, last, name=f"{node.name}.{type(step).__name__.lower()}", source=node.source)
        new[number] = builder.add(steps[-1], last, name=node.name, source=node.source)
    return builder.build(new[graph.output]).cut(new[graph.output])


def guard_domains(graph: Graph) -> Graph:
    """A clip before every root, logarithm and reciprocal of an affine node that is known not to fall below a number."""
    least: list[float] = []
    found: dict[int, Steps] = {}
    for number, node in enumerate(graph.nodes):
        least.append(_least(graph, number, least))
        if isinstance(node.operation, Sqrt | Log | Reciprocal) and isinstance(graph.nodes[node.inputs[0]].operation, Affine):
            floor = least[node.inputs[0]]
            if floor > 0 or (floor == 0 and isinstance(node.operation, Sqrt)):
                found[number] = node.inputs[0], [Clip(low=floor), node.operation]
    return _rebuilt(graph, found) if found else graph


def _least(graph: Graph, number: int, least: list[float]) -> float:
    """A number that a node's entries never fall below, from what its operations are; -inf where nothing is known."""
    node = graph.nodes[number]
    operation, given = node.operation, [least[i] for i in node.inputs]
    if isinstance(operation, Exp | Absolute | ReLU | Sigmoid | Softplus) or (
        isinstance(operation, Power) and operation.exponent % 2 == 0
    ):
        return 0.0
    if isinstance(operation, Sqrt):
        return 0.0
    if isinstance(operation, Clip):
        return min(max(operation.low, given[0]), operation.high)
    if isinstance(operation, Constant | Offset | Scale | ReduceSum | Sum | Reshape | Select):
        linear = _least_linear(operation, given)
        if operation.bias is None:
            return linear
        bias = operation.bias if operation.bias_error is None else down(operation.bias - operation.bias_error)
        lowest = float(bias.min())
        return math.nextafter(linear + lowest, -math.inf) if linear else lowest
    return -math.inf


def _least_linear(operation: Affine, given: list[float]) -> float:
    """The same without the bias.  Only the sign survives a multiplication: a floor of 0 stays one."""
    if isinstance(operation, Constant):
        return 0.0
    if isinstance(operation, Select):
        return min(given[0], 0.0) if bool((operation.index < 0).any()) else given[0]
    if isinstance(operation, Offset | Reshape):
        return given[0]
    if isinstance(operation, Sum):
        return 0.0 if all(s > 0 for s in operation.signs) and min(given) >= 0 else -math.inf
    if isinstance(operation, Scale) and not (operation.weight_error < 1 and bool((operation.factor >= 0).all())):
        return -math.inf
    return 0.0 if given[0] >= 0 else -math.inf
