"""Jobs: some images of one network and the next round of a study's stages, for a worker that knows nothing else."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bourn.formats.model import Model
from bourn.network.graph import Graph
from bourn.problem.input_set import Box, linf_ball
from bourn.problem.problem import Objectives, label_margins
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.methods import method
from bourn.solvers.milp import Milp
from bourn.solvers.simplex import Simplex
from bourn.studies.description import Description

Task = Mapping[str, Any]
"""What is asked, as JSON: :class:`bourn.studies.store.Record` says what is in it."""

_MOST, _NEURONS = 500, 500_000
"""A batch has at most so many images, and fewer where they have more neurons in all."""


@dataclass(frozen=True)
class Round:
    """Stages that are run one after the other on a batch of at most ``at_once`` images, until each image is decided."""

    stages: tuple[str, ...]
    at_once: int


@dataclass(frozen=True)
class Found:
    """What is known of a task: ``result``, final unless ``open``, after ``seconds`` of processor time."""

    result: Mapping[str, Any]
    seconds: float = 0.0
    open: bool = True


@dataclass(frozen=True, eq=False)
class Job:
    """One round for some tasks: ``network`` is the hash of its network, ``images`` (N, n) flat, ``found`` what is known of each.

    ``round``: the round's number among those of the tasks.
    """

    network: str
    tasks: tuple[Task, ...]
    images: np.ndarray
    found: tuple[Found, ...]
    round: int = 0
    device: str = "cpu"


class Kind(ABC):
    """A kind of question.  Defining a subclass that has a ``name`` registers it."""

    name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        KINDS[cls.name] = cls()

    @abstractmethod
    def questions(self, description: Description) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """The method and the options (JSON) of every task about one image, network and radius."""

    @abstractmethod
    def rounds(self, task: Task, neurons: int, device: str) -> tuple[Round, ...]:
        """The rounds of a task about a network with so many neurons, cheapest first."""

    @abstractmethod
    def answer(self, job: Job, model: Model, images: Tensor, stages: tuple[str, ...], last: bool) -> list[Found]:
        """Run a round's stages on images (N, *shape); tasks that stay open go on to the next, after the ``last`` none do."""


KINDS: dict[str, Kind] = {}
"""Every kind of study by its name."""


def kind_of(study: str) -> Kind:
    """The kind of study of that name."""
    # Imported here, for they derive from Kind: importing them fills the table.
    from bourn.studies import adversarial_error, ladders, minimum_distortion  # noqa: F401

    return KINDS[study]


def work(job: Job, data: bytes) -> list[Found]:
    """What a worker does: one round of a job about the network whose ONNX file is ``data``."""
    model = _model(data, job.device)
    kind = kind_of(job.tasks[0]["study"])
    rounds = kind.rounds(job.tasks[0], neurons(model.graph), job.device)
    images = torch.from_numpy(job.images).to(model.graph.device).reshape(-1, *model.graph.input_shape)
    return kind.answer(job, model, images, rounds[job.round].stages, job.round == len(rounds) - 1)


def neurons(graph: Graph) -> int:
    """How many entries the nonlinear nodes have."""
    return sum(graph.nodes[v].size for v in graph.nonlinear)


@lru_cache(maxsize=32)
def _model(data: bytes, device: str) -> Model:
    from bourn.device import device as by_device
    from bourn.formats.onnx import from_bytes

    return Model(from_bytes(data).to(by_device(device)), data)


def at_once(name: str, neurons: int, device: str) -> int:
    """How many images of a network with so many neurons a method is given at once."""
    solvers = (method(name).solver, method(name).inner)
    if any(isinstance(s, Simplex | Milp) for s in solvers):
        return 1
    most = max(1, min(_MOST, _NEURONS // max(1, neurons)))
    # The last of a batch holds up the others; an accelerator does many at a time at no more cost.
    return max(1, most // 10) if device == "cpu" and any(isinstance(s, DualAscent) for s in solvers) else most


def input_sets(images: Tensor, radius: float, clip: tuple[float, float] | list[float] | None) -> Box:
    """Balls in the l-infinity norm around images (N, *shape)."""
    return linf_ball(images, radius, clip=clip)


def margins_of(tasks: Iterable[Task], graph: Graph) -> Objectives:
    """The margins of every task's label over all other classes, in the classes' order."""
    labels = torch.tensor([task["label"] for task in tasks], device=graph.device)
    return label_margins(labels, graph.nodes[graph.output].size)


@dataclass
class Clock:
    """Seconds of the processor that :func:`clock` measured."""

    seconds: float = 0.0


@contextmanager
def clock() -> Iterator[Clock]:
    """Measures its block."""
    measured, began = Clock(), time.process_time()
    yield measured
    measured.seconds = time.process_time() - began


def finite(value: float) -> float | None:
    """A number as JSON: None where it is infinite, that is where nothing is known."""
    return float(value) if np.isfinite(value) else None
