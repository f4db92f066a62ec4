"""LP-ALL by dual ascent: seconds an image, and how near its bounds are to the optima of their programs, audited by HiGHS.

Data: ``robust-verify-benchmark`` and ``mnist`` under ``$BOURN_DATA`` or ``--data``.  Beside auto_LiRPA's alpha-CROWN:
``peers.py --method lp-all-ascent``.

    OMP_NUM_THREADS=1 python benchmarks/ascent.py                 # both networks, 200 random programs of each run
    OMP_NUM_THREADS=1 python benchmarks/ascent.py --audits 1000

Exit status 1 where a bound is further than 1e-4 * max(1, |optimum|) from its program's optimum, or above it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

import bourn
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives, label_margins
from bourn.solvers.dual_ascent import Ascended
from bourn.solvers.simplex import Simplex
from common import MNIST_SHAPE, batches, data_argument, machine, mnist, network, timed

RUNS = (("experiment_1/ADV_MLP_B_0.05.pth", 0.05, 100, 100), ("experiment_2/mnist_cnn_small_ADV.pth", 0.1, 20, 1))
"""Weights, radius, images, and how many go together."""

GAP = 1e-4

Run = tuple[InputSet, Ascended, Objectives]


def main() -> int:
    """Print a table of both runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_argument(parser)
    parser.add_argument("--audits", type=int, default=200, help="random programs of each run that HiGHS solves (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default 0)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    print("| network | images | certified | inner bounds, s an image | margins, s an image | audited | worst gap | above 1e-4 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    wrong = 0
    for name, radius, count, at_once in RUNS:
        graph = bourn.load(network(arguments.data, name), example=MNIST_SHAPE).graph
        images, labels = mnist(arguments.data, count)
        inner_seconds = margin_seconds = 0.0
        certified = 0
        runs: list[Run] = []
        for x, y in batches(images, labels, at_once):
            ball, margins = bourn.linf_ball(x, radius, clip=(0, 1)), label_margins(y, 10)
            with timed() as inner:
                prepared = bourn.method("lp-all-ascent").prepare(graph, ball)
            with timed() as last:
                certified += int((prepared.minimise(margins, enough=0.0).bound > 0).all(1).sum())
            inner_seconds, margin_seconds = inner_seconds + inner.cpu, margin_seconds + last.cpu
            assert isinstance(prepared, Ascended)
            runs.append((ball, prepared, margins))
        gaps = audit(graph, runs, arguments.audits, arguments.seed)
        wrong += int(((gaps > GAP) | (gaps < -1e-7)).sum())
        times = f"{inner_seconds / count:.4f} | {margin_seconds / count:.4f}"
        audited = f"{len(gaps)} | {gaps.max():.1e} | {int((gaps > GAP).sum())}"
        print(f"| {name} {radius:g} | {count} | {certified} | {times} | {audited} |")
    return 1 if wrong else 0


def audit(graph: Graph, runs: Sequence[Run], count: int, seed: int) -> Tensor:
    """Relative gaps of random bounds: of neurons that ascent was used for and left open, and of margins."""
    generator = torch.Generator().manual_seed(seed)
    gaps: list[float] = []
    while len(gaps) < count:
        ball, prepared, margins = runs[int(torch.randint(len(runs), (), generator=generator))]
        problem = int(torch.randint(ball.batch, (), generator=generator))
        some = slice(problem, problem + 1)
        own = {z: Interval(b.lower[some], b.upper[some]) for z, b in prepared.bounds.items()}
        exact = Simplex().prepare(graph, ball[some], inner=own)
        layers = [*list(prepared.bounds)[1:], None]
        z = layers[int(torch.randint(len(layers), (), generator=generator))]
        if z is None:
            stated = prepared.minimise(margins).bound[problem]
            which = int(torch.randint(len(stated), (), generator=generator))
            own_row = margins.take(some)
            one = Objectives(own_row.outputs[:, [which]], None, own_row.constant[:, [which]])
            optimum, found = float(exact.minimise(one).bound), float(stated[which])
        else:
            open_ = torch.nonzero(((own[z].lower < 0) & (own[z].upper > 0)).flatten())[:, 0]
            if not len(open_):
                continue
            which = int(open_[int(torch.randint(len(open_), (), generator=generator))])
            wanted = torch.zeros(1, own[z].lower[0].numel(), dtype=torch.bool)
            wanted[0, which] = True
            closed = exact.solver.start.entries(exact.program, z, exact.deadline)
            both = exact.models.entries(z, closed, wanted.reshape(own[z].shape), exact.deadline)
            upper = bool(torch.randint(2, (), generator=generator))
            ends = (both.upper, own[z].upper) if upper else (both.lower, own[z].lower)
            optimum, found = (float(t.flatten()[which]) * (-1 if upper else 1) for t in ends)
        if optimum == optimum and abs(optimum) < 1e8:
            gaps.append((optimum - found) / max(1.0, abs(optimum)))
    return torch.tensor(gaps)


if __name__ == "__main__":
    sys.exit(main())
