"""losses_by_layer: where a method's bound falls short of a point's value, layer by layer, in two parts.

Salman et al. 2019 name two sources of a layer-wise method's gap: how it relaxes a nonlinear node, and how loose the
pre-activation bounds are that the relaxation stands on.  For one row, one method and one point x of the input set let

- V_0 be the method's bound;
- V_k its bound when it is given LP-ALL's bounds of the first k pre-activations and computes those after them itself, from
  these; V_K stands on LP-ALL's bounds throughout, the tightest that a layer-wise method can have.

Then the *bound loss* of layer k is V_k - V_(k-1): what the looseness that arises in its own pre-activation costs, here and in
all bounds computed from it.  What is left, the row's value at x less V_K, is *relaxation loss*: at the multipliers of V_K it is
the sum over nonlinear nodes of Lambda . sigma(z(x)) - mu . z(x) minus that term's least value over the relaxation, and at the
input of Lambda . x minus its least value over the input set.  So the parts telescope: they sum to the value at x less the
method's bound, up to what outward rounding took off.

Every relaxation loss is at least 0, up to rounding.  Bound losses are too for methods that tighter bounds never harm
(intervals, LPs); CROWN's rule may choose worse lines on better bounds, which shows as a bound loss below 0.  Forward methods
carry no rows back: their relaxation loss is given in one piece.  For LP-ALL itself there is no bound loss, and the relaxation
loss is what the barrier costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.errors import UsageError
from bourn.formats.model import load
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.program.linear_bounds import RowBounds, back_substitute
from bourn.program.losses import losses
from bourn.program.relaxed import RelaxedProgram
from bourn.solvers.base import Prepared, output_rows
from bourn.solvers.methods import BARRIER, Method
from bourn.solvers.methods import method as by_name

INPUT_SET, ALL_LAYERS = "the input set", "all layers"
"""Where there is relaxation loss besides the nonlinear nodes: at the input, and in one piece where nothing tells it apart."""


@dataclass(frozen=True)
class LayerLoss:
    """What is lost at one place: a nonlinear node by its name, :data:`INPUT_SET`, or :data:`ALL_LAYERS`.

    ``relaxation``: relaxation loss of the node.  ``inner``: bound loss of the pre-activations that it is the first to read.
    """

    node: str
    relaxation: float
    inner: float


@dataclass(frozen=True)
class LayerLosses:
    """All places in the network's order; their losses sum to ``attained`` - ``bound``, up to what outward rounding took off."""

    method: Method
    attained: float
    bound: float
    layers: tuple[LayerLoss, ...]

    @property
    def relaxation(self) -> float:
        """The whole relaxation loss: what is lost on LP-ALL's inner bounds too."""
        return math.fsum(layer.relaxation for layer in self.layers)

    @property
    def inner(self) -> float:
        """The whole bound loss: what LP-ALL's inner bounds would gain."""
        return math.fsum(layer.inner for layer in self.layers)


def losses_by_layer(
    model: Any,
    input_set: InputSet,
    objective: Objectives,
    point: Tensor,
    *,
    method: str | Method = "crown",
    tight: Mapping[int, Interval] | None = None,
    deadline: Deadline = NEVER,
) -> LayerLosses:
    """Where the bound of ``method`` for one row falls short of the row's value at ``point``, by layer and source.

    ``model``: see :func:`bourn.load`.  ``input_set`` (1, *input_shape) or flat, ``objective`` one row (M = 1), ``point``
    (1, *input_shape) or flat a point of the set, best where an attack found the row's value least.  ``tight``: LP-ALL's bounds
    of all pre-activations by node number, computed here where they are not given; one computation serves many methods and rows.
    The method runs once more for every layer at which its bounds are looser.

    The sum is exact up to float64 rounding; the split rests on LP-ALL to the precision to which ``tight`` is it.  Raises
    :class:`UsageError` where an argument does not fit or the method has no finite bound, and
    :class:`bourn.deadline.OutOfTime`.
    """
    chosen = by_name(method) if isinstance(method, str) else method
    graph = load(model).graph
    if input_set.batch != 1 or len(objective) != 1 or point.numel() != graph.nodes[0].size:
        raise UsageError("losses are those of one row on one input set at one of its points: give a batch of one of each")
    box, x = input_set.reshape(graph.input_shape), point.to(torch.float64).reshape(1, *graph.input_shape)
    if chosen.name == BARRIER:
        tight = {}  # it stands on them by itself
    elif tight is None:
        tight = by_name(BARRIER).prepare(graph, box, deadline=deadline).bounds
    inner = dict.fromkeys(graph.nonlinear, 0.0)
    prepared, given = chosen.prepare(graph, box, deadline=deadline), dict[int, Interval]()
    now = first = _Bounded.of(prepared, objective)
    for z in sorted(tight.keys() & set(graph.pre_activations)):
        given[z] = tight[z]
        if _improves(tight[z], prepared.bounds[z]):
            prepared = chosen.prepare(graph, box, begin=given, deadline=deadline)
            before, now = now, _Bounded.of(prepared, objective)
            inner[graph.readers(z)[0]] += now.value - before.value
    if not (math.isfinite(first.value) and math.isfinite(now.value)):
        raise UsageError(f"{chosen.name} has no finite bound here, so nothing says where it is lost")
    attained = _value(graph, objective, x)
    relaxation = {} if now.rows is None else losses(*now.rows, x)
    layers = [LayerLoss(INPUT_SET, relaxation[0], 0.0)] if 0 in relaxation else []
    layers += [LayerLoss(graph.nodes[v].name, relaxation.get(v, 0.0), inner[v]) for v in graph.nonlinear]
    layers += [] if now.rows is not None else [LayerLoss(ALL_LAYERS, attained - now.value, 0.0)]
    return LayerLosses(chosen, attained, first.value, tuple(layers))


@dataclass(frozen=True, eq=False)
class _Bounded:
    """A row's bound, and the program and rows it comes from where the solver carries rows back."""

    value: float
    rows: tuple[RelaxedProgram, RowBounds] | None

    @classmethod
    def of(cls, prepared: Prepared, objective: Objectives) -> _Bounded:
        keep = {0, *prepared.graph.nonlinear}
        traced = prepared.trace(objective, keep)
        if traced is None:
            return cls(float(prepared.minimise(objective).bound[0, 0]), None)
        program, rows = traced
        # A solver that iterates states the closed form where it did not get beyond that.
        closed = back_substitute(program, output_rows(prepared.graph, objective), objective.constant, keep)
        best = max(rows, closed, key=lambda found: float(found.lower[0, 0]))
        return cls(float(best.lower[0, 0]), (program, best))


def _improves(tight: Interval, own: Interval) -> bool:
    """Whether bounds are anywhere tighter than the method's own, by more than rounding."""
    slack = 1e-12 * (1 + own.magnitude)
    return bool((tight.lower > own.lower + slack).any() | (tight.upper < own.upper - slack).any())


def _value(graph: Graph, objective: Objectives, x: Tensor) -> float:
    """The row's value at the point."""
    value = (objective.outputs[0, 0] * graph.evaluate(x).flatten()).sum() + objective.constant[0, 0]
    if objective.inputs is not None:
        value = value + (objective.inputs[0, 0] * x.flatten()).sum()
    return float(value)
