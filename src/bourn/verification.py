"""verify: a plan that goes from cheap to dear - attack, bounds, attack - and stops as soon as all is decided."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bourn.attacks.beside import beside
from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.attacks.replaying import replayed
from bourn.certificates.describe import describe
from bourn.certificates.evidence import (
    Counterexample,
    Falsified,
    Loss,
    OpenConjunction,
    Refutation,
    Unbounded,
    Unknown,
    Verdict,
    Verified,
    refutes,
)
from bourn.certificates.splits import SplitTree
from bourn.deadline import Deadline, OutOfTime
from bourn.device import device as by_device
from bourn.errors import UsageError
from bourn.formats.model import Model, load
from bourn.interval import Interval
from bourn.plans import CHEAP_FIRST, Bounding, Plan, Stand
from bourn.problem.problem import Problem, Question, problems
from bourn.problem.specification import Conjunction, Row
from bourn.program.losses import losses
from bourn.rounding import float_below
from bourn.solvers.adjustments import suited
from bourn.solvers.back_substitution import Substituted
from bourn.solvers.base import Prepared
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.combination import joint_bound, rows_on_input
from bourn.solvers.interval_propagation import IntervalPropagation
from bourn.solvers.methods import BARRIER
from bourn.solvers.single_entries import entry_bound
from bourn.solvers.unbounded import unbounded


@dataclass(frozen=True)
class Step:
    """One step of a run, for the log: what was done, how long it took, how many conjunctions it left open."""

    what: str
    seconds: float
    open: int


@dataclass(frozen=True, eq=False)
class Result:
    """A verdict and how it was reached."""

    verdict: Verdict
    model: Model
    question: Question
    seconds: float
    steps: tuple[Step, ...]

    @property
    def status(self) -> str:
        """``unsat`` (verified), ``sat`` (falsified), ``unknown`` or ``timed-out``."""
        match self.verdict:
            case Verified():
                return "unsat"
            case Falsified():
                return "sat"
            case Unknown(timed_out=timed_out):
                return "timed-out" if timed_out else "unknown"

    def __str__(self) -> str:
        return "\n".join([*describe(self.verdict), f"{self.seconds:.2f} s"])


def verify(
    model: Any,
    question: Any,
    *,
    timeout: float | Deadline | None = None,
    plan: Plan = CHEAP_FIRST,
    example: Any = None,
    device: str = "cpu",
    log: Callable[[Step], None] | None = None,
) -> Result:
    """Decide whether ``question`` has a counterexample in ``model``.

    ``model``: see :func:`bourn.load`.  ``question``: a VNN-LIB file's path or a :class:`Question`.  ``timeout``:
    seconds, reading included (None: none).  ``log`` is called with every step as it ends.  A ``Verified`` holds
    in real arithmetic for the weights as stored; a ``Falsified`` carries a replayed input; everything else, the
    timeout included, is ``Unknown`` with its reason.  Sound, not complete.

    Raises :class:`bourn.errors.BournError` where model or question cannot be used.
    """
    began = time.monotonic()
    deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
    asked = _question(question)
    loaded = load(model, example=example)
    run = _Run(loaded, asked, plan, deadline, device, log)
    verdict = run.decide()
    return Result(verdict, loaded, asked, time.monotonic() - began, tuple(run.steps))


def _question(question: Any) -> Question:
    if isinstance(question, Question):
        return question
    if isinstance(question, str | Path):
        from bourn.formats.vnnlib import load as load_vnnlib

        return load_vnnlib(question)
    raise UsageError(f"a question is a VNN-LIB file's path or a Question, not a {type(question).__name__}")


@dataclass(eq=False)
class _Case:
    """What is known of one case while it is worked on."""

    number: int
    problem: Problem
    refuted: dict[int, Refutation | SplitTree] = field(default_factory=dict)
    row_bounds: dict[Row, tuple[float, str]] = field(default_factory=dict)
    bounded_by: dict[Row, Prepared] = field(default_factory=dict)
    inner: dict[int, Interval] | None = None
    attained: list[float] = field(default_factory=list)
    best_points: Tensor | None = None
    prepared: Prepared | None = None
    ceilings: dict[int, float] = field(default_factory=dict)
    split_bounds: dict[int, tuple[float, str]] = field(default_factory=dict)
    splitting: str = ""

    def __post_init__(self) -> None:
        """Rows without variables are known from the start, exactly."""
        for row in self.problem.rows:
            if not row.outputs and not row.inputs:
                self.row_bounds[row] = (float_below(row.constant), "arithmetic")

    @property
    def open(self) -> list[int]:
        return [k for k in range(len(self.problem.conjunctions)) if k not in self.refuted]


class _Run:
    """The state of one call of :func:`verify`."""

    def __init__(
        self, model: Model, question: Question, plan: Plan, deadline: Deadline, device: str, log: Callable[[Step], None] | None
    ) -> None:
        self.model, self.question, self.plan, self.deadline, self.log = model, question, plan, deadline, log
        place = by_device(device)
        asked = problems(model.graph.to(place), question)
        if not asked:
            raise UsageError("the question has no input set")
        self.cases = [_Case(n, Problem(p.network, p.box.to(place), p.specification)) for n, p in enumerate(asked)]
        self.steps: list[Step] = []
        self.found: Counterexample | None = None

    def decide(self) -> Verdict:
        """Work through the plan until nothing is open or the time is over."""
        timed_out = False
        try:
            for case in self.cases:
                if case.open and self._work_on(case):
                    break
        except OutOfTime:
            timed_out = True
        if self.found is not None:
            return Falsified(self.found)
        if not any(case.open for case in self.cases):
            refutations = tuple(tuple(c.refuted[k] for k in range(len(c.problem.conjunctions))) for c in self.cases)
            return Verified(refutations, self.question.cases)
        return self._unknown(timed_out)

    def _work_on(self, case: _Case) -> bool:
        """Run the plan on one case; True if a counterexample was found."""
        for step in self.plan.steps:
            match step:
                case Bounding():
                    try:
                        self._bound(case, step)
                    except OutOfTime:  # its own share, or all?
                        self.deadline.check()
                case BranchAndBound():
                    self._split(case, step)
                case ProjectedGradient():
                    self._attack(case, step)
            if self.found is not None:
                return True
            if not case.open:
                return False
        if any(isinstance(step, Bounding) and step.method.name == BARRIER for step in self.plan.steps):
            self._look_beyond(case)
        return False

    def _look_beyond(self, case: _Case) -> None:
        """Whether any layer-wise method could have refuted what is open: one conjunction that none can is enough."""
        from bourn.solvers.bracket import ceilings  # late, as everything that loads HiGHS

        began, problem, open_ = time.monotonic(), case.problem, case.open
        rows = list(dict.fromkeys(row for k in open_ for row in problem.conjunctions[k].rows))
        groups = [[rows.index(row) for row in problem.conjunctions[k].rows] for k in open_]
        if case.inner is None or not rows:
            return
        asked = problem.network, problem.box, case.inner, problem.objectives(rows), groups
        _, found = ceilings(*asked, enough=0.0, deadline=self.deadline.part(0.8))
        case.ceilings = dict(zip(open_, found.tolist(), strict=True))
        self._done("bracket", began)

    def _done(self, what: str, began: float) -> None:
        step = Step(what, time.monotonic() - began, sum(len(c.open) for c in self.cases))
        self.steps.append(step)
        if self.log is not None:
            self.log(step)

    def _split(self, case: _Case, step: BranchAndBound) -> None:
        """Branch and bound, where it applies, on what is open."""
        began, open_ = time.monotonic(), [k for k in case.open if case.problem.conjunctions[k].rows]
        self.deadline.check()
        if case.inner is None:
            return
        outcome = step.run(case.problem, open_, case.inner, lambda x: self._accept(case, x), self.deadline)
        if outcome is None:
            return
        case.refuted.update(outcome.refuted)
        for k, bound in outcome.bounds.items():
            case.split_bounds[k] = max(case.split_bounds.get(k, (-math.inf, "")), (bound, step.name))
        case.splitting = f"{step.name}: {outcome.subproblems} subproblems, {outcome.left} of them open"
        self._done(step.name, began)

    def _attack(self, case: _Case, attack: ProjectedGradient) -> None:
        began = time.monotonic()
        open_ = tuple(case.problem.conjunctions[k] for k in case.open)
        problem = replace(case.problem, specification=replace(case.problem.specification, conjunctions=open_))
        _, best, points = attack.run(problem, lambda x: self._accept(case, x), self.deadline, self._likely_points(case))
        if not case.attained:
            case.attained = [math.inf] * len(case.problem.conjunctions)
            case.best_points = case.problem.box.middle.repeat(len(case.attained), *(1,) * len(case.problem.box.shape))
        for k, value, point in zip(case.open, best.tolist(), points, strict=True):
            if value < case.attained[k]:
                assert case.best_points is not None
                case.attained[k] = value
                case.best_points[k] = point
        first = next(s for s in self.plan.steps if isinstance(s, ProjectedGradient))
        self._done("attack" if attack is first else "longer attack", began)

    def _likely_points(self, case: _Case) -> Tensor | None:
        """The points at which the linear bounds of the open rows are least, and the best points met."""
        if not isinstance(case.prepared, Substituted) or case.best_points is None:
            return None
        on_input, _ = rows_on_input(case.prepared.program, case.problem.objectives())
        return torch.cat([case.problem.box.minimiser(on_input[None])[0], case.best_points])

    def _accept(self, case: _Case, x: Tensor) -> bool:
        """Replay a candidate; keep it if it is a counterexample as written."""
        asked = self.question.cases[case.number]
        self.found = replayed(self.model, asked, x) or beside(self.model, asked, case.problem, x)
        return self.found is not None

    def _bound(self, case: _Case, step: Bounding) -> None:
        """Bound the rows of open conjunctions by one method and refute what that refutes."""
        began = time.monotonic()
        self.deadline.check()
        problem, best = case.problem, case.inner
        known = {Stand.OWN: {}, Stand.BEST: {"inner": best}, Stand.ON_TOP: {"begin": best}}[step.stand]
        chosen, deadline = suited(step.method, problem.network.device), step.within(self.deadline)
        prepared = chosen.prepare(problem.network, problem.box, deadline=deadline, **known)
        case.inner = _best(case.inner, prepared)
        if isinstance(prepared, Substituted):
            case.prepared = prepared
        rows = list(dict.fromkeys(row for k in case.open for row in problem.conjunctions[k].rows))
        if rows:
            bounds = prepared.minimise(case.problem.objectives(rows), enough=0.0).bound[0].tolist()
            for row, bound in zip(rows, bounds, strict=True):
                if row not in case.row_bounds or bound > case.row_bounds[row][0]:
                    case.row_bounds[row] = (bound, step.name)
                    case.bounded_by[row] = prepared
            if any(self._accept(case, x) for x in prepared.candidates()):
                return
            self._bound_entries(case, rows, step.name)
        for k in case.open:
            refutation = self._by_one_row(case, problem.conjunctions[k]) or self._by_rows_together(case, prepared, k, step.name)
            if refutation is not None:
                case.refuted[k] = refutation
        self._done(step.name, began)

    def _bound_entries(self, case: _Case, rows: list[Row], name: str) -> None:
        """Rows that read a single entry have its interval's end for a bound, where that is better."""
        single = [row for row in rows if len(row.outputs) == 1 and not row.inputs]
        if not single or case.inner is None:
            return
        known = IntervalPropagation().prepare(case.problem.network, case.problem.box, begin=case.inner, deadline=self.deadline)
        for row in single:
            bound = entry_bound(row, known)
            if bound > case.row_bounds[row][0]:
                case.row_bounds[row] = (bound, name)

    @staticmethod
    def _by_one_row(case: _Case, conjunction: Conjunction) -> Refutation | None:
        for i, row in enumerate(conjunction.rows):
            bound, name = case.row_bounds[row]
            weights = tuple(float(i == j) for j in range(len(conjunction.rows)))
            if refutes(conjunction, weights, bound):
                return Refutation(conjunction, weights, bound, name)
        return None

    def _by_rows_together(self, case: _Case, prepared: Prepared, k: int, name: str) -> Refutation | None:
        """Look for weights of the rows with which their sum stays above 0, and bound that sum anew."""
        conjunction = case.problem.conjunctions[k]
        bound, weights = joint_bound(prepared, case.problem, conjunction, enough=0.0)
        return Refutation(conjunction, weights, bound, name) if refutes(conjunction, weights, bound) else None

    def _unknown(self, timed_out: bool) -> Unknown:
        """The reason, and for every open conjunction its best bound and where it is lost."""
        open_ = []
        for case in self.cases:
            for k in case.open:
                conjunction = case.problem.conjunctions[k]
                known = [case.row_bounds[row] for row in conjunction.rows if row in case.row_bounds]
                known += [case.split_bounds[k]] if k in case.split_bounds else []
                bound, name = max(known, default=(-math.inf, "none"))
                attained = case.attained[k] if case.attained else math.inf
                lost = () if timed_out else self._losses(case, k)
                ceiling = case.ceilings.get(k, math.inf)
                open_.append(OpenConjunction(case.number, conjunction, bound, name, attained, lost, ceiling))
        total = sum(len(c.problem.conjunctions) for c in self.cases)
        places: tuple[Unbounded, ...] = ()
        if timed_out:
            reason = f"out of time after {self.deadline.seconds:g} s, {len(open_)} of {total} conjunctions open"
        elif any(math.isinf(o.bound) and not _bounded(self.cases[o.case].problem) for o in open_):
            reason = f"the input set is unbounded, and {len(open_)} of {total} conjunctions have no finite bound"
        elif places := self._unbounded(open_):
            reason = f"{len(open_)} of {total} conjunctions open: {places[0]}"
        else:
            reason = f"{len(open_)} of {total} conjunctions neither refuted by any bound nor met by any attack"
        split = next((case.splitting for case in self.cases if case.open and case.splitting), "")
        reason += f"; {split}" if split else ""
        return Unknown(reason, timed_out, tuple(open_), places)

    def _unbounded(self, open_: list[OpenConjunction]) -> tuple[Unbounded, ...]:
        """The nodes at which bounds became infinite, of the first case whose open conjunctions have none for it."""
        for case in (self.cases[number] for number in sorted({o.case for o in open_ if math.isinf(o.bound)})):
            if case.inner is not None and (places := unbounded(case.problem.network, case.problem.box, case.inner)):
                return places
        return ()

    def _losses(self, case: _Case, k: int) -> tuple[Loss, ...]:
        """Where the bound of the conjunction's best row is lost, at the attack's best point."""
        conjunction, graph = case.problem.conjunctions[k], case.problem.network
        if case.best_points is None or not conjunction.rows:
            return ()
        row = max(conjunction.rows, key=lambda r: case.row_bounds[r][0])
        prepared = case.bounded_by.get(row)
        traced = None if prepared is None else prepared.trace(case.problem.objectives([row]), {0, *graph.nonlinear})
        if traced is None:
            return ()
        places = losses(*traced, case.best_points[k : k + 1])
        named = [Loss("the input set" if v == 0 else graph.nodes[v].name, amount) for v, amount in places.items()]
        return tuple(sorted(named, key=lambda loss: -loss.amount))


def _bounded(problem: Problem) -> bool:
    return bool(torch.isfinite(problem.box.interval.magnitude).all())


def _best(known: dict[int, Interval] | None, prepared: Prepared) -> dict[int, Interval]:
    """The tighter of both bounds for every pre-activation."""
    bounds = prepared.bounds
    return dict(bounds) if known is None else {z: known[z].intersect(b) for z, b in bounds.items()}
