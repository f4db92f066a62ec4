"""Devices by name."""

from __future__ import annotations

import torch

from bourn.errors import UsageError


def device(name: str) -> torch.device:
    """The device called ``name`` (cpu, cuda, cuda:1 ...); raises :class:`UsageError` where torch cannot use it."""
    try:
        found = torch.device(name)
        torch.empty(0, dtype=torch.float64, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"the device {name!r} cannot be used here: {reason}") from None
    return found
