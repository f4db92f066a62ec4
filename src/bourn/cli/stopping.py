"""Ctrl-C and SIGTERM while a question is worked on: the first asks it to end and say what is known, the second ends the command."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from bourn.deadline import Stop

_NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


@contextmanager
def stoppable() -> Iterator[Stop]:
    """A wish to stop that the first signal makes.  A signal that is ignored stays ignored."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # where Python takes no signals
        yield stop
        return

    def heard(number: int, frame: FrameType | None) -> None:
        if stop.reason:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise click.exceptions.Exit(128 + number)
        stop.ask(_NAMES[signal.Signals(number)])
        # Not by print: the signal may have come in the middle of one.
        os.write(sys.stderr.fileno(), b"stopping, to say what is known so far; once more ends at once\n")

    before = {number: signal.getsignal(number) for number in _NAMES}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, heard)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
