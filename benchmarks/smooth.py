"""Measures bounds of networks with smooth and pooling nonlinearities, trained here on scikit-learn's digits, beside auto_LiRPA.

    OMP_NUM_THREADS=1 python benchmarks/smooth.py ladder         # every method, and how far below the barrier it is
    OMP_NUM_THREADS=1 python benchmarks/smooth.py peer           # CROWN and alpha-CROWN beside auto_LiRPA, row by row

``peer`` needs an environment that also holds auto_LiRPA (see peers.py).  Networks are trained in a few seconds, seeds fixed; the
radius is chosen for each so that the margins are around 0.  Exit status 1 if a row of bourn's is below the peer's by more than
1e-4 of its size, or a method takes longer than the peer's.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

import bourn
from bourn.problem.problem import label_margins
from common import machine, timed

NETWORKS = {"sigmoid": 0.03, "tanh": 0.03, "gelu": 0.05, "maxpool": 0.03}
"""Networks and the radius that they are asked about; pixels are between 0 and 1."""

SHAPE = (1, 1, 8, 8)


def digits() -> tuple[Tensor, Tensor]:
    """All 1,797 images (N, 1, 8, 8) and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.from_numpy(found.images / 16.0).float()[:, None], torch.from_numpy(found.target)


def architecture(name: str) -> nn.Module:
    """Two hidden layers of 64; the pooling network has a convolution before its pool."""
    if name == "maxpool":
        layers = (nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 32), nn.ReLU())
        return nn.Sequential(*layers, nn.Linear(32, 10))
    act = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU}[name]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), act(), nn.Linear(64, 64), act(), nn.Linear(64, 10))


def trained(name: str) -> nn.Module:
    """The network after 60 epochs of Adam on the first 1,500 images."""
    torch.manual_seed(0)
    x, y = digits()
    model = architecture(name)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        for part in torch.randperm(1500).reshape(-1, 50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval()


def questions(model: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    """The first images that were not trained on and are classified rightly, (count, 1, 1, 8, 8), and their labels."""
    x, y = digits()
    right = torch.nonzero(model(x[1500:]).argmax(1) == y[1500:])[:count, 0] + 1500
    return x[right][:, None].double(), y[right]


def ladder(names: list[str], count: int) -> int:
    """Mean margin of all methods over all rows, as a table, and LP-ALL's duality gap."""
    print("| network, radius | method | mean bound | below the barrier | certified | s an image |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name in names:
        model, radius = trained(name), NETWORKS[name]
        graph = bourn.load(model, example=SHAPE).graph
        x, y = questions(model, count)
        ball = bourn.linf_ball(x, radius, clip=(0, 1))
        found = {}
        for m in bourn.METHODS:
            with timed() as timer:
                found[m.name] = m.prepare(graph, ball).minimise(label_margins(y, 10)).bound, timer
        barrier = found["lp-all"][0]
        for method, (bound, timer) in found.items():
            certified = int((bound.amin(1) > 0).sum())
            loss, seconds = float((barrier - bound).mean()), timer.cpu / count
            print(f"| {name}, {radius:g} | {method} | {bound.mean():.4f} | {loss:.2e} | {certified} of {count} | {seconds:.4f} |")
        gaps = []
        for b in range(min(count, 5)):
            prepared = bourn.method("lp-all").prepare(graph, ball[b : b + 1])
            margins = label_margins(y[b : b + 1], 10)
            solution, primal = prepared.both_sides(margins)  # type: ignore[attr-defined]
            gaps.append(float((primal - solution.bound).max()))
        print(f"| {name}, {radius:g} | duality gap of LP-ALL, 5 images, greatest | {max(gaps):.1e} | | | |", flush=True)
    return 0


def peer(names: list[str], count: int) -> int:
    """Both tools on the same rows: time, and by how much bourn's bound is above the peer's."""
    print("| network | method | bourn ms | auto_LiRPA ms | ratio | least difference of a row | mean difference |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    behind = 0
    for name in names:
        model, radius = trained(name), NETWORKS[name]
        x, y = questions(model, count)
        for ours, theirs in (("crown", "CROWN"), ("alpha-crown-all", "CROWN-Optimized")):
            graph = bourn.load(model, example=SHAPE).graph
            own, seconds = _fastest(lambda: _bourn(graph, x, y, radius, ours))  # noqa: B023
            other, peer_seconds = _fastest(lambda: _auto_lirpa(model, x, y, radius, theirs))  # noqa: B023
            difference = own - other
            worst = float((difference / (1 + other.abs())).min())
            behind += worst < -1e-4 or seconds > peer_seconds
            each = f"{1e3 * seconds / count:.2f} | {1e3 * peer_seconds / count:.2f} | {seconds / peer_seconds:.2f}"
            print(f"| {name} | {ours} | {each} | {worst:.1e} | {difference.mean():.2e} |", flush=True)
    return int(behind > 0)


def _fastest(run: object, times: int = 3) -> tuple[Tensor, float]:
    assert callable(run)
    run()
    best = np.inf
    for _ in range(times):
        began = time.process_time()
        found = run()
        best = min(best, time.process_time() - began)
    return found, float(best)


def _bourn(graph: object, x: Tensor, y: Tensor, radius: float, method: str) -> Tensor:
    prepared = bourn.method(method).prepare(graph, bourn.linf_ball(x, radius, clip=(0, 1)))  # type: ignore[arg-type]
    return prepared.minimise(label_margins(y, 10)).bound


_BOUNDED: dict[int, object] = {}


def _auto_lirpa(model: nn.Module, x: Tensor, y: Tensor, radius: float, method: str) -> Tensor:
    warnings.simplefilter("ignore")
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    if id(model) not in _BOUNDED:
        _BOUNDED[id(model)] = BoundedModule(model, torch.zeros(SHAPE), verbose=False)
    bounded = _BOUNDED[id(model)]
    center = x.flatten(0, 1).float()
    ball = PerturbationLpNorm(norm=np.inf, x_L=(center - radius).clamp(min=0), x_U=(center + radius).clamp(max=1))
    with torch.set_grad_enabled(method != "CROWN"):
        lower, _ = bounded.compute_bounds(  # type: ignore[attr-defined]
            x=(BoundedTensor(center, ball),), C=label_margins(y, 10).outputs.float(), method=method, bound_upper=False
        )
    return lower.detach().double()  # type: ignore[no-any-return]


def _named(only: str | None) -> Iterator[str]:
    return (name for name in NETWORKS if only in (None, name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("ladder", "peer"))
    parser.add_argument("--only", choices=tuple(NETWORKS), help="one network alone")
    parser.add_argument("--images", type=int, default=20, help="images of each network (default 20)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    sys.exit((ladder if arguments.part == "ladder" else peer)(list(_named(arguments.only)), arguments.images))
