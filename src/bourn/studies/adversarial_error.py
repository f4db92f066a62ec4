"""Adversarial error: for how many images does a method prove that the class stays on a ball of a given radius?

An image goes through stages, from the cheapest on, until one decides it: a wrong prediction, a bound above 0 for every margin,
an attack that succeeds.  With a cascade other methods and the attack come before LP-ALL, whose verdict theirs imply; before
any other method of the class nothing but the prediction comes, for none is at least as good as all that could precede it.  Before
a MILP come the same and LP-ALL, before branch and bound the same; both have an upper and a lower value, for they find points that
an attack might have found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.deadline import Deadline, OutOfTime
from bourn.formats.model import Model
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import Box
from bourn.problem.problem import Objectives, Problem
from bourn.problem.specification import Conjunction, Row, Specification
from bourn.program.branches import CannotSplit
from bourn.solvers.adjustments import suited, with_leaves
from bourn.solvers.bracket import InnerProgram, ceilings
from bourn.solvers.methods import ASCENT, BARRIER, MILP, method
from bourn.solvers.milp import Searching
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.studies.descent import descend
from bourn.studies.description import ATTACK, SPLITTING, AttackEntry, Description
from bourn.studies.jobs import Found, Job, Kind, Round, Task, at_once, clock, finite, input_sets, margins_of

_EXACT = (MILP, SPLITTING)
"""What decides every image in the end."""

_PREDICTION, _POINTS, _CEILING = "prediction", "points", "bracket"
"""Names of the stages that are no method; the bracket by points in closed form needs no LP."""


_OUTER = ("crown", ASCENT, BARRIER)
"""Methods whose pre-activation bounds a bracket may start from, later ones better."""

_Bounds = Mapping[int, Interval]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Images that are still open, and what is asked of them; ``outer``: the best pre-activation bounds of each, if known;
    ``limit``: seconds of a MILP or of splitting."""

    graph: Graph
    images: Tensor
    balls: Box
    margins: Objectives
    radius: float
    attack: AttackEntry
    name: str
    outer: Sequence[_Bounds]
    limit: float


class AdversarialError(Kind):
    """Outcomes: wrong, attacked, certified, beyond (no layer-wise method can prove it) or undecided."""

    name = "adversarial-error"

    def questions(self, description: Description) -> Iterable[tuple[str, Mapping[str, Any]]]:
        for name in description.methods:
            cascade = [c for c in description.cascade if c != name] if name in (BARRIER, *_EXACT) else []
            cascade += [BARRIER] if cascade and name == MILP else []
            attack = {"attack": asdict(description.attack)} if ATTACK in (*cascade, name) else {}
            bracket = {"bracket": description.bracket} if name == BARRIER else {}
            limit = {"limit": description.limit} if name in _EXACT else {}
            yield name, {"cascade": cascade, **attack, **bracket, **limit}

    def rounds(self, task: Task, neurons: int, device: str) -> tuple[Round, ...]:
        own = task["method"]
        cascade, bracket = task["options"]["cascade"], task["options"].get("bracket")
        stages = [_PREDICTION, *cascade, own, *((_CEILING,) if bracket else ())]
        if bracket and ASCENT in cascade:
            # What points show to lie beyond every layer-wise method needs no LP-ALL of either kind: most of what is left by then.
            stages.insert(stages.index(ASCENT), _POINTS)
        found: list[Round] = []
        for stage in stages:
            size = _SIZES[stage] if stage in _SIZES else at_once(stage, neurons, device)
            together = bool(found) and (size == 0 or size >= found[-1].at_once)
            before = found.pop() if together else Round((), size or at_once("ibp", neurons, device))
            found.append(Round((*before.stages, stage), before.at_once))
        return tuple(found)

    def answer(self, job: Job, model: Model, images: Tensor, stages: tuple[str, ...], last: bool) -> list[Found]:
        states = [_State(dict(f.result) or _nothing(), f.seconds) for f in job.found]
        for stage in stages:
            _run(stage, job, model.graph, images, states)
        return [s.found(last) for s in states]


def _nothing() -> dict[str, Any]:
    return {"outcome": None, "decided_by": None, "bound": None, "attained": None, "ceiling": None, "stages": []}


@dataclass
class _State:
    """What the stages so far found of one image."""

    result: dict[str, Any]
    seconds: float
    outer: _Bounds = field(default_factory=dict)

    def take(self, stage: str, found: Mapping[str, Any], seconds: float) -> None:
        self.result = {**self.result, **found, "stages": [*self.result["stages"], {"name": stage, "seconds": round(seconds, 6)}]}
        if found.get("outcome") is not None:
            self.result["decided_by"] = "attack" if stage == ATTACK else stage
        self.seconds += seconds

    def found(self, last: bool) -> Found:
        open_ = self.result["outcome"] is None and not last
        result = self.result if open_ or self.result["outcome"] is not None else {**self.result, "outcome": "undecided"}
        return Found(result, self.seconds, open_)


def _run(stage: str, job: Job, graph: Graph, images: Tensor, states: list[_State]) -> None:
    """Put the images that are still open through a stage."""
    which = [i for i, s in enumerate(states) if s.result["outcome"] is None]
    if not which:
        return
    task = job.tasks[0]
    with clock() as timer:
        # What goes image by image keeps no accelerator busy.
        place = torch.device("cpu") if stage in _ONE_BY_ONE else graph.device
        graph, own = graph.to(place), images[which].to(place)
        balls = input_sets(own, task["radius"], task["clip"])
        margins = margins_of((job.tasks[i] for i in which), graph)
        attack = AttackEntry(**task["options"].get("attack", {}))
        outer = [{z: bounds.to(place) for z, bounds in states[i].outer.items()} for i in which]
        batch = _Batch(graph, own, balls, margins, task["radius"], attack, stage, outer, task["options"].get("limit", 0.0))
        found = _STAGES.get(stage, _by_method)(batch)
    for i, one in zip(which, found, strict=True):
        states[i].outer = one.pop("outer", states[i].outer)
        states[i].take(stage, one, timer.seconds / len(which))


def _by_prediction(batch: _Batch) -> list[dict[str, Any]]:
    """An image whose label is not the prediction is wrong: a margin is negative at the image itself, or 0 for an earlier class."""
    with torch.no_grad():
        scores = batch.graph.evaluate(batch.images).flatten(1)
    predicted = scores.argmax(1)
    own = (batch.margins.outputs > 0).any(1).to(torch.float64).argmax(1)
    return [{"outcome": None if same else "wrong"} for same in (predicted == own).tolist()]


def _by_attack(batch: _Batch) -> list[dict[str, Any]]:
    least, _ = descend(batch.graph, batch.balls, batch.images, batch.radius, batch.margins, batch.attack)
    return [{"outcome": "attacked" if value <= 0 else None, "attained": finite(value)} for value in least.tolist()]


def _by_method(batch: _Batch) -> list[dict[str, Any]]:
    """Certified where every margin has a bound above 0; the bound kept is that of the worst margin."""
    prepared = suited(method(batch.name), batch.graph.device).prepare(batch.graph, batch.balls)
    worst = prepared.minimise(batch.margins, 0.0).bound.amin(1)
    found: list[dict[str, Any]] = [
        {"outcome": "certified" if value > 0 else None, "bound": finite(value)} for value in worst.tolist()
    ]
    if batch.name in _OUTER:
        for i, one in enumerate(found):
            one["outer"] = {z: Interval(b.lower[i : i + 1], b.upper[i : i + 1]) for z, b in prepared.bounds.items()}
    return found


def _by_search(batch: _Batch) -> list[dict[str, Any]]:
    """Certified where every margin's dual bound is above 0, attacked at a solution where one is at most 0; else open.

    On LP-ALL's pre-activation bounds where these are known.
    """
    found: list[dict[str, Any]] = []
    for i, outer in enumerate(batch.outer):
        one, deadline = slice(i, i + 1), Deadline(batch.limit)
        try:
            prepared = method(MILP).prepare(batch.graph, batch.balls[one], inner=outer or None, deadline=deadline)
            assert isinstance(prepared, Searching)
            met = prepared.extremes(batch.margins.take(one), 0.0, 0.0)
        except OutOfTime:
            found.append({"outcome": None})
            continue
        bound, value = float(met.solution.bound.min()), float(met.values.min())
        outcome = "attacked" if value <= 0 else "certified" if bound > 0 else None
        found.append({"outcome": outcome, "bound": finite(bound), "attained": finite(value), "trusts": met.solution.trusts})
    return found


def _by_splitting(batch: _Batch) -> list[dict[str, Any]]:
    """Certified where every margin is refuted, attacked where one is at most 0 at a point that was met; else open.

    After a short attack, on LP-ALL's pre-activation bounds by ascent; where a tree would be large, on bounds by trees of their own.
    """
    return [_split(batch, slice(i, i + 1), outer) for i, outer in enumerate(batch.outer)]


def _split(batch: _Batch, one: slice, outer: _Bounds) -> dict[str, Any]:
    graph, margins, deadline = batch.graph, batch.margins.take(one), Deadline(batch.limit)
    coefficients = (dict(enumerate(map(int, row))) for row in margins.outputs[0].tolist())
    asked = tuple(Conjunction((Row.of({i: c for i, c in row.items() if c}),)) for row in coefficients)
    problem, met = Problem(graph, batch.balls[one], Specification(asked)), [math.inf]

    def accept(x: Tensor) -> bool:
        met.append(float((margins.outputs[0] @ graph.evaluate(x[None]).flatten()).min()))
        return met[-1] <= 0

    left: Mapping[int, float] = dict.fromkeys(range(len(asked)), -math.inf)
    with suppress(OutOfTime):
        if not _BEFORE_SPLITTING.run(problem, accept, deadline)[0]:
            inner = outer or method(ASCENT).prepare(graph, problem.box, deadline=deadline).bounds
            with suppress(CannotSplit):
                found = NeuronSplitting(patience=_PATIENCE).run(problem, list(left), inner, accept, deadline)
                left = found.bounds
                if left and not found.found and deadline.left > 0:
                    inner = _INNER.prepare(graph, problem.box, begin=inner, deadline=deadline.part(0.5)).bounds
                    left = NeuronSplitting().run(problem, list(left), inner, accept, deadline).bounds
    outcome = "attacked" if min(met) <= 0 else None if left else "certified"
    return {"outcome": outcome, "bound": finite(min(left.values(), default=math.inf)), "attained": finite(min(met))}


def _by_points(batch: _Batch) -> list[dict[str, Any]]:
    """As :func:`_by_ceiling`, by points in closed form alone."""
    found = []
    for i, known in enumerate(batch.outer):
        one = slice(i, i + 1)
        outer = known or method(_OUTER[0]).prepare(batch.graph, batch.balls[one]).bounds
        inner = InnerProgram(batch.graph, batch.balls[one], outer, exact=False)
        value = float(inner.ceilings(batch.margins.take(one))[0].min())
        found.append({"outcome": "beyond", "ceiling": value} if value <= 0 else {"outcome": None})
    return found


def _by_ceiling(batch: _Batch) -> list[dict[str, Any]]:
    """Beyond where a margin has a ceiling of at most 0; the ceiling kept is the least, which is that of the worst margin too."""
    found = []
    for i, outer in enumerate(batch.outer):
        one = slice(i, i + 1)
        value = float(ceilings(batch.graph, batch.balls[one], outer, batch.margins.take(one), enough=0.0)[0].min())
        found.append({"outcome": "beyond" if value <= 0 else None, "ceiling": finite(value)})
    return found


_STAGES: dict[str, Callable[[_Batch], list[dict[str, Any]]]] = {
    _PREDICTION: _by_prediction,
    ATTACK: _by_attack,
    MILP: _by_search,
    SPLITTING: _by_splitting,
    _POINTS: _by_points,
    _CEILING: _by_ceiling,
}

_ONE_BY_ONE = (_POINTS, BARRIER, *_EXACT, _CEILING)

_BEFORE_SPLITTING = ProjectedGradient(steps=20, restarts=3)
_PATIENCE = 0.05
"""After this share of an image's time a tree goes on without better inner bounds only if it is forecast to end soon."""
_INNER = with_leaves(method("split-all"), 16)

_SIZES = {_PREDICTION: 0, ATTACK: 0, _POINTS: 0, _CEILING: 0, SPLITTING: 1}
"""Stages that take any number of images: as many as the round they are in."""
