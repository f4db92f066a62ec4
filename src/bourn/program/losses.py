"""Where a bound is lost: the gap between a point's value and a row's bound, split by the places it arises at.

At any point x the difference is, exactly, the sum over nonlinear nodes of Lambda . sigma(z) - mu . z minus its minimum over
the hull and, at the input, of Lambda . x minus its minimum over the input set.  Every term is at least 0.
"""

from __future__ import annotations

from torch import Tensor

from bourn.program.linear_bounds import RowBounds
from bourn.program.relaxed import RelaxedProgram


def losses(program: RelaxedProgram, found: RowBounds, x: Tensor) -> dict[int, float]:
    """Node number to the loss there of the only row in ``found`` (B = M = 1) at the point x (1, *input_shape).

    ``found`` must have kept its rows on the input and on all nonlinear nodes.
    """
    values = program.graph.values(x)
    result = {}
    for node, row in found.kept.items():
        own = row[0, 0]
        if node == 0:
            low, _ = program.box.minimise_linear(row)
            result[node] = float((own * x[0]).sum() - low[0, 0])
            continue
        value = (own * values[node][0]).sum()
        for z, mu in zip(program.graph.nodes[node].inputs, found.passed[node], strict=True):
            value = value - (mu[0, 0] * values[z][0]).sum()
        result[node] = float(value - found.terms[node][0, 0])
    return result
