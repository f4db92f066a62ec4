"""Projected gradient descent on the margins of many images at once: the studies' attack.

The margins are computed in float64 and not replayed elsewhere; a point lies in its ball as written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bourn.network.graph import Graph
from bourn.problem.input_set import Box
from bourn.problem.problem import Objectives
from bourn.studies.description import AttackEntry


def descend(
    graph: Graph, balls: Box, images: Tensor, radius: float, objectives: Objectives, attack: AttackEntry
) -> tuple[Tensor, Tensor]:
    """Drive the least of each image's objectives down: the least that was met (N,), and where (N, *shape).

    ``images`` (N, *shape) are the balls' centers, where the first descent starts.  Every value is one that the network takes,
    up to float64's rounding, so no bound can be above it.
    """
    low, high = balls.inner if balls.inner is not None else (balls.lower, balls.upper)
    # Where no float64 lies between the ends as written, the box has one number.
    low, high = (t.repeat(attack.restarts, *(1,) * (t.dim() - 1)) for t in (low, torch.maximum(low, high)))
    # The same for every image, so that an image's result does not depend on which others are in the batch.
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(attack.restarts, *graph.input_shape, generator=generator, dtype=torch.float64).to(images.device)
    point = low + spread.repeat_interleave(len(images), 0) * (high - low)
    point[: len(images)] = images
    point = torch.minimum(torch.maximum(point, low), high)
    own = Objectives(_repeated(objectives.outputs, attack.restarts), None, _repeated(objectives.constant, attack.restarts))
    least, where = torch.full((len(point),), torch.inf, dtype=torch.float64, device=images.device), point
    for step in range(attack.steps + 1):
        value, gradient = _least(graph, point, own, attack.loss)
        better = value < least  # which NaN is not
        least = torch.where(better, value, least)
        where = torch.where(better.reshape(-1, *(1,) * (point.dim() - 1)), point, where)
        size = attack.step or radius * 0.25 * 0.04 ** (step / max(1, attack.steps - 1))
        point = torch.minimum(torch.maximum(point - size * gradient.sign(), low), high)
    best, restart = least.reshape(attack.restarts, len(images)).min(0)
    return best, where.reshape(attack.restarts, *images.shape)[restart, torch.arange(len(images), device=images.device)]


def _repeated(values: Tensor, times: int) -> Tensor:
    return values if len(values) == 1 else values.repeat(times, *(1,) * (values.dim() - 1))


def _least(graph: Graph, point: Tensor, objectives: Objectives, loss: str) -> tuple[Tensor, Tensor]:
    """The least objective (N,) at points (N, *shape), and the gradient of it or of minus the cross-entropy of all."""
    with torch.enable_grad():
        x = point.detach().requires_grad_(True)
        y = graph.evaluate(x).flatten(1)
        values = (objectives.outputs @ y[..., None])[..., 0] + objectives.constant
        least = values.amin(1)
        # Of margins s_label - s_j it is log(sum of exp(s_j) / exp(s_label)).
        followed = least if loss == "margin" else -torch.cat([-values, torch.zeros_like(values[:, :1])], 1).logsumexp(1)
        # A network whose output is a constant has no gradient to follow.
        (gradient,) = torch.autograd.grad(followed.sum(), x, allow_unused=True) if followed.requires_grad else (None,)
    return least.detach(), torch.zeros_like(x) if gradient is None else gradient
