"""The table of methods: each name is a composition of a solver and a source of inner bounds.

Everything that the command prints about methods is read from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bourn.deadline import NEVER, Deadline
from bourn.errors import UsageError
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.relaxations.base import LineRule
from bourn.solvers.back_substitution import BackSubstitution
from bourn.solvers.base import Prepared, Solver
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.forward_linear import ForwardLinear
from bourn.solvers.interval_propagation import IntervalPropagation
from bourn.solvers.simplex import Simplex
from bourn.solvers.zonotope import Zonotope


@dataclass(frozen=True)
class Method:
    """A verifier of the class: ``solver`` on pre-activation bounds by ``inner``, or by itself layer after layer (None).

    Every method here is sound and none is complete: a bound may be below the truth, never above it.
    """

    name: str
    title: str
    solver: Solver
    source: str
    inner: Solver | None = None
    aliases: tuple[str, ...] = ()

    @property
    def relaxation(self) -> str:
        return self.solver.relaxation

    @property
    def solved_by(self) -> str:
        return self.solver.solved_by

    @property
    def inner_bounds(self) -> str:
        return "same, layer by layer" if self.inner is None else self.inner.solved_by

    def prepare(
        self,
        graph: Graph,
        box: InputSet,
        *,
        inner: Mapping[int, Interval] | None = None,
        begin: Mapping[int, Interval] | None = None,
        outside: Mapping[int, Interval] | None = None,
        deadline: Deadline = NEVER,
    ) -> Prepared:
        """Bound the pre-activations on ``box`` (B, *input_shape); ``inner`` replaces the method's own inner bounds.

        ``begin``: implied bounds that the method's own come on top of.  ``outside``: further bounds that hold for another
        reason (:meth:`bourn.solvers.base.Solver.prepare`).  Raises :class:`bourn.deadline.OutOfTime`.
        """
        if inner is None and self.inner is not None:
            inner = self.inner.prepare(graph, box, begin=begin, outside=outside, deadline=deadline).bounds
        return self.solver.prepare(graph, box, inner=inner, begin=begin, outside=outside, deadline=deadline)


METHODS: tuple[Method, ...] = (
    Method("ibp", "IBP (box)", IntervalPropagation(), "Gowal et al. 2018", aliases=("box", "interval")),
    Method(
        "forward",
        "Forward linear bounds (symbolic intervals)",
        ForwardLinear(),
        "Wang et al. 2018 (Neurify)",
        aliases=("symbolic-intervals",),
    ),
    Method("deepz", "DeepZ (zonotope)", Zonotope(), "Singh et al. 2018", aliases=("zonotope",)),
    Method(
        "crown-ibp",
        "CROWN-IBP",
        BackSubstitution(LineRule.AREA),
        "Zhang et al. 2020",
        inner=IntervalPropagation(),
    ),
    Method("fast-lin", "Fast-Lin", BackSubstitution(LineRule.PARALLEL), "Weng et al. 2018", aliases=("fastlin",)),
    Method(
        "wong-kolter",
        "Wong-Kolter (LP-GREEDY): Fast-Lin's value as a dual point",
        BackSubstitution(LineRule.PARALLEL),
        "Wong and Kolter 2018",
        aliases=("lp-greedy",),
    ),
    Method(
        "crown",
        "CROWN (DeepPoly)",
        BackSubstitution(LineRule.AREA),
        "Zhang et al. 2018, Singh et al. 2019",
        aliases=("deeppoly",),
    ),
    Method(
        "alpha-crown",
        "alpha-CROWN, inner bounds fixed",
        DualAscent(),
        "Xu et al. 2021",
        inner=BackSubstitution(LineRule.AREA),
        aliases=("a-crown",),
    ),
    Method("alpha-crown-all", "alpha-CROWN, inner bounds by ascent too", DualAscent(), "Xu et al. 2021"),
    Method("planet", "Planet", Simplex(), "Ehlers 2017", inner=IntervalPropagation()),
    Method("lp-last", "LP-LAST", Simplex(), "Salman et al. 2019", inner=BackSubstitution(LineRule.PARALLEL)),
    Method("lp-all", "LP-ALL (the barrier)", Simplex(), "Salman et al. 2019", aliases=("barrier",)),
)
"""All methods, from cheap to dear."""


def method(name: str) -> Method:
    """The method called ``name`` (upper and lower case alike); raises :class:`UsageError` if there is none."""
    wanted = name.lower().replace("_", "-")
    for candidate in METHODS:
        if wanted in (candidate.name, *candidate.aliases):
            return candidate
    names = ", ".join(m.name for m in METHODS)
    raise UsageError(f"there is no method {name!r}; there are {names}")


def patient(chosen: Method, share: float) -> Method:
    """The method with at most this share of the time left for its inner bounds."""
    assert isinstance(chosen.solver, DualAscent | Simplex)
    return replace(chosen, solver=replace(chosen.solver, patience=share))
