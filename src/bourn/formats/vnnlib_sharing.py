"""What a question about several networks says to be the same, read as one.

Inputs that are asserted to be equal become one: ``(== X[0] U[0])`` for every entry, as a rule.  Networks that are declared
equal and have the same inputs have the same outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from bourn.formats.formula import Atom, Bound, Exact, Formula
from bourn.problem.problem import Declared, Variable

Places = tuple[int, ...]
"""For every declared entry its number among those that are left."""


def share(
    formulas: Sequence[Formula], variables: Sequence[Variable], networks: Sequence[Declared]
) -> tuple[list[Formula], Places, Places]:
    """The formulas on what is left, and where the declared inputs and outputs are among it.

    Only what every conjunction asserts counts.  The formulas hold for what is left exactly where they did before.
    """
    entries = sum(math.prod(v.shape) for v in variables if v.kind == "input")
    inputs = _equal_inputs([atom for formula in formulas if len(formula) == 1 for atom in formula[0]], entries)
    outputs = _equal_outputs(variables, networks, inputs)
    moved = dict(enumerate(inputs)) | {-1 - index: -1 - place for index, place in enumerate(outputs)}
    read = list(formulas)
    if any(index != place for index, place in moved.items()):
        read = [[tuple(_moved(atom, moved) for atom in conjunction) for conjunction in formula] for formula in formulas]
    return read, inputs, outputs


def _equal_inputs(atoms: Sequence[Atom | Bound], entries: int) -> Places:
    first = list(range(entries))

    def root(index: int) -> int:
        while first[index] != index:
            first[index] = index = first[first[index]]
        return index

    for low, high in _pairs(atoms):
        one, other = sorted((root(low), root(high)))
        first[other] = one
    return _renumbered([root(index) for index in range(entries)])


def _pairs(atoms: Sequence[Atom | Bound]) -> list[tuple[int, int]]:
    """Pairs of inputs of which each is said to be at most the other."""
    said = set()
    for atom in atoms:
        if isinstance(atom, Bound) or atom.strict or atom.bound or len(atom.terms) != 2:
            continue
        (i, a), (j, b) = atom.terms
        if i >= 0 and j >= 0 and a == -b:
            said.add((i, j) if a > 0 else (j, i))
    return [(i, j) for i, j in said if i < j and (j, i) in said]


def _equal_outputs(variables: Sequence[Variable], networks: Sequence[Declared], inputs: Places) -> Places:
    """A network has the outputs of the first one that is the same network on the same inputs, with the same nodes shown."""
    equal = {network.name: network.equal_to for network in networks}
    known: dict[tuple[object, ...], int] = {}
    roots: list[int] = []
    starts = _starts(variables, "input")
    for network in networks:
        original = network.name
        while equal[original]:
            original = equal[original]
        own = [v for v in variables if v.network == network.name]
        first, size = starts[network.name], sum(math.prod(v.shape) for v in own if v.kind == "input")
        key = original, inputs[first : first + size], tuple((v.tensor, v.shape) for v in own if v.kind == "output")
        count = sum(math.prod(v.shape) for v in own if v.kind == "output")
        start = known.setdefault(key, len(roots))
        roots.extend(range(start, start + count))
    return _renumbered(roots)


def _starts(variables: Sequence[Variable], kind: str) -> Mapping[str, int]:
    """Where each network's entries of one kind begin."""
    own = [v for v in variables if v.kind == kind]
    ends = accumulate((math.prod(v.shape) for v in own), initial=0)
    starts: dict[str, int] = {}
    for variable, start in zip(own, ends, strict=False):
        starts.setdefault(variable.network, start)
    return starts


def _renumbered(roots: Sequence[int]) -> Places:
    left = {index: number for number, index in enumerate(sorted(set(roots)))}
    return tuple(left[index] for index in roots)


def _moved(atom: Atom | Bound, places: Mapping[int, int]) -> Atom | Bound:
    """The atom on what is left."""
    if isinstance(atom, Bound):
        return atom._replace(variable=places[atom.variable])
    merged: dict[int, Exact] = {}
    for index, coefficient in atom.terms:
        merged[places[index]] = merged.get(places[index], 0) + coefficient
    return atom._replace(terms=tuple(sorted((i, c) for i, c in merged.items() if c)))
