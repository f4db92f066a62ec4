"""Runs the conformance suite ``vnnlib-satisfactory`` through the ``bourn`` command, a whole process each.

The suite is not part of this repository: ``--suite`` names a folder that holds its package ``vnntest``, a checkout or what
``pip install --no-deps --target FOLDER vnnlib-satisfactory onnxscript onnx_ir`` leaves there (it also imports onnx).  Its
cases are written to a temporary folder, asked in the VNN-LIB standard's form of the command line, and compared with the
answers it expects.

    python benchmarks/conformance.py --suite FOLDER --timeout 20 --processes 2

Every case runs, whether or not ``bourn supports`` claims what it needs.  Exit status: 1 if an answer is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

DECIDED = ("sat", "unsat")
GRACE = 5.0
"""Seconds after its time limit at which a process is killed."""

WRITE = """
import contextlib, json, sys
from vnntest.core.generator import generate_all_tests
with contextlib.redirect_stdout(sys.stderr):
    cases = generate_all_tests(suite="full", node_type=None)
print(json.dumps(cases))
"""


@dataclass(frozen=True)
class Case:
    """One question of the suite, its files, and the answer that it expects."""

    name: str
    group: str
    query: Path
    networks: dict[str, Path]
    expected: str


@dataclass(frozen=True)
class Answer:
    """What the command answered: ``sat``, ``unsat``, ``unknown``, ``timed-out`` or ``error``, and why."""

    case: Case
    result: str
    why: str
    seconds: float

    @property
    def wrong(self) -> bool:
        """Whether the answer contradicts the one expected."""
        return self.result in DECIDED and self.case.expected in DECIDED and self.result != self.case.expected


def main() -> int:
    """Write the cases, ask all, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, required=True, help="the folder that holds the suite's package vnntest")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds a case")
    parser.add_argument("--processes", type=int, default=1, help="cases at a time")
    parser.add_argument("--only", help="cases of this group alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = [c for c in write(arguments.suite, Path(folder)) if arguments.only in (None, c.group)]
        with ThreadPoolExecutor(arguments.processes) as pool:
            answers = list(pool.map(lambda c: ask(c, arguments.timeout), cases))
    print(table(answers))
    return 1 if any(a.wrong for a in answers) else 0


def write(suite: Path, folder: Path) -> list[Case]:
    """The suite's cases, their files written to ``folder``."""
    homes = [h for h in (suite, suite / "src") if (h / "vnntest").is_dir()]
    if not homes:
        raise SystemExit(f"{suite}: holds no package vnntest")
    path = {"PYTHONPATH": os.pathsep.join([str(homes[0].resolve()), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", WRITE]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **path}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the suite cannot be written: {done.stderr.strip().splitlines()[-1:]}")
    found = []
    for entry in json.loads(done.stdout):
        home = folder / ".vnnlib-satisfactory" / "tests" / entry["category"]
        networks = {name: home / file for name, file in entry["networks"].items()}
        found.append(Case(entry["name"], entry["category"], home / entry["vnnlib"], networks, entry["expected"].lower()))
    return sorted(found, key=lambda c: (c.group, c.name))


def ask(case: Case, timeout: float) -> Answer:
    """The command's answer to a case."""
    networks = [part for name, file in case.networks.items() for part in ("--network", f"{name}={file}")]
    command = ["bourn", "verify", str(case.query), *networks, "--timeout", str(timeout)]
    began = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout + GRACE, check=False)
    except subprocess.TimeoutExpired:
        return Answer(case, "timed-out", "killed", time.perf_counter() - began)
    seconds = time.perf_counter() - began
    first, *rest = done.stdout.strip().splitlines() or [""]
    if done.returncode or first not in (*DECIDED, "unknown", "timed-out"):
        return Answer(case, "error", " ".join(done.stderr.strip().splitlines()[-1:]), seconds)
    return Answer(case, first, " ".join(" ".join([*rest, *done.stderr.strip().splitlines()[-1:]]).split()), seconds)


def table(answers: list[Answer]) -> str:
    """A line for every group, the answers that are not right with their reasons, and the sums."""

    def verdict(a: Answer) -> str:
        if a.wrong:
            return "wrong"
        return "right" if a.result == a.case.expected else a.result

    columns = ("right", "wrong", "unknown", "timed-out", "error")
    lines = [f"{'group':<22}" + "".join(f"{c:>11}" for c in columns)]
    for group in dict.fromkeys(a.case.group for a in answers):
        counts = Counter(verdict(a) for a in answers if a.case.group == group)
        lines.append(f"{group:<22}" + "".join(f"{counts[c] or '':>11}" for c in columns))
    counts = Counter(map(verdict, answers))
    lines.append(f"{'all':<22}" + "".join(f"{counts[c]:>11}" for c in columns))
    lines.append("")
    for a in answers:
        if verdict(a) != "right":
            lines.append(f"{a.case.group}/{a.case.name}: {a.result}, expected {a.case.expected}, {a.seconds:.1f} s: {a.why[:300]}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
