"""Measures how long the command takes to start: ``bourn --version``, a whole ``bourn verify``, and what it imports.

Data: ``vnncomp2022/mnist_fc`` under ``$BOURN_DATA`` or ``--data`` (without it only ``--version`` is measured).

    python benchmarks/startup.py --runs 10

Exit status 1 if a target is missed by the fastest run: 0.3 s for ``--version``, 2.5 s for ``verify``.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

TARGETS = {"bourn --version": 0.3, "bourn verify": 2.5}


def main() -> int:
    """Print a table of times and one of imports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stated = os.environ.get("BOURN_DATA")
    parser.add_argument(
        "--data", type=Path, default=Path(stated) if stated else None, help="the data's folder; by default $BOURN_DATA"
    )
    parser.add_argument("--runs", type=int, default=10, help="runs of each command (default 10)")
    arguments = parser.parse_args()
    beside = Path(sys.executable).with_name("bourn")
    bourn = str(beside) if beside.exists() else shutil.which("bourn")
    if bourn is None:
        sys.exit("there is no command bourn; install the package first")
    commands = {"bourn --version": [bourn, "--version"]}
    if arguments.data is not None:
        folder = arguments.data / "vnncomp2022" / "mnist_fc"
        question = [str(folder / "onnx" / "mnist-net_256x2.onnx.gz"), str(folder / "vnnlib" / "prop_0_0.03.vnnlib.gz")]
        commands["bourn verify"] = [bourn, "verify", *question]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print("| command | fastest s | median s | processor s | target s |\n| --- | ---: | ---: | ---: | ---: |")
    missed = []
    for name, command in commands.items():
        run(command)  # warms the page cache
        measured = [run(command) for _ in range(arguments.runs)]
        wall, cpu = [m[0] for m in measured], [m[1] for m in measured]
        print(f"| {name} | {min(wall):.3f} | {statistics.median(wall):.3f} | {min(cpu):.3f} | {TARGETS[name]} |")
        if min(wall) > TARGETS[name]:
            missed.append(name)
    for name, command in commands.items():
        print(f"\nseconds by package that {name} imports (python -X importtime):")
        for package, seconds in list(imports(command).items())[:12]:
            print(f"  {seconds:6.3f}  {package}")
    return 1 if missed else 0


def run(command: list[str]) -> tuple[float, float]:
    """Seconds on the clock and of the processor of one process on one thread."""
    before = os.times()
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wall = time.perf_counter() - began
    after = os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def imports(command: list[str]) -> dict[str, float]:
    """Seconds by top-level package, each module without what it imports itself."""
    traced = [sys.executable, "-X", "importtime", *command]
    done = subprocess.run(traced, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    total: defaultdict[str, float] = defaultdict(float)
    for line in done.stderr.splitlines():
        if line.startswith("import time:") and "self [us]" not in line:
            own, _, module = line.removeprefix("import time:").split("|")
            package = module.strip().split(".")[0]
            total["the standard library" if package in sys.stdlib_module_names else package] += int(own) / 1e6
    return dict(sorted(total.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    sys.exit(main())
