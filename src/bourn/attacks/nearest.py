"""Nearest: the smallest radius at which projected gradient descent finds a counterexample, by the search for a crossing.

The least margin that the descent meets is the function of the radius.  Where it is at most 0 its point is drawn back to
the image as far as it stays a counterexample, and is replayed: its distance is a radius that surely is large enough.  That
nothing was found at a smaller radius proves nothing, and success need not be monotone in the radius.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.attacks.replaying import replayed
from bourn.certificates.evidence import Counterexample
from bourn.crossing import Crossing
from bourn.deadline import NEVER, Deadline, OutOfTime
from bourn.formats.model import Model
from bourn.network.graph import Graph
from bourn.problem.problem import Question, label_margins, problems
from bourn.problem.questions import robustness
from bourn.rounding import float_above

_DRAWN = 32
"""Points of a segment that are evaluated at once, three times."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest counterexample found, replayed, in the ball of its own distance.

    ``radius``: its distance from the image in the norm, rounded up, infinite where none was found up to the cap (then
    ``counterexample`` is None).  ``missed``: the greatest radius below it at which nothing was found.  ``finished``: False
    where time ran out before the two were near each other.
    """

    counterexample: Counterexample | None
    radius: float
    missed: float
    evaluations: int
    finished: bool = True


@dataclass(frozen=True, eq=False)
class Around:
    """An image (n,) of a network with the class ``label``, and the balls around it: of one norm, within ``clip``."""

    model: Model
    image: Tensor
    label: int
    norm: float
    clip: tuple[float, float] | None

    def question(self, radius: float) -> Question:
        """Is there another class within ``radius``?"""
        classes = math.prod(self.model.graph.output_shape)
        return robustness(self.image, self.label, radius, classes, norm=self.norm, clip=self.clip)

    def replayed(self, x: Tensor, radius: float) -> Counterexample | None:
        """The point x as a counterexample within ``radius``, None where it is not one."""
        return replayed(self.model, self.question(radius).cases[0], x)

    def distance(self, x: np.ndarray) -> float:
        """The distance of the flat point x from the image, rounded up: the ball of this radius holds it."""
        moves = [abs(Fraction(a) - Fraction(b)) for a, b in zip(x.tolist(), self.image.tolist(), strict=True)]
        if self.norm != 2:
            return float_above(max(moves, default=Fraction(0)) if self.norm == math.inf else sum(moves, Fraction(0)))
        square = sum((move * move for move in moves), Fraction(0))
        radius = math.sqrt(float_above(square))
        while Fraction(radius) ** 2 < square:
            radius = math.nextafter(radius, math.inf)
        return radius


def nearest(
    around: Around, attack: ProjectedGradient, *, precision: float, guess: float, cap: float, deadline: Deadline = NEVER
) -> Nearest:
    """Search for the counterexample nearest to the image, to a relative precision, from the radius ``guess`` on.

    Raises :class:`bourn.errors.BournError` where an argument does not fit; out of time it returns what it has.
    """
    value, _ = least_margins(around.model.graph, around.image[None], torch.tensor([around.label]))
    crossing = Crossing(value, value.new_tensor([guess]), value.new_tensor([cap]), precision)
    found = around.replayed(around.image, cap) if float(value) <= 0 else None
    only, finished = torch.zeros(1, dtype=torch.int64), True
    try:
        while bool(crossing.open[0]):
            radius = crossing.propose()
            margin, better = _descend(around, attack, float(radius), found, deadline)
            at = None if better is None else radius.new_tensor([around.distance(better.x)])
            crossing.tell(only, radius, radius.new_tensor([margin]), at)
            found = better or found
    except OutOfTime:
        finished = False
    reach = math.inf if found is None else around.distance(found.x)
    own = None if found is None else around.replayed(torch.from_numpy(found.x), reach)
    return Nearest(own, reach, min(float(crossing.low), reach), int(crossing.evaluations), finished)


def _descend(
    around: Around, attack: ProjectedGradient, radius: float, known: Counterexample | None, deadline: Deadline
) -> tuple[float, Counterexample | None]:
    """The least margin met at a radius, above 0 exactly where no counterexample was found, and the counterexample."""
    (problem,) = problems(around.model.graph, around.question(radius))
    start = None if known is None else problem.box.project(torch.from_numpy(known.x).reshape(1, *problem.box.shape))
    _, best, points = attack.run(problem, lambda _: False, deadline, start)
    deadline.check()
    for number in torch.argsort(best).tolist():
        if best[number] > 0:
            break
        point = points[number].reshape(-1)
        for candidate in (_drawn_back(around, point), point):
            better = around.replayed(candidate, radius)
            if better is not None:
                return 0.0, better
    return max(float(best.min()), sys.float_info.min), None


def _drawn_back(around: Around, x: Tensor) -> Tensor:
    """A point between the image and the flat counterexample x, as near to the image as it still seems to be one."""
    label, low, high = torch.tensor([around.label]), 0.0, 1.0
    for _ in range(3):
        shares = torch.linspace(low, high, _DRAWN + 1, dtype=torch.float64)[1:]
        points = around.image + shares[:, None] * (x - around.image)
        wrong = torch.nonzero(least_margins(around.model.graph, points, label.expand(_DRAWN))[0] <= 0)
        first = int(wrong[0]) if len(wrong) else _DRAWN - 1
        low, high = low + first * (high - low) / _DRAWN, float(shares[first])
    return around.image + high * (x - around.image)


def least_margins(graph: Graph, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The least margin (N,) of the label over another class at points (N, ...), not rounded, and its gradient (N, n)."""
    rows = label_margins(labels, math.prod(graph.output_shape)).outputs
    with torch.enable_grad():
        x = points.detach().reshape(-1, *graph.input_shape).requires_grad_(True)
        least = (rows @ graph.evaluate(x).flatten(1)[..., None])[..., 0].amin(1)
        # A network whose output is a constant has no gradient.
        (gradient,) = torch.autograd.grad(least.sum(), x, allow_unused=True) if least.requires_grad else (None,)
    return least.detach(), torch.zeros_like(x).flatten(1) if gradient is None else gradient.flatten(1)
