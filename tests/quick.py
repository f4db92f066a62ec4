"""Methods that take little time, and the plan of verify that leaves what layer-wise methods cannot decide unknown."""

from __future__ import annotations

import dataclasses

from bourn.plans import CHEAP_FIRST, Bounding, Plan
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.cutting_planes import CuttingPlanes
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.methods import BEYOND, METHODS, Method
from bourn.solvers.row_trees import RowTrees
from bourn.solvers.split_ascent import Climb
from bourn.solvers.tree_bounds import TreeBounds


def hasty(m: Method) -> Method:
    """The method, with few steps if it iterates."""
    if isinstance(m.solver, DualAscent):
        return dataclasses.replace(m, solver=dataclasses.replace(m.solver, steps=5))
    if isinstance(m.solver, CuttingPlanes):
        return dataclasses.replace(m, solver=dataclasses.replace(m.solver, rounds=3))
    if isinstance(m.solver, TreeBounds):
        solver = dataclasses.replace(m.solver, ascent=dataclasses.replace(m.solver.ascent, steps=5))
        return dataclasses.replace(m, solver=dataclasses.replace(solver, trees=RowTrees(leaves=6, root=Climb(steps=5))))
    return m


QUICK = tuple(map(hasty, METHODS))
"""All methods of the class: enough where it is asked whether a bound holds, not how good it is."""

PROVED = (*QUICK, *(hasty(m) for m in BEYOND if m.inner is None))
"""Those beyond the barrier too whose bounds bourn proves by itself, once a solver: on its own inner bounds."""

UP_TO_LP_ALL = Plan(
    tuple(
        step
        for step in CHEAP_FIRST.steps
        if not isinstance(step, BranchAndBound)
        and not (isinstance(step, Bounding) and step.method.name.split(",")[0] in [m.name for m in BEYOND])
    )
)
"""The usual plan without splitting."""
