"""Ladders: the bounds of all methods on the margins of every image, beside what an attack attains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from bourn.network.graph import Graph
from bourn.problem.problem import Objectives
from bourn.studies.descent import least_values
from bourn.studies.description import ATTACK, AttackEntry, Description
from bourn.studies.jobs import Found, Job, Kind, Round, Task, clock, finite, input_sets, lower_bounds, margins_of


class Ladders(Kind):
    """Results, all by row, the margins over the other classes in their order: ``bounds`` by method, ``attained`` by the attack."""

    name = "ladder"

    def questions(self, description: Description) -> Iterable[tuple[str, Mapping[str, Any]]]:
        names = [name for name in description.methods if name != ATTACK]
        yield self.name, {"methods": names, "attack": asdict(description.attack)}

    def rounds(self, task: Task, neurons: int) -> tuple[Round, ...]:
        return (Round((self.name,), 1),)

    def answer(self, job: Job, graph: Graph, images: Tensor, stages: tuple[str, ...], last: bool) -> list[Found]:
        found = []
        for i, task in enumerate(job.tasks):
            with clock() as timer:
                result = _climb(graph, images[i : i + 1], task)
            found.append(Found(result, timer.seconds, open=False))
        return found


def _climb(graph: Graph, image: Tensor, task: Task) -> dict[str, Any]:
    margins = margins_of([task], graph)
    balls = input_sets(image, task["radius"], task["clip"])
    bounds: dict[str, list[float | None]] = {}
    seconds: dict[str, float] = {}
    for name in task["options"]["methods"]:
        with clock() as timer:
            values = lower_bounds(graph, name, balls, margins, math.inf)[0]
        bounds[name], seconds[name] = [finite(v) for v in values.tolist()], round(timer.seconds, 6)
    # Every row is attacked for itself: as many images as there are rows.
    rows = Objectives(margins.outputs.transpose(0, 1), None, margins.constant.expand(1, -1).T)
    several = image.expand(len(margins), *image.shape[1:])
    attacked = input_sets(several, task["radius"], task["clip"])
    least = least_values(graph, attacked, several, task["radius"], rows, AttackEntry(**task["options"]["attack"]))
    others = [j for j in range(graph.nodes[graph.output].size) if j != task["label"]]
    return {"bounds": bounds, "attained": [finite(v) for v in torch.flatten(least).tolist()], "seconds": seconds, "others": others}
