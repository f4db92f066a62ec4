"""Recomputes figures of the barrier (LP-ALL) for the networks of Salman et al. 2019, on one core, with the time they take.

Data: ``robust-verify-benchmark`` and ``mnist`` under ``$BOURN_DATA`` or ``--data``.

    OMP_NUM_THREADS=1 python benchmarks/barrier.py error                  # Table 1: five rows, all 10,000 images
    OMP_NUM_THREADS=1 python benchmarks/barrier.py distortion             # Table 2: three networks, ten images
    OMP_NUM_THREADS=1 python benchmarks/barrier.py bisection              # the same by bisection: what the search saves
    OMP_NUM_THREADS=1 python benchmarks/barrier.py image                  # LP-ALL and alpha-CROWN, seconds an image
    OMP_NUM_THREADS=1 python benchmarks/barrier.py bracket                # what LP-ALL leaves undecided: beyond the barrier?
    OMP_NUM_THREADS=1 python benchmarks/barrier.py error --count 1000     # the first 1,000 images: figures without a target

An image is decided by the cheapest that can: a wrong prediction, LP-GREEDY, CROWN, PGD (40 steps of 0.01), LP-ALL.  Exit status
1 if a figure is not the expected one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import bourn
from bourn.network.graph import Graph
from bourn.problem.problem import Objectives, label_margins
from bourn.radii import search
from bourn.solvers.bracket import InnerProgram
from common import MNIST_SHAPE, batches, data_argument, machine, mnist, network, timed
from paper import Report

ERROR_ROWS = (
    ("experiment_1/MIPVerify_data/weights/mnist/RSL18a/linf0.1", 0.1, 60.14, 0.1),
    ("experiment_1/LPD_MLP_B_0.1.pth", 0.1, 17.24, 0.0),
    ("experiment_1/LPD_MLP_B_0.2.pth", 0.2, 37.50, 0.0),
    ("experiment_1/LPD_MLP_B_0.3.pth", 0.3, 60.17, 0.0),
    ("experiment_1/LPD_MLP_B_0.4.pth", 0.4, 83.62, 0.0),
)
"""Weights, radius, LP-ALL's error in the paper's Table 1 and the tolerance."""

DISTORTION_ROWS = (
    ("experiment_2/mnist_MLP_2_100_ADV.pth", 43.31, 44.05),
    ("experiment_2/mnist_MLP_2_100_NOR.pth", 15.23, 15.72),
    ("experiment_2/mnist_cnn_wide_1_LPD.pth", 121.28, 128.86),
)
"""Weights, mean certified radius of the ten images by LP-LAST and by LP-ALL (1e-3), balls not clipped."""


BRACKET_ROWS = (
    ("experiment_1/LPD_MLP_B_0.4.pth", 0.4, 500),
    ("experiment_1/ADV_MLP_B_0.05.pth", 0.05, 500),
    ("experiment_1/MIPVerify_data/weights/mnist/RSL18a/linf0.1", 0.1, 500),
    ("experiment_2/mnist_cnn_small_ADV.pth", 0.1, 100),
)
"""Weights, radius and how many of the first images are looked at."""


def main() -> int:
    """Print the table that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("error", "distortion", "bisection", "image", "bracket"))
    data_argument(parser)
    parser.add_argument("--count", type=int, default=10_000, help="images of the test set in Table 1 (default all 10,000)")
    parser.add_argument("--only", metavar="TEXT", default="", help="only rows whose weights' name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    print("| figure | bourn | expected | | seconds (processor) |\n| --- | ---: | ---: | --- | ---: |")
    report = Report()
    if arguments.part == "image":
        seconds_an_image(arguments.data, report)
    elif arguments.part == "bracket":
        for bracketed in BRACKET_ROWS:
            if arguments.only in bracketed[0]:
                beyond_the_barrier(arguments.data, report, *bracketed)
    elif arguments.part == "error":
        for row in ERROR_ROWS:
            if arguments.only in row[0]:
                adversarial_error(arguments.data, arguments.count, report, *row)
    else:
        for name, last, every in DISTORTION_ROWS:
            if arguments.only in name:
                minimum_distortion(arguments.data, report, arguments.part == "bisection", name, last, every)
    return 1 if report.failed else 0


def graph_of(data: Path, name: str) -> Graph:
    """A network of the paper as bourn's graph."""
    return bourn.load(network(data, name), example=MNIST_SHAPE).graph


def adversarial_error(data: Path, count: int, report: Report, name: str, radius: float, wanted: float, tolerance: float) -> None:
    """One row of Table 1: the share of images not certified, with the true label for label."""
    graph = graph_of(data, name)
    images, labels = mnist(data, count)
    certified, attacked, asked, slowest = 0, 0, 0, 0.0
    with timed() as whole, torch.no_grad():
        for x, y in batches(images, labels, 500):
            open_ = graph.evaluate(x).flatten(1).argmax(1) == y
            for method in ("fast-lin", "crown"):
                if bool(open_.any()):
                    done = certify(graph, method, x[open_], y[open_], radius)
                    certified += int(done.sum())
                    open_[open_.clone()] = ~done
            broken = attack(graph, x[open_], y[open_], radius)
            attacked += int(broken.sum())
            open_[open_.clone()] = ~broken
            for i in torch.nonzero(open_)[:, 0].tolist():
                asked += 1
                with timed() as one:
                    certified += certify_one(graph, x[i : i + 1], y[i : i + 1], radius)
                slowest = max(slowest, one.wall)
    error = 100 * (1 - certified / len(images))
    target = wanted if count >= 10_000 else None
    seconds = f"{whole.wall:.1f} ({whole.cpu:.1f})"
    report.add(f"{Path(name).stem} {radius:g}, LP-ALL: error of {len(images)} images, %", error, target, tolerance + 1e-9, seconds)
    report.add(f"{Path(name).stem} {radius:g}: images for LP-ALL, slowest {slowest:.2f} s", asked, None, 0, "")


def certify(graph: Graph, method: str, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Which images (N,) keep their label on the ball, clipped to [0, 1]."""
    prepared = bourn.method(method).prepare(graph, bourn.linf_ball(x, radius, clip=(0, 1)))
    certified: Tensor = (prepared.minimise(label_margins(y, 10), enough=0.0).bound > 0).all(1)
    return certified


def certify_one(graph: Graph, x: Tensor, y: Tensor, radius: float) -> bool:
    """Whether LP-ALL certifies one image: the margin with the least bound in closed form first, for one that fails is enough."""
    prepared, wanted = bourn.method("lp-all").prepare(graph, bourn.linf_ball(x, radius, clip=(0, 1))), label_margins(y, 10)
    crown = bourn.method("crown").prepare(graph, bourn.linf_ball(x, radius, clip=(0, 1)), inner=prepared.bounds)
    closed = crown.minimise(wanted).bound[0]
    for margin in torch.argsort(closed).tolist():
        one = Objectives(wanted.outputs[:, [margin]], None, wanted.constant[:, [margin]])
        if closed[margin] <= 0 and float(prepared.minimise(one, enough=0.0).bound) <= 0:
            return False
    return True


def attack(graph: Graph, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Which images (N,) projected gradient descent misleads: 40 signed steps of 0.01 on the margin, from the image itself."""
    low, high = (x - radius).clamp(min=0), (x + radius).clamp(max=1)
    point, broken = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    rows = label_margins(y, 10).outputs
    for _ in range(41):
        with torch.enable_grad():
            point.requires_grad_(True)
            margin = (rows @ graph.evaluate(point).flatten(1)[..., None])[..., 0].amin(1)
            (gradient,) = torch.autograd.grad(margin.sum(), point)
        broken |= margin.detach() <= 0
        point = torch.minimum(torch.maximum(point.detach() - 0.01 * gradient.sign(), low), high)
    return broken


def minimum_distortion(data: Path, report: Report, bisect: bool, name: str, last: float, every: float) -> None:
    """Mean certified radii of the ten images, labels = predictions, balls not clipped: by ``bourn.radii.search`` or bisection."""
    graph = graph_of(data, name)
    ten = np.load(data / "robust-verify-benchmark/weights/experiment_2/ten_test_images.npy")
    images = torch.from_numpy(ten).to(torch.float64).reshape(-1, *MNIST_SHAPE)
    labels = graph.evaluate(images).flatten(1).argmax(1)
    for method, wanted in (("lp-last", last), ("lp-all", every)):
        with timed() as timer:
            if bisect:
                found, runs = bisected(graph, method, images, label_margins(labels, 10)), 12.0
            else:
                searched = search(graph, images, labels, method, clip=None)
                found, runs = searched.radius, searched.evaluations.double().mean().item()
        mean, seconds = 1e3 * found.mean().item(), f"{timer.wall:.1f} ({timer.cpu:.1f})"
        what = f"{Path(name).stem}, {method}: mean certified radius of ten, 1e-3, {runs:g} runs an image"
        report.add(what, mean, wanted, 1e-3 * wanted, seconds)


def bisected(graph: Graph, method: str, images: Tensor, objectives: Objectives) -> Tensor:
    """The greatest radius (N,) certified for each image, to a relative 6e-5, from LP-GREEDY's on."""
    greedy = radii(graph, "lp-greedy", images, objectives, images.new_zeros(10), images.new_full((10,), 0.5), 20)
    return radii(graph, method, images, objectives, greedy, 1.25 * greedy, 12)


def radii(graph: Graph, method: str, images: Tensor, objectives: Objectives, low: Tensor, high: Tensor, steps: int) -> Tensor:
    """The greatest radius (N,) certified for each image, between ``low`` (certified) and ``high``, image by image."""
    found = []
    for i in range(len(images)):
        x, wanted, a, b = images[i : i + 1], objectives.take(slice(i, i + 1)), float(low[i]), float(high[i])
        for _ in range(steps):
            radius = (a + b) / 2
            prepared = bourn.method(method).prepare(graph, bourn.box(x - radius, x + radius))
            a, b = (radius, b) if bool((prepared.minimise(wanted, enough=0.0).bound > 0).all()) else (a, radius)
        found.append(a)
    return torch.tensor(found, dtype=torch.float64)


def seconds_an_image(data: Path, report: Report) -> None:
    """Certified images and seconds of each, on images that CROWN leaves undecided and PGD does not mislead."""
    for name, radius, count in (("experiment_1/ADV_MLP_B_0.05.pth", 0.05, 100), ("experiment_2/mnist_cnn_small_ADV.pth", 0.1, 20)):
        graph = graph_of(data, name)
        images, labels = mnist(data, count)
        open_ = ~certify(graph, "crown", images, labels, radius) & ~attack(graph, images, labels, radius)
        for method, chosen in (("crown", None), ("alpha-crown", None), ("alpha-crown-all", None), ("lp-all", open_)):
            x, y = (images, labels) if chosen is None else (images[chosen], labels[chosen])
            if not len(x):
                continue
            times, certified = [], 0
            for some, own in batches(x, y, 100 if chosen is None else 1):
                with timed() as timer:
                    certified += int(certify(graph, method, some, own, radius).sum())
                times.append(timer.cpu)
            what = f"of {count}" if chosen is None else f"of {len(x)} undecided"
            seconds = f"{sum(times) / len(x):.4f} an image, at most {max(times):.3f} a batch"
            report.add(f"{Path(name).stem} {radius:g}, {method}: certified {what}", certified, None, 0, seconds)


def beyond_the_barrier(data: Path, report: Report, name: str, radius: float, count: int) -> None:
    """How many of the images that neither LP-ALL certifies nor PGD misleads are shown to be beyond every layer-wise method.

    By points in closed form alone, then by LPs; of these also how far apart LP-ALL's bound and its ceiling are.
    """
    graph = graph_of(data, name)
    images, labels = mnist(data, count)
    open_ = (graph.evaluate(images).flatten(1).argmax(1) == labels) & ~certify(graph, "crown", images, labels, radius)
    open_ &= ~attack(graph, images, labels, radius)
    undecided, shown, gap = 0, [0, 0], 0.0
    times: list[list[float]] = [[], []]
    for i in torch.nonzero(open_)[:, 0].tolist():
        ball, wanted = bourn.linf_ball(images[i : i + 1], radius, clip=(0, 1)), label_margins(labels[i : i + 1], 10)
        prepared = bourn.method("lp-all").prepare(graph, ball)
        lower = prepared.minimise(wanted).bound[0]
        if bool((lower > 0).all()):
            continue
        undecided += 1
        for exact in (False, True):
            with timed() as timer:
                ceiling, _ = InnerProgram(graph, ball, prepared.bounds, exact=exact).ceilings(wanted)
            shown[exact] += int(bool((ceiling <= 0).any()))
            times[exact].append(timer.cpu)
        gap = max(gap, float((ceiling - lower).max()))
    row = f"{Path(name).stem} {radius:g}, first {count}: {undecided} undecided, shown beyond the barrier"
    for exact, how in ((False, "in closed form"), (True, f"by LPs (gap at most {gap:.1e})")):
        own = times[exact] or [0.0]
        seconds = f"{sum(own) / len(own):.3f} an image, at most {max(own):.3f}"
        report.add(f"{row} {how}", shown[exact], undecided if exact else None, 0, seconds)


if __name__ == "__main__":
    sys.exit(main())
