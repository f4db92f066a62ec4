"""What a trained network is worth: right, right under attack, and certified, on the test images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bourn.network.graph import Graph
from bourn.problem.input_set import linf_ball
from bourn.problem.problem import label_margins
from bourn.solvers.methods import Method
from bourn.training.attack import attack, margin

ATTACK_STEPS, ATTACK_STARTS = 40, 5
"""The adversary that measures: steps, and random starts."""


@dataclass(frozen=True)
class Certified:
    """``share``: images that ``method`` proves robust; ``gap``: the mean over images of the least margin that the attack met
    minus the least that the method proves, an upper bound of how much of the margin the relaxation loses."""

    method: str
    share: float
    gap: float
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Shares of ``images`` test images: classified ``right``, and ``attacked``: still so at every point of the ball of ``radius``
    that the attack met."""

    images: int
    radius: float
    right: float
    attacked: float
    certified: tuple[Certified, ...]


def evaluate(
    module: nn.Module,
    graph: Graph,
    x: Tensor,
    y: Tensor,
    radius: float,
    *,
    methods: Iterable[Method],
    seed: int = 0,
    log: Callable[[str, int, float], None] | None = None,
) -> Evaluation:
    """Measure a network, given as a torch module and as the graph of its file, on test images ``x`` (N, *shape).

    Certified are images that are classified right and all of whose margins are proved above 0 on the ball cut at [0, 1]; this
    holds in real arithmetic for the graph.  ``log`` is called with a method's name, the images that it is through with, and the
    estimated seconds to the last.
    """
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        least = margin(module(x), y)
    right = least > 0
    for _ in range(ATTACK_STARTS):
        points = attack(module, x, y, radius, ATTACK_STEPS, noise)
        with torch.no_grad():
            least = torch.minimum(least, margin(module(points), y))
    found = []
    for method in methods:
        began = time.monotonic()
        bounds = _least_margins(method, graph, x, y, radius, log)
        certified = right & (bounds > 0)
        gap = (least.double() - bounds).mean().item()
        found.append(Certified(method.name, _share(certified), gap, time.monotonic() - began))
    return Evaluation(len(x), radius, _share(right), _share(least > 0), tuple(found))


def _least_margins(
    method: Method, graph: Graph, x: Tensor, y: Tensor, radius: float, log: Callable[[str, int, float], None] | None
) -> Tensor:
    """The least proved margin of every image, (N,) float64; in groups, so that long work shows how far it is."""
    classes = math.prod(graph.output_shape)
    began, parts, done = time.monotonic(), [], 0
    for some in torch.split(torch.arange(len(x)), 20):
        ball = linf_ball(x[some].double().reshape(-1, *graph.input_shape), radius, clip=(0, 1))
        solution = method.prepare(graph, ball).minimise(label_margins(y[some], classes))
        parts.append(solution.bound.amin(1))
        done += len(some)
        if log is not None:
            log(method.name, done, (time.monotonic() - began) / done * (len(x) - done))
    return torch.cat(parts)


def _share(where: Tensor) -> float:
    return where.double().mean().item()
