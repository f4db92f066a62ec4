"""Counterexamples of input sets that hold no number of the model's type: proved in real arithmetic, and replayed next to the set.

A side of a box that is the single decimal fraction 0.2733123549760642 holds no float32 number, and no float64 one.  The network's
function in real arithmetic has a counterexample there all the same, or none.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bourn.certificates.evidence import Counterexample
from bourn.errors import SpecificationError
from bourn.formats.model import Model
from bourn.interval import Interval
from bourn.problem.input_set import Box
from bourn.problem.problem import Case, Problem
from bourn.problem.specification import Conjunction, Row
from bourn.solvers.interval_propagation import IntervalPropagation


def beside(model: Model, case: Case, problem: Problem, x: Tensor) -> Counterexample | None:
    """The candidate ``x`` (any shape) as a counterexample in real arithmetic, replayed at the nearest point of the model's type.

    None where the set is no bounded box, holds numbers of the model's type, or where the proof or the replay fails.  ``problem`` is
    the case's.
    """
    box = case.box
    if not isinstance(box, Box) or not bool(torch.isfinite(box.interval.magnitude).all()):
        return None
    cell = _cell(box, x.detach().cpu().reshape(1, -1))
    anywhere = np.full(cell.shape[1], np.inf)
    nearest = model.representable(cell.center[0].numpy(), -anywhere, anywhere)
    if not np.isfinite(nearest).all() or _has_numbers(model, box) or not holds_on(problem, cell):
        return None
    y = model.run(nearest)
    if not (np.isfinite(y).all() and case.specification.holds(nearest.tolist(), y.tolist())):
        return None
    return Counterexample(case, nearest, y, model.replayed_in, (cell.lower[0].numpy(), cell.upper[0].numpy()))


def _cell(box: Box, x: Tensor) -> Interval:
    """Around x a box (1, n) that holds a point of the set as written: x's entries, or a whole side where that has no float64."""
    lower, upper = box.inner if box.inner is not None else (box.lower, box.upper)
    empty = lower > upper
    own = torch.minimum(torch.maximum(x, lower), upper)
    return Interval(box.lower.where(empty, own), box.upper.where(empty, own))


def _has_numbers(model: Model, box: Box) -> bool:
    """Whether every side holds a number of the model's type."""
    lower, upper = (end[0].numpy() for end in (box.inner if box.inner is not None else (box.lower, box.upper)))
    middle = model.representable(lower / 2 + upper / 2, lower, upper)
    low, high = (model.representable(end, lower, upper) for end in (lower, upper))
    held = [(lower <= p) & (p <= upper) for p in (middle, low, high)]
    return bool((held[0] | held[1] | held[2]).all())


def holds_on(problem: Problem, cell: Interval) -> bool:
    """Whether it is proved that all points of the cell satisfy all rows of one conjunction, in real arithmetic."""
    network, device = problem.network, problem.box.lower.device
    shape = (1, *network.input_shape)
    inside = Interval(cell.lower.reshape(shape), cell.upper.reshape(shape)).to(device)
    prepared = IntervalPropagation().prepare(network, Box(inside))

    def holds(conjunction: Conjunction) -> bool:
        if not conjunction.rows:
            return True
        try:
            least = prepared.minimise(problem.objectives([_negated(row) for row in conjunction.rows])).bound[0].tolist()
        except SpecificationError:  # a coefficient beyond float64's range
            return False
        return all(b > 0 if row.strict else b >= 0 for b, row in zip(least, conjunction.rows, strict=True))

    return any(holds(conjunction) for conjunction in problem.conjunctions)


def _negated(row: Row) -> Row:
    return Row(tuple((i, -c) for i, c in row.outputs), tuple((i, -c) for i, c in row.inputs), -row.constant)
