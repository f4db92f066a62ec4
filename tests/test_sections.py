"""What a nonlinearity says of its hull at a point that is known up to an interval."""

from __future__ import annotations

import math

import pytest
import torch

from bourn.interval import Interval
from bourn.relaxations.base import ElementWise, Nonlinearity
from bourn.relaxations.step import Step
from networks import random
from test_nonlinearities import EXAMPLES


@pytest.mark.parametrize("operation", EXAMPLES, ids=str)
def test_sections_lie_in_the_hull_and_fill_it(operation: Nonlinearity) -> None:
    count = 200
    inputs = 1 if isinstance(operation, ElementWise) else 2
    domain = getattr(operation, "domain", (-math.inf, math.inf))
    shift = 5.0 if domain[0] >= 0 or "Reciprocal" in str(operation) else 0.0
    generator = random(3)
    z, at = [], []
    for _ in range(inputs):
        ends = (torch.randn(2, 1, count, dtype=torch.float64, generator=generator) + shift).sort(0).values
        share = torch.rand(1, count, dtype=torch.float64, generator=generator)
        point = (ends[0] + share * (ends[1] - ends[0])).clamp(ends[0], ends[1])
        z.append(Interval(ends[0], ends[1]))
        at.append(Interval(point, point))
    least, most = operation.section(tuple(z), tuple(at))
    heights = []
    for side in operation.sides(*z):
        slopes, height = side.line(side.at(tuple(a.lower for a in at)))
        for slope, a in zip(slopes, at, strict=True):
            height = height + slope * a.lower
        heights.append(height)
    low, high = heights
    inside = (least >= low - 1e-9 * (1 + low.abs())) & (most <= high + 1e-9 * (1 + high.abs()))
    assert bool(inside.all())
    full = (least <= low + 1e-7 * (1 + low.abs())) & (most >= high - 1e-7 * (1 + high.abs()))
    assert bool(full.all()) or isinstance(operation, Step)
    # Wider knowledge of the point allows less, and beyond the interval there is the function alone, or less.
    blurred = tuple(Interval(a.lower - 1e-3, a.upper + 1e-3) for a in at)
    fewer = operation.section(tuple(z), blurred)
    assert bool(((fewer[0] >= least - 1e-12) & (fewer[1] <= most + 1e-12)).all())


def test_a_maximum_beyond_its_box_is_less() -> None:
    """A point below the box's lower end belongs to a wider box: what is allowed there is in that one's hull."""
    operation = next(e for e in EXAMPLES if type(e).__name__ == "Maximum")
    numbers = torch.rand(3, 1, 500, dtype=torch.float64, generator=random(4))
    z = tuple(Interval(-1 - n, 1 + n) for n in numbers[:2])
    below = -1 - numbers[0] - 0.3 * numbers[2]
    other = 2 * numbers[2] - 1
    least, most = operation.section(z, (Interval(below, below), Interval(other, other)))
    wider = (Interval(below, z[0].upper), z[1])
    _, above = operation.sides(*wider)
    slopes, height = above.line(above.at((below, other)))
    height = height + slopes[0] * below + slopes[1] * other
    assert bool((most <= height).all())
    assert bool((least <= most).any())
