"""Running a study: its tasks, without those that the store has answers to, through an engine and into the store."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bourn.errors import UsageError
from bourn.studies.description import Description
from bourn.studies.engines import Engine
from bourn.studies.inputs import Images, NetworkFile, hash_of, predictions, read_images, read_network
from bourn.studies.jobs import Found, Job, Task, kind_of, neurons
from bourn.studies.store import Record, Store, key_of


@dataclass(frozen=True, eq=False)
class Asked:
    """One task with its image (n,), flat."""

    task: Task
    image: np.ndarray
    key: str


@dataclass(frozen=True, eq=False)
class Study:
    """A description with its networks and images read."""

    description: Description
    networks: tuple[NetworkFile, ...]
    images: Images

    @classmethod
    def of(cls, description: Description) -> Study:
        """Read the files; raises :class:`bourn.errors.BournError` where one cannot be used, before anything is computed."""
        networks = tuple(read_network(entry) for entry in description.networks)
        names: dict[str, str] = {}
        for network in networks:
            other = names.setdefault(network.hash, network.entry.name)
            if other != network.entry.name:
                raise UsageError(f"networks {other!r} and {network.entry.name!r} are the same; one entry takes several radii")
        images = read_images(description.images)
        for network in networks:
            images.shaped(network.graph)
        return cls(description, networks, images)

    def asked(self) -> Iterator[Asked]:
        """Every task of the study, network after network."""
        d = self.description
        hashes = [hash_of(image) for image in self.images.pixels]
        questions = list(kind_of(d.study).questions(d))
        for network in self.networks:
            labels = self._labels(network)
            for radius in network.entry.radii or (None,):
                for name, options in questions:
                    for i, number in enumerate(self.images.numbers):
                        task = {
                            "study": d.study,
                            "network": network.entry.name,
                            "network_hash": network.hash,
                            "mode": network.entry.mode,
                            "image": number,
                            "input_hash": hashes[i],
                            "label": labels[i],
                            "radius": radius,
                            "clip": None if d.clip is None else list(d.clip),
                            "method": name,
                            "options": options,
                        }
                        yield Asked(task, self.images.pixels[i], key_of(task))

    def _labels(self, network: NetworkFile) -> list[int]:
        if self.images.labels is None:
            return [int(label) for label in predictions(network.graph, self.images.shaped(network.graph))]
        labels = self.images.labels
        classes = network.graph.nodes[network.graph.output].size
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise UsageError(f"network {network.entry.name!r} has {classes} classes, the labels go to {labels.max()}")
        return [int(label) for label in labels]


@dataclass(frozen=True)
class Progress:
    """How far a study is: of ``total`` tasks so many are answered, ``before`` of them by earlier runs."""

    total: int
    answered: int
    before: int


def run(
    study: Study, store: Store, engine: Engine, device: str = "cpu", report: Callable[[Progress], None] | None = None
) -> Progress:
    """Answer what the store has no answer to; every answer is in it before the next job is waited for.

    ``report`` is called as answers come in.  What ends it early, an exception or Ctrl-C, loses nothing that was put.
    """
    asked = list(study.asked())
    store.note(study.description.name, {**study.description.as_data(), "tasks": len(asked)})
    missing = {a.key: a for a in asked}
    for key in store.keys() & missing.keys():
        del missing[key]
    total, before = len(asked), len(asked) - len(missing)
    unanswered = list(missing.values())
    sizes = {network.hash: neurons(network.graph) for network in study.networks}
    jobs = deque(_jobs(unanswered, [Found({}) for _ in unanswered], 0, sizes, device))
    if report is not None:
        report(Progress(total, before, before))
    for job, found in engine.run(jobs, {network.hash: network.data for network in study.networks}):
        answers = [Record.of(t, f.result, round(f.seconds, 6)) for t, f in zip(job.tasks, found, strict=True) if not f.open]
        store.put_all(answers)
        for answer in answers:
            del missing[answer.key]
        still = [i for i, f in enumerate(found) if f.open]
        left = [Asked(job.tasks[i], job.images[i], "") for i in still]
        # First, so that a run that is ended early repeats the rounds of few images.
        jobs.extendleft(reversed(list(_jobs(left, [found[i] for i in still], job.round + 1, sizes, device))))
        if report is not None and answers:
            report(Progress(total, total - len(missing), before))
    return Progress(total, total - len(missing), before)


def _jobs(asked: Sequence[Asked], found: Sequence[Found], number: int, sizes: dict[str, int], device: str) -> Iterator[Job]:
    """Tasks that differ in their images alone, in batches as large as their round may be."""
    groups: dict[str, list[int]] = {}
    for i, one in enumerate(asked):
        groups.setdefault(_group(one.task), []).append(i)
    for numbers in groups.values():
        task = asked[numbers[0]].task
        at_once = kind_of(task["study"]).rounds(task, sizes[task["network_hash"]], device)[number].at_once
        for first in range(0, len(numbers), at_once):
            some = numbers[first : first + at_once]
            images = np.stack([asked[i].image for i in some])
            tasks, known = tuple(asked[i].task for i in some), tuple(found[i] for i in some)
            yield Job(task["network_hash"], tasks, images, known, number, device)


def _group(task: Task) -> str:
    own: dict[str, Any] = {name: task[name] for name in ("network_hash", "radius", "method", "options")}
    return json.dumps(own, sort_keys=True)
