"""Questions from the command line: an image and a radius."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bourn.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from bourn.formats.model import Model
    from bourn.problem.problem import Question

F = TypeVar("F", bound=Callable[..., Any])


def image_options(function: F) -> F:
    """The options that ask for the robustness of an image."""
    options = (
        click.option("--image", metavar="FILE", help="Ask for an image's robustness instead: a .npy or .npz file."),
        click.option("--index", default=0, show_default=True, help="Which image, where the file holds several."),
        click.option("--radius", type=float, help="The l-infinity radius around the image."),
        click.option("--label", type=int, help="The class to keep; by default the one the network predicts."),
        click.option(
            "--clip", type=(float, float), default=(0.0, 1.0), show_default=True, help="Range that every pixel stays in; nan nan for none."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def image_question(
    model: Model, image: str | None, index: int, radius: float | None, label: int | None, clip: tuple[float, float] | None
) -> Question:
    """The robustness of one image of a file; raises :class:`UsageError` where options are missing or do not fit."""
    import math

    import numpy as np

    from bourn.problem.questions import robustness

    if image is None or radius is None:
        raise UsageError("--image needs --radius, and --radius needs --image")
    x = read_image(image, index, math.prod(model.graph.input_shape))
    classes = math.prod(model.graph.output_shape)
    if label is None:
        label = int(np.argmax(model.run(x)))
        click.echo(f"label: {label}, the network's prediction", err=True)
    ends = None if clip is None or any(math.isnan(c) for c in clip) else clip
    return robustness(x, label, radius, classes, clip=ends)


def read_image(file: str, index: int, size: int) -> np.ndarray:
    """Image number ``index`` of a NumPy file as ``size`` flat numbers: of a .npz the array ``images``, ``image``, ``x`` or the first."""
    import numpy as np

    try:
        data = np.load(Path(file), allow_pickle=False)
        if isinstance(data, np.lib.npyio.NpzFile):
            name = next((n for n in ("images", "image", "x") if n in data.files), data.files[0])
            data = data[name]
    except (OSError, ValueError, EOFError, IndexError) as error:
        raise UsageError(f"{file}: cannot be read as a NumPy file of images: {' '.join(str(error).split())}") from None
    if data.dtype.kind not in "fiub":
        raise UsageError(f"{file}: holds {data.dtype}, not numbers")
    if data.size == size and index == 0:
        flat: np.ndarray = data.reshape(-1).astype(np.float64)
        return flat
    if data.ndim == 0 or data[0].size != size:
        raise UsageError(f"{file}: images of shape {data.shape[1:]} do not fit the network's {size} inputs")
    if not 0 <= index < len(data):
        raise UsageError(f"{file}: there is no image {index}; the file holds {len(data)}")
    chosen: np.ndarray = data[index].reshape(-1).astype(np.float64)
    return chosen
