"""The table of methods: each name is a composition of a solver and a source of inner bounds.

With what they claim of each other it is the map of Salman et al. 2019; everything that the command prints or draws about
methods is read from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from bourn.deadline import NEVER, Deadline
from bourn.errors import UsageError
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.relaxations.base import LineRule
from bourn.solvers import papers
from bourn.solvers.back_substitution import BackSubstitution
from bourn.solvers.base import Prepared, Solver
from bourn.solvers.cutting_planes import CuttingPlanes, Kind
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.forward_linear import ForwardLinear
from bourn.solvers.interval_propagation import IntervalPropagation
from bourn.solvers.milp import Milp
from bourn.solvers.papers import Paper
from bourn.solvers.simplex import Simplex
from bourn.solvers.tree_bounds import TreeBounds
from bourn.solvers.zonotope import Zonotope


class View(Enum):
    """From which side of the relaxed problem a method comes; both have one optimum (strong duality)."""

    PRIMAL = "primal"
    DUAL = "dual"


class Exactness(Enum):
    """How near a method's value is to the optimum of its relaxed program, on its own inner bounds."""

    BELOW = "not exact for its relaxation"
    LINES = "exact for its lines"
    LIMIT = "exact for the hull in the limit"
    HULL = "exact for the hull"
    NETWORK = "exact where the network is piecewise linear"


@dataclass(frozen=True)
class Method:
    """A verifier of the class: ``solver`` on pre-activation bounds by ``inner``, or by itself layer after layer (None).

    Every method of the class is sound and none is complete: a bound may be below the truth, never above it.  Claims relate
    it to others, by name, for ReLU networks on boxes; tests hold every one of them to it:

    - ``equal_to``: the others' values are its own.
    - ``special_case_of``: the others have its choices and more (free slopes, errors kept, the hull instead of lines, better
      inner bounds), so that on its inner bounds their solvers, brought to their optimum, are nowhere below it.
    - ``tighter_than``: of a method beyond the barrier, what it is nowhere below, where both are brought to their optimum.
    """

    name: str
    title: str
    solver: Solver
    view: View
    papers: tuple[Paper, ...]
    inner: Solver | None = None
    aliases: tuple[str, ...] = ()
    exactness: Exactness = Exactness.LINES
    equal_to: tuple[str, ...] = ()
    special_case_of: tuple[str, ...] = ()
    tighter_than: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        return ", ".join(map(str, self.papers))

    @property
    def soundness(self) -> str:
        """What its bounds are worth, in words."""
        if self.trusts:
            return f"sound if {self.trusts} is right, which is trusted here; {self.exactness.value}"
        return f"sound, not complete; {self.exactness.value}"

    @property
    def trusts(self) -> str:
        """The program on whose word its bounds rest; empty where bourn proves them by itself."""
        return self.solver.trusts

    @property
    def relaxation(self) -> str:
        return self.solver.relaxation

    @property
    def solved_by(self) -> str:
        return self.solver.solved_by

    @property
    def inner_bounds(self) -> str:
        """Where the pre-activation bounds come from, in words."""
        if self.inner is None:
            return "same, layer by layer"
        alone = (m.name for m in METHODS if m.inner is None and m.solver == self.inner)
        return f"those of {next(alone, self.inner.solved_by)}"

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


BARRIER = "lp-all"
"""The method whose value no method of the class exceeds."""
ASCENT = "lp-all-ascent"
"""The same to a gap of :data:`GAP`, in batches."""
GAP = 1e-4
EXACT = 1e-8
"""A gap that asks for the exact optimum."""
TO_GAP = DualAscent(steps=400, decay=0.965, squares=0.9, gap=GAP)
"""Longer averages of squares leave a few rows of hundreds far from their optima."""

METHODS: tuple[Method, ...] = (
    Method(
        "ibp",
        "IBP (box)",
        IntervalPropagation(),
        View.PRIMAL,
        (papers.GOWAL,),
        aliases=("box", "interval"),
        exactness=Exactness.BELOW,
        special_case_of=("ai2",),
    ),
    Method(
        "forward",
        "Forward linear bounds (symbolic intervals)",
        ForwardLinear(),
        View.PRIMAL,
        (papers.WANG,),
        aliases=("symbolic-intervals", "neurify"),
        exactness=Exactness.BELOW,
        special_case_of=("fast-lin",),
    ),
    Method(
        "ai2",
        "AI2 (zonotope with meet and join)",
        Zonotope(LineRule.JOIN),
        View.PRIMAL,
        (papers.GEHR,),
        special_case_of=("crown-zero",),
    ),
    Method(
        "deepz",
        "DeepZ (zonotope)",
        Zonotope(),
        View.PRIMAL,
        (papers.SINGH_2018,),
        aliases=("zonotope",),
        equal_to=("fast-lin", "wong-kolter"),
    ),
    Method(
        "crown-ibp",
        "CROWN-IBP",
        BackSubstitution(LineRule.AREA),
        View.PRIMAL,
        (papers.ZHANG_2020,),
        inner=IntervalPropagation(),
        special_case_of=("planet",),
    ),
    Method(
        "fast-lin",
        "Fast-Lin",
        BackSubstitution(LineRule.PARALLEL),
        View.PRIMAL,
        (papers.WENG,),
        aliases=("fastlin",),
        equal_to=("deepz", "wong-kolter"),
        special_case_of=("lp-last",),
    ),
    Method(
        "wong-kolter",
        "Wong-Kolter (LP-GREEDY): Fast-Lin's value as a dual point",
        BackSubstitution(LineRule.PARALLEL),
        View.DUAL,
        (papers.WONG,),
        aliases=("lp-greedy",),
        equal_to=("deepz", "fast-lin"),
        special_case_of=("alpha-crown",),
    ),
    Method(
        "crown-zero",
        "CROWN, lower slope 0",
        BackSubstitution(LineRule.LOWER_LEAST),
        View.PRIMAL,
        (papers.ZHANG_2018,),
        special_case_of=("alpha-crown",),
    ),
    Method(
        "crown-one",
        "CROWN, lower slope 1",
        BackSubstitution(LineRule.LOWER_GREATEST),
        View.PRIMAL,
        (papers.ZHANG_2018,),
        special_case_of=("alpha-crown",),
    ),
    Method(
        "crown",
        "CROWN (DeepPoly)",
        BackSubstitution(LineRule.AREA),
        View.PRIMAL,
        (papers.ZHANG_2018, papers.SINGH_2019),
        aliases=("deeppoly",),
        special_case_of=("alpha-crown",),
    ),
    Method(
        "dvijotham",
        "Dvijotham's dual: ascent on the multipliers themselves",
        DualAscent(steps=100, step=0.03, decay=0.95, direct=True),
        View.DUAL,
        (papers.DVIJOTHAM,),
        inner=BackSubstitution(LineRule.AREA),
        exactness=Exactness.LIMIT,
        special_case_of=(BARRIER,),
    ),
    Method(
        "alpha-crown",
        "alpha-CROWN, inner bounds fixed",
        DualAscent(),
        View.DUAL,
        (papers.XU,),
        inner=BackSubstitution(LineRule.AREA),
        aliases=("a-crown",),
        exactness=Exactness.LIMIT,
        special_case_of=("alpha-crown-all",),
    ),
    Method(
        "alpha-crown-all",
        "alpha-CROWN, inner bounds by ascent too",
        DualAscent(),
        View.DUAL,
        (papers.XU,),
        exactness=Exactness.LIMIT,
        special_case_of=(BARRIER,),
    ),
    Method(
        ASCENT,
        "LP-ALL by dual ascent, to a gap of 1e-4",
        TO_GAP,
        View.DUAL,
        (papers.REFERENCE, papers.XU),
        aliases=("barrier-ascent",),
        exactness=Exactness.LIMIT,
        special_case_of=(BARRIER,),
    ),
    Method(
        "planet",
        "Planet",
        Simplex(),
        View.PRIMAL,
        (papers.EHLERS,),
        inner=IntervalPropagation(),
        exactness=Exactness.HULL,
        special_case_of=(BARRIER,),
    ),
    Method(
        "lp-last",
        "LP-LAST",
        Simplex(),
        View.PRIMAL,
        (papers.REFERENCE,),
        inner=BackSubstitution(LineRule.PARALLEL),
        exactness=Exactness.HULL,
        special_case_of=(BARRIER,),
    ),
    Method(
        BARRIER,
        "LP-ALL (the barrier)",
        Simplex(),
        View.PRIMAL,
        (papers.REFERENCE,),
        aliases=("barrier",),
        exactness=Exactness.HULL,
    ),
)
"""All methods, from cheap to dear; none is above the barrier."""


MILP = "milp"
"""The method that asks for the network's own minimum."""

BEYOND: tuple[Method, ...] = (
    Method(
        "k-relu",
        "k-ReLU (pairs), on LP-ALL's bounds",
        CuttingPlanes((Kind.PAIRS,)),
        View.PRIMAL,
        (papers.SINGH_K_RELU,),
        inner=Simplex(),
        exactness=Exactness.LIMIT,
        tighter_than=(BARRIER,),
    ),
    Method(
        "anderson",
        "Multi-input hulls of ReLUs, on LP-ALL's bounds",
        CuttingPlanes((Kind.INPUTS,)),
        View.PRIMAL,
        (papers.ANDERSON, papers.TJANDRAATMADJA),
        inner=Simplex(),
        exactness=Exactness.LIMIT,
        tighter_than=(BARRIER,),
    ),
    Method(
        "cuts",
        "Multi-input hulls and pairs, on LP-ALL's bounds",
        CuttingPlanes((Kind.INPUTS, Kind.PAIRS)),
        View.PRIMAL,
        (papers.TJANDRAATMADJA, papers.SINGH_K_RELU),
        inner=Simplex(),
        exactness=Exactness.LIMIT,
        tighter_than=("anderson", "k-relu"),
    ),
    Method(
        "cuts-all",
        "Multi-input hulls and pairs, for inner bounds too",
        CuttingPlanes((Kind.INPUTS, Kind.PAIRS)),
        View.PRIMAL,
        (papers.TJANDRAATMADJA, papers.SINGH_K_RELU),
        exactness=Exactness.BELOW,
    ),
    Method(
        "split-all",
        "alpha-CROWN, inner bounds by splitting the neurons before them",
        TreeBounds(),
        View.DUAL,
        (papers.TJENG, papers.BUNEL),
        exactness=Exactness.BELOW,
    ),
    Method(
        MILP,
        "MILP, on LP-ALL's bounds by ascent",
        Milp(),
        View.PRIMAL,
        (papers.TJENG,),
        inner=TO_GAP,
        exactness=Exactness.NETWORK,
        tighter_than=("cuts",),
    ),
)
"""What is asked like a method and is none of the class: it may pass the barrier."""


def method(name: str) -> Method:
    """The method called ``name`` (upper and lower case alike); raises :class:`UsageError` if there is none."""
    wanted = name.lower().replace("_", "-")
    for candidate in (*METHODS, *BEYOND):
        if wanted in (candidate.name, *candidate.aliases):
            return candidate
    names = ", ".join(m.name for m in (*METHODS, *BEYOND))
    raise UsageError(f"there is no method {name!r}; there are {names}")
