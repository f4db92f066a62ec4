"""The four losses.  Two are cross-entropies of scores, at an image or at the worst point that an adversary met; two are
robust cross-entropies: of lower bounds of the margins, by which the loss is an upper bound of the loss at every point of
the ball (Wong and Kolter 2018, theorem 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bourn.training.attack import attack, margin
from bourn.training.bounds import fast_lin_bounds, interval_bounds
from bourn.training.networks import Trained
from bourn.training.settings import Training


@dataclass(frozen=True, eq=False)
class Step:
    """A batch of images ``x`` (B, channels, height, width) of classes ``y`` (B,), and what a loss may need beside them.

    ``strength``: which share of the radius is reached (:meth:`Training.strength`); ``noise``: the adversary's randomness.
    """

    network: Trained
    x: Tensor
    y: Tensor
    settings: Training
    strength: float
    noise: torch.Generator

    @property
    def radius(self) -> float:
        return self.settings.radius * self.strength

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The balls' lower and upper ends, as the graph reads them: (B, *input_shape)."""
        return (self.x - self.radius).clamp(min=0)[:, None], (self.x + self.radius).clamp(max=1)[:, None]


@dataclass(frozen=True, eq=False)
class Outcome:
    """``loss``: a scalar; ``right`` (B,): which images are classified right; ``held`` (B,): which the loss's own
    measure finds so on the ball, by the adversary or by the bound, None where it has none."""

    loss: Tensor
    right: Tensor
    held: Tensor | None


def normal(step: Step) -> Outcome:
    """Cross-entropy at the images."""
    scores = step.network.module(step.x)
    return Outcome(F.cross_entropy(scores, step.y), margin(scores, step.y) > 0, None)


def adversarial(step: Step) -> Outcome:
    """Cross-entropy at the points that projected gradient descent found (Madry et al. 2018)."""
    net = step.network.module
    hard = attack(net, step.x, step.y, step.radius, step.settings.steps, step.noise)
    scores = net(hard)
    with torch.no_grad():
        right = margin(net(step.x), step.y) > 0
    return Outcome(F.cross_entropy(scores, step.y), right, right & (margin(scores, step.y) > 0))


def dual_bound(step: Step) -> Outcome:
    """Robust cross-entropy of Fast-Lin's margins: Wong and Kolter 2018's training by the dual bound."""
    graph = step.network.graph
    classes = torch.eye(graph.nodes[graph.output].size, dtype=step.x.dtype)
    rows = (classes[step.y][:, None] - classes).reshape(len(step.y), -1, *graph.output_shape)
    margins, _ = fast_lin_bounds(graph, *step.ends, rows)
    with torch.no_grad():
        right = margin(step.network.module(step.x), step.y) > 0
    return Outcome(F.cross_entropy(-margins, step.y), right, right & _positive(margins, step.y))


def interval(step: Step) -> Outcome:
    """Cross-entropy of the scores that are worst within interval bounds, mixed with the plain one (Gowal et al. 2018)."""
    graph = step.network.graph
    lower, upper = interval_bounds(graph, *step.ends)[graph.output]
    lower, upper = lower.flatten(1), upper.flatten(1)
    margins = lower.gather(1, step.y[:, None]) - upper
    margins = margins.scatter(1, step.y[:, None], 0.0)
    scores = step.network.module(step.x)
    right = margin(scores, step.y) > 0
    kappa = 1 - (1 - step.settings.kappa) * step.strength
    loss = kappa * F.cross_entropy(scores, step.y) + (1 - kappa) * F.cross_entropy(-margins, step.y)
    return Outcome(loss, right, right & _positive(margins, step.y))


def _positive(margins: Tensor, y: Tensor) -> Tensor:
    """Whether all margins (B, classes) but the class's own, which is 0, are above 0."""
    return (margins.scatter(1, y[:, None], torch.inf) > 0).all(1)


LOSSES: dict[str, Callable[[Step], Outcome]] = {
    "normal": normal,
    "adversarial": adversarial,
    "dual-bound": dual_bound,
    "interval": interval,
}
"""Losses by mode."""
