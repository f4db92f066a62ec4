"""Where real arithmetic and the deployed network, which rounds, decide an input differently.

What holds in real arithmetic at a single input is enclosed by interval propagation; what is deployed is replayed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from bourn.attacks.beside import holds_on
from bourn.attacks.replaying import inside, replayed
from bourn.certificates.evidence import Counterexample, Unreplayed
from bourn.deadline import Deadline
from bourn.errors import SpecificationError
from bourn.formats.model import Model
from bourn.interval import Interval
from bourn.problem.input_set import Box
from bourn.problem.problem import Case, Problem
from bourn.solvers.interval_propagation import IntervalPropagation


def refuted(problem: Problem, x: np.ndarray) -> bool:
    """Whether it is proved that the flat point x is no counterexample in real arithmetic."""
    if not all(conjunction.rows for conjunction in problem.conjunctions):
        return False  # one without rows always holds
    prepared = IntervalPropagation().prepare(problem.network, Box(_point(problem, x)))
    try:
        least = prepared.minimise(problem.objectives()).bound[0].tolist()
    except SpecificationError:  # a coefficient beyond float64's range
        return False
    above = {row for row, bound in zip(problem.rows, least, strict=True) if bound > 0 or (row.strict and bound >= 0)}
    return all(any(row in above for row in conjunction.rows) for conjunction in problem.conjunctions)


def unreplayed(model: Model, case: Case, problem: Problem, x: Tensor) -> Unreplayed | None:
    """A point near x that is proved to be a counterexample in real arithmetic, and which the replay does not take for one."""
    point = inside(model, case.box, x.detach().cpu().reshape(1, -1))
    if not np.isfinite(point).all() or not bool(case.box.contains(torch.from_numpy(np.ascontiguousarray(point))[None]).all()):
        return None
    if not holds_on(problem, _point(problem, point)):
        return None
    y = model.run(point)
    held = bool(np.isfinite(y).all()) and case.specification.holds(point.tolist(), y.tolist())
    return None if held else Unreplayed(case, point, y, model.replayed_in)


def by_rounding(model: Model, case: Case, points: Iterable[Tensor], deadline: Deadline) -> Counterexample | None:
    """The first of the points that the replay takes for a counterexample of a case; it is proved that real arithmetic has none."""
    for x in points:
        if deadline.left <= 0:
            break
        found = replayed(model, case, x)
        if found is not None:
            return found
    return None


def _point(problem: Problem, x: np.ndarray) -> Interval:
    """The flat point as an interval of the network's input shape."""
    own = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64)).reshape(1, *problem.network.input_shape)
    own = own.to(problem.box.lower.device)
    return Interval(own, own)
