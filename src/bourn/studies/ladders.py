"""Ladders: the bounds of all methods on the margins of every image, beside what an attack attains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from bourn.errors import UsageError
from bourn.formats.model import Model
from bourn.interval import Interval
from bourn.layer_losses import losses_by_layer
from bourn.network.graph import Graph
from bourn.problem.input_set import Box
from bourn.problem.problem import Objectives
from bourn.solvers.methods import BARRIER, method
from bourn.studies.descent import descend
from bourn.studies.description import ATTACK, AttackEntry, Description
from bourn.studies.jobs import Found, Job, Kind, Round, Task, clock, finite, input_sets, margins_of


class Ladders(Kind):
    """Results by row, the margins over the ``others`` in their order: ``bounds`` by method, what the attack ``attained``.

    ``losses``: by method where its bound falls short of what was attained, of the row of which that is least.
    """

    name = "ladder"

    def questions(self, description: Description) -> Iterable[tuple[str, Mapping[str, Any]]]:
        names = [name for name in description.methods if name != ATTACK]
        yield self.name, {"methods": names, "attack": asdict(description.attack), "losses": description.losses}

    def rounds(self, task: Task, neurons: int, device: str) -> tuple[Round, ...]:
        return (Round((self.name,), 1),)

    def answer(self, job: Job, model: Model, images: Tensor, stages: tuple[str, ...], last: bool) -> list[Found]:
        found = []
        for i, task in enumerate(job.tasks):
            with clock() as timer:
                result = _climb(model.graph, images[i : i + 1], task)
            found.append(Found(result, timer.seconds, open=False))
        return found


def _climb(graph: Graph, image: Tensor, task: Task) -> dict[str, Any]:
    options, margins = task["options"], margins_of([task], graph)
    ball = input_sets(image, task["radius"], task["clip"])
    bounds: dict[str, list[float | None]] = {}
    seconds: dict[str, float] = {}
    tight: Mapping[int, Interval] | None = None
    for name in options["methods"]:
        with clock() as timer:
            prepared = method(name).prepare(graph, ball)
            values = prepared.minimise(margins).bound[0]
        bounds[name], seconds[name] = [finite(v) for v in values.tolist()], round(timer.seconds, 6)
        tight = prepared.bounds if name == BARRIER else tight
    # Every row is attacked for itself: as many images as there are rows.
    rows = Objectives(margins.outputs.transpose(0, 1), None, margins.constant.expand(1, -1).T)
    several = image.expand(len(margins), *image.shape[1:])
    balls = input_sets(several, task["radius"], task["clip"])
    least, points = descend(graph, balls, several, task["radius"], rows, AttackEntry(**options["attack"]))
    others = [j for j in range(graph.nodes[graph.output].size) if j != task["label"]]
    result = {"bounds": bounds, "attained": [finite(v) for v in least.tolist()], "seconds": seconds, "others": others}
    if options["losses"]:
        worst = int(least.argmin())
        row = Objectives(margins.outputs[:, [worst]], None, margins.constant[:, [worst]])
        if tight is None:
            tight = method(BARRIER).prepare(graph, ball).bounds
        found = {name: _losses(graph, ball, row, points[worst : worst + 1], name, tight) for name in options["methods"]}
        result["losses"] = {name: layers for name, layers in found.items() if layers}
    return result


def _losses(
    graph: Graph, ball: Box, row: Objectives, point: Tensor, name: str, tight: Mapping[int, Interval]
) -> list[dict[str, Any]]:
    """Where a method's bound of a row falls short of its value at a point; nothing where it has no finite bound."""
    try:
        found = losses_by_layer(graph, ball, row, point, method=name, tight=tight)
    except UsageError:
        return []
    return [asdict(layer) for layer in found.layers]
