"""duality: one relaxed program from both sides - its primal value, its dual values, and the gap between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bourn.deadline import NEVER, Deadline
from bourn.device import device as by_device
from bourn.formats.joined import model_for
from bourn.problem.problem import Problem, Question, problems
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.methods import Method
from bourn.solvers.methods import method as by_name
from bourn.solvers.simplex import Simplex


@dataclass(frozen=True)
class Views:
    """One row's relaxed program, all on the same inner bounds.

    ``primal``: the value at a feasible point, an upper bound of the relaxed optimum up to rounding (infinite where none was
    found).  The others are lower bounds, rounded outward: ``linear_program``: at the multipliers of the LP's optimum;
    ``slopes``: by ascent on slopes and tangent points (alpha-CROWN's dual); ``multipliers``: by ascent on arbitrary multipliers
    (Dvijotham's dual, which is also the Lagrangian dual of the exact problem); ``lines``: in closed form.
    """

    row: str
    primal: float
    linear_program: float
    slopes: float
    multipliers: float
    lines: float

    @property
    def dual(self) -> float:
        """The best of the dual values."""
        return max(self.linear_program, self.slopes, self.multipliers, self.lines)

    @property
    def gap(self) -> float:
        """The duality gap: primal minus the best dual value."""
        return self.primal - self.dual


@dataclass(frozen=True)
class Duality:
    """All rows of a question; ``inner``: the method whose pre-activation bounds all views stand on."""

    views: tuple[Views, ...]
    inner: Method
    seconds: float

    @property
    def gap(self) -> float:
        """The greatest duality gap of any row."""
        return max((v.gap for v in self.views), default=0.0)


def duality(
    model: Any,
    question: Question,
    *,
    inner: str | Method = "crown",
    steps: int = 200,
    timeout: float | None = None,
    device: str = "cpu",
    example: Any = None,
    log: Callable[[str, float], None] | None = None,
) -> Duality:
    """The relaxed program of every distinct row of ``question``, solved from both sides on the inner bounds of one method.

    ``steps``: of either ascent.  ``timeout``: seconds for all.  ``log`` is called with the name and seconds of every view.
    ``model``: see :func:`bourn.load`.  Raises :class:`bourn.errors.BournError` where an argument does not fit, and
    :class:`bourn.deadline.OutOfTime`.
    """
    began = time.monotonic()
    deadline = NEVER if timeout is None else Deadline(timeout)
    chosen = by_name(inner) if isinstance(inner, str) else inner
    place = by_device(device)
    loaded = model_for(model, question, example)
    views: list[Views] = []
    for asked in problems(loaded.graph.to(place), question):
        views.extend(_views(replace(asked, box=asked.box.to(place)), chosen, steps, deadline, log))
    return Duality(tuple(views), chosen, time.monotonic() - began)


def _views(
    problem: Problem, inner: Method, steps: int, deadline: Deadline, log: Callable[[str, float], None] | None
) -> list[Views]:
    began = time.monotonic()
    asked = problem.network, problem.box
    bounds = inner.prepare(*asked, deadline=deadline).bounds
    objectives = problem.objectives()

    def done(name: str) -> None:
        nonlocal began
        if log is not None:
            log(name, time.monotonic() - began)
        began = time.monotonic()

    done(f"inner bounds by {inner.name}")
    # Steps are a hundredth of the first at the end; multipliers, which start at a corner of the dual function, want small ones.
    decay = 0.01 ** (1 / max(steps, 1))
    found: dict[str, list[float]] = {}
    found["lines"] = DualAscent(steps=0).prepare(*asked, inner=bounds, deadline=deadline).minimise(objectives).bound[0].tolist()
    for name, direct in (("slopes", False), ("multipliers", True)):
        solver = DualAscent(steps=steps, step=0.03 if direct else 0.3, decay=decay, direct=direct)
        found[name] = solver.prepare(*asked, inner=bounds, deadline=deadline).minimise(objectives).bound[0].tolist()
        done(f"ascent on {name}")
    simplex = Simplex().prepare(*asked, inner=bounds, deadline=deadline)
    solution, primal = simplex.both_sides(objectives)
    found["linear_program"] = solution.bound[0].tolist()
    found["primal"] = [math.inf] * len(objectives) if primal is None else primal[0].tolist()
    done("linear program")
    return [
        Views(str(row), **{name: values[i] for name, values in found.items()}) for i, row in enumerate(problem.rows)
    ]
