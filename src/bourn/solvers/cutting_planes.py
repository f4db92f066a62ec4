"""Cutting planes: the relaxed program's linear programs, and inequalities across neurons, added where the LPs' points break them.

Beyond the class of layer-wise relaxations, and so beyond its barrier.  HiGHS is not trusted: of what it returns only the duals are
used, those of the planes too, as multipliers at which the bound is stated anew with its rounding error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.solvers.base import Solver
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.simplex import Simplex

if TYPE_CHECKING:
    from bourn.solvers.cut_programs import Cut


class Kind(Enum):
    """Kinds of planes, by the relaxation that all planes of the kind together are."""

    INPUTS = "hull over a ReLU's inputs"
    PAIRS = "hulls of pairs of ReLUs"


@dataclass(frozen=True)
class Climb:
    """An ascent with planes: ``rounds``: how often planes are added, each time after ``steps`` steps, where the rows of ``points``
    entries have their relaxed points; then ``last`` steps.  Steps grow shorter by ``decay``.
    """

    rounds: int = 3
    points: int = 8
    steps: int = 30
    last: int = 60
    decay: float = 0.94


@dataclass(frozen=True)
class CuttingPlanes(Solver):
    """Linear programs with planes of some ``kinds``; sound, and exact for their relaxation in the limit.

    ``rounds``: how often planes are added for one objective, as long as a round gains at least the share ``least`` of what all
    rounds have.  ``relaxed`` solves the linear programs, whose bounds without planes come first.

    Inner bounds, where none are given, climb as ``climb`` says where they can (:func:`bourn.solvers.plane_ascent.climbs`), from
    where ``begin`` leaves them; elsewhere they come from linear programs with ``inner_rounds`` of planes each.  ``patience``: the
    share of the time left that may go into them; neurons that are not reached by then keep their bounds in closed form.
    ``chunk_bytes`` bounds the memory of one set of rows.
    """

    kinds: tuple[Kind, ...] = (Kind.INPUTS,)
    rounds: int = 30
    inner_rounds: int = 1
    climb: Climb = Climb()
    least: float = 0.005
    chunk_bytes: int = 1 << 23
    patience: float = 1.0
    relaxed: Simplex = field(default=Simplex())
    begin: DualAscent = field(default=DualAscent())
    solved_by = "LP with cutting planes"

    @property
    def relaxation(self) -> str:
        return ", ".join(kind.value for kind in self.kinds)

    def prepare(
        self,
        graph: Graph,
        box: InputSet,
        *,
        inner: Mapping[int, Interval] | None = None,
        begin: Mapping[int, Interval] | None = None,
        outside: Mapping[int, Interval] | None = None,
        deadline: Deadline = NEVER,
    ) -> Cut:
        from bourn.solvers.cut_programs import Cut, tightened  # late, as everything that loads HiGHS

        if inner is None:
            return tightened(self, graph, box, begin, outside, deadline)
        linear = self.relaxed.prepare(graph, box, inner=inner, begin=begin, outside=outside, deadline=deadline)
        return Cut(self, linear, deadline)
