"""Competitions: a benchmark as VNN-COMP states it, every instance in a process of its own, start-up included.

Answers go to a study's store as they come in, so that a run that ends in any way goes on where it ended.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from bourn.errors import UsageError
from bourn.studies.store import Record, Store, key_of

COMPETITION = "competition"
"""What a store's records of competitions are called."""

ANSWERS = ("sat", "unsat", "unknown", "timeout", "error")
"""VNN-COMP's words for how an instance ended."""

_OWN = {"timed-out": "timeout"}
"""Words of the command that are others in VNN-COMP."""

_COMMAND = (sys.executable, "-c", "from bourn.cli import main; main()", "verify")


@dataclass(frozen=True)
class Instance:
    """One row of ``file``: a network or several, {name: path}, a query, and seconds; paths are relative to the file's folder.

    ``onnx`` is the network's cell as it stands there.
    """

    file: Path
    onnx: str
    networks: tuple[tuple[str, str], ...]
    vnnlib: str
    timeout: float

    @property
    def benchmark(self) -> str:
        """The folder's name."""
        return self.file.absolute().parent.name

    @property
    def name(self) -> str:
        """For people."""
        networks = " ".join(Path(path).name for _, path in self.networks)
        return f"{self.benchmark} {networks} {Path(self.vnnlib).name}"

    def command(self, margin: float) -> list[str]:
        """``bourn verify`` with so many seconds fewer than are allowed."""
        limit = ["--timeout", repr(self.timeout - margin)]
        query = str(self.path(self.vnnlib))
        if len(self.networks) == 1:
            return [*_COMMAND, str(self.path(self.networks[0][1])), query, *limit]
        return [
            *_COMMAND,
            query,
            *(part for name, path in self.networks for part in ("--network", f"{name}={self.path(path)}")),
            *limit,
        ]

    def path(self, stated: str) -> Path:
        """A file, or its gzipped form where that is what is there."""
        own = self.file.parent / stated
        zipped = own.with_name(own.name + ".gz")
        return zipped if zipped.exists() and not own.exists() else own

    def task(self) -> dict[str, object]:
        """What is asked, as JSON, by the files' contents; raises :class:`UsageError` where one cannot be read."""
        return {
            "study": COMPETITION,
            "benchmark": self.benchmark,
            "network": self.onnx,
            "network_hash": [_hash(self.path(path), self.file) for _, path in self.networks],
            "query": self.vnnlib,
            "query_hash": _hash(self.path(self.vnnlib), self.file),
            "timeout": self.timeout,
        }


@dataclass(frozen=True)
class Answer:
    """``result`` is one of :data:`ANSWERS`, after ``seconds`` of a whole process; ``reason`` in words."""

    result: str
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Progress:
    """So many of ``total`` instances are answered, ``done`` of them by this run, and about how many seconds are left."""

    total: int
    answered: int
    done: int
    left: float


def read_instances(files: Iterable[Path], timeout: float | None = None) -> list[Instance]:
    """The rows of files, each once, with another time limit for all if one is given; a folder stands for its instances.csv.

    Raises :class:`UsageError` for a file or a row that cannot be read.
    """
    found: dict[Instance, None] = {}
    for path in files:
        file = path / "instances.csv" if path.is_dir() else path
        try:
            with open(file, newline="", encoding="utf-8") as stream:
                rows = list(csv.reader(stream))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        for number, row in enumerate(rows, start=1):
            if row:
                found[_instance(file, number, [cell.strip() for cell in row], timeout)] = None
    if not found:
        raise UsageError("there is no instance in the files given")
    return list(found)


def _instance(file: Path, number: int, row: Sequence[str], timeout: float | None) -> Instance:
    try:
        onnx, vnnlib, limit = row[:3]
        stated = ast.literal_eval(onnx) if onnx.startswith("[") else [("", onnx)]
        networks = tuple((str(name), str(path)) for name, path in stated)
        seconds = timeout or float(limit)
    except (ValueError, SyntaxError, TypeError):
        raise UsageError(
            f"{file}, line {number}: is to be a network, a query and seconds, but is {','.join(row)[:100]!r}"
        ) from None
    if not (0 < seconds < float("inf") and networks):
        raise UsageError(f"{file}, line {number}: the time limit must be above 0 and finite, and a network named")
    return Instance(file, onnx, networks, vnnlib, seconds)


def _hash(path: Path, file: Path) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{file}: names {path}, which cannot be read: {error.strerror or error}") from None


def read_expected(path: Path) -> dict[tuple[str, str, str], str]:
    """Known answers by (benchmark, network, query), from a CSV file with the heading benchmark,onnx,vnnlib,result."""
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = csv.DictReader(stream)
            wanted = {"benchmark", "onnx", "vnnlib", "result"} <= set(rows.fieldnames or ())
            return {(r["benchmark"], r["onnx"], r["vnnlib"]): r["result"].strip() for r in rows} if wanted else _no_answers(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except AttributeError:  # a row that is too short
        return _no_answers(path)


def _no_answers(path: Path) -> dict[tuple[str, str, str], str]:
    raise UsageError(f"{path}: is to have the columns benchmark, onnx, vnnlib and result in every row")


def contradictions(
    answers: Iterable[tuple[Instance, Answer]], expected: dict[tuple[str, str, str], str]
) -> list[tuple[Instance, str]]:
    """Instances whose sat or unsat is not what is known, with what is known."""
    found = []
    for instance, answer in answers:
        known = expected.get((instance.benchmark, instance.onnx, instance.vnnlib), "")
        if {answer.result, known} == {"sat", "unsat"}:
            found.append((instance, known))
    return found


def compete(
    instances: Sequence[Instance],
    store: Store,
    workers: int = 1,
    report: Callable[[Instance, Answer, Progress], None] | None = None,
) -> list[tuple[Instance, Answer]]:
    """Answer all instances that the store has no answer to, ``workers`` at a time, and return all answers.

    Every process is killed at its time limit, start-up included.  ``report`` is called as answers come in.  What ends this
    early, Ctrl-C or an exception, loses only what was running.
    """
    tasks = [instance.task() for instance in instances]
    keys = [key_of(task) for task in tasks]
    store.note(COMPETITION, {"study": COMPETITION, "tasks": len(set(keys))})
    known = {r.key: Answer(**r.result) for r in store.records(COMPETITION)}
    missing = {key: i for i, key in enumerate(keys) if key not in known}
    began = time.monotonic()
    with closing(_run([(i, instances[i]) for i in missing.values()], workers)) as answers:
        for done, (i, answer) in enumerate(answers, start=1):
            store.put(Record(keys[i], tasks[i], asdict(answer), answer.seconds))
            known[keys[i]] = answer
            if report is not None:
                left = (time.monotonic() - began) / done * (len(missing) - done)
                report(instances[i], answer, Progress(len(set(keys)), len(set(keys) & known.keys()), done, left))
    return [(instance, known[key]) for instance, key in zip(instances, keys, strict=True)]


def _run(asked: Sequence[tuple[int, Instance]], workers: int) -> Generator[tuple[int, Answer]]:
    """Answers in the order in which they come in."""
    processes = _Processes()
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        jobs = {pool.submit(_ask, processes, instance): i for i, instance in asked}
        for job in as_completed(jobs):
            yield jobs[job], job.result()
    finally:
        processes.stop()
        pool.shutdown(cancel_futures=True)


class _Processes:
    """The processes that are running, so that all can be ended."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, command: list[str], limit: float) -> tuple[str, str, int | None]:
        """stdout, stderr and exit status, None if the process had to be killed."""
        with self._lock:
            if self._stopped:
                return "", "", None
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
            self._running.add(process)
        try:
            out, err = process.communicate(timeout=limit)
            return out, err, process.returncode
        except subprocess.TimeoutExpired:
            _kill(process)
            out, err = process.communicate()
            return out, err, None
        finally:
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        """Kill what runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _ask(processes: _Processes, instance: Instance) -> Answer:
    """One process of ``bourn verify``, which is to end by itself a little before it is killed."""
    margin = min(1.0, 0.1 * instance.timeout)
    began = time.monotonic()
    out, err, status = processes.run(instance.command(margin), instance.timeout)
    seconds = round(time.monotonic() - began, 3)
    if status is None:
        return Answer("timeout", seconds, "killed at its time limit")
    said = out.splitlines() or [""]
    result = _OWN.get(said[0], said[0])
    if status != 0 or result not in ANSWERS:
        last = (err.strip().splitlines() or ["it said nothing"])[-1]
        return Answer("error", seconds, f"exit status {status}: {last.removeprefix('bourn: ')}"[:160])
    return Answer(result, seconds, _reason(result, said[1:], err.splitlines()))


def _reason(result: str, out: Sequence[str], err: Sequence[str]) -> str:
    """The line that says why."""
    starts = {"sat": "replayed in", "unsat": "proved by"}
    wanted = starts.get(result, "unknown:")
    found = next((line for line in (*out, *err) if line.startswith(wanted)), "")
    return found.removeprefix("unknown: ")[:160]


def vnncomp_results(answers: Iterable[tuple[Instance, Answer]]) -> str:
    """VNN-COMP's results.csv: benchmark, network, query, seconds of preparation, result, seconds."""
    lines = []
    for instance, answer in answers:
        cell = f'"{instance.onnx}"' if "," in instance.onnx else instance.onnx
        lines.append(f"{instance.benchmark},{cell},{instance.vnnlib},0,{answer.result},{answer.seconds:.3f}\n")
    return "".join(lines)
