"""The story of a single question: could any layer-wise method have proved this?

Everything that the store knows of one image at one radius is put together: which methods proved the question, what the barrier
and the attack are, and whether a bracket shows that no layer-wise method can prove it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bourn.report.beside import is_attack
from bourn.report.figures import short
from bourn.report.names import canonical, is_method, mode_rank, mode_title, rank, title
from bourn.solvers.methods import BARRIER
from bourn.studies.store import Record

MOST = 25
"""How many questions of one network, radius and ending the page tells of."""


class Ending(Enum):
    """How a question's story ends: in one word or two, and the answer to the page's question."""

    CERTIFIED = "proved", "Yes. It was proved."
    ATTACKED = "attacked", "No: a counterexample was found."
    WRONG = "misclassified", "There is nothing to prove: the network gives the image another class."
    BEYOND = "beyond the barrier", "No: no layer-wise method can."
    OPEN = "undecided", "Undecided."
    CONTRADICTION = "contradictory", "A proof and a counterexample contradict each other: please report it."

    def __init__(self, word: str, answer: str) -> None:
        self.word, self.answer = word, answer


_TELLING = (Ending.CONTRADICTION, Ending.BEYOND, Ending.OPEN, Ending.CERTIFIED, Ending.ATTACKED, Ending.WRONG)
"""Endings, the most telling first."""


@dataclass(frozen=True)
class Story:
    """A question as the page tells it: the ``answer``, ``sentences``, and values by name, (name, value, kind) each, for bars."""

    network: str
    mode: str
    name: str
    ending: Ending
    sentences: tuple[str, ...]
    values: tuple[tuple[str, float, str], ...]

    def as_data(self) -> dict[str, Any]:
        """As the page's script takes it."""
        return {
            "network": self.network,
            "mode": self.mode,
            "name": self.name,
            "ending": self.ending.name.lower(),
            "word": self.ending.word,
            "answer": self.ending.answer,
            "sentences": list(self.sentences),
            "values": [list(v) for v in self.values],
        }


@dataclass
class _Facts:
    """What all answers say of one question: bounds by method, and who found what."""

    task: dict[str, Any]
    bounds: dict[str, float] = field(default_factory=dict)
    attained: float = math.inf
    ceiling: float = math.inf
    proved_by: set[str] = field(default_factory=set)
    outcomes: set[str] = field(default_factory=set)

    def put(self, method: str, bound: float | None) -> None:
        if bound is not None and not math.isnan(bound):
            self.bounds[method] = max(bound, self.bounds.get(method, -math.inf))

    @property
    def ending(self) -> Ending:
        broken = "attacked" in self.outcomes or self.attained <= 0
        proved = bool(self.proved_by) or any(b > 0 for b in self.bounds.values())
        beyond = "beyond" in self.outcomes or self.ceiling <= 0
        cases = (
            ("wrong" in self.outcomes, Ending.WRONG),
            (proved and (broken or (beyond and any(canonical(m) == BARRIER for m in self.proved_by))), Ending.CONTRADICTION),
            (broken, Ending.ATTACKED),
            (proved, Ending.CERTIFIED),
            (beyond, Ending.BEYOND),
        )
        return next((ending for holds, ending in cases if holds), Ending.OPEN)


class Stories:
    """Collects what answers say of every question."""

    def __init__(self) -> None:
        self._facts: dict[tuple[Any, ...], _Facts] = {}

    def add(self, record: Record) -> None:
        """Take in an answer about one image at one radius; others are left out."""
        task, result = record.task, record.result
        if task["study"] not in ("adversarial-error", "ladder"):
            return
        clip = task["clip"]
        asked = tuple(task[name] for name in ("network", "image", "input_hash", "radius", "label"))
        key = (*asked, None if clip is None else tuple(clip))
        facts = self._facts.setdefault(key, _Facts(dict(task)))
        if task["study"] == "ladder":
            for method, margins in result["bounds"].items():
                facts.put(method, _least(margins))
            met = _least(result.get("attained") or [])
            facts.attained = min(facts.attained, math.inf if met is None else met)
            return
        by, outcome = result.get("decided_by") or task["method"], result["outcome"]
        facts.outcomes.add(outcome)
        if outcome == "certified":
            facts.proved_by.add(by)
        if outcome in ("certified", "beyond", "undecided") and not is_attack(task["method"]):
            facts.put(by if outcome == "certified" else _bounded_by(task["method"], result.get("stages", ())), result["bound"])
        facts.attained = min(facts.attained, _number(result.get("attained")))
        facts.ceiling = min(facts.ceiling, _number(result.get("ceiling")))

    def told(self) -> tuple[list[Story], int]:
        """The stories that the page tells, at most :data:`MOST` of one network, radius and ending, and how many there are."""
        places = sorted(
            self._facts.values(),
            key=lambda f: (f.task["network"].lower(), mode_rank(f.task["mode"]), f.task["radius"], f.task["image"]),
        )
        groups: dict[tuple[Any, ...], list[_Facts]] = defaultdict(list)
        for facts in places:
            groups[facts.task["network"], facts.task["mode"], facts.task["radius"], facts.ending].append(facts)
        # What a ladder was climbed on has most to tell.
        chosen = {id(f) for own in groups.values() for f in sorted(own, key=lambda f: -len(f.bounds))[:MOST]}
        told = [_tell(f) for f in places if id(f) in chosen]
        return sorted(told, key=lambda story: _TELLING.index(story.ending)), len(places)

    def endings(self) -> Counter[Ending]:
        """How many stories end how."""
        return Counter(f.ending for f in self._facts.values())


def _number(value: Any) -> float:
    return math.inf if value is None else float(value)


def _least(margins: Iterable[float | None]) -> float | None:
    """The least margin, which is the question's; None where one is missing."""
    own = list(margins)
    return None if not own or any(m is None for m in own) else min(m for m in own if m is not None)


def _bounded_by(method: str, stages: Iterable[Mapping[str, Any]]) -> str:
    """Whose bound an answer holds: the ``method``'s, but where it was not needed that of the last method before it."""
    known = [stage["name"] for stage in stages if is_method(stage["name"])]
    return method if not known or canonical(known[-1]) == canonical(method) else known[-1]


def _tell(facts: _Facts) -> Story:
    task, ending = facts.task, facts.ending
    name = f"image {task['image']} keeps class {task['label']} within {task['radius']:g}"
    values = [(title(m), b, "barrier" if canonical(m) == BARRIER else "bound") for m, b in _by_rank(facts.bounds)]
    values = [v for v in values if math.isfinite(v[1]) and ending is not Ending.WRONG]
    values.sort(key=lambda v: v[1])
    if math.isfinite(facts.ceiling):
        values.append(("no layer-wise method above", facts.ceiling, "ceiling"))
    if math.isfinite(facts.attained):
        values.append(("attack", facts.attained, "attack"))
    sentences = tuple(s for s in (_who(facts), _barrier(facts), _ceiling(facts), _attack(facts), _rest(facts)) if s)
    return Story(task["network"], mode_title(task["mode"]), name, ending, sentences, tuple(values))


def _by_rank(bounds: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(bounds.items(), key=lambda item: rank(item[0]))


def _listed(names: Iterable[str]) -> str:
    own = list(dict.fromkeys(names))
    return own[0] if len(own) == 1 else f"{', '.join(own[:-1])} and {own[-1]}"


def _who(facts: _Facts) -> str:
    """By whom it was proved, and by whom not."""
    if facts.ending is not Ending.CERTIFIED:
        return ""
    proved = sorted({*facts.proved_by, *(m for m, b in facts.bounds.items() if b > 0)}, key=rank)
    failed = [m for m, b in _by_rank(facts.bounds) if b <= 0 and m not in proved]
    text = f"Proved by {_listed(map(title, proved))}"
    return text + (f"; not by {_listed(map(title, failed))}." if failed else ".")


def _barrier(facts: _Facts) -> str:
    value = next((b for m, b in facts.bounds.items() if canonical(m) == BARRIER and math.isfinite(b)), None)
    if value is None or facts.ending is Ending.WRONG:
        return ""
    if value > 0:
        return f"The barrier, LP-ALL's lower bound of the least margin, is {short(value)}: above 0, so the class is kept."
    return f"LP-ALL's lower bound of the least margin, the barrier up to its precision, is {short(value)}: that proves nothing."


def _ceiling(facts: _Facts) -> str:
    if facts.ending is not Ending.BEYOND:
        return ""
    if not math.isfinite(facts.ceiling):
        return "It was shown that LP-ALL's optimum is not above 0, so no method that relaxes layer by layer proves the question."
    return (
        "Even on inner bounds tighter than LP-ALL's, the relaxed program has a point at which the margin is "
        f"{short(facts.ceiling)}: not above 0, so no method that relaxes layer by layer proves the question, however long it runs."
    )


def _attack(facts: _Facts) -> str:
    if not math.isfinite(facts.attained) or facts.ending is Ending.WRONG:
        return ""
    if facts.attained <= 0:
        return f"The attack met an input at which the least margin is {short(facts.attained)}: another class scores as much."
    return f"The least margin that the attack met is {short(facts.attained)}: no method can prove more than that."


def _rest(facts: _Facts) -> str:
    """What remains to be done."""
    if facts.ending is Ending.BEYOND:
        return (
            "What remains: whether the class is kept is open. Splitting (branch and bound, MILP) or relaxations of several "
            "neurons at once can tell."
        )
    if facts.ending is Ending.OPEN:
        asked = any(canonical(m) == BARRIER for m in facts.bounds)
        return (
            "No method asked proved it, no attack broke it, and it was not shown that no layer-wise method can. "
            f"The next thing to ask: {'whether LP-ALL, brought to its optimum, could (a bracket)' if asked else 'LP-ALL'}."
        )
    return ""
