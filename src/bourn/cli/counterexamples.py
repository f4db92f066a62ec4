"""Counterexamples beyond the first one, the nearest one, and all of them as files: numbers, witnesses and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bourn.cli.main import plural
from bourn.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from bourn.attacks.nearest import Around, Nearest
    from bourn.certificates.evidence import Counterexample
    from bourn.cli.questions import Ball
    from bourn.deadline import Deadline
    from bourn.verification import Result

_SHOWN = 20
"""Of so many counterexamples there is a line each."""
_PRECISION = 0.01
"""How near the nearest counterexample's radius and one at which none was found come to each other, relatively."""


@dataclass(frozen=True)
class Wanted:
    """How many counterexamples, and the folder that they are saved in."""

    count: int | None
    folder: Path | None

    def __bool__(self) -> bool:
        return self.count is not None or self.folder is not None

    def check(self) -> None:
        """Make the folder now, not after an hour; raises :class:`UsageError` where it cannot be made."""
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"--save {self.folder}: cannot be made: {error.strerror}") from None


@dataclass(frozen=True, eq=False)
class Gathered:
    """Counterexamples of a question, and where it is about an image, which one and the nearest of them."""

    found: Result
    several: tuple[Counterexample, ...]
    around: Around | None
    radius: float
    nearest: Nearest | None


def gather(found: Result, wanted: Wanted, ball: Ball | None, label: int | None, deadline: Deadline) -> Gathered | None:
    """Search for what is wanted; None where there is no counterexample."""
    from bourn.attacks.nearest import nearest
    from bourn.attacks.projected_gradient import ProjectedGradient
    from bourn.attacks.several import SECONDS, counterexamples
    from bourn.certificates.evidence import Falsified

    if not wanted or not isinstance(found.verdict, Falsified):
        return None
    first = (found.verdict.counterexample,)
    several = counterexamples(found.model, found.question, wanted.count or 1, first=first, timeout=deadline)
    about = _about(found, ball, label)
    if about is None:
        return Gathered(found, several, None, math.inf, None)
    around, radius = about
    limit = deadline.within(SECONDS) if math.isinf(deadline.left) else deadline
    attack = ProjectedGradient(steps=40, restarts=5)
    near = nearest(around, attack, precision=_PRECISION, guess=radius, cap=radius, deadline=limit)
    return Gathered(found, several, around, radius, near if _of_the_question(found, near) else None)


def _about(found: Result, ball: Ball | None, label: int | None) -> tuple[Around, float] | None:
    """The image that is asked about, from the command line or from the question, and the radius."""
    import torch

    from bourn.attacks.images import around
    from bourn.attacks.nearest import Around

    if ball is None:
        return around(found.model, found.question)
    image = torch.from_numpy(ball.image(found.model))
    own = Around(found.model, image, ball.label(found.model) if label is None else label, ball.norm, ball.clip)
    return own, ball.radius


def _of_the_question(found: Result, near: Nearest) -> bool:
    """Whether the nearest one lies in the question's set too, whose decimals are not those of the ball read off it."""
    from bourn.certificates.evidence import is_counterexample

    own = near.counterexample
    return own is not None and is_counterexample(found.question.cases[0], own.x, own.y)


def tell(gathered: Gathered, asked: int | None) -> None:
    """Sum up on stderr what was found."""
    several = gathered.several
    more = "" if asked is None or len(several) >= asked else f", no more were met of {asked} asked for"
    click.echo(f"{plural(len(several), 'counterexample', 'counterexamples')}, each replayed{more}", err=True)
    for number, own in enumerate(several[:_SHOWN], start=1):
        click.echo(f"  {number}: {', '.join(_facts(gathered, own, several[: number - 1]))}", err=True)
    if len(several) > _SHOWN:
        click.echo(f"  ... and {len(several) - _SHOWN} more", err=True)
    near = gathered.nearest
    if near is not None:
        ended = "" if near.finished else ", where the time ended"
        click.echo(f"  nearest: at {near.radius:.6g} of {gathered.radius:.6g}, none met within {near.missed:.6g}{ended}", err=True)


def _facts(gathered: Gathered, own: Counterexample, before: tuple[Counterexample, ...]) -> Iterator[str]:
    from bourn.attacks.several import apart, kind_of

    text = str(own.case.specification.conjunctions[kind_of(own, 0)[1]])
    yield text if len(text) <= 60 else text[:57] + "..."
    if gathered.around is not None:
        yield f"class {int(own.y.argmax())} instead of {gathered.around.label}"
        yield f"at {gathered.around.distance(own.x):.6g} from the image"
    if before:
        distance = min(apart(own, other) for other in before)
        yield "in another input set" if math.isinf(distance) else f"{distance:.0%} of the sides from those before it"


def save(gathered: Gathered, folder: Path) -> None:
    """Write them to the folder: all as one .npz, and for each the witness and, of images, a picture."""
    import numpy as np

    from bourn.cli.counterexample_pictures import draw, image_shape
    from bourn.formats.witness import result_file

    found, question = gathered.found, gathered.found.question
    named = {f"counterexample_{n}": own for n, own in enumerate(gathered.several, start=1)}
    if gathered.nearest is not None and gathered.nearest.counterexample is not None:
        named["nearest"] = gathered.nearest.counterexample
    shape = None if sum(v.kind == "input" for v in question.variables) > 1 else image_shape(found.model.graph.input_shape)
    try:
        np.savez_compressed(folder / "counterexamples.npz", **_arrays(gathered, named))  # type: ignore[arg-type]
        for name, own in named.items():
            (folder / f"{name}.txt").write_text(result_file("sat", question, own.x, own.y))
            if shape is not None:
                draw(folder / f"{name}.png", shape, own, gathered.around)
    except OSError as error:
        raise UsageError(f"--save {folder}: cannot be written: {error.strerror}") from None
    pictures = " and pictures" if shape is not None else ""
    names = plural(len(named), "counterexample", "counterexamples") + (", the nearest among them" if "nearest" in named else "")
    click.echo(f"written to {folder}: counterexamples.npz, witnesses{pictures} of {names}", err=True)


def _arrays(gathered: Gathered, named: dict[str, Counterexample]) -> dict[str, np.ndarray]:
    """``name``, ``x`` and ``y`` of all, in the network's shapes, and ``original`` where there is one."""
    import numpy as np

    graph = gathered.found.model.graph
    arrays = {
        "name": np.array(list(named)),
        "x": np.stack([own.x.reshape(graph.input_shape) for own in named.values()]),
        "y": np.stack([own.y.reshape(graph.output_shape) for own in named.values()]),
    }
    if gathered.around is not None:
        arrays["original"] = gathered.around.image.numpy().reshape(graph.input_shape)
    return arrays
