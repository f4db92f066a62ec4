"""Projected gradient descent on many images at once, to train against and to measure by."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def margin(scores: Tensor, y: Tensor) -> Tensor:
    """The true class's score minus the greatest other one, (B,), for scores (B, classes)."""
    own = scores.gather(1, y[:, None])[:, 0]
    others = scores.scatter(1, y[:, None], -torch.inf).amax(1)
    return own - others


def attack(net: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int, noise: torch.Generator) -> Tensor:
    """Of the points that ``steps`` of descent met in the balls around images ``x`` in [0, 1] those of least margin, like ``x``.

    Madry et al. 2018, from a random point, by the gradient's signs, with steps that get smaller; the balls are cut at [0, 1].
    """
    lower, upper = (x - radius).clamp(min=0), (x + radius).clamp(max=1)
    point = lower + (upper - lower) * torch.rand(x.shape, generator=noise)
    best, found = point, torch.full((len(x),), torch.inf)
    for step in range(steps + 1):
        point.requires_grad_(True)
        margins = margin(net(point), y)
        (gradient,) = torch.autograd.grad(margins.sum(), point)
        point, margins = point.detach(), margins.detach()
        better = margins < found
        found = torch.where(better, margins, found)
        best = torch.where(better.reshape(-1, *(1,) * (x.dim() - 1)), point, best)
        size = radius * max(2.5 / steps, 0.5 * (1 - step / steps))
        point = (point - size * gradient.sign()).clamp(lower, upper)
    return best
