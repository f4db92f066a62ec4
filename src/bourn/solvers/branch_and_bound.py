"""Branch and bound (Bunel et al. 2018): complete where a relaxation of the whole input set is not.

On few inputs the input set is halved again and again, on many the neurons are split.  Sound; complete in the limit for networks
whose unstable neurons are those of (leaky) ReLUs, and on few inputs for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from bourn.deadline import Deadline
from bourn.interval import Interval
from bourn.problem.input_set import Box
from bourn.problem.problem import Problem
from bourn.program.branches import CannotSplit
from bourn.solvers.input_splitting import InputSplitting
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.subproblems import Accept, Outcome

SECONDS = 10.0
"""How long splitting goes on where there is no time limit."""
RESERVE = 0.02
"""The share of the time left that is kept for what is under way, at most a second."""


@dataclass(frozen=True)
class BranchAndBound:
    """``how``: on inputs or on neurons.  ``most_inputs``: more inputs are not split.  ``share``: of the time left.

    ``matrix_bytes``: what the matrices that subproblems share may take.
    """

    how: InputSplitting | NeuronSplitting = field(default=NeuronSplitting())
    most_inputs: int = 10
    share: float = 1.0
    matrix_bytes: int = 1 << 30

    @property
    def name(self) -> str:
        return "splitting the input" if isinstance(self.how, InputSplitting) else "splitting neurons"

    def refusal(self, problem: Problem, inner: Mapping[int, Interval]) -> str:
        """Why it does not apply; empty where it does."""
        count, box = problem.network.nodes[0].size, problem.box
        if isinstance(self.how, InputSplitting):
            if count > self.most_inputs or not isinstance(box, Box):
                return f"the input set is no box of at most {self.most_inputs} sides"
            return "" if bool(torch.isfinite(box.interval.magnitude).all()) else "the input set is unbounded"
        free = sum(int(((b.lower < 0) & (b.upper > 0)).sum()) for b in inner.values())
        if 4 * free * (count + free / 2) > self.matrix_bytes:
            return f"{free} unstable neurons are too many"
        return ""

    def run(
        self, problem: Problem, open_: list[int], inner: Mapping[int, Interval], accept: Accept, deadline: Deadline
    ) -> Outcome | None:
        """Decide the conjunctions numbered ``open_`` from implied bounds ``inner``; None where it does not apply.

        Where ``deadline`` is none it ends after :data:`SECONDS`.
        """
        if not open_ or self.refusal(problem, inner):
            return None
        left = SECONDS if math.isinf(deadline.left) else max(self.share * deadline.left, 1e-3)
        own = Deadline(left - min(1.0, RESERVE * left))
        try:
            return self.how.run(problem, open_, inner, accept, own)
        except CannotSplit:
            return None
