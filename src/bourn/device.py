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


def row_bytes(place: torch.device) -> int:
    """What one set of rows may take on a device other than the CPU, of which some thirty are alive at a time.

    A CPU is fastest where a set stays in its caches, an accelerator where it is large: it may fill half of the memory.
    """
    if place.type == "cuda":
        return int(torch.cuda.get_device_properties(place).total_memory) // 64
    return 1 << 26
