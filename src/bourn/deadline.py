"""Deadline: the time that is left, handed down to everything that may take long, and the wish that it end now."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

from bourn.errors import UsageError


class OutOfTime(Exception):
    """Raised by :meth:`Deadline.check`; caught where a partial answer can still be given."""


class Stop:
    """A wish that may come at any moment, from a signal's handler for instance: every deadline that carries it is over then."""

    def __init__(self) -> None:
        self.reason = ""

    def ask(self, reason: str) -> None:
        """End at the next safe point; ``reason`` in a word, such as "interrupted"."""
        self.reason = reason


@dataclass(frozen=True)
class Deadline:
    """A point in time, ``seconds`` after ``began`` (None: never); what runs long calls :meth:`check`.

    ``began`` is a reading of ``time.monotonic()``, by default now.  ``stop``: what ends it earlier.  Raises :class:`UsageError`
    for seconds that are not positive.
    """

    seconds: float | None = None
    began: float = field(default_factory=time.monotonic, repr=False)
    stop: Stop | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds > 0:
            raise UsageError(f"the timeout is {self.seconds:g} s; it must be above 0")

    @property
    def left(self) -> float:
        """Seconds left, negative once the time is over."""
        if self.stop is not None and self.stop.reason:
            return -1.0
        return math.inf if self.seconds is None else self.began + self.seconds - time.monotonic()

    @property
    def why(self) -> str:
        """Why it is over, where it is."""
        return (self.stop.reason if self.stop is not None else "") or "out of time"

    def part(self, share: float) -> Deadline:
        """The deadline after ``share`` of the time left from now on, this one itself for 1."""
        left = self.left
        return self if self.seconds is None or share >= 1 or left <= 0 else self._after(share * left)

    def within(self, seconds: float) -> Deadline:
        """The deadline after so many seconds from now on, above 0, or this one where it is earlier."""
        return self if self.left <= seconds else self._after(seconds)

    def _after(self, seconds: float) -> Deadline:
        return replace(self, seconds=seconds, began=time.monotonic())

    def check(self) -> None:
        """Raise :class:`OutOfTime` once the time is over."""
        if self.left <= 0:
            raise OutOfTime


NEVER = Deadline()
"""No limit."""
