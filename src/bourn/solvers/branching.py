"""Branching rules: where a subproblem is split.  One's own is one more function in the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sides:
    """What rules for the input see of B boxes with n sides, (B, n).

    ``slopes``: of the objectives' linear bounds.  ``losses``: what the bounds lose at all neurons, every neuron's loss divided
    among the sides by how much they move its pre-activation.
    """

    lower: Tensor
    upper: Tensor
    slopes: Tensor
    losses: Tensor


InputRule = Callable[[Sides], Tensor]
"""Scores (B, n); the side with the greatest is halved."""


def smear(sides: Sides) -> Tensor:
    """How much the linear bound changes along a side (Kearfott's smear, on the bound's slopes)."""
    return sides.slopes.abs() * (sides.upper - sides.lower)


def longest(sides: Sides) -> Tensor:
    """The longest side."""
    return sides.upper - sides.lower


def loss(sides: Sides) -> Tensor:
    """The side to which most of the relaxation's loss is due."""
    return sides.losses


BRANCHING_INPUTS: dict[str, InputRule] = {"loss": loss, "smear": smear, "longest": longest}
"""Rules for input splitting."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What rules for neurons see of B subproblems with N neurons each, (B, N).

    ``lower`` and ``upper`` are bounds of the pre-activations, ``row`` is the bound's row on the values behind them, ``z`` a point
    of the relaxation at which the bound is attained, ``open`` the neurons that can be split; ``slope``: the function's slope
    below 0 (above it is 1); ``alpha``: the slope of the lower line; ``outgoing``: norms of the weights by which later neurons and
    the objectives read a neuron; ``layer``: how many nonlinear nodes come after its own.
    """

    lower: Tensor
    upper: Tensor
    row: Tensor
    z: Tensor
    open: Tensor
    slope: Tensor
    alpha: Tensor
    outgoing: Tensor
    layer: Tensor


NeuronRule = Callable[[Scene], Tensor]
"""Scores (B, N), the greatest to be split."""


def widest(scene: Scene) -> Tensor:
    """The height of the hull: how far the function may be from its chord."""
    return _height(scene)


def early(scene: Scene) -> Tensor:
    """The height of the hull times the norm of the weights that read it; a layer earlier counts three times as much."""
    return _height(scene) * scene.outgoing * 3.0**scene.layer


def reading(scene: Scene) -> Tensor:
    """The height of the hull times the norm of the weights that read it."""
    return _height(scene) * scene.outgoing


def babsr(scene: Scene) -> Tensor:
    """What the bound loses at the neuron by its upper line, and by its lower line at the point where it is attained.

    After BaBSR (Bunel et al. 2020): the row's negative part times the upper line's offset, which a split takes away.
    """
    above = -scene.row.clamp(max=0) * _height(scene)
    value = torch.maximum(scene.z, scene.slope * scene.z)
    below = scene.row.clamp(min=0) * (value - scene.alpha * scene.z).clamp(min=0)
    return above + below + 1e-6 * scene.row.abs() * _height(scene)


def _height(scene: Scene) -> Tensor:
    """The upper line's value at 0."""
    width = (scene.upper - scene.lower).clamp(min=1e-30)
    return -scene.upper * scene.lower / width * (1 - scene.slope)


BRANCHING_NEURONS: dict[str, NeuronRule] = {"widest": widest, "reading": reading, "early": early, "babsr": babsr}
"""Rules for neuron splitting; with look-ahead their first few are tried (filtered smart branching)."""
