"""Processes of this machine that do what they are given: how they start, leave Ctrl-C to their parent, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker

from bourn.errors import BournError


def pool(workers: int, begin: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """So many processes, each with one thread, which begin with ``begin``; to be given work while :func:`spawning`."""
    # Spawned, for a fork of a process whose libraries have threads can hang.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker, (begin,))


def end(own: ProcessPoolExecutor) -> None:
    """Stop its processes: a job may take minutes, and nobody waits for its answer any more."""
    processes = list((own._processes or {}).values())
    own.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


@contextmanager
def lost_workers() -> Iterator[None]:
    """Raises :class:`bourn.errors.BournError` where a process is lost."""
    try:
        yield
    except BrokenProcessPool:
        raise BournError(
            "a worker process died, perhaps for want of memory; what was found is kept, and the same command goes on"
        ) from None


def _begin_worker(begin: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as spawning has seen to, but for Windows
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    if begin is not None:
        begin()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def spawning() -> Iterator[None]:
    """What is started in here has one thread and leaves Ctrl-C to its parent, from its first moment on.

    Ctrl-C while in here is answered at the end: ignored, which processes inherit too, it would be lost.
    """
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))
    try:
        with _holding_interrupts():
            yield
    finally:
        for name, value in threads.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _holding_interrupts() -> Iterator[None]:
    """Blocks SIGINT in this thread and all that it starts; one that another thread took waits too."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would unblock the signal
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)
