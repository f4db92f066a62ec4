"""Methods that take little time."""

from __future__ import annotations

import dataclasses

from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.methods import METHODS, Method


def hasty(m: Method) -> Method:
    """The method, with few steps if it iterates."""
    if isinstance(m.solver, DualAscent):
        return dataclasses.replace(m, solver=dataclasses.replace(m.solver, steps=5))
    return m


QUICK = tuple(map(hasty, METHODS))
"""All methods: enough where it is asked whether a bound holds, not how good it is."""
