"""How many images that LP-ALL and an attack leave open methods past the barrier certify, and in what processor time.

A row of a question is bounded until it is above 0, as `bourn verify` does.

Data: ``robust-verify-benchmark`` and ``mnist`` under ``$BOURN_DATA`` or ``--data``.

    OMP_NUM_THREADS=1 python benchmarks/cuts.py                                  # ADV_MLP_B_0.03, radius 0.03, 100 images
    OMP_NUM_THREADS=1 python benchmarks/cuts.py --network NOR_MLP_B --radius 0.02 -m lp-all -m cuts-all
"""

from __future__ import annotations

import argparse

import bourn
from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.deadline import NEVER
from bourn.formats.model import load
from bourn.problem.problem import problems
from bourn.solvers.methods import method
from common import data_argument, machine, mnist, network, timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_argument(parser)
    parser.add_argument("--network", default="ADV_MLP_B_0.03")
    parser.add_argument("--radius", type=float, default=0.03)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("-m", "--method", action="append", dest="methods")
    options = parser.parse_args()
    methods = options.methods or ["lp-all", "k-relu", "anderson", "cuts", "cuts-all"]
    print(machine())
    images, labels = mnist(options.data, options.count)
    model = load(network(options.data, f"experiment_1/{options.network}.pth"), example=(1, 784))
    margins: dict[str, list[float]] = {name: [] for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    for number, (image, label) in enumerate(zip(images.reshape(-1, 784), labels.tolist(), strict=True)):
        if int(model.graph.evaluate(image.reshape(1, 1, 784)).argmax()) != label:
            continue
        (problem,) = problems(model.graph, bourn.robustness(image, label=label, radius=options.radius, classes=10))
        barrier = method("lp-all-ascent").prepare(problem.network, problem.box)
        if bool((barrier.minimise(problem.objectives()).bound > 0).all()):
            continue
        _, attained, _ = ProjectedGradient(steps=40, restarts=5).run(problem, lambda _: False, NEVER)
        if bool((attained <= 0).any()):
            continue
        for name in methods:
            with timed() as timer:
                prepared = method(name).prepare(problem.network, problem.box)
                margins[name].append(float(prepared.minimise(problem.objectives(), enough=0.0).bound.min()))
            seconds[name] += timer.cpu
        print(number, *(f"{name} {values[-1]:.4f}" for name, values in margins.items()), flush=True)
    print("| method | images left | certified | mean s |\n| --- | ---: | ---: | ---: |")
    for name, values in margins.items():
        count = max(1, len(values))
        certified = sum(v > 0 for v in values)
        print(f"| {name} | {len(values)} | {certified} | {seconds[name] / count:.2f} |")


if __name__ == "__main__":
    main()
