"""A row of the paper's Table 1 on an accelerator: its time, decisions beside the CPU's, and how much of the card is used.

Data: ``robust-verify-benchmark`` and ``mnist`` under ``$BOURN_DATA``.

    python benchmarks/device.py --device cuda                      # the first row, all 10,000 images
    python benchmarks/device.py --device cuda --row 1 --count 1000

The same study runs on the CPU (``--workers`` processes) and on the device (one process).  "Share" is the rate of a stage's matrix
products, on one of its batches, relative to that of one large product of the same precision on the same card.  Exit status 1 if a
decision differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bourn.formats.toml import read_toml
from bourn.problem.input_set import linf_ball
from bourn.problem.problem import label_margins
from bourn.solvers.adjustments import suited
from bourn.solvers.methods import method
from bourn.studies.description import Description
from bourn.studies.engines import Engine, InProcess, Processes
from bourn.studies.jobs import at_once, neurons
from bourn.studies.running import Study, run
from bourn.studies.store import Store
from common import machine, timed

STUDY = Path(__file__).resolve().parent.parent / "studies" / "table_1.toml"
STAGES = ("fast-lin", "crown", "lp-all-ascent")


def described(row: int, count: int) -> Description:
    """The study of one network's first radius."""
    description = Description.from_data(read_toml(STUDY), str(STUDY), STUDY.parent)
    network = description.networks[row]
    images = replace(description.images, count=count)
    return replace(description, networks=(replace(network, radii=network.radii[:1]),), images=images)


def decided(study: Study, engine: Engine, device: str) -> tuple[dict[str, Any], float, float]:
    """Every image's result, and seconds on the clock and of this process."""
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.db") as store:
        with engine, timed() as timer:
            run(study, store, engine, device)
        return {record.key: record.result for record in store.records()}, timer.wall, timer.cpu


def seconds(device: str, repeat: int, job: Any) -> float:
    """The least of some runs, after one that is not counted."""
    least = float("inf")
    for number in range(repeat + 1):
        began = time.perf_counter()
        job()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        least = min(least, time.perf_counter() - began) if number else least
    return least


def limit(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product."""
    size = 8192 if device.startswith("cuda") else 1024
    a = torch.rand(size, size, dtype=dtype, device=device)
    return 2 * size**3 / seconds(device, 3, lambda: a @ a)


def shares(study: Study, device: str, radius: float) -> None:
    """Prints what one batch of every stage takes, and the share of the card's limit."""
    network = study.networks[0].graph
    graph, limits = network.to(device), {t: limit(device, t) for t in (torch.float64, torch.float32)}
    print(f"limits: {limits[torch.float64] / 1e12:.1f} TFLOP/s in float64, {limits[torch.float32] / 1e12:.1f} in float32")
    labels = torch.from_numpy(study.images.labels)
    for name in STAGES:
        size = at_once(name, neurons(network), device)
        images = study.images.shaped(network)[:size].to(device)
        balls, margins = linf_ball(images, radius, clip=(0, 1)), label_margins(labels[:size].to(torch.int64).to(device), 10)

        def stage(name: str = name, balls: Any = balls, margins: Any = margins) -> None:
            suited(method(name), graph.device).prepare(graph, balls).minimise(margins, 0.0)

        with FlopCounterMode(display=False) as counter:
            stage()
        taken, precision = seconds(device, 3, stage), torch.float32 if name == "lp-all-ascent" else torch.float64
        rate = counter.get_total_flops() / taken
        print(
            f"{name}: {size} images in {taken * 1e3:.1f} ms, {rate / 1e12:.3f} TFLOP/s of matrix products, "
            f"{100 * rate / limits[precision]:.2f} % of the limit in {str(precision).removeprefix('torch.')}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    study = Study.of(described(asked.row, asked.count))
    entry = study.networks[0].entry
    assert entry.radii
    name = torch.cuda.get_device_name(asked.device) if asked.device.startswith("cuda") else asked.device
    print(f"{machine()}; {name}\n{entry.name} at {entry.radii[0]:g}, {asked.count} images", flush=True)
    found, wall, cpu = decided(study, InProcess(), asked.device)
    print(f"{asked.device}: {wall:.1f} s, the processor's {cpu:.1f} s", Counter(str(r["outcome"]) for r in found.values()))
    spent: Counter[str] = Counter()
    for result in found.values():
        spent.update({s["name"]: s["seconds"] for s in result["stages"]})
    print(", ".join(f"{stage} {total:.1f} s" for stage, total in spent.items()), flush=True)
    expected, wall, _ = decided(study, Processes(asked.workers), "cpu")
    print(f"cpu, {asked.workers} processes: {wall:.1f} s", Counter(str(r["outcome"]) for r in expected.values()))
    differ = [key for key, result in expected.items() if result["outcome"] != found[key]["outcome"]]
    print(f"{len(differ)} decisions differ", flush=True)
    shares(study, asked.device, entry.radii[0])
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
