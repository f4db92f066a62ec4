"""Which image a question is about, where it asks whether a class is kept near one: read off its box and its rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bourn.attacks.nearest import Around
from bourn.formats.model import Model
from bourn.problem.input_set import Box
from bourn.problem.problem import Question
from bourn.problem.specification import Specification, class_margins

_SAME = 1e-6
"""Sides of a box whose widths differ by at most this share are of one width: decimals are rounded."""


def around(model: Model, question: Question) -> tuple[Around, float] | None:
    """The image, its class and the range of pixels, and the radius; None where the question is about no ball in l-infinity.

    A side that is narrower than the widest was cut by the range of pixels, so that it has that range's end.
    """
    if len(question.cases) != 1 or math.prod(model.graph.output_shape) != question.outputs:
        return None
    (case,) = question.cases
    label = label_of(case.specification, question.outputs)
    found = _ball(case.box) if isinstance(case.box, Box) else None
    if label is None or found is None:
        return None
    image, radius, clip = found
    return Around(model, image, label, math.inf, clip), radius


def label_of(specification: Specification, outputs: int) -> int | None:
    """The class whose loss is asked for, to any other; None where the specification says something else."""
    asked = set(specification.conjunctions)
    for label in range(outputs if len(asked) == outputs - 1 else 0):
        if asked == set(class_margins(label, outputs).conjunctions):
            return label
    return None


def _ball(box: Box) -> tuple[Tensor, float, tuple[float, float] | None] | None:
    """Center (n,), radius and range of a box; None where its sides are of too many kinds."""
    lower, upper = (end[0].flatten().to("cpu") for end in (box.lower, box.upper))
    width = upper - lower
    radius = float(width.max()) / 2
    if not (0 < radius < math.inf):
        return None
    slack = _SAME * max(radius, float(upper.abs().max()))
    whole = width >= 2 * radius - slack
    low, high = float(lower.min()), float(upper.max())
    if not bool((whole | (lower == low) | (upper == high)).all()):
        return None
    center = torch.where(whole, lower / 2 + upper / 2, torch.where(lower == low, upper - radius, lower + radius))
    return center, radius, None if bool(whole.all()) else (low, high)
