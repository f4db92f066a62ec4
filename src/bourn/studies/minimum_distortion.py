"""Minimum distortion: the greatest radius at which a method proves that the class stays, and the least where an attack succeeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.formats.model import Model
from bourn.radii import radius, search
from bourn.studies.description import ATTACK, AttackEntry, Description
from bourn.studies.jobs import Found, Job, Kind, Round, Task, at_once, clock, finite


class MinimumDistortion(Kind):
    """Results: ``radius`` and ``failed``, between which the method begins to fail, and how often it was run.

    Of a method ``radius`` is the greatest found that it certifies; of the attack the least at which a counterexample was found,
    replayed in onnxruntime.  None where the search came to its end without one.
    """

    name = "minimum-distortion"

    def questions(self, description: Description) -> Iterable[tuple[str, Mapping[str, Any]]]:
        for name in description.methods:
            attack = {"attack": asdict(description.attack)} if name == ATTACK else {}
            yield name, {"precision": description.precision_of(name), **attack}

    def rounds(self, task: Task, neurons: int, device: str) -> tuple[Round, ...]:
        name = task["method"]
        return (Round((name,), 1 if name == ATTACK else at_once(name, neurons, device)),)

    def answer(self, job: Job, model: Model, images: Tensor, stages: tuple[str, ...], last: bool) -> list[Found]:
        with clock() as timer:
            results = (_attacked if stages == (ATTACK,) else _certified)(job, model, images)
        return [Found(result, timer.seconds / len(images), open=False) for result in results]


def _certified(job: Job, model: Model, images: Tensor) -> list[dict[str, Any]]:
    task = job.tasks[0]
    labels = torch.tensor([t["label"] for t in job.tasks], device=images.device)
    precision = task["options"]["precision"]
    found = search(model.graph, images, labels, task["method"], clip=_clip(task), precision=precision)
    rows = zip(found.radius.tolist(), found.failed.tolist(), found.evaluations.tolist(), strict=True)
    return [{"radius": below, "failed": finite(above), "runs": runs} for below, above, runs in rows]


def _attacked(job: Job, model: Model, images: Tensor) -> list[dict[str, Any]]:
    task = job.tasks[0]
    own = AttackEntry(**task["options"]["attack"])
    found = radius(
        model,
        images,
        labels=[t["label"] for t in job.tasks],
        methods=(),
        clip=_clip(task),
        precision=task["options"]["precision"],
        attack=ProjectedGradient(steps=own.steps, restarts=own.restarts),
        device=job.device,
    )
    return [{"radius": finite(n.radius), "failed": n.missed, "runs": n.evaluations} for n in found.attacked]


def _clip(task: Task) -> tuple[float, float] | None:
    return None if task["clip"] is None else (task["clip"][0], task["clip"][1])
