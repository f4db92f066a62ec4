"""What the page calls methods, training modes and networks, and in which order."""

from __future__ import annotations

import re

from bourn.errors import UsageError
from bourn.solvers.methods import BARRIER, METHODS, method
from bourn.solvers.outside import OUTSIDE
from bourn.studies.description import SPLITTING

ATTACKS = ("pgd", "attack")
"""Names of an attack among a store's methods."""

NUMBER = " #"
"""Between a method's name and a number, where a store has it with several settings."""

_OUTSIDE = {o.name.lower(): o.name for o in OUTSIDE}
_SHORT = {
    BARRIER: "LP-ALL",
    "alpha-crown": "\N{GREEK SMALL LETTER ALPHA}-CROWN",
    SPLITTING: "branch and bound",
    "alpha-crown-all": "\N{GREEK SMALL LETTER ALPHA}-CROWN, all bounds",
}

_MODES = {
    "normal": ("nor", "normal", "natural", "standard"),
    "adversarial": ("adv", "adversarial", "pgd"),
    "dual-bound": ("lpd", "dual", "dual-bound", "wong-kolter"),
    "interval": ("ibp", "interval"),
}


def canonical(name: str) -> str:
    """The name in the table of methods, by alias too, without its number; what is not there keeps its own."""
    plain_name = name.partition(NUMBER)[0]
    try:
        return method(plain_name).name
    except UsageError:
        return plain_name.lower()


def is_method(name: str) -> bool:
    """Whether the table of methods has the name; an attack is none, nor is a stage of a study that is no method."""
    try:
        method(name)
    except UsageError:
        return False
    return True


def title(name: str) -> str:
    """A method's name for people, short enough to stand beside a figure."""
    own, mark, number = canonical(name), *name.partition(NUMBER)[1:]
    known = next(
        (m.title.partition(":")[0] for m in METHODS if m.name == own), "attack (PGD)" if own in ATTACKS else _OUTSIDE.get(own, own)
    )
    return (_SHORT.get(own) or (known if len(known) < 25 else known.partition(" (")[0])) + mark + number


def rank(name: str) -> tuple[int, str, str]:
    """Where a method stands: in the order of the table, what is not there behind, an attack last."""
    own = canonical(name)
    place = len(METHODS) + 1 if own in ATTACKS else next((i for i, m in enumerate(METHODS) if m.name == own), len(METHODS))
    return place, own, name


def same_values(name: str) -> frozenset[str]:
    """The canonical names of all methods whose values are this one's."""
    own = canonical(name)
    if own in ATTACKS:
        return frozenset(ATTACKS)
    found = next((m for m in METHODS if m.name == own), None)
    return frozenset({own, *(() if found is None else found.equal_to)})


def mode_title(mode: str) -> str:
    """A training mode for people; its own name where it is none of those known, "other" where there is none."""
    return next((known for known, names in _MODES.items() if mode.lower() in names), mode) or "other"


def mode_rank(mode: str) -> tuple[int, str]:
    """Where a mode stands: normal, adversarial, dual-bound, interval, then the others."""
    own = mode_title(mode)
    known = list(_MODES)
    return (known.index(own) if own in known else len(known) + (own == "other"), own)


def plain(text: str) -> str:
    """Letters and digits alone, lower case, a model file's ending left out: so that two spellings of a name are one."""
    return re.sub(r"[^a-z0-9.]", "", re.sub(r"\.(onnx|pth|pt|npz|csv)$", "", text.lower()))


def family(network: str, mode: str) -> str:
    """The network's name without its training mode: what networks that differ in nothing else have in common."""
    names = next((names for names in _MODES.values() if mode.lower() in names), (mode.lower(),))
    parts = re.split(r"([_\- ])", re.sub(r"\.onnx$", "", network))
    kept = [part for part in parts[::2] if part.lower() not in names or not mode]
    return (parts[1] if len(parts) > 1 else "").join(kept) or network
