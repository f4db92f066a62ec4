"""One run of a plan: what is known of every case while it is worked on, and an account of every step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bourn.attacks.beside import beside
from bourn.attacks.disagreeing import by_rounding, refuted, unreplayed
from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.attacks.replaying import replayed
from bourn.certificates.account import Kind, Step
from bourn.certificates.evidence import Counterexample, Refutation, Unreplayed, refutes
from bourn.certificates.splits import SplitTree
from bourn.deadline import Deadline, OutOfTime
from bourn.errors import out_of_memory
from bourn.formats.model import Model
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.plans import Bounding, Plan, Stand
from bourn.problem.problem import Problem, Question
from bourn.problem.specification import Conjunction, Row
from bourn.relaxations.base import Nonlinearity
from bourn.rounding import float_below
from bourn.solvers.adjustments import suited
from bourn.solvers.back_substitution import Substituted
from bourn.solvers.base import Prepared
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.combination import joint_bound, rows_on_input
from bourn.solvers.interval_propagation import IntervalPropagation
from bourn.solvers.methods import BARRIER
from bourn.solvers.single_entries import entry_bound

_HARDEST = 3
"""Of so many conjunctions a step's account has the bounds."""


@dataclass(eq=False)
class Known:
    """What is known of one case while it is worked on.

    ``gained``: the share of what the hardest bound lacked that the last better inner bounds closed.
    """

    number: int
    problem: Problem
    refuted: dict[int, Refutation | SplitTree] = field(default_factory=dict)
    row_bounds: dict[Row, tuple[float, str]] = field(default_factory=dict)
    bounded_by: dict[Row, Prepared] = field(default_factory=dict)
    inner: dict[int, Interval] | None = None
    inner_by: str = ""
    attained: list[float] = field(default_factory=list)
    best_points: Tensor | None = None
    prepared: Prepared | None = None
    ceilings: dict[int, float] = field(default_factory=dict)
    split_bounds: dict[int, tuple[float, str]] = field(default_factory=dict)
    gained: float = math.inf

    def __post_init__(self) -> None:
        """Rows without variables are known from the start, exactly."""
        for row in self.problem.rows:
            if not row.outputs and not row.inputs:
                self.row_bounds[row] = (float_below(row.constant), "arithmetic")

    @property
    def open(self) -> list[int]:
        return [k for k in range(len(self.problem.conjunctions)) if k not in self.refuted]

    def hardest(self, open_: Sequence[int]) -> float:
        """The least over conjunctions of the best bound of a row."""
        known = [[self.row_bounds[r][0] for r in self.problem.conjunctions[k].rows if r in self.row_bounds] for k in open_]
        return min((max(own, default=-math.inf) for own in known), default=math.inf)

    def best(self, k: int) -> tuple[float, str]:
        """The best bound of a conjunction's rows, or of what splitting made of them, and what it was found by."""
        known = [self.row_bounds[row] for row in self.problem.conjunctions[k].rows if row in self.row_bounds]
        known += [self.split_bounds[k]] if k in self.split_bounds else []
        return max(known, default=(-math.inf, "none"))


class Run:
    """The state of one run: its cases, its steps so far, and the counterexample once there is one.

    ``by_rounding``: one of the replay's that is proved to be none in real arithmetic; ``unreplayed``: the other way round.
    """

    def __init__(
        self,
        model: Model,
        question: Question,
        asked: Iterable[Problem],
        plan: Plan,
        deadline: Deadline,
        log: Callable[[Step], None] | None = None,
    ) -> None:
        self.model, self.question, self.plan, self.deadline, self.log = model, question, plan, deadline, log
        self.cases = [Known(n, problem) for n, problem in enumerate(asked)]
        self.steps: list[Step] = []
        self.reached = 0
        self.found: Counterexample | None = None
        self.by_rounding: Counterexample | None = None
        self.unreplayed: Unreplayed | None = None

    def work(self) -> bool:
        """Work through the plan until nothing is open, a counterexample is found, or the time is over: then False."""
        try:
            for case in self.cases:
                if case.open and self._work_on(case):
                    break
        except OutOfTime:
            return False
        return True

    def _work_on(self, case: Known) -> bool:
        """Run the plan on one case; True if a counterexample was found."""
        for number, step in enumerate(self.plan.steps, start=1):
            self.deadline.check()
            self.reached = max(self.reached, number)
            began = time.monotonic()
            why = self._skipped(case, step)
            if why:
                self._done(case, began, Step(step.name, _KINDS[type(step)], skipped=why))
                continue
            try:
                self._do(case, step)
            except OutOfTime:  # its own share, or all?
                stopped = self.deadline.why if self.deadline.left <= 0 else "out of its share of the time"
                self._done(case, began, Step(step.name, _KINDS[type(step)], stopped=stopped))
                self.deadline.check()
            except Exception as error:
                if not out_of_memory(error):
                    raise
                self._done(case, began, Step(step.name, _KINDS[type(step)], stopped="out of memory"))
            if self.found is not None:
                return True
            if not case.open:
                return False
        if any(isinstance(step, Bounding) and step.method.name == BARRIER for step in self.plan.steps):
            self._look_beyond(case)
        return False

    def _skipped(self, case: Known, step: ProjectedGradient | Bounding | BranchAndBound) -> str:
        """Why a step is not worth its time, if so."""
        if isinstance(step, ProjectedGradient):
            return ""
        if self.unreplayed is not None:
            return _NO_PROOF
        return f"better inner bounds closed {case.gained:.0%} of the gap only" if case.gained < step.after_gain else ""

    def _do(self, case: Known, step: ProjectedGradient | Bounding | BranchAndBound) -> None:
        match step:
            case Bounding():
                self._bound(case, step)
            case BranchAndBound():
                self._split(case, step)
            case ProjectedGradient():
                self._attack(case, step)

    def _look_beyond(self, case: Known) -> None:
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
        self._done(case, began, Step("bracket", Kind.BARRIER, stands_on=f"the inner bounds of {case.inner_by}"))

    def _done(self, case: Known, began: float, step: Step) -> None:
        """Note a step, with its time and what is known after it."""
        step = replace(
            step,
            seconds=time.monotonic() - began,
            open=sum(len(c.open) for c in self.cases),
            case=case.number,
            unstable=_unstable(case.problem.network, case.inner),
            left=self.deadline.left,
        )
        self.steps.append(step)
        if self.log is not None and not step.skipped:
            self.log(step)

    @staticmethod
    def _hardest(case: Known, reached: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
        """Of the conjunctions with the least bounds what a step reached, by number; those still open come first."""
        order = sorted(reached, key=lambda k: (k in case.refuted, reached[k]))
        return tuple((k, reached[k]) for k in order[:_HARDEST])

    def _split(self, case: Known, step: BranchAndBound) -> None:
        """Branch and bound, where it applies, on what is open."""
        began, open_ = time.monotonic(), [k for k in case.open if case.problem.conjunctions[k].rows]
        if case.inner is None:
            self._done(case, began, Step(step.name, Kind.SPLITTING, skipped="there are no bounds to begin with"))
            return
        outcome = step.run(case.problem, open_, case.inner, lambda x: self._accept(case, x), self.deadline)
        if outcome.refused:
            self._done(case, began, Step(step.name, Kind.SPLITTING, skipped=outcome.refused))
            return
        case.refuted.update(outcome.refuted)
        for k, bound in outcome.bounds.items():
            case.split_bounds[k] = max(case.split_bounds.get(k, (-math.inf, "")), (bound, step.name))
        reached = {**outcome.bounds, **{k: tree.bound for k, tree in outcome.refuted.items()}}
        bounds, decided = self._hardest(case, reached), len(outcome.refuted)
        stands_on = f"the inner bounds of {case.inner_by}"
        own = Step(step.name, Kind.SPLITTING, stands_on=stands_on, decided=decided, bounds=bounds, tree=outcome.tree)
        self._done(case, began, own)

    def _attack(self, case: Known, attack: ProjectedGradient) -> None:
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
        self._done(case, began, Step(attack.name, Kind.ATTACK, met=min(best.tolist(), default=math.inf)))

    def _likely_points(self, case: Known) -> Tensor | None:
        """The points at which the linear bounds of the open rows are least, and the best points met."""
        if not isinstance(case.prepared, Substituted) or case.best_points is None:
            return None
        on_input, _ = rows_on_input(case.prepared.program, case.problem.objectives())
        return torch.cat([case.problem.box.minimiser(on_input[None])[0], case.best_points])

    def _accept(self, case: Known, x: Tensor) -> bool:
        """Replay a candidate; keep it if it is a counterexample as written."""
        asked = self.question.cases[case.number]
        found = replayed(self.model, asked, x) or beside(self.model, asked, case.problem, x)
        if found is None:
            self.unreplayed = self.unreplayed or unreplayed(self.model, asked, case.problem, x)
        elif found.real is None and refuted(case.problem, found.x):
            self.by_rounding = self.by_rounding or found
        else:
            self.found = found
        return self.found is not None

    def look_for_rounding(self, seconds: float) -> None:
        """Replay some points of a question that is proved, for at most so many seconds: what is deployed rounds."""
        deadline, generator = self.deadline.within(seconds), torch.Generator().manual_seed(0)
        for case in self.cases:
            if self.by_rounding is not None or deadline.left <= 0:
                return
            likely = self._likely_points(case)
            known = [p for p in (likely, case.best_points) if p is not None]
            points = torch.cat([case.problem.box.middle, *known, case.problem.box.sample(_REPLAYED, generator)[0]])
            self.by_rounding = by_rounding(self.model, self.question.cases[case.number], points[: 3 * _REPLAYED], deadline)

    def _bound(self, case: Known, step: Bounding) -> None:
        """Bound the rows of open conjunctions by one method and refute what that refutes."""
        began, problem, best, open_ = time.monotonic(), case.problem, case.inner, case.open
        before = case.hardest(open_)
        known = {Stand.OWN: {}, Stand.BEST: {"inner": best}, Stand.ON_TOP: {"begin": best}}[step.stand]
        chosen, deadline = suited(step.method, problem.network.device), step.within(self.deadline)
        prepared = chosen.prepare(problem.network, problem.box, deadline=deadline, **known)
        case.inner, case.inner_by = _best(case.inner, prepared), step.method.name if step.stand is not Stand.BEST else case.inner_by
        if isinstance(prepared, Substituted):
            case.prepared = prepared
        rows = list(dict.fromkeys(row for k in open_ for row in problem.conjunctions[k].rows))
        reached: dict[Row, float] = {}
        if rows:
            found = prepared.minimise(case.problem.objectives(rows), enough=0.0).bound[0].tolist()
            reached = dict(zip(rows, found, strict=True))
            for row, bound in reached.items():
                if row not in case.row_bounds or bound > case.row_bounds[row][0]:
                    case.row_bounds[row] = (bound, step.name)
                    case.bounded_by[row] = prepared
            if any(self._accept(case, x) for x in prepared.candidates()):
                self._done(case, began, Step(step.name, Kind.BOUNDS, stands_on=step.stands_on))
                return
            self._bound_entries(case, rows, step.name)
        if step.stand is Stand.ON_TOP and -math.inf < before < 0:
            case.gained = (case.hardest(open_) - before) / -before
        for k in open_:
            refutation = self._by_one_row(case, problem.conjunctions[k]) or self._by_rows_together(case, prepared, k, step.name)
            if refutation is not None:
                case.refuted[k] = refutation
        own = {k: max((reached[r] for r in problem.conjunctions[k].rows), default=-math.inf) for k in open_}
        own |= {k: case.refuted[k].bound for k in open_ if k in case.refuted}
        decided, bounds = sum(k in case.refuted for k in open_), self._hardest(case, own)
        self._done(case, began, Step(step.name, Kind.BOUNDS, stands_on=step.stands_on, decided=decided, bounds=bounds))

    def _bound_entries(self, case: Known, rows: list[Row], name: str) -> None:
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
    def _by_one_row(case: Known, conjunction: Conjunction) -> Refutation | None:
        for i, row in enumerate(conjunction.rows):
            bound, name = case.row_bounds[row]
            weights = tuple(float(i == j) for j in range(len(conjunction.rows)))
            if refutes(conjunction, weights, bound):
                return Refutation(conjunction, weights, bound, name)
        return None

    def _by_rows_together(self, case: Known, prepared: Prepared, k: int, name: str) -> Refutation | None:
        """Look for weights of the rows with which their sum stays above 0, and bound that sum anew."""
        conjunction = case.problem.conjunctions[k]
        bound, weights = joint_bound(prepared, case.problem, conjunction, enough=0.0)
        return Refutation(conjunction, weights, bound, name) if refutes(conjunction, weights, bound) else None


_NO_PROOF = "real arithmetic has a counterexample, which only the replay does not confirm"
_REPLAYED = 16
"""So many random points are replayed of a case that is proved, and at most twice as many that are likely to be near its rows."""
_KINDS: dict[type, Kind] = {ProjectedGradient: Kind.ATTACK, Bounding: Kind.BOUNDS, BranchAndBound: Kind.SPLITTING}


def _best(known: dict[int, Interval] | None, prepared: Prepared) -> dict[int, Interval]:
    """The tighter of both bounds for every pre-activation."""
    bounds = prepared.bounds
    return dict(bounds) if known is None else {z: known[z].intersect(b) for z, b in bounds.items()}


def _unstable(graph: Graph, inner: Mapping[int, Interval] | None) -> int | None:
    """How many entries of nonlinear nodes are not stable; None where that is not known."""
    if inner is None or any(z not in inner for v in graph.nonlinear for z in graph.nodes[v].inputs):
        return None
    count = 0
    for v in graph.nonlinear:
        operation = graph.nodes[v].operation
        assert isinstance(operation, Nonlinearity)
        count += int((~operation.stable(*(inner[z] for z in graph.nodes[v].inputs))).sum())
    return count
