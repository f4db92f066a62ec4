"""ladder: how far every method gets on one question, beside the barrier and an attack."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.deadline import NEVER, Deadline, OutOfTime
from bourn.device import device as by_device
from bourn.formats.joined import model_for
from bourn.problem.problem import Problem, Question, problems
from bourn.solvers.base import Status
from bourn.solvers.combination import joint_bound
from bourn.solvers.methods import BARRIER, METHODS, Method
from bourn.solvers.methods import method as by_name


@dataclass(frozen=True)
class Rung:
    """What one method says of a question.

    ``value``: the least bound of any conjunction (the property is proved where it is above 0), -inf where there is none;
    ``refuted``: conjunctions with a bound above 0; ``lps``: linear programs solved; ``finished``: False where
    it ran out of time; ``optimal``: False where LPs ended short of the optimum, by a limit or at an l2 ball's last cut.
    """

    method: Method
    value: float
    refuted: int
    seconds: float
    lps: int = 0
    finished: bool = True
    optimal: bool = True


@dataclass(frozen=True)
class Ladder:
    """All methods on one question, worst value first.

    ``attained``: the least value of the question's margin that an attack met, an upper bound of what any method can prove
    (a counterexample where it is at most 0); infinite without an attack.  ``conjunctions``: how many had to be refuted.
    ``ceiling``: what the barrier is at most, for certain; infinite where that was not asked or not found.
    """

    rungs: tuple[Rung, ...]
    attained: float
    conjunctions: int
    ceiling: float = math.inf

    @property
    def barrier(self) -> float | None:
        """LP-ALL's value: no layer-wise method exceeds it; None where LP-ALL was not asked or did not get to the optimum."""
        return next((r.value for r in self.rungs if r.method.name == BARRIER and r.finished and r.optimal), None)


def ladder(
    model: Any,
    question: Question,
    *,
    methods: Iterable[str | Method] = METHODS,
    attack: ProjectedGradient | None = ProjectedGradient(steps=100, restarts=10),  # noqa: B008 - a frozen value
    timeout: float | None = None,
    bracket: bool = False,
    device: str = "cpu",
    example: Any = None,
    log: Callable[[Rung], None] | None = None,
) -> Ladder:
    """Ask every one of ``methods`` the same question.

    A question's value is the least over its boxes and conjunctions, a conjunction's the greatest bound of a row or of a
    weighted sum of its rows.  ``timeout``: seconds for each method.  ``bracket``: look for the barrier's ceiling too.
    ``model``: see :func:`bourn.load`; ``log`` is called with every rung as it ends.  Raises
    :class:`bourn.errors.BournError` where an argument does not fit.
    """
    place = by_device(device)
    loaded = model_for(model, question, example)
    asked = [Problem(p.network, p.box.to(place), p.specification) for p in problems(loaded.graph.to(place), question)]
    chosen = [by_name(m) if isinstance(m, str) else m for m in methods]
    rungs = []
    for m in chosen:
        rungs.append(_rung(m, asked, timeout))
        if log is not None:
            log(rungs[-1])
    rungs.sort(key=lambda r: r.value)
    attained = math.inf if attack is None else min(_attained(p, attack) for p in asked)
    ceiling = min((_ceiling(p, timeout) for p in asked), default=math.inf) if bracket else math.inf
    return Ladder(tuple(rungs), attained, sum(len(p.conjunctions) for p in asked), ceiling)


def _rung(m: Method, asked: list[Problem], timeout: float | None) -> Rung:
    began = time.monotonic()
    deadline = NEVER if timeout is None else Deadline(timeout)
    values: list[float] = []
    lps, finished, optimal = 0, True, True
    try:
        for problem in asked:
            prepared = m.prepare(problem.network, problem.box, deadline=deadline)
            solution = prepared.minimise(problem.objectives())
            optimal &= solution.status is Status.OPTIMAL
            bounds = dict(zip(problem.rows, solution.bound[0].tolist(), strict=True))
            for conjunction in problem.conjunctions:
                best = max((bounds[row] for row in conjunction.rows), default=-math.inf)
                values.append(max(best, joint_bound(prepared, problem, conjunction)[0]))
            lps += prepared.lps
            deadline.check()
    except OutOfTime:
        finished = False
    value = min(values, default=math.inf) if finished else -math.inf
    return Rung(m, value, sum(v > 0 for v in values), time.monotonic() - began, lps, finished, optimal)


def _attained(problem: Problem, attack: ProjectedGradient) -> float:
    if not problem.conjunctions:
        return math.inf
    _, best, _ = attack.run(problem, lambda _: False, NEVER)
    return float(best.min())


def _ceiling(problem: Problem, timeout: float | None) -> float:
    """What no layer-wise method exceeds on this problem."""
    from bourn.solvers.bracket import ceilings  # late, as everything that loads HiGHS

    deadline = NEVER if timeout is None else Deadline(timeout)
    groups = [[problem.rows.index(row) for row in c.rows] for c in problem.conjunctions if c.rows]
    if not groups:
        return math.inf
    try:
        outer = by_name("crown").prepare(problem.network, problem.box, deadline=deadline).bounds
    except OutOfTime:
        return math.inf
    return float(ceilings(problem.network, problem.box, outer, problem.objectives(), groups, deadline=deadline)[1].min())
