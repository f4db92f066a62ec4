"""Deadline: the time that is left, handed down to everything that may take long."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from bourn.errors import UsageError


class OutOfTime(Exception):
    """Raised by :meth:`Deadline.check`; caught where a partial answer can still be given."""


@dataclass(frozen=True)
class Deadline:
    """A point in time, ``seconds`` after ``began`` (None: never); what runs long calls :meth:`check`.

    ``began`` is a reading of ``time.monotonic()``, by default now.  Raises :class:`UsageError` for seconds
    that are not positive.
    """

    seconds: float | None = None
    began: float = field(default_factory=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds > 0:
            raise UsageError(f"the timeout is {self.seconds:g} s; it must be above 0")

    @property
    def left(self) -> float:
        """Seconds left, negative once the time is over."""
        return math.inf if self.seconds is None else self.began + self.seconds - time.monotonic()

    def part(self, share: float) -> Deadline:
        """The deadline after ``share`` of the time left from now on, this one itself for 1."""
        if self.seconds is None or share >= 1 or self.left <= 0:
            return self
        return Deadline(share * self.left)

    def within(self, seconds: float) -> Deadline:
        """The deadline after so many seconds from now on, above 0, or this one where it is earlier."""
        return self if self.left <= seconds else Deadline(seconds)

    def check(self) -> None:
        """Raise :class:`OutOfTime` once the time is over."""
        if self.left <= 0:
            raise OutOfTime


NEVER = Deadline()
"""No limit."""
