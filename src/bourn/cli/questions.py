"""Questions from the command line: a ball around an image."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bourn.errors import EmptyInputSetError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from bourn.formats.model import Model
    from bourn.problem.input_set import InputSet
    from bourn.problem.problem import Question

T = TypeVar("T")


@dataclass(frozen=True)
class Ball:
    """All inputs within ``radius`` of image number ``index`` of ``file``, in the norm ``norm``, that stay in ``clip``."""

    file: str
    index: int
    radius: float
    clip: tuple[float, float] | None
    norm: float = math.inf

    @property
    def extent(self) -> str:
        """The radius, with its norm where that is not l-infinity, for people to read."""
        return f"{self.radius:g}" + ("" if self.norm == math.inf else f" (l{self.norm:g})")

    def input_set(self, model: Model) -> InputSet:
        """The ball as an input set; raises :class:`UsageError` where the image does not fit the network."""
        from bourn.problem.balls import lp_ball

        return self._checked(lambda: lp_ball(self.image(model)[None], self.radius, norm=self.norm, clip=self.clip))

    def label(self, model: Model) -> int:
        """The class that the network predicts for the image."""
        import numpy as np

        return int(np.argmax(model.run(self.image(model))))

    def robustness(self, model: Model, label: int | None) -> Question:
        """Does the network keep the class ``label`` (None: the one that it predicts) on the ball?"""
        from bourn.problem.questions import robustness

        x = self.image(model)
        chosen = self.label(model) if label is None else label
        classes = math.prod(model.graph.output_shape)
        question = self._checked(lambda: robustness(x, chosen, self.radius, classes, norm=self.norm, clip=self.clip))
        if label is None:
            click.echo(f"label: {chosen}, the network's prediction", err=True)
        return question

    def image(self, model: Model) -> np.ndarray:
        """The image as flat numbers."""
        return read_image(self.file, self.index, math.prod(model.graph.input_shape))

    def _checked(self, made: Callable[[], T]) -> T:
        try:
            return made()
        except EmptyInputSetError:
            raise UsageError(
                f"{self.file}: the ball around image {self.index} misses the clip range {self.clip}; "
                "scale the image as the network wants it, set --clip, or give --no-clip"
            ) from None


class _Radii(click.ParamType[tuple[float, ...]]):
    """One radius, or LOW:HIGH:COUNT for as many from LOW to HIGH, evenly spaced."""

    name = "radius"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(":")
        try:
            if len(parts) == 1:
                return (float(parts[0]),)
            low, high, count = float(parts[0]), float(parts[1]), int(parts[2]) if len(parts) > 2 else 9
        except ValueError:
            self.fail(f"{value!r} is neither a radius nor LOW:HIGH:COUNT", param, ctx)
        if len(parts) > 3 or not 0 <= low < high < math.inf or not 2 <= count <= 1000:
            self.fail(f"{value!r}: LOW:HIGH:COUNT wants 0 <= LOW < HIGH and a COUNT from 2 to 1000", param, ctx)
        return tuple(low + (high - low) * i / (count - 1) for i in range(count))


def ball_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options for a ball around an image, handed on as ``ball``, a :class:`Ball` or None."""
    text = "The ball's radius."
    return _options(function, lambda balls: {"ball": balls[0] if balls else None}, click.FLOAT, text)


def balls_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options for balls of one or several radii around an image, handed on as ``balls``, a tuple of :class:`Ball`."""
    text = "The ball's radius, or a range of radii, LOW:HIGH:COUNT."
    return _options(function, lambda balls: {"balls": balls}, _Radii(), text)


def _options(
    function: Callable[..., Any], given: Callable[[tuple[Ball, ...]], dict[str, Any]], radii: click.ParamType[Any], text: str
) -> Callable[..., Any]:
    @functools.wraps(function)
    def collected(
        image: str | None, index: int, radius: Any, norm: str, clip: tuple[float, float], no_clip: bool, **others: Any
    ) -> Any:
        several = radius if isinstance(radius, tuple) else (radius,)
        balls = [_ball(image, index, r, None if no_clip else clip, float(norm)) for r in several]
        return function(**given(tuple(b for b in balls if b is not None)), **others)

    options = (
        click.option("--image", metavar="FILE", help="Ask about a ball around an image instead: a .npy or .npz file."),
        click.option("--index", default=0, show_default=True, help="Which image, where the file holds several."),
        click.option("--radius", type=radii, metavar="RADIUS", help=text),
        *_BALL_OPTIONS,
    )
    for option in reversed(options):
        collected = option(collected)
    return collected


_BALL_OPTIONS = (
    click.option("--norm", type=click.Choice(["inf", "1", "2"]), default="inf", show_default=True, help="The radius's norm."),
    click.option(
        "--clip",
        type=(float, float),
        default=(0.0, 1.0),
        metavar="LOW HIGH",
        help="Range that every pixel stays in.  [default: 0 1]",
    ),
    click.option("--no-clip", is_flag=True, help="Let pixels leave every range."),
)


@dataclass(frozen=True)
class Images:
    """Some images of ``file`` (``indices``; None: all), the norm of balls around them and the range that these stay in."""

    file: str
    indices: tuple[int, ...] | None
    clip: tuple[float, float] | None
    norm: float

    def read(self, model: Model) -> tuple[list[int], np.ndarray]:
        """The images' numbers and the images (B, n) as float64; raises :class:`UsageError` where one cannot be had."""
        import numpy as np

        size = math.prod(model.graph.input_shape)
        numbers = list(range(len(_images(self.file, size)))) if self.indices is None else list(self.indices)
        return numbers, np.stack([read_image(self.file, i, size) for i in numbers]) if numbers else np.zeros((0, size))


class _Indices(click.ParamType[tuple[int, ...]]):
    """Numbers and ranges of numbers, both ends included: 3 or 0-9 or 0,4,7-9."""

    name = "indices"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        found: list[int] = []
        for part in str(value).split(","):
            ends = [end.strip() for end in part.split("-")]
            if len(ends) > 2 or not all(end.isdecimal() for end in ends) or int(ends[0]) > int(ends[-1]):
                self.fail(f"{value!r} is no list of images, such as 3 or 0-9 or 0,4,7-9", param, ctx)
            if int(ends[-1]) - int(ends[0]) > 1_000_000:
                self.fail(f"{part!r} is more than a million images", param, ctx)
            found.extend(range(int(ends[0]), int(ends[-1]) + 1))
        return tuple(dict.fromkeys(found))


def images_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options for images and the balls around them, handed on as ``images``, an :class:`Images`."""

    @functools.wraps(function)
    def collected(
        image: str, index: tuple[int, ...] | None, norm: str, clip: tuple[float, float], no_clip: bool, **others: Any
    ) -> Any:
        if not no_clip:
            _check_clip(clip)
        return function(images=Images(image, index, None if no_clip else clip, float(norm)), **others)

    options = (
        click.option("--image", metavar="FILE", required=True, help="The images: a .npy or .npz file."),
        click.option("--index", type=_Indices(), metavar="LIST", help="Which of them: 3 or 0-9 or 0,4,7-9; by default all."),
        *_BALL_OPTIONS,
    )
    for option in reversed(options):
        collected = option(collected)
    return collected


def _ball(
    image: str | None, index: int, radius: float | None, clip: tuple[float, float] | None, norm: float
) -> Ball | None:
    if image is None and radius is None:
        return None
    if image is None or radius is None:
        raise UsageError("--image needs --radius, and --radius needs --image")
    if clip is not None:
        _check_clip(clip)
    return Ball(image, index, radius, clip, norm)


def _check_clip(clip: tuple[float, float]) -> None:
    if not clip[0] <= clip[1]:
        raise UsageError(f"--clip {clip[0]:g} {clip[1]:g} is no range: the first number must be at most the second")


def read_image(file: str, index: int, size: int) -> np.ndarray:
    """Image number ``index`` of a NumPy file as ``size`` flat numbers.

    Of a .npz it is read from the array ``images``, ``image``, ``x`` or the first.

    Raises :class:`UsageError` where there is no such image, or a number in it is not finite.
    """
    import numpy as np

    data = _images(file, size)
    if not 0 <= index < len(data):
        raise UsageError(f"{file}: there is no image {index}; the file holds {len(data)}, counted from 0")
    chosen: np.ndarray = data[index].reshape(-1).astype(np.float64)
    if not np.isfinite(chosen).all():
        raise UsageError(f"{file}: image {index} holds NaN or infinity")
    return chosen


def _images(file: str, size: int) -> np.ndarray:
    """All images of a file, of ``size`` numbers each, whatever these are."""
    data = _array(file)
    if data.dtype.kind not in "fiub":
        raise UsageError(f"{file}: holds {data.dtype}, not numbers")
    if data.size == size:
        data = data.reshape(1, size)
    if data.ndim == 0 or math.prod(data.shape[1:]) != size:
        raise UsageError(f"{file}: an array of shape {data.shape} does not hold images of the network's {size} inputs")
    return data


@functools.lru_cache(maxsize=1)
def _array(file: str) -> np.ndarray:
    import zipfile
    import zlib

    import numpy as np

    try:
        # Opened here, for np.load leaves a broken archive open.
        with Path(file).open("rb") as stream:
            data = np.load(stream, allow_pickle=False)
            if isinstance(data, np.lib.npyio.NpzFile):
                with data:
                    names = [n for n in ("images", "image", "x") if n in data.files] or data.files
                    data = data[names[0]]
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, IndexError, zipfile.BadZipFile, zlib.error):
        data = None
    if not isinstance(data, np.ndarray):
        raise UsageError(f"{file}: is no .npy or .npz file of numbers")
    return data
