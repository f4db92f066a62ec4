"""Questions made in Python: a region and a specification, or the robustness of a class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from bourn.errors import SpecificationError, UsageError
from bourn.problem.balls import lp_ball
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Case, Question, Variable
from bourn.problem.specification import Specification, class_margins


def region(box: InputSet, counterexamples: Specification, outputs: int) -> Question:
    """Is there a counterexample in the input set ``box`` (batch 1)?  ``outputs``: the network's number of outputs.

    Raises :class:`SpecificationError` where the specification names an input or output that is not there.
    """
    if box.batch != 1:
        raise UsageError(f"a question has one input set, not a batch of {box.batch}; ask one question for each")
    size = box.lower[0].numel()
    counterexamples.check_indices(size, outputs)
    variables = (Variable("X", "input", "real", (size,)), Variable("Y", "output", "real", (outputs,)))
    return Question((Case(box.reshape((size,)), counterexamples),), size, outputs, variables)


def robustness(
    image: object,
    label: int,
    radius: float,
    classes: int,
    *,
    norm: float = math.inf,
    clip: Sequence[float] | None = (0.0, 1.0),
) -> Question:
    """Does every image within ``radius`` of ``image`` in this ``norm`` (1, 2 or infinity) keep the class ``label``?

    The ball is intersected with ``clip`` in every entry, or not at all (None).  Counterexamples are images at
    which another class scores at least as much.  Raises :class:`bourn.errors.BournError` for a radius below 0,
    another norm, a label that is no class, or an empty intersection.
    """
    try:
        center = torch.as_tensor(image, dtype=torch.float64).reshape(1, -1)
    except (TypeError, ValueError) as error:
        raise SpecificationError(f"the image is no array of numbers: {error}") from None
    return region(lp_ball(center, radius, norm=norm, clip=clip), class_margins(label, classes), classes)
