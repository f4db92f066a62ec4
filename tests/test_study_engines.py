"""Engines: all find the same, and whatever kills a study or its workers, its answers are there once in the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bourn.errors import BournError
from bourn.formats.toml import read_toml
from bourn.processes import spawning
from bourn.studies.description import Description
from bourn.studies.engines import Dask, Done, Engine, InProcess, Processes, each
from bourn.studies.jobs import Job
from bourn.studies.running import Study, run
from bourn.studies.store import Record, Store

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "studies" / "digits.toml"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


def digits(radii: list[float], **changes: Any) -> Description:
    networks = [{"file": "../examples/digits_mlp.onnx", "radii": radii}]
    return Description.from_data({**read_toml(DIGITS), "networks": networks, **changes}, "digits", DIGITS.parent)


def found(records: Iterator[Record]) -> dict[str, tuple[Any, ...]]:
    """What an answer says, but for the time it took."""
    return {r.key: (r.task["image"], *(r.result[name] for name in ("outcome", "decided_by", "bound", "attained"))) for r in records}


def by(engine: Engine, asked: Description, path: Path) -> dict[str, tuple[Any, ...]]:
    with Store(path) as store, engine:
        run(Study.of(asked), store, engine)
        return found(store.records())


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    asked = digits([0.05, 0.1])
    one, two = by(InProcess(), asked, tmp_path / "a.db"), by(Processes(2), asked, tmp_path / "b.db")
    assert len(one) == 20
    assert one == two


@pytest.mark.slow
def test_a_worker_process_that_dies_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    class Dies(Processes):
        def run(self, jobs: deque[Job], networks: Mapping[str, bytes]) -> Iterator[Done]:
            for done in super().run(jobs, networks):
                yield done
                assert self._pool is not None
                for pid in list(self._pool._processes):
                    os.kill(pid, signal.SIGKILL)

    asked = digits([0.1, 0.11, 0.12], cascade=False)
    with Store(tmp_path / "a.db") as store:
        with Dies(1) as engine, pytest.raises(BournError, match="a worker process died"):
            run(Study.of(asked), store, engine)
        assert len(store) < 30
        assert run(Study.of(asked), store, InProcess()).answered == 30


KILLED = """
import os, random, re, signal, sys, time
import torch
torch.set_num_threads(1)
from bourn.cli.main import run
import bourn.cli.study, bourn.formats.onnx, bourn.solvers.linear_programs, bourn.studies.running, bourn.studies.tables
bourn.cli.study._EVERY = 0
kills, *arguments = sys.argv[1:]
chance = random.Random(0)
for kill in range(int(kills)):
    said, says = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(says, 2)
        os._exit(run(arguments))
    os.close(says)
    lines = os.fdopen(said)
    if kill % 4:
        progress = [int(re.search(r": (\\d+) of", lines.readline())[1]) for _ in range(2)]
        assert progress[0] < progress[1]
    time.sleep(chance.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the study ended by itself before kill {kill}: {status}"
"""
"""Forks a study and kills it at a random moment, mostly once answers come in, again and again; what is slow to import is there."""


@pytest.mark.parametrize("kills", [5, pytest.param(25, marks=pytest.mark.slow)])
def test_a_study_killed_at_random_moments_has_every_answer_once_in_the_end(kills: int, tmp_path: Path) -> None:
    radii = [0.08 + 0.001 * i for i in range(2 * kills)]
    path = tmp_path / "a.db"
    arguments = ["study", "adversarial-error", str(DIGITS), "--only", "mlp", "--no-cascade", "-o", str(path)]
    for radius in radii:
        arguments += ["--radius", str(radius)]
    done = subprocess.run([sys.executable, "-c", KILLED, str(kills), *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    asked = Study.of(Description.from_data(_mlp(radii), "digits", DIGITS.parent))
    with Store(path) as store:
        there = len(store)
        progress = run(asked, store, InProcess())
        counts = Counter(r.key for r in store.records())
    assert 0 < there == progress.before < progress.total
    assert counts == Counter(a.key for a in asked.asked())


def _mlp(radii: list[float]) -> dict[str, Any]:
    data = read_toml(DIGITS)
    networks = [{**entry, "radii": radii} for entry in data["networks"] if "mlp" in entry["file"]]
    return {**data, "networks": networks, "cascade": False}


def _started(arguments: list[str]) -> subprocess.Popen[str]:
    """The command in a process group of its own, once it has said that answers came in."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import bourn.cli.study as s; s._EVERY = 0; from bourn.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    line = ""
    while " answers" not in line or ": 0 of" in line:
        line = process.stderr.readline()
        assert line or process.poll() is None, "it ended before it was interrupted"
    return process


def _group_is_gone(leader: int, patience: float = 20.0) -> bool:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def _long(path: Path) -> list[str]:
    arguments = ["study", "adversarial-error", str(DIGITS), "--no-cascade", "--workers", "2", "-o", str(path)]
    for i in range(100):
        arguments += ["--radius", str(0.1 + 0.001 * i)]
    return arguments


def test_ctrl_c_keeps_the_answers_says_so_and_leaves_no_process(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with _started(_long(path)) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    with Store(path, create=False) as store:
        there = len(store)
    assert err.splitlines()[-1] == f"bourn: interrupted; all {there} answers of 2000 are in {path}, and the same command goes on"
    assert 0 < there < 2000
    assert _group_is_gone(process.pid)


def test_ctrl_c_while_a_worker_starts_is_answered_by_the_parent_alone() -> None:
    asks = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print(signal.SIGINT in signal.sigpending())"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    reached = []
    try:
        with pytest.raises(KeyboardInterrupt), spawning():  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)
            child = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
            reached.append(child.stdout)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached == ["True\n"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def _slowly(number: int) -> int:
    time.sleep(0.2 * number)
    return number


def test_ctrl_c_ends_what_is_done_item_by_item() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        found = each(_slowly, [0, 1, 600], 2)
        assert [next(found), next(found)] == [0, 1]
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            next(found)
    finally:
        signal.signal(signal.SIGINT, before)
    end = time.monotonic() + 20  # whose end is noted by the pool's own thread, too
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_workers_of_a_killed_study_end_too(tmp_path: Path) -> None:
    with _started(_long(tmp_path / "a.db")) as process:
        process.kill()
        process.communicate(timeout=60)
    assert _group_is_gone(process.pid)


def test_dask_workers_find_what_one_process_finds(tmp_path: Path) -> None:
    distributed: Any = pytest.importorskip("distributed", reason="Dask is not installed")
    asked = digits([0.05, 0.1])
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        assert by(Dask(cluster.scheduler_address), asked, tmp_path / "a.db") == by(InProcess(), asked, tmp_path / "b.db")


@pytest.mark.slow
def test_jobs_of_a_dask_worker_that_is_killed_are_done_by_another(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    asked = digits([0.08 + 0.004 * i for i in range(10)], cascade=False)

    class Killed(Dask):
        def run(self, jobs: deque[Job], networks: Mapping[str, bytes]) -> Iterator[Done]:
            for number, done in enumerate(super().run(jobs, networks)):
                if number == 15:
                    os.kill(next(iter(self._client.run(os.getpid).values())), signal.SIGKILL)
                yield done

    assert by(Killed("local", 2), asked, tmp_path / "a.db") == by(InProcess(), asked, tmp_path / "b.db")


def test_no_dask_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BournError, match=r"pip install distributed"):
        Dask("local")
