"""What a solver is: frozen hyperparameters, one call to prepare, one result type.

``prepare`` bounds the pre-activations of a graph on a batch of input sets; what it returns bounds any number of
objectives and any node.  A solver is a value; what a run knows is in its :class:`Prepared`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from bourn.deadline import NEVER, Deadline
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.program.linear_bounds import RowBounds
from bourn.program.relaxed import RelaxedProgram, intersect_outside
from bourn.relaxations.base import Tensors


class Status(Enum):
    """How a solver ended; its bound is valid in every case."""

    CLOSED_FORM = "closed form"
    OPTIMAL = "optimal"
    STOPPED = "stopped at a limit"
    RELAXED = "optimal for a relaxation of the question"


@dataclass(frozen=True, eq=False)
class Solution:
    """Lower bounds of objectives: ``bound`` (B, M), valid in exact arithmetic, -inf where none was found.

    ``trusts``: the program on whose word that rests; empty where bourn proves it by itself.
    """

    bound: Tensor
    status: Status
    trusts: str = ""

    def __post_init__(self) -> None:
        if bool(self.bound.isnan().any()):
            raise ValueError("a bound is NaN")


class Prepared(ABC):
    """A solver's state on one graph and one batch of input sets."""

    graph: Graph
    box: InputSet
    bounds: Mapping[int, Interval]
    """Bounds of every pre-activation, by node number, (B, *shape)."""

    lps: int = 0
    """How many linear programs were solved so far."""

    @abstractmethod
    def node(self, number: int) -> Interval:
        """Bounds of every entry of a node, (B, *shape)."""

    @abstractmethod
    def minimise(self, objectives: Objectives, enough: float = math.inf) -> Solution:
        """Lower bounds (B, M) of objectives on the output and the input; one above ``enough`` need not be improved."""

    def candidates(self) -> Sequence[Tensor]:
        """Inputs (*input_shape) met on the way that may be counterexamples; to be replayed, of a batch of one."""
        return ()

    def trace(self, objectives: Objectives, keep: Container[int]) -> tuple[RelaxedProgram, RowBounds] | None:
        """The program and the rows on the nodes ``keep`` that the bounds of objectives come from; None if none do."""
        return None

    def multipliers(self, objectives: Objectives) -> Mapping[int, Tensors] | None:
        """The dual variables behind bounds of objectives, by nonlinear node one (B, M, *shape) an input; None if there are none.

        Each belongs to the equation of one pre-activation.  Any numbers in their place give a valid bound, the dual function
        there (:func:`bourn.program.linear_bounds.back_substitute` evaluates it); these give the bound of :meth:`minimise`.  They
        are found anew.
        """
        traced = self.trace(objectives, set(self.graph.nonlinear))
        return None if traced is None else traced[1].passed

    def weights(self, objectives: Objectives) -> Tensor | None:
        """Weights (M,) with sum 1 for a batch of one, with which the sum of the objectives has a high bound; None without idea.

        No bound comes from here: the weighted sum is bounded anew.
        """
        return None


class OnProgram(Prepared):
    """A solver's state that is a relaxed program all of whose pre-activation bounds are known."""

    program: RelaxedProgram

    @property
    def graph(self) -> Graph:  # type: ignore[override]
        return self.program.graph

    @property
    def box(self) -> InputSet:  # type: ignore[override]
        return self.program.box

    @property
    def bounds(self) -> Mapping[int, Interval]:  # type: ignore[override]
        return {z: self.program.bounds[z] for z in self.graph.pre_activations}


class Solver(ABC):
    """Base of the solvers.  Subclasses are frozen dataclasses; defining one registers it for the contract tests."""

    solved_by: ClassVar[str]
    """How the relaxed problem is solved, in the words of the table of methods."""

    trusts: ClassVar[str] = ""
    """The program on whose word its bounds rest; empty where bourn proves them by itself."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        REGISTRY.append(cls)

    @property
    @abstractmethod
    def relaxation(self) -> str:
        """Which relaxation it works on, in the words of the table of methods."""

    @abstractmethod
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
        """Bound all pre-activations on ``box`` (B, *input_shape).

        ``inner``: pre-activation bounds to stand on instead of the solver's own, from a layer-wise method, so that the
        relaxed program implies them.  ``begin``: bounds of the same kind that the solver's own come on top of.
        ``outside``: further bounds of some pre-activations, from a user say, which it need not imply; what is stated holds
        where these hold.  Raises :class:`bourn.deadline.OutOfTime`, and :class:`UsageError` where bounds from outside
        contradict the solver's own.
        """


Inner = Mapping[int, Interval] | None
"""Bounds of pre-activations by node number, if any."""


def take(known: Inner, some: slice) -> Inner:
    """The bounds of some problems of the batch."""
    return None if known is None else {z: Interval(b.lower[some], b.upper[some]) for z, b in known.items()}


def settle(graph: Graph, node: int, own: Interval, inner: Inner, begin: Inner, outside: Inner) -> Interval:
    """The bounds of a node to stand on, of all that is known of it (:meth:`Solver.prepare`)."""
    bounds = inner[node] if inner and node in inner else own
    if begin and node in begin:
        bounds = bounds.intersect(begin[node])
    return intersect_outside(graph, node, bounds, outside[node]) if outside and node in outside else bounds


REGISTRY: list[type[Solver]] = []
"""Every solver, in the order of definition."""


def output_rows(graph: Graph, objectives: Objectives) -> dict[int, Tensor]:
    """Objectives as rows (B or 1, M, *shape) on the output node and, where they need it, the input node."""
    count = len(objectives)
    rows = {graph.output: objectives.outputs.reshape(-1, count, *graph.output_shape)}
    if objectives.inputs is not None:
        on_input = objectives.inputs.reshape(-1, count, *graph.input_shape)
        rows[0] = rows[0] + on_input if 0 in rows else on_input
    return rows


def identity_rows(graph: Graph, node: int, entries: Tensor) -> Tensor:
    """Rows (1, M, *shape) that pick the flat ``entries`` (M,) of a node."""
    size = graph.nodes[node].size
    rows = torch.zeros(len(entries), size, dtype=torch.float64, device=entries.device)
    rows[torch.arange(len(entries), device=entries.device), entries] = 1.0
    return rows.reshape(1, len(entries), *graph.nodes[node].shape)


def join(parts: list[Interval]) -> Interval:
    """Bounds of the parts of a batch, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Interval(torch.cat([p.lower for p in parts]), torch.cat([p.upper for p in parts]))
