"""Branch and bound (Bunel et al. 2018): complete where a relaxation of the whole input set is not.

On few inputs the input set is halved again and again, on many the neurons are split.  Sound; complete in the limit for networks
whose unstable neurons are those of (leaky) ReLUs, and on few inputs for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from bourn.deadline import Deadline
from bourn.interval import Interval
from bourn.problem.problem import Problem
from bourn.program.branches import CannotSplit
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.subproblems import Accept, Outcome, Splitting

SECONDS = 10.0
"""How long splitting goes on where there is no time limit."""
RESERVE = 0.02
"""The share of the time left that is kept for what is under way, at most a second."""


@dataclass(frozen=True)
class BranchAndBound:
    """``how``: on inputs or on neurons.  ``share``: of the time left.  ``after_gain``: see :class:`bourn.plans.Bounding`."""

    how: Splitting = field(default=NeuronSplitting())
    share: float = 1.0
    after_gain: float = 0.0

    @property
    def name(self) -> str:
        """What is split."""
        return self.how.name

    def run(
        self, problem: Problem, open_: list[int], inner: Mapping[int, Interval], accept: Accept, deadline: Deadline
    ) -> Outcome:
        """Decide the conjunctions numbered ``open_`` from implied bounds ``inner``; says in ``refused`` where it does not apply.

        Where ``deadline`` is none it ends after :data:`SECONDS`.
        """
        refused = self.how.refusal(problem, inner) if open_ else "no conjunction has rows"
        if refused:
            return Outcome({}, {}, 0, refused=refused)
        left = SECONDS if math.isinf(deadline.left) else max(self.share * deadline.left, 1e-3)
        own = deadline.within(left - min(1.0, RESERVE * left))
        try:
            return self.how.run(problem, open_, inner, accept, own)
        except CannotSplit as error:
            return Outcome({}, {}, 0, refused=str(error))
