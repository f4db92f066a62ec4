"""A counterexample as a picture: the image that was asked about, the counterexample, and their difference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from bourn.cli.pictures import INK, save

if TYPE_CHECKING:
    import numpy as np

    from bourn.attacks.nearest import Around
    from bourn.certificates.evidence import Counterexample

_LEAST = 8
"""Flat inputs are taken for an image where they make a square of at least so many pixels a side."""


def image_shape(shape: tuple[int, ...]) -> tuple[tuple[int, ...], int] | None:
    """The shape of an input as an image, and which axis its colours are (-1: none); None where it is no image.

    Axes of size 1 do not count.  What is left is (H, W), or with colours (3, H, W) or (H, W, 3), or flat and a square.
    """
    sizes = tuple(size for size in shape if size > 1)
    if len(sizes) == 2:
        return sizes, -1
    if len(sizes) == 3 and 3 in (sizes[0], sizes[2]):
        return sizes, 0 if sizes[0] == 3 else 2
    for planes in (1, 3) if len(sizes) == 1 else ():
        side = math.isqrt(sizes[0] // planes)
        if side >= _LEAST and planes * side * side == sizes[0]:
            return ((side, side), -1) if planes == 1 else ((3, side, side), 0)
    return None


def draw(path: Path, shape: tuple[tuple[int, ...], int], found: Counterexample, around: Around | None) -> None:
    """Three panels: the image, or the middle of the set where there is none; the counterexample; the difference."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    box = found.case.box
    before = (box.middle[0] if around is None else around.image).reshape(-1).cpu().numpy()
    low, high = float(box.finite()[0].min()), float(box.finite()[1].max())
    change = found.x - before
    reach = max(float(np.abs(change).max()), 1e-12)
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
    asked = "the middle of the input set" if around is None else f"the image: class {around.label}"
    titles = (asked, f"counterexample{_class(found, around)}", f"difference, at most {reach:.3g}")
    scaled = [((own - low) / max(high - low, 1e-12)).clip(0, 1) for own in (before, found.x)]
    for axis, title, values in zip(axes, titles, (*scaled, change), strict=True):
        picture = _panel(values, shape, signed=values is change)
        if values is change:
            figure.colorbar(axis.imshow(picture, cmap="RdBu_r", vmin=-reach, vmax=reach), ax=axis, shrink=0.8)
        else:
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=10, color=INK)
        axis.set_xticks([])
        axis.set_yticks([])
    save(figure, path)


def _class(found: Counterexample, around: Around | None) -> str:
    return f": class {int(found.y.argmax())}" if around is not None else ""


def _panel(values: np.ndarray, shape: tuple[tuple[int, ...], int], signed: bool) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3); of a difference the colour that changed most."""
    import numpy as np

    sizes, colours = shape
    pixels = values.reshape(sizes)
    if colours < 0:
        return pixels
    pixels = np.moveaxis(pixels, colours, -1)
    if signed:
        most = np.abs(pixels).argmax(-1, keepdims=True)
        return np.take_along_axis(pixels, most, -1)[..., 0]
    return pixels
