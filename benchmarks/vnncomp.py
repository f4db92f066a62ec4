"""Runs VNN-COMP benchmarks through the ``bourn`` command, a whole process each, and compares with known answers.

Data: a folder that holds benchmark folders, each with an ``instances.csv`` (onnx, vnnlib, timeout), and where known
``expected_results.csv`` (benchmark, onnx, vnnlib, result); by default ``$BOURN_DATA/vnncomp2022``.

    python benchmarks/vnncomp.py --timeout 5 --processes 2 --store results.jsonl
    python benchmarks/vnncomp.py FOLDER --only mnist_fc --store results.jsonl

Every answer is one line of the store, on the disk before the next instance starts: whatever stops this script, the
same command goes on where it stopped.  Exit status: 1 if an answer contradicts a known one, 2 for a wrong argument, 130
after Ctrl-C.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

ANSWERS = ("sat", "unsat", "unknown", "timed-out")
GRACE = 5.0
"""Seconds after its time limit at which a process is killed."""


@dataclass(frozen=True, order=True)
class Instance:
    """One question, by the paths in ``instances.csv``."""

    benchmark: str
    onnx: str
    vnnlib: str


@dataclass(frozen=True)
class Answer:
    """What one process answered: ``result`` is one of ANSWERS or ``error``, whose reason is ``message``."""

    instance: Instance
    timeout: float
    result: str
    seconds: float
    exit_status: int
    message: str = ""


def main() -> int:
    """Run what the store does not hold yet, then print the tables."""
    arguments = _arguments()
    folder: Path = arguments.folder
    instances = list_instances(folder, arguments.only)
    expected = read_expected(folder / "expected_results.csv")
    with open(arguments.store, "a+", encoding="utf-8") as store:
        try:
            fcntl.flock(store, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(f"{arguments.store}: another run is writing to it")
        known = read_store(store, arguments.timeout)
        missing = [i for i in instances if i not in known]
        print(f"{len(instances)} instances, {len(instances) - len(missing)} of them in {arguments.store}", file=sys.stderr)
        stopped = run_all(folder, missing, arguments, store, known)
    answers = [known[i] for i in instances if i in known]
    print(f"bourn verify --timeout {arguments.timeout:g}, {arguments.processes} at a time; {machine()}")
    print_table(answers)
    wrong = print_findings(answers, expected)
    if stopped:
        print(f"stopped: {len(instances) - len(answers)} instances were not run; the same command goes on", file=sys.stderr)
        return 130
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("BOURN_DATA")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(data) / "vnncomp2022" if data else None)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds an instance, start-up included (default 5)")
    parser.add_argument("--processes", type=int, default=2, help="how many run at a time (default 2)")
    parser.add_argument("--store", type=Path, default=Path("results.jsonl"), help="where answers are kept (default results.jsonl)")
    parser.add_argument("--only", action="append", metavar="BENCHMARK", help="run this benchmark only; may be repeated")
    arguments = parser.parse_args()
    if arguments.folder is None:
        parser.error("name the folder of benchmarks, or set BOURN_DATA")
    if not arguments.folder.is_dir():
        parser.error(f"{arguments.folder} is not a folder")
    if not arguments.timeout > 0 or arguments.processes < 1:
        parser.error("--timeout must be above 0 and --processes at least 1")
    return arguments


def list_instances(folder: Path, only: list[str] | None) -> list[Instance]:
    """All instances of the folder's benchmarks, each once, in the order of the files."""
    found: dict[Instance, None] = {}
    names = sorted(path.parent.name for path in folder.glob("*/instances.csv"))
    unknown = set(only or ()) - set(names)
    if unknown or not names:
        sys.exit(f"{folder}: no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names) or 'none'}")
    for name in names:
        if only and name not in only:
            continue
        with open(folder / name / "instances.csv", newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                if len(row) >= 2:
                    found[Instance(name, row[0].strip(), row[1].strip())] = None
    return list(found)


def read_expected(path: Path) -> dict[Instance, str]:
    """The known answers; none if there is no such file."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {Instance(row["benchmark"], row["onnx"], row["vnnlib"]): row["result"] for row in csv.DictReader(file)}


def read_store(store: TextIO, timeout: float) -> dict[Instance, Answer]:
    """The store's answers under this time limit; a line that was cut off when a run was killed is dropped."""
    store.seek(0)
    text = store.read()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        store.truncate(len(whole.encode()))
    answers = [json.loads(line) for line in whole.splitlines()]
    read = [Answer(**{**answer, "instance": Instance(**answer["instance"])}) for answer in answers]
    return {answer.instance: answer for answer in read if answer.timeout == timeout}


class Processes:
    """The processes that are running, so that all can be stopped."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[str]] = set()
        self.lock = threading.Lock()
        self.stopped = False

    def run(self, command: list[str], limit: float) -> tuple[str, str, int | None]:
        """stdout, stderr and exit status, None if the process had to be killed."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.lock:
            if self.stopped:
                raise InterruptedError
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=environment,
                start_new_session=True,
            )
            self.running.add(process)
        try:
            out, err = process.communicate(timeout=limit)
            return out, err, process.returncode
        except subprocess.TimeoutExpired:
            _kill(process)
            out, err = process.communicate()
            return out, err, None
        finally:
            with self.lock:
                self.running.discard(process)

    def stop(self) -> None:
        """Kill what runs, and start nothing more."""
        with self.lock:
            self.stopped = True
            for process in self.running:
                _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def run_all(
    folder: Path, missing: list[Instance], arguments: argparse.Namespace, store: TextIO, known: dict[Instance, Answer]
) -> bool:
    """Run the missing instances, adding to ``store`` and ``known``; True if stopped by Ctrl-C."""
    processes = Processes()
    bourn = str(Path(sys.executable).with_name("bourn"))
    command = bourn if Path(bourn).exists() else shutil.which("bourn")
    if command is None:
        sys.exit("there is no command bourn; install the package first")
    began = time.monotonic()
    with ThreadPoolExecutor(arguments.processes) as pool:
        jobs = [pool.submit(ask, processes, command, folder, instance, arguments.timeout) for instance in missing]
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                answer = job.result()
                known[answer.instance] = answer
                store.write(json.dumps(asdict(answer)) + "\n")
                store.flush()
                os.fsync(store.fileno())
                _progress(answer, done, len(missing), time.monotonic() - began)
        except KeyboardInterrupt:
            processes.stop()
            pool.shutdown(cancel_futures=True)
            return True
    return False


def ask(processes: Processes, bourn: str, folder: Path, instance: Instance, timeout: float) -> Answer:
    """One process of ``bourn verify``."""
    home = folder / instance.benchmark
    files = [str(_existing(home / path)) for path in (instance.onnx, instance.vnnlib)]
    began = time.monotonic()
    out, err, status = processes.run([bourn, "verify", *files, "--timeout", str(timeout)], timeout + GRACE)
    seconds = time.monotonic() - began
    if status is None:
        return Answer(instance, timeout, "error", seconds, -signal.SIGKILL, "did not stop in time")
    result = out.splitlines()[0] if out else ""
    if status != 0 or "Traceback" in err or result not in ANSWERS:
        last = (err.strip().splitlines() or ["nothing on stderr"])[-1]
        return Answer(instance, timeout, "error", seconds, status, last[:500])
    return Answer(instance, timeout, result, seconds, status)


def _existing(path: Path) -> Path:
    """The file, or its gzipped form."""
    zipped = path.with_name(path.name + ".gz")
    return zipped if zipped.exists() and not path.exists() else path


def _progress(answer: Answer, done: int, total: int, seconds: float) -> None:
    left = seconds / done * (total - done)
    name = f"{answer.instance.benchmark} {Path(answer.instance.onnx).name} {Path(answer.instance.vnnlib).name}"
    line = (
        f"[{done}/{total}, {seconds:.0f} s, about {left:.0f} s left] {answer.result} {answer.seconds:.1f} s {name} {answer.message}"
    )
    print(line, file=sys.stderr, flush=True)


def machine() -> str:
    """What this runs on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def print_table(answers: Iterable[Answer]) -> None:
    """Per benchmark and in all: what was answered, and the seconds of a whole process."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.instance.benchmark, []).append(answer)
    if len(groups) > 1:
        groups["all"] = [a for group in list(groups.values()) for a in group]
    columns = ("benchmark", "instances", "sat", "unsat", "unknown", "timed out", "errors", "solved", "mean s", "max s")
    print("| " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * (len(columns) - 1))
    for name, group in groups.items():
        count = {result: sum(a.result == result for a in group) for result in (*ANSWERS, "error")}
        solved = count["sat"] + count["unsat"]
        seconds = [a.seconds for a in group]
        numbers = (len(group), *count.values(), solved, f"{sum(seconds) / len(seconds):.2f}", f"{max(seconds):.2f}")
        print(f"| {name} | " + " | ".join(map(str, numbers)) + " |")


def print_findings(answers: list[Answer], expected: dict[Instance, str]) -> int:
    """Every error and every contradiction; returns the number of contradictions."""
    for answer in answers:
        if answer.result == "error":
            print(f"ERROR {_name(answer.instance)}: status {answer.exit_status}, {answer.seconds:.1f} s: {answer.message}")
    compared = [a for a in answers if a.instance in expected and a.result in ("sat", "unsat")]
    wrong = [a for a in compared if a.result != expected[a.instance]]
    for answer in wrong:
        print(f"WRONG WRONG WRONG {_name(answer.instance)}: {answer.result}, but {expected[answer.instance]} is known")
    print(f"{len(compared)} answers compared with known ones: {len(wrong)} contradictions")
    return len(wrong)


def _name(instance: Instance) -> str:
    return f"{instance.benchmark} {instance.onnx} {instance.vnnlib}"


if __name__ == "__main__":
    sys.exit(main())
