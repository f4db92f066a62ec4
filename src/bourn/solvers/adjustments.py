"""Methods with other settings: another gap, less memory, a device's size of batches, less time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from bourn.device import row_bytes
from bourn.errors import UsageError
from bourn.solvers.base import Solver
from bourn.solvers.cutting_planes import CuttingPlanes
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.methods import ASCENT, BARRIER, EXACT, GAP, Method, method
from bourn.solvers.simplex import Simplex
from bourn.solvers.tree_bounds import TreeBounds

_ALIVE = 32
"""How many sets of rows are alive at a time, at most: measured."""


def to_gap(chosen: Method, gap: float) -> Method:
    """LP-ALL to another relative gap: by ascent, or exactly (1e-9, by simplex) from :data:`EXACT` on.

    Raises :class:`UsageError` for a method that has no gap to choose, or a gap that is no positive number.
    """
    if chosen.name not in (BARRIER, ASCENT):
        raise UsageError(f"method {chosen.name} has no gap to choose; {BARRIER} and {ASCENT} have")
    if not 0 < gap < 1:
        raise UsageError(f"the gap is {gap:g}; it must lie between 0 and 1 ({BARRIER} is exact)")
    if gap <= EXACT:
        return method(BARRIER)
    climbing = method(ASCENT)
    assert isinstance(climbing.solver, DualAscent)
    steps = round(climbing.solver.steps * max(1.0, math.log(gap) / math.log(GAP)) ** 3)
    return replace(climbing, solver=replace(climbing.solver, gap=gap, steps=steps))


def within(chosen: Method, memory: float) -> Method:
    """The method with sets of rows so small that they keep within about ``memory`` bytes, as far as it has any."""
    rows = max(1 << 16, int(memory / _ALIVE))
    smaller, solver = _with_rows(chosen, lambda own: min(own, rows)), chosen.solver
    if isinstance(solver, TreeBounds):
        trees = replace(solver.trees, memory=min(solver.trees.memory, int(memory)))
        smaller = replace(smaller, solver=replace(smaller.solver, trees=trees))  # type: ignore[type-var]
    return smaller


def suited(chosen: Method, device: torch.device) -> Method:
    """The method with sets of rows as large as a device wants them (:func:`bourn.device.row_bytes`)."""
    return chosen if device.type == "cpu" else _with_rows(chosen, lambda own: max(own, row_bytes(device)))


def _with_rows(chosen: Method, size: Callable[[int], int]) -> Method:
    """The method with sets of rows of another size in bytes, as far as it has any."""

    def changed(solver: Solver) -> Solver:
        if isinstance(solver, TreeBounds):
            return replace(solver, ascent=replace(solver.ascent, chunk_bytes=size(solver.ascent.chunk_bytes)))
        own = getattr(solver, "chunk_bytes", None)
        return solver if own is None else replace(solver, chunk_bytes=size(own))  # type: ignore[type-var]

    return replace(chosen, solver=changed(chosen.solver), inner=None if chosen.inner is None else changed(chosen.inner))


def patient(chosen: Method, share: float) -> Method:
    """The method with at most this share of the time left for its inner bounds."""
    assert isinstance(chosen.solver, CuttingPlanes | DualAscent | Simplex | TreeBounds)
    return replace(chosen, solver=replace(chosen.solver, patience=share))


def with_leaves(chosen: Method, leaves: int) -> Method:
    """A method whose inner bounds come from trees, with at most so many leaves each."""
    assert isinstance(chosen.solver, TreeBounds)
    trees = replace(chosen.solver.trees, leaves=leaves)
    return replace(chosen, name=f"{chosen.name}, {leaves} leaves", solver=replace(chosen.solver, trees=trees))


def leaves_of(name: str) -> int:
    """The leaves in the name that :func:`with_leaves` gave a method; 0 for others."""
    count, _, word = name.rpartition(", ")[2].partition(" ")
    return int(count) if word == "leaves" and count.isdigit() else 0
