"""What several benchmarks share: the data, the paper's networks, and a line about the machine."""

from __future__ import annotations

import argparse
import gzip
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bourn.formats.robust_verify import paper_network

MNIST_SHAPE = (1, 1, 28, 28)


def data_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--data``, the data's folder; by default ``$BOURN_DATA``."""
    stated = os.environ.get("BOURN_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        required=stated is None,
        default=Path(stated) if stated else None,
        help="the data's folder; by default $BOURN_DATA",
    )


def mnist(data: Path, count: int = 10_000) -> tuple[Tensor, Tensor]:
    """The first ``count`` test images (N, 1, 1, 28, 28), as torch scales them (float32 / 255), in float64, and their labels."""
    with gzip.open(data / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16)
    with gzip.open(data / "mnist" / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    images = torch.from_numpy(pixels[: count * 784].astype(np.float32)) / 255
    return images.reshape(-1, *MNIST_SHAPE).to(torch.float64), torch.from_numpy(labels[:count].astype(np.int64))


def network(data: Path, name: str) -> nn.Sequential:
    """A network of the paper by the path of its weights, such as ``experiment_2/mnist_cnn_small_ADV.pth``."""
    return paper_network(data / "robust-verify-benchmark" / "weights" / name)


def batches(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels, ``size`` at a time."""
    for first in range(0, len(images), size):
        yield images[first : first + size], labels[first : first + size]


@dataclass
class Timer:
    """Seconds of :func:`timed`: on the clock and of the processor, which on one thread an idle machine makes equal."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def timed() -> Iterator[Timer]:
    """Measures its block."""
    timer = Timer()
    wall, cpu = time.perf_counter(), time.process_time()
    yield timer
    timer.wall, timer.cpu = time.perf_counter() - wall, time.process_time() - cpu


def machine() -> str:
    """What this runs on."""
    return (
        f"{torch.get_num_threads()} thread of {os.cpu_count()} cores, {platform.machine()} with "
        f"{torch.backends.cpu.get_cpu_capability()}; Python {platform.python_version()}, torch {torch.__version__}"
    )
