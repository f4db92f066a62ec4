"""What a run leaves open: the reason in a line, and of every open conjunction its best bound and where it is lost."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from bourn.certificates.account import Step
from bourn.certificates.evidence import Loss, OpenConjunction, Unbounded, Unknown
from bourn.deciding import Known, Run
from bourn.problem.problem import Problem
from bourn.program.losses import losses
from bourn.solvers.unbounded import unbounded


def unknown(run: Run, ended: bool, seconds: float) -> Unknown:
    """The verdict after ``seconds`` of a run that worked through its plan, or was ``ended`` before by the clock or from outside."""
    open_ = []
    for case in run.cases:
        for k in case.open:
            bound, name = case.best(k)
            attained = case.attained[k] if case.attained else math.inf
            lost = () if ended else _losses(case, k)
            ceiling = case.ceilings.get(k, math.inf)
            open_.append(OpenConjunction(case.number, case.problem.conjunctions[k], bound, name, attained, lost, ceiling))
    total = sum(len(c.problem.conjunctions) for c in run.cases)
    places: tuple[Unbounded, ...] = ()
    interrupted = ended and run.deadline.why != "out of time"
    if run.unreplayed is not None:
        where = run.unreplayed.replayed_in
        reason = f"in real arithmetic an input of the set is a counterexample, but {where}, which rounds, takes none for one"
    elif ended:
        limit = run.deadline.seconds if not interrupted and run.deadline.seconds is not None else seconds
        reason = f"{run.deadline.why} after {limit:.4g} s, {len(open_)} of {total} conjunctions open"
    elif any(math.isinf(o.bound) and not _bounded(run.cases[o.case].problem) for o in open_):
        reason = f"the input set is unbounded, and {len(open_)} of {total} conjunctions have no finite bound"
    elif places := _unbounded(run, open_):
        reason = f"{len(open_)} of {total} conjunctions open: {places[0]}"
    else:
        reason = f"{len(open_)} of {total} conjunctions neither refuted by any bound nor met by any attack"
    reason += _splitting({o.case for o in open_}, run.steps, run.deadline.why if ended else "")
    starved = list(dict.fromkeys(step.what for step in run.steps if step.stopped == "out of memory"))
    reason += f"; memory was not enough for {', '.join(starved)}" if starved else ""
    return Unknown(reason, ended and not interrupted, tuple(open_), places, unreplayed=run.unreplayed)


def _splitting(cases: set[int], steps: list[Step], why: str) -> str:
    """What the tree came to that left the best bound, of those that left something open; ``why`` need not be said again."""
    grown = [(step.what, step.tree) for step in steps if step.case in cases and step.tree is not None and step.tree.left]
    if not grown:
        return ""
    what, tree = max(grown, key=lambda own: own[1].least)
    return f"; {what}: {replace(tree, stopped='') if tree.stopped == why else tree}"


def _unbounded(run: Run, open_: list[OpenConjunction]) -> tuple[Unbounded, ...]:
    """The nodes at which bounds became infinite, of the first case whose open conjunctions have none for it."""
    for case in (run.cases[number] for number in sorted({o.case for o in open_ if math.isinf(o.bound)})):
        if case.inner is not None and (places := unbounded(case.problem.network, case.problem.box, case.inner)):
            return places
    return ()


def _losses(case: Known, k: int) -> tuple[Loss, ...]:
    """Where the bound of the conjunction's best row is lost, at the attack's best point."""
    conjunction, graph = case.problem.conjunctions[k], case.problem.network
    rows = [row for row in conjunction.rows if row in case.row_bounds]
    if case.best_points is None or not rows:
        return ()
    row = max(rows, key=lambda r: case.row_bounds[r][0])
    prepared = case.bounded_by.get(row)
    traced = None if prepared is None else prepared.trace(case.problem.objectives([row]), {0, *graph.nonlinear})
    if traced is None:
        return ()
    places = losses(*traced, case.best_points[k : k + 1])
    named = [Loss("the input set" if v == 0 else graph.nodes[v].name, amount) for v, amount in places.items()]
    return tuple(sorted(named, key=lambda loss: -loss.amount))


def _bounded(problem: Problem) -> bool:
    return bool(torch.isfinite(problem.box.interval.magnitude).all())
