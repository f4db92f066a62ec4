"""CROWN or alpha-CROWN by bourn and by auto_LiRPA, side by side: time, memory and certified images on the paper's networks.

Every measurement is a process of its own on one thread; bourn computes in float64 with its rounding errors
accounted for, auto_LiRPA in float32 (or, with ``--peer-double``, in float64) without.  Both are tried with several
batch sizes, and the best of each are compared.  Data: as for ``paper.py``.

auto_LiRPA is no dependency of bourn.  The release on PyPI is of 2022 and refuses current versions of torch; the
current one installs from its repository, into an environment of its own next to bourn:

    python -m venv peer && . peer/bin/activate
    pip install -e . appdirs pyyaml ninja tqdm graphviz
    git clone https://github.com/Verified-Intelligence/auto_LiRPA
    pip install --no-deps --no-build-isolation ./auto_LiRPA
    OMP_NUM_THREADS=1 python benchmarks/peers.py
    OMP_NUM_THREADS=1 python benchmarks/peers.py --method alpha-crown       # auto_LiRPA's CROWN-Optimized at its defaults
    OMP_NUM_THREADS=1 python benchmarks/peers.py --method alpha-crown-all   # the same, beside ascent on inner bounds too
    OMP_NUM_THREADS=1 python benchmarks/peers.py --method lp-all-ascent     # the same, beside LP-ALL to a gap of 1e-4
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common import MNIST_SHAPE, batches, data_argument, machine, mnist, network, timed

IMAGES = 100
NETWORKS = {"cnn_small": ("experiment_2/mnist_cnn_small_ADV.pth", 0.1), "MLP_B": ("experiment_1/ADV_MLP_B_0.05.pth", 0.05)}
Result = dict[str, Any]


def main() -> int:
    """Measure all, or one thing where called by itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_argument(parser)
    parser.add_argument(
        "--repeat", type=int, default=3, help="rounds over all measurements; the fastest of each counts (default 3)"
    )
    parser.add_argument("--only", choices=NETWORKS, help="this network alone")
    methods = ("crown", "alpha-crown", "alpha-crown-all", "lp-all-ascent")
    parser.add_argument("--method", default="crown", choices=methods, help="bourn's method")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"how many images (default {IMAGES})")
    parser.add_argument("--peer-double", action="store_true", help="let auto_LiRPA compute in float64 too")
    parser.add_argument("--measure", nargs=3, metavar=("TOOL", "NETWORK", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure is not None:
        tool, name, batch = arguments.measure
        print(json.dumps(measure(arguments, tool, name, int(batch))))
        return 0
    if importlib.util.find_spec("auto_LiRPA") is None:
        parser.exit(2, "auto_LiRPA is not installed here; the first lines of this script say how to get it\n")
    print(f"{machine()}; auto_LiRPA {peer_version()}{' in float64' if arguments.peer_double else ''}")
    behind = [name for name in NETWORKS if arguments.only in (None, name) and not compare(name, arguments)]
    return 1 if behind else 0


def compare(name: str, arguments: argparse.Namespace) -> bool:
    """Measure both tools on one network; whether bourn needs at most the peer's time and memory."""
    weights, radius = NETWORKS[name]
    print(f"\n{arguments.method}, {weights}, radius {radius}, {arguments.images} images clipped to [0, 1]\n")
    print("| tool | batch | ms an image | peak MiB | of them after imports | certified |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    options = [(tool, batch) for batch in (1, 10, 100) for tool in ("bourn", "auto_LiRPA")]
    rounds = [{option: _apart(*option, name, arguments) for option in options} for _ in range(arguments.repeat)]
    results = {option: min((r[option] for r in rounds), key=lambda found: found["seconds"]) for option in options}
    for (tool, batch), found in sorted(results.items()):
        milliseconds = 1e3 * found["seconds"] / arguments.images
        memory = f"{found['peak'] / 1024:.0f} | {(found['peak'] - found['imported']) / 1024:.0f}"
        print(f"| {tool} | {batch} | {milliseconds:.2f} | {memory} | {found['certified']} |")
    best = {
        tool: min((f for (t, _), f in results.items() if t == tool), key=lambda f: f["seconds"]) for tool in ("bourn", "auto_LiRPA")
    }
    time = best["bourn"]["seconds"] / best["auto_LiRPA"]["seconds"]
    memory_ratio = best["bourn"]["peak"] / best["auto_LiRPA"]["peak"]
    print(f"\nbourn / auto_LiRPA, each at its fastest batch: time {time:.2f}, peak memory {memory_ratio:.2f}")
    return bool(time <= 1 and memory_ratio <= 1)


def _apart(tool: str, batch: int, name: str, arguments: argparse.Namespace) -> Result:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--data", str(arguments.data), "--measure", tool, name, str(batch)]
    command += ["--method", arguments.method, "--images", str(arguments.images)]
    if arguments.peer_double:
        command.append("--peer-double")
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(arguments: argparse.Namespace, tool: str, name: str, batch: int) -> Result:
    """Seconds of the processor for all images after a first batch that is not counted, peak memory in KiB, images certified."""
    weights, radius = NETWORKS[name]
    model = network(arguments.data, weights)
    images, labels = mnist(arguments.data, arguments.images)
    if tool == "bourn":
        certify = _bourn(model, radius, arguments.method)
    else:
        method = "CROWN" if arguments.method == "crown" else "CROWN-Optimized"
        certify = _auto_lirpa(model, radius, method, torch.float64 if arguments.peer_double else torch.float32)
    imported = _peak()
    certify(images[:batch], labels[:batch])
    with timed() as timer:
        certified = sum(certify(x, y) for x, y in batches(images, labels, batch))
    return {"seconds": timer.cpu, "wall": timer.wall, "peak": _peak(), "imported": imported, "certified": certified}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


Certify = Callable[[Tensor, Tensor], int]
"""Images (B, 1, 1, 28, 28) and labels (B,) to the number of certified ones."""


def _bourn(model: torch.nn.Module, radius: float, method: str) -> Certify:
    import bourn
    from bourn.problem.problem import label_margins

    graph, chosen = bourn.load(model, example=MNIST_SHAPE).graph, bourn.method(method)

    def certify(x: Tensor, y: Tensor) -> int:
        prepared = chosen.prepare(graph, bourn.linf_ball(x, radius, clip=(0, 1)))
        return int((prepared.minimise(label_margins(y, 10), enough=0.0).bound.amin(1) > 0).sum())

    return certify


def _auto_lirpa(model: torch.nn.Module, radius: float, method: str, dtype: torch.dtype) -> Certify:
    warnings.simplefilter("ignore")
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    from bourn.problem.problem import label_margins

    bounded = BoundedModule(model.to(dtype), torch.zeros(MNIST_SHAPE, dtype=dtype), verbose=False)

    def certify(x: Tensor, y: Tensor) -> int:
        center = x.flatten(0, 1).to(dtype)
        ball = PerturbationLpNorm(norm=float("inf"), x_L=(center - radius).clamp(min=0), x_U=(center + radius).clamp(max=1))
        with torch.set_grad_enabled(method != "CROWN"):
            lower, _ = bounded.compute_bounds(
                x=(BoundedTensor(center, ball),), C=label_margins(y, 10).outputs.to(dtype), method=method, bound_upper=False
            )
        return int((lower.amin(1) > 0).sum())

    return certify


def peer_version() -> str:
    """The version of auto_LiRPA."""
    import auto_LiRPA

    return str(auto_LiRPA.__version__)


if __name__ == "__main__":
    sys.exit(main())
