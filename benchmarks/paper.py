"""Recomputes figures known for the networks of Salman et al. 2019 and measures the time they take on one core.

Data: ``robust-verify-benchmark`` and ``mnist`` under ``$BOURN_DATA`` or ``--data``.

    OMP_NUM_THREADS=1 python benchmarks/paper.py
    OMP_NUM_THREADS=1 python benchmarks/paper.py --count 1000   # only the first 1,000 images: figures without a target

Certified error counts an image that is misclassified or not certified: with the true label for label both are one
condition, all margins above 0.  Exit status 1 if a figure is not the expected one.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import bourn
from bourn.network.graph import Graph
from bourn.problem.problem import label_margins
from common import MNIST_SHAPE, batches, data_argument, machine, mnist, network, timed

CHUNK = 500
"""Images at a time."""


@dataclass
class Report:
    """Prints one line a figure; remembers whether one was off."""

    failed: list[str] = field(default_factory=list)

    def add(self, what: str, value: float, wanted: float | None, tolerance: float, seconds: str) -> None:
        """``wanted``: the expected figure, None if there is none for what was computed."""
        verdict = "" if wanted is None else "ok" if abs(value - wanted) <= tolerance else "DIFFERENT"
        if verdict == "DIFFERENT":
            self.failed.append(what)
        target = "-" if wanted is None else f"{wanted:g} ± {tolerance:g}"
        print(f"| {what} | {value:.7g} | {target} | {verdict} | {seconds} |", flush=True)


def margins(graph: Graph, method: str, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    """The least certified margin (N,) of each image over its ball, clipped to [0, 1]."""
    chosen = bourn.method(method)
    least = []
    for x, y in batches(images, labels, CHUNK):
        prepared = chosen.prepare(graph, bourn.linf_ball(x, radius, clip=(0, 1)))
        least.append(prepared.minimise(label_margins(y, 10)).bound.amin(1))
    return torch.cat(least)


def certified_radii(graph: Graph, method: str, images: Tensor, labels: Tensor, steps: int = 20) -> Tensor:
    """The greatest radius (N,) certified for each image by bisection from [0, 0.5], without clipping."""
    chosen, objectives = bourn.method(method), label_margins(labels, 10)
    low, high = images.new_zeros(len(images)), images.new_full((len(images),), 0.5)
    for _ in range(steps):
        radius = (low + high) / 2
        spread = radius.reshape(-1, *(1,) * (images.dim() - 1))
        prepared = chosen.prepare(graph, bourn.box(images - spread, images + spread))
        certified = prepared.minimise(objectives).bound.amin(1) > 0
        low, high = torch.where(certified, radius, low), torch.where(certified, high, radius)
    return low


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_argument(parser)
    parser.add_argument("--count", type=int, default=10_000, help="images of the test set in the first part (default all 10,000)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    print("| figure | bourn | expected | | seconds (processor) |\n| --- | ---: | ---: | --- | ---: |")
    report = Report()
    adversarial_error(arguments.data, arguments.count, report)
    minimum_distortion(arguments.data, report)
    convolutional(arguments.data, report)
    return 1 if report.failed else 0


def adversarial_error(data: Path, count: int, report: Report) -> None:
    """Table 1, Adv-MLP-B at 0.05."""
    graph = bourn.load(network(data, "experiment_1/ADV_MLP_B_0.05.pth"), example=MNIST_SHAPE).graph
    images, labels = mnist(data, count)
    for method, whole, first in (("wong-kolter", 33.09, 64), ("fast-lin", 33.09, 64), ("crown", None, 72)):
        with timed() as timer:
            certified = margins(graph, method, images, labels, 0.05) > 0
        seconds = f"{timer.wall:.1f} ({timer.cpu:.1f})"
        error = 100 * (1 - certified.double().mean().item())
        wanted = whole if count >= 10_000 else None
        report.add(f"Adv-MLP-B 0.05, {method}: certified error of {len(images)} images, %", error, wanted, 0.02, seconds)
        report.add(f"Adv-MLP-B 0.05, {method}: certified of the first 100", int(certified[:100].sum()), first, 0, "")


def minimum_distortion(data: Path, report: Report) -> None:
    """Table 2, MLP-2 [100] adversarially trained, its ten images, labels = predictions, balls not clipped."""
    model = network(data, "experiment_2/mnist_MLP_2_100_ADV.pth")
    graph = bourn.load(model, example=MNIST_SHAPE).graph
    ten = np.load(data / "robust-verify-benchmark/weights/experiment_2/ten_test_images.npy")
    images = torch.from_numpy(ten).to(torch.float64).reshape(-1, *MNIST_SHAPE)
    with torch.no_grad():
        labels = model(images.to(torch.float32).flatten(0, 1)).argmax(1)
    with timed() as timer:
        radii = certified_radii(graph, "lp-greedy", images, labels)
    mean = 1e3 * radii.mean().item()
    report.add(
        "MLP-2-100 ADV, lp-greedy: mean certified radius of ten, 1e-3", mean, 41.68, 0.02, f"{timer.wall:.2f} ({timer.cpu:.2f})"
    )


def convolutional(data: Path, report: Report) -> None:
    """CROWN on the small convolutional network at 0.1."""
    graph = bourn.load(network(data, "experiment_2/mnist_cnn_small_ADV.pth"), example=MNIST_SHAPE).graph
    images, labels = mnist(data, 100)
    with timed() as timer:
        certified = margins(graph, "crown", images, labels, 0.1) > 0
    report.add(
        "cnn_small ADV 0.1, crown: certified of the first 100", int(certified.sum()), 80, 0, f"{timer.wall:.2f} ({timer.cpu:.2f})"
    )


if __name__ == "__main__":
    sys.exit(main())
