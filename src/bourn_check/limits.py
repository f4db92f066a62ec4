"""What checking may take: memory and time."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from bourn_check.errors import Unreadable

GIGABYTES, SECONDS = 16.0, 36_000.0
"""Of address space, and of this world's time."""


@contextmanager
def limits(gigabytes: float = GIGABYTES, seconds: float = SECONDS) -> Iterator[None]:
    """Limits of this process, for its block; beyond them :class:`MemoryError` or :class:`Unreadable` is raised."""

    def stop(*_: object) -> None:
        raise Unreadable(f"not checked within {seconds:g} seconds (--time-limit)")

    known = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30), known[1]))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, known)
        signal.signal(signal.SIGALRM, before)
