"""Adam's step (Kingma and Ba 2015), every row's on its own: many maximisations in one tensor."""

from __future__ import annotations

import torch
from torch import Tensor

SQUARES = 0.99
"""The share that the average of squares keeps at each step, where nothing else is said."""
_LEAST = 1e-30
"""Keeps 0 / 0 away in float32 as in float64."""


def direction(
    first: Tensor, second: Tensor, gradient: Tensor, step: int, memory: float, rows: int, squares: float = SQUARES
) -> Tensor:
    """Which way to go, about 1 long in every entry, after ``step`` steps.

    ``first`` and ``second``, the averages of gradients and of their squares, are brought up to date; ``memory`` is the share that
    the former keeps at each step, ``squares`` that of the latter.  The first ``rows`` axes number the rows.  Entries whose
    gradient is nothing but rounding beside their row's stay where they are.
    """
    first.lerp_(gradient, 1 - memory)
    second.mul_(squares).addcmul_(gradient, gradient, value=1 - squares)
    root = second.sqrt()
    most = root.flatten(rows).amax(rows).reshape(*root.shape[:rows], *(1,) * (root.dim() - rows)) if root.numel() else root
    noise = max(1e-8, 100 * torch.finfo(root.dtype).eps)
    return (first / (root + (noise * most + _LEAST))).mul_((1 - squares ** (step + 1)) ** 0.5 / (1 - memory ** (step + 1)))
