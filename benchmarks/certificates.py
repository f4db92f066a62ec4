"""Certificates of VNN-COMP instances that bourn decides: which check, how long that takes, and how large they are.

Data: ``vnncomp2022`` under ``$BOURN_DATA``.  One instance after the other in this process, so that imports are in no
time; times are the processor's (OMP_NUM_THREADS=1).

    python benchmarks/certificates.py --only mnist_fc --timeout 20
    python benchmarks/certificates.py --only rl_benchmarks --every 10 --arithmetic ball

Exit status: 1 if a certificate does not check.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import bourn
from bourn.studies.competition import Instance, read_instances
from bourn_check import NotAProof, Unreadable, check
from common import machine


@dataclass(frozen=True)
class Measured:
    """One verdict: the processor's seconds to solve, to write and to check, the file's size, and what was wrong with it."""

    status: str
    solve: float
    write: float = 0.0
    check: float = 0.0
    size: int = 0
    refused: str = ""
    failed: str = ""


def main() -> int:
    """Measure, print a line for each instance to stderr and the table to stdout."""
    arguments = _arguments()
    measured: dict[str, list[Measured]] = {}
    for number, instance in enumerate(read_instances(_files(arguments.folder, arguments.only))):
        if number % arguments.every:
            continue
        found = _measure(arguments.folder, instance, arguments.timeout, arguments.arithmetic)
        print(f"{instance.onnx} {instance.vnnlib}: {found}", file=sys.stderr, flush=True)
        measured.setdefault(instance.benchmark, []).append(found)
    print(f"bourn verify with {arguments.timeout:g} s, bourn check --arithmetic {arguments.arithmetic}; {machine()}")
    print("| benchmark | verdict | number | checked | no certificate | solve s | write s | check s | size kB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for benchmark, all_of_it in measured.items():
        for verdict in ("unsat", "sat"):
            own = [m for m in all_of_it if m.status == verdict]
            done = [m for m in own if m.size and not m.failed]
            if own:
                refused = sum(bool(m.refused) for m in own)
                print(f"| {benchmark} | {verdict} | {len(own)} | {len(done)} | {refused} | {_medians(done)} |")
    failed = [m.failed for all_of_it in measured.values() for m in all_of_it if m.failed]
    print("\n".join(failed), file=sys.stderr)
    return 1 if failed else 0


def _medians(done: list[Measured]) -> str:
    if not done:
        return " | ".join(["-"] * 4)
    columns = ([m.solve for m in done], [m.write for m in done], [m.check for m in done], [m.size / 1000 for m in done])
    return " | ".join(f"{statistics.median(c):.2f}" for c in columns)


def _measure(folder: Path, instance: Instance, timeout: float, arithmetic: str) -> Measured:
    network, specification = (_file(folder / instance.benchmark / name) for name in (instance.onnx, instance.vnnlib))
    began = time.process_time()
    result = bourn.verify(network, specification, timeout=timeout)
    solved = time.process_time()
    if result.status not in ("unsat", "sat"):
        return Measured(result.status, solved - began)
    with tempfile.TemporaryDirectory() as place:
        proof = Path(place) / "proof.bourn"
        try:
            bourn.write_certificate(result, proof)
        except bourn.BournError as error:
            return Measured(result.status, solved - began, refused=str(error))
        written = time.process_time()
        failed = ""
        try:
            check(proof, network, specification, arithmetic)
        except (NotAProof, Unreadable) as error:
            failed = f"{instance.onnx} {instance.vnnlib}: {error}"
        size = proof.stat().st_size
        return Measured(result.status, solved - began, written - solved, time.process_time() - written, size, failed=failed)


def _files(folder: Path, only: list[str] | None) -> list[Path]:
    return [path for path in sorted(folder.glob("*/instances.csv")) if not only or path.parent.name in only]


def _file(path: Path) -> Path:
    return path if path.exists() else path.with_name(path.name + ".gz")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    stated = os.environ.get("BOURN_DATA")
    folder = Path(stated) / "vnncomp2022" if stated else None
    parser.add_argument("folder", type=Path, nargs="?", default=folder, help="by default $BOURN_DATA/vnncomp2022")
    parser.add_argument("--only", action="append", help="a benchmark; may be given several times")
    parser.add_argument("--every", type=int, default=1, help="every how many instances one is taken")
    parser.add_argument("--timeout", type=float, default=20.0)
    parser.add_argument("--arithmetic", choices=("float", "ball", "rational"), default="float")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
