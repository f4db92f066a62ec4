"""What verify tries, in order: attacks, methods of the table on various inner bounds, branch and bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.deadline import Deadline
from bourn.errors import UsageError
from bourn.network.graph import Graph
from bourn.solvers.adjustments import patient, with_leaves, within
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.input_splitting import InputSplitting
from bourn.solvers.methods import Method, method
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.side_by_side import SideBySide
from bourn.solvers.value_splitting import ValueSplitting


class Stand(Enum):
    """Which inner bounds a method of a plan stands on."""

    OWN = "its own inner bounds"
    BEST = "the best inner bounds of all methods before it"
    ON_TOP = "its own inner bounds, begun from the best before it"


@dataclass(frozen=True)
class Bounding:
    """One method of a plan.  ``share``: of the time left; ``seconds``: at most, where there is no time limit.

    ``after_gain``: where the last method that stood on top of others closed less than this share of what the hardest bound lacked,
    it is skipped.
    """

    method: Method
    stand: Stand = Stand.OWN
    share: float = 1.0
    seconds: float | None = None
    after_gain: float = 0.0

    @property
    def name(self) -> str:
        """The method's name, on what it stands and whom it trusts."""
        name = f"{self.method.name}, trusting {self.method.trusts}" if self.method.trusts else self.method.name
        return f"{name} on the best inner bounds" if self.stand is Stand.BEST else name

    @property
    def stands_on(self) -> str:
        """Its inner bounds, in words."""
        own = self.stand is not Stand.OWN or self.method.inner is None
        return str(self.stand.value) if own else f"the inner bounds, {self.method.inner_bounds}"

    def within(self, deadline: Deadline) -> Deadline:
        """The deadline for this method."""
        if deadline.seconds is not None:
            return deadline.part(self.share)
        return deadline if self.seconds is None else deadline.within(self.seconds)


@dataclass(frozen=True)
class Plan:
    """What is tried, in order, until every conjunction is decided."""

    steps: tuple[ProjectedGradient | Bounding | BranchAndBound, ...]


def within_memory(plan: Plan, memory: float, graph: Graph) -> Plan:
    """The plan for ``graph`` in about ``memory`` bytes: half of them for a tree of splits, the rest for what is computed at a time.

    What HiGHS takes for a linear program is not counted.
    """
    if memory < LEAST_MEMORY:
        raise UsageError(f"a memory budget of {memory:,.0f} bytes is too small; the least is {LEAST_MEMORY:,.0f}")
    points = max(1, int(memory / 2 / (_COPIES * 8 * sum(node.size for node in graph.nodes))))

    def fitted(step: ProjectedGradient | Bounding | BranchAndBound) -> ProjectedGradient | Bounding | BranchAndBound:
        match step:
            case ProjectedGradient():
                return replace(step, most_points=min(step.most_points, points))
            case Bounding():
                return replace(step, method=within(step.method, memory / 2))
            case BranchAndBound():
                return replace(step, how=step.how.within(int(memory / 2)))

    return Plan(tuple(fitted(step) for step in plan.steps))


def in_processes(plan: Plan, workers: int) -> Plan:
    """The plan with branch and bound in so many processes, where trees do not end soon and can be dealt out.

    Raises :class:`UsageError` for fewer than one.
    """
    if workers < 1:
        raise UsageError(f"{workers} workers: there must be at least 1")
    if workers == 1:
        return plan

    def dealt(step: ProjectedGradient | Bounding | BranchAndBound) -> ProjectedGradient | Bounding | BranchAndBound:
        if isinstance(step, BranchAndBound) and isinstance(step.how, InputSplitting | NeuronSplitting):
            return replace(step, how=SideBySide(step.how, workers))
        return step

    return Plan(tuple(map(dealt, plan.steps)))


LEAST_MEMORY = 1e6
"""Bytes below which a budget is taken for a mistake."""
_COPIES = 4
"""Times the values of all nodes that a gradient keeps in memory."""


def _by_trees(leaves: int, share: float, patience: float = 1.0, gain: float = 0.25) -> tuple[Bounding, BranchAndBound]:
    """Inner bounds by trees, then the question's own tree on these; deeper ones where the last ones paid."""
    inner = patient(with_leaves(method("split-all"), leaves), 0.9)
    own = BranchAndBound(NeuronSplitting(patience=patience), after_gain=gain if patience < 1 else 0.0)
    return Bounding(inner, Stand.ON_TOP, share, seconds=60.0, after_gain=gain), own


CHEAP_FIRST = Plan(
    (
        ProjectedGradient(steps=20, restarts=4, patience=0.3),
        Bounding(method("ibp")),
        Bounding(method("crown")),
        Bounding(method("fast-lin")),
        Bounding(method("crown"), Stand.BEST),
        Bounding(method("alpha-crown"), Stand.BEST),
        ProjectedGradient(steps=100, restarts=10, seed=1, patience=0.3, samples=20_000, name="longer attack"),
        BranchAndBound(InputSplitting(), share=0.85),
        Bounding(patient(method("alpha-crown-all"), 0.5), Stand.ON_TOP),
        BranchAndBound(NeuronSplitting(patience=0.01)),
        *_by_trees(16, share=0.1, patience=0.02, gain=0.0),
        *_by_trees(64, share=0.2, patience=0.05),
        *_by_trees(256, share=0.3, patience=0.1),
        *_by_trees(1024, share=0.5),
        BranchAndBound(ValueSplitting()),
        Bounding(patient(method("lp-all"), 0.7), Stand.ON_TOP),
    )
)
"""The plan that ``bourn verify`` follows: cheap bounds, then splitting; where that would not end, inner bounds by trees of
their own come first, of more and more leaves.  LP-ALL where neither applies or time is left."""
