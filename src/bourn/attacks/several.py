"""Several counterexamples of one question: of different kinds first, then as far from one another as they are found.

A counterexample's kind is its case and the conjunction that it satisfies best; for the robustness of a class that is the class that
it is taken for.  Found by projected gradient descent on one conjunction at a time, with new random starts in every round; each is
replayed.  That no more are found proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bourn.attacks.beside import beside
from bourn.attacks.images import label_of
from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.attacks.replaying import replayed
from bourn.certificates.evidence import Counterexample
from bourn.deadline import Deadline, OutOfTime
from bourn.errors import UsageError
from bourn.formats.joined import model_for
from bourn.formats.model import Model
from bourn.problem.problem import Problem, Question, problems
from bourn.problem.specification import Conjunction, Row, Specification

SECONDS = 10.0
"""How long the search goes on where there is no time limit."""
APART = 1e-3
"""Two counterexamples are distinct where they are further apart than this, as a share of the set's sides (root mean square)."""
_ROUNDS = 4
_KEPT = 8
"""So many candidates are kept of each kind for every one that is asked for."""

Kind = tuple[int, int]


def counterexamples(
    model: Any,
    question: Question,
    count: int,
    *,
    first: Iterable[Counterexample] = (),
    timeout: float | Deadline | None = None,
    example: Any = None,
) -> tuple[Counterexample, ...]:
    """Up to ``count`` distinct counterexamples of ``question`` in ``model``: those of ``first``, then those of other kinds.

    ``model``: see :func:`bourn.load`.  ``timeout``: seconds (None: :data:`SECONDS`).  Sound: each was replayed; not complete: there
    may be more.  Raises :class:`bourn.errors.BournError` where an argument does not fit.
    """
    if count < 1:
        raise UsageError(f"{count} counterexamples were asked for; at least one is needed")
    loaded = model_for(model, question, example)
    deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
    search = _Search(loaded, question, count)
    for known in first:
        search.keep(known)
    with suppress(OutOfTime):
        search.work(deadline.within(SECONDS) if math.isinf(deadline.left) else deadline)
    return tuple(search.chosen())


def kind_of(found: Counterexample, number: int) -> Kind:
    """The case, which has this number, and the conjunction whose greatest row is least."""
    x, y = found.x.tolist(), found.y.tolist()
    values = (max((r.value(x, y) for r in c.rows), default=-math.inf) for c in found.case.specification.conjunctions)
    held = [(value, k) for k, value in enumerate(values) if found.case.specification.conjunctions[k].holds(x, y)]
    return number, min(held)[1]


@dataclass(eq=False)
class _Search:
    """The counterexamples found so far, by kind."""

    model: Model
    question: Question
    count: int
    found: dict[Kind, list[Counterexample]] = field(default_factory=dict)

    def keep(self, new: Counterexample) -> bool:
        """Keep it if it is distinct from all of its kind; whether it was."""
        number = next(n for n, case in enumerate(self.question.cases) if case is new.case)
        own = self.found.setdefault(kind_of(new, number), [])
        if len(own) >= _KEPT * self.count or any(apart(new, other) <= APART for other in own):
            return False
        own.append(new)
        return True

    def work(self, deadline: Deadline) -> None:
        """Attack every conjunction until there is one of its kind, as far as kinds are needed; then those that have some again."""
        asked = problems(self.model.graph, self.question)
        targets = [(n, k) for n, problem in enumerate(asked) for k in range(len(problem.conjunctions))]
        quick = ProjectedGradient(steps=40, restarts=5)
        for target in sorted(targets, key=lambda kind: kind in self.found):
            if len(self.found) >= self.count or target in self.found:
                break
            self._attack(asked[target[0]], target, quick, deadline, enough=1)
        for number in range(_ROUNDS):
            if sum(map(len, self.found.values())) >= 2 * self.count:
                break
            more = replace(quick, restarts=10, seed=1 + number)
            for target in list(self.found):
                self._attack(asked[target[0]], target, more, deadline, enough=2 * self.count)

    def _attack(self, problem: Problem, target: Kind, attack: ProjectedGradient, deadline: Deadline, enough: int) -> None:
        """Descend on one conjunction until there are ``enough`` of its kind."""
        number, k = target
        case = self.question.cases[number]
        alone = replace(problem, specification=Specification((_aim(problem, k),)))

        def accept(x: Tensor) -> bool:
            new = replayed(self.model, case, x) or beside(self.model, case, problem, x)
            if new is not None:
                self.keep(new)
            return len(self.found.get(target, ())) >= enough

        attack.run(alone, accept, deadline)

    def chosen(self) -> list[Counterexample]:
        """The first one, then one of every other kind, then others: each time the one that is furthest from all before it."""
        first = [own[0] for own in self.found.values()][:1]
        while len(first) < self.count:
            shown = {kind for kind, own in self.found.items() if any(c in first for c in own)}
            new = [own for kind, own in self.found.items() if kind not in shown] or list(self.found.values())
            left = [(min(apart(c, other) for other in first), c) for own in new for c in own if c not in first]
            if not left:
                break
            distance, furthest = max(left, key=lambda pair: pair[0])
            if distance <= APART:
                break
            first.append(furthest)
        return first


def _aim(problem: Problem, k: int) -> Conjunction:
    """What to descend on for a kind: its conjunction; of a class that is to stay, that another one exceeds all."""
    outputs = problem.network.nodes[problem.network.output].size
    if label_of(problem.specification, outputs) is None:
        return problem.conjunctions[k]
    (row,) = problem.conjunctions[k].rows
    winner = next(i for i, coefficient in row.outputs if coefficient < 0)
    return Conjunction(tuple(Row.of({i: 1, winner: -1}) for i in range(outputs) if i != winner))


def apart(one: Counterexample, other: Counterexample) -> float:
    """How far two are from each other as a share of the first one's set's sides, root mean square; infinite in different cases."""
    if one.case is not other.case:
        return math.inf
    lower, upper = one.case.box.finite()
    sides = torch.clamp(upper - lower, min=0.0).reshape(-1).cpu().numpy()
    wide = sides > 0
    if not wide.any():
        return 0.0
    return float(np.sqrt(np.mean(((one.x - other.x)[wide] / sides[wide]) ** 2)))
