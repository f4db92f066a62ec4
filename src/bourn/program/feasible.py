"""A feasible point of a relaxed program, and the value of rows there: the primal side of the bound that rows have.

Nothing is rounded outward: such a value is an upper bound of the relaxed optimum up to float64's precision, and no verdict rests
on it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bourn.network.affine import Affine
from bourn.network.graph import Input
from bourn.program.relaxed import RelaxedProgram
from bourn.relaxations.base import Nonlinearity, Side


def relaxed_values(program: RelaxedProgram, x: Tensor, wanted: Mapping[int, Tensor], last: int) -> list[Tensor]:
    """Every node's values (M, *shape) up to node ``last`` at a feasible point near what is wanted (:func:`value_at`)."""
    graph = program.graph
    values: list[Tensor] = []
    for number in range(last + 1):
        node = graph.nodes[number]
        arguments = [values[i] for i in node.inputs]
        if isinstance(node.operation, Input):
            values.append(program.box.project(x))
        elif isinstance(node.operation, Affine):
            values.append(node.operation.forward(*arguments) if arguments else node.operation.constant(len(x)))
        else:
            assert isinstance(node.operation, Nonlinearity)
            values.append(_in_hull(program, number, node.operation, tuple(arguments), wanted.get(number)))
    return values


def value_at(
    program: RelaxedProgram, x: Tensor, wanted: Mapping[int, Tensor], rows: Mapping[int, Tensor], constant: Tensor
) -> Tensor:
    """The value (1, M) of rows at a feasible point near what is wanted, for a batch of one and M points at once.

    ``x`` (M, *input_shape): inputs, moved into the input set.  ``wanted``: nonlinear node to values (M, *shape) of its free
    entries; each is moved into its hull over what comes before it.  ``rows`` {node: (1, M, *shape)}: row m is taken at point m.
    """
    values = relaxed_values(program, x, wanted, max(rows))
    total = constant.expand(1, len(x))
    for node_number, row in rows.items():
        total = total + (row[0] * values[node_number]).flatten(1).sum(1)
    return total


def _in_hull(
    program: RelaxedProgram, node: int, operation: Nonlinearity, z: tuple[Tensor, ...], wanted: Tensor | None
) -> Tensor:
    """The wanted values between both sides of the hull at z; the line's where an entry is not free."""
    if node not in program.lines:  # after all rows
        return operation.evaluate(*z)
    lines, free = program.lines[node], program.free(node)
    own = lines.lower_offset
    for slope, part in zip(lines.lower_slopes, z, strict=True):
        own = own + slope * part
    if not bool(free.any()):
        return own
    bounds = program.inputs_of(node)
    inside = tuple(torch.minimum(torch.maximum(part, b.lower), b.upper) for part, b in zip(z, bounds, strict=True))
    low, high = (_height(side, inside) for side in operation.sides(*bounds))
    value = operation.evaluate(*inside) if wanted is None else wanted
    return torch.where(free, torch.maximum(torch.minimum(value, high), low), own)


def _height(side: Side, z: tuple[Tensor, ...]) -> Tensor:
    slopes, height = side.line(side.at(z))
    for slope, part in zip(slopes, z, strict=True):
        height = height + slope * part
    return height
