"""Bounds that can be differentiated in the weights, to train by: interval propagation and Fast-Lin.

The methods' own bounds are float64, rounded outward and chosen with a view to verification; none of that has a gradient.
These are the same formulas in the network's own type, without rounding terms: good for a loss, never for a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bourn.network.affine import Affine
from bourn.network.graph import Graph, Input
from bourn.relaxations.relu import ReLU

Pair = tuple[Tensor, Tensor]
"""Lower and upper."""


def interval_bounds(graph: Graph, lower: Tensor, upper: Tensor) -> list[Pair]:
    """Bounds (B, *shape) of every node for inputs between ``lower`` and ``upper`` (B, *input_shape), by interval propagation.

    Gowal et al. 2018.  The graph's nonlinear nodes are ReLUs.
    """
    known: list[Pair] = []
    for node in graph.nodes:
        arguments = [known[i] for i in node.inputs]
        if isinstance(node.operation, Input):
            known.append((lower, upper))
        elif isinstance(node.operation, Affine):
            middle = node.operation.forward(*((low + high) / 2 for low, high in arguments))
            spread = node.operation.absolute(*((high - low) / 2 for low, high in arguments))
            known.append((middle - spread, middle + spread))
        else:
            known.append((arguments[0][0].relu(), arguments[0][1].relu()))
    return known


def fast_lin_bounds(graph: Graph, lower: Tensor, upper: Tensor, rows: Tensor) -> tuple[Tensor, dict[int, Pair]]:
    """Lower bounds (B, M) of ``rows`` (B or 1, M, *output_shape) on the output, and the bounds of all pre-activations.

    Every pre-activation is bounded in the same way, layer after layer: the value of Wong and Kolter 2018's dual network and of
    Fast-Lin (Weng et al. 2018).  The graph's nonlinear nodes are ReLUs.
    """
    lines: dict[int, Pair] = {}
    bounds: dict[int, Pair] = {}
    for z in graph.pre_activations:
        shape = graph.nodes[z].shape
        each = torch.eye(graph.nodes[z].size, dtype=lower.dtype, device=lower.device).reshape(1, -1, *shape)
        low, high = _backward(graph, lines, lower, upper, z, each)
        bounds[z] = low.reshape(-1, *shape), high.reshape(-1, *shape)
        lines.update({v: _lines(*bounds[z]) for v in graph.readers(z)})
    return _backward(graph, lines, lower, upper, graph.output, rows)[0], bounds


def _lines(lower: Tensor, upper: Tensor) -> Pair:
    """A ReLU's two lines: their slope, and the upper one's offset (the lower one passes through 0)."""
    open_ = (lower < 0) & (upper > 0)
    # A width of 1 where the ReLU is stable, so that no gradient is 0 / 0.
    width = torch.where(open_, upper - lower, torch.ones_like(lower))
    slope = torch.where(open_, upper / width, (lower >= 0).to(lower.dtype))
    return slope, torch.where(open_, -slope * lower, torch.zeros_like(lower))


def _backward(graph: Graph, lines: Mapping[int, Pair], lower: Tensor, upper: Tensor, node: int, rows: Tensor) -> Pair:
    """Both bounds (B, M) of rows (B or 1, M, *shape) on a node, carried back to the input."""
    pending = {node: rows}
    low = high = lower.new_zeros(1, 1)
    for number in range(node, -1, -1):
        row = pending.pop(number, None)
        if row is None:
            continue
        operation, inputs = graph.nodes[number].operation, graph.nodes[number].inputs
        if isinstance(operation, Input):
            middle, spread = _dot(row, (lower + upper) / 2), _dot(row.abs(), (upper - lower) / 2)
            low, high = low + middle - spread, high + middle + spread
            continue
        if isinstance(operation, Affine):
            if operation.bias is not None:
                constant = _dot(row, operation.bias.expand(1, *operation.out_shape))
                low, high = low + constant, high + constant
            flat = operation.transpose(row.flatten(0, 1))
            parts = tuple(part.reshape(*row.shape[:2], *part.shape[1:]) for part in flat)
        else:
            assert isinstance(operation, ReLU)
            slope, offset = lines[number]
            low, high = low + _dot(row.clamp(max=0), offset), high + _dot(row.clamp(min=0), offset)
            parts = (row * slope[:, None],)
        for i, part in zip(inputs, parts, strict=True):
            pending[i] = pending[i] + part if i in pending else part
    return low, high


def _dot(rows: Tensor, x: Tensor) -> Tensor:
    """rows (B or 1, M, *shape) . x (B or 1, *shape) -> (B, M)."""
    return (rows.flatten(2) @ x.flatten(1)[..., None])[..., 0]
