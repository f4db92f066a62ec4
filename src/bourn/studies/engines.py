"""Engines: where a study's jobs are done.  In this process, in several on this machine, or by Dask's workers anywhere.

An engine takes jobs from a queue, to which its user may add while it works, and gives back each with what was found, in any
order.  It is a context manager: entering it begins what takes time to begin, leaving it ends everything that it started.
Nothing heavy is imported here, so that workers can start while their parent still imports torch and reads the study's files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from importlib import import_module
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from bourn.errors import BournError, UsageError
from bourn.processes import end, lost_workers, pool, spawning

if TYPE_CHECKING:
    from bourn.studies.jobs import Found, Job

Done: TypeAlias = "tuple[Job, list[Found]]"
T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Jobs given out for every worker: one that it does, one that waits for it."""


class Engine(ABC):
    """Does jobs."""

    @abstractmethod
    def run(self, jobs: deque[Job], networks: Mapping[str, bytes]) -> Iterator[Done]:
        """Do all jobs, also those that are added on the way; ``networks``: ONNX files by hash.

        Raises :class:`bourn.errors.BournError` where a worker is lost, or what a job raised.
        """

    def close(self) -> None:  # noqa: B027 - most engines have nothing to close
        """End what was started; jobs that are not done are dropped."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class InProcess(Engine):
    """One job after the other, here."""

    def run(self, jobs: deque[Job], networks: Mapping[str, bytes]) -> Iterator[Done]:
        while jobs:
            job = jobs.popleft()
            yield job, _work(job, networks[job.network])


class Processes(Engine):
    """So many processes on this machine, each with one thread."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise UsageError(f"{workers} workers: there must be at least 1")
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        self._begin()
        return self

    def _begin(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = pool(self.workers, _begin_worker)
            with spawning():
                for _ in range(self.workers):  # each that finds nobody idle starts a process
                    self._pool.submit(int)
        return self._pool

    def run(self, jobs: deque[Job], networks: Mapping[str, bytes]) -> Iterator[Done]:
        own = self._begin()
        given: dict[Future[list[Found]], Job] = {}
        # Not concurrent.futures.wait, in which Ctrl-C can leave a lock behind that the pool's own thread then waits for.
        done: SimpleQueue[Future[list[Found]]] = SimpleQueue()
        with lost_workers():
            while jobs or given:
                while jobs and len(given) < _AHEAD * self.workers:
                    job = jobs.popleft()
                    with spawning():
                        future = own.submit(_work, job, networks[job.network])
                    given[future] = job
                    future.add_done_callback(done.put)
                future = done.get()
                yield given.pop(future), future.result()

    def close(self) -> None:
        if self._pool is not None:
            end(self._pool)
        self._pool = None


def _begin_worker() -> None:
    # What jobs need, before there are any.
    from bourn.formats import onnx  # noqa: F401
    from bourn.studies import adversarial_error, minimum_distortion  # noqa: F401


def _work(job: Job, network: bytes) -> list[Found]:
    from bourn.studies.jobs import work

    return work(job, network)


def each(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """What a function says of every item, in order, by so many processes.

    Raises :class:`UsageError` for fewer than one, :class:`bourn.errors.BournError` where one is lost.
    """
    if workers < 1:
        raise UsageError(f"{workers} workers: there must be at least 1")
    if workers == 1:
        yield from map(function, items)
        return
    workers_of = pool(workers, _begin_worker)
    try:
        with lost_workers():
            with spawning():
                found = workers_of.map(function, items)
            yield from found
    finally:
        end(workers_of)


class Dask(Engine):
    """The workers of a Dask cluster: of the scheduler at ``address``, or ``workers`` on this machine for "local".

    They need bourn and its dependencies installed, and no files: networks and images are sent to them.  A job whose worker
    stops is done by another.
    """

    def __init__(self, address: str, workers: int = 1) -> None:
        try:
            distributed: Any = import_module("distributed")
        except ImportError:
            raise UsageError("Dask is not installed; python -m pip install distributed does it") from None
        self._client: Any = None
        self._cluster: Any = None
        try:
            if address == "local":
                with spawning():
                    self._cluster = distributed.LocalCluster(
                        n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
                    )
            self._client = distributed.Client(self._cluster or address, timeout="20s", set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            self.close()
            raise UsageError(f"no Dask scheduler answers at {address!r}: {' '.join(str(error).split())[:200]}") from None

    def run(self, jobs: deque[Job], networks: Mapping[str, bytes]) -> Iterator[Done]:
        # As tasks, which Dask repeats where a worker that held one is lost; data that is scattered would be gone.
        held = {name: self._client.submit(bytes, data, key=f"network-{name}") for name, data in networks.items()}
        given: dict[Any, Job] = {}
        completed = import_module("distributed").as_completed(loop=self._client.loop)

        def give_out() -> None:
            while jobs and len(given) < _AHEAD * max(1, sum(self._client.nthreads().values())):
                job = jobs.popleft()
                future = self._client.submit(_work, job, held[job.network], pure=False)
                given[future] = job
                completed.add(future)

        give_out()
        while given:
            future = next(completed)
            job = given.pop(future)
            try:
                found = future.result()
            except BournError:
                raise
            except Exception as error:
                raise BournError(
                    f"Dask gave a job up: {type(error).__name__}: {' '.join(str(error).split())[:200]}; "
                    "what was found is kept, and the same command goes on"
                ) from error
            future.release()
            yield job, found
            give_out()

    def close(self) -> None:
        for part in (self._client, self._cluster):
            if part is not None:
                with suppress(OSError, TimeoutError):
                    part.close()
        self._client = self._cluster = None
