"""Minimum distortion: the greatest radius at which a method proves that the class stays, and the least where an attack succeeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from bourn.network.graph import Graph
from bourn.problem.problem import Objectives
from bourn.solvers.methods import method
from bourn.solvers.simplex import Simplex
from bourn.studies.descent import descend
from bourn.studies.description import ATTACK, AttackEntry, Description
from bourn.studies.jobs import Found, Job, Kind, Round, Task, clock, input_sets, lower_bounds, margins_of

_FIRST, _LEAST, _GREATEST = 0.05, 1e-9, 1e6
"""Where a search begins that knows nothing, and where it ends in any case."""


class MinimumDistortion(Kind):
    """Results: ``radius`` and ``failed``, between which the method begins to fail, and how often it was run."""

    name = "minimum-distortion"

    def questions(self, description: Description) -> Iterable[tuple[str, Mapping[str, Any]]]:
        for name in description.methods:
            attack = {"attack": asdict(description.attack)} if name == ATTACK else {}
            yield name, {"precision": description.precision_of(name), **attack}

    def rounds(self, task: Task, neurons: int) -> tuple[Round, ...]:
        return (Round((task["method"],), 1),)

    def answer(self, job: Job, graph: Graph, images: Tensor, stages: tuple[str, ...], last: bool) -> list[Found]:
        found = []
        for i, task in enumerate(job.tasks):
            with clock() as timer:
                result = _distortion(graph, images[i : i + 1], task)
            found.append(Found(result, timer.seconds, open=False))
        return found


def _distortion(graph: Graph, image: Tensor, task: Task) -> dict[str, Any]:
    margins = margins_of([task], graph)
    if int(graph.evaluate(image).flatten().argmax()) != task["label"]:
        return {"radius": 0.0, "failed": 0.0, "runs": 0}
    precision, name = task["options"]["precision"], task["method"]
    question = _Question(graph, image, margins, task)
    if name == ATTACK:
        found = search(lambda radius: not question.attacked(radius), precision)
        return {"radius": found.above, "failed": found.below, "runs": found.runs}
    if isinstance(method(name).solver, Simplex):
        # A method in closed form says where to look.
        greedy = search(lambda radius: question.certified("crown", radius), 0.01)
        found = search(lambda radius: question.certified(name, radius), precision, greedy.below)
    else:
        found = search(lambda radius: question.certified(name, radius), precision)
    return {"radius": found.below, "failed": found.above, "runs": found.runs}


@dataclass(frozen=True, eq=False)
class _Question:
    """Whether one image keeps its class."""

    graph: Graph
    image: Tensor
    margins: Objectives
    task: Task

    def certified(self, name: str, radius: float) -> bool:
        balls = input_sets(self.image, radius, self.task["clip"])
        return bool((lower_bounds(self.graph, name, balls, self.margins, 0.0) > 0).all())

    def attacked(self, radius: float) -> bool:
        balls = input_sets(self.image, radius, self.task["clip"])
        attack = AttackEntry(**self.task["options"]["attack"])
        return float(descend(self.graph, balls, self.image, radius, self.margins, attack)[0]) <= 0


@dataclass(frozen=True)
class Bracket:
    """``below``: the greatest radius found to hold (0 if none), ``above``: the least found not to (None if none)."""

    below: float
    above: float | None
    runs: int


def search(holds: Callable[[float], bool], precision: float, begin: float = 0.0) -> Bracket:
    """Where ``holds`` ends, to a relative precision: outward from ``begin`` by growing steps, then by bisection.

    The radii found are of one end each, and right as such; where ``holds`` is not monotone there may be others.
    """
    below, above, runs = 0.0, None, 0
    radius, factor = begin or _FIRST, 1.1 if begin else 2.0
    while above is None or above - below > precision * above:
        runs += 1
        if holds(radius):
            below = radius
        else:
            above = radius
        if above is None:
            radius, factor = below * factor, factor**1.5
        elif not below:
            radius, factor = above / factor, factor**1.5
        else:
            radius = (below + above) / 2
        if (above is None and radius > _GREATEST) or (not below and radius < _LEAST):
            break
    return Bracket(below, above, runs)
