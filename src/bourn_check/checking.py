"""Whether a certificate proves the answer to a question: hashes, bounds in order, refutations, and that nothing was left out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bourn_check.arithmetic import Arithmetic, Floats, Values, arithmetic
from bourn_check.certificate import Certificate, exact, items
from bourn_check.errors import NotAProof, Unreadable
from bourn_check.network import Network
from bourn_check.specification import Disjunct, Row, Specification
from bourn_check.trees import Tree

PROVED = {
    "unsat": "unsat: no input of the specification's sets gives outputs that satisfy it",
    "sat": "sat: the input in the certificate lies in the set, and its outputs satisfy the specification",
}
"""What a verdict means."""


@dataclass(frozen=True)
class Report:
    """What was proved, by what, and what is trusted for it."""

    verdict: str
    arithmetic: str
    proved: str
    semantics: str
    rows: int
    parts: int = 0

    def __str__(self) -> str:
        library = {"float": "NumPy's float64 sums of products, Arb for smooth functions"}.get(self.arithmetic, "FLINT with Arb")
        return f"""proved: {self.proved}
{self.semantics}
{self.rows} bounds on {self.parts} parts recomputed in {self.arithmetic} arithmetic
trusted: this checker, Python, {library}, SHA-256, the parser of protobuf (onnx)"""


def check(
    certificate: str | Path, network: str | Path, specification: str | Path, how: str = "float", semantics: str = "real"
) -> Report:
    """Check that ``certificate`` proves its verdict on the question of the two files.

    ``how``: ``float``, ``ball`` or ``rational``.  ``semantics``: of the network in ``real`` numbers, or in ``float32``.
    Raises :class:`NotAProof` where it does not, :class:`Unreadable` where a file cannot be read or holds what the checker does
    not know.
    """
    from bourn_check.readers.onnx import read_network
    from bourn_check.readers.vnnlib import read_specification
    from bourn_check.semantics import evaluated

    with Certificate(certificate) as own, np.errstate(all="ignore"):
        try:
            files = {"network": _bytes(network), "specification": _bytes(specification)}
            for what, data in files.items():
                if own.manifest.get(what) != {"sha256": hashlib.sha256(data).hexdigest()}:
                    raise NotAProof(f"it is about another {what}: the SHA-256 differs")
            net = evaluated(read_network(files["network"], str(network)), files["network"], semantics)
            asked = read_specification(files["specification"], str(specification))
            if net.inputs != asked.inputs or sum(size for _, size in net.outputs) < asked.outputs:
                raise Unreadable(f"the network has not the {asked.inputs} inputs and {asked.outputs} outputs of the specification")
            return _Checking(own, net, asked, arithmetic(how)).verdict()
        except ArithmeticError as error:
            raise NotAProof(f"{error} ({how} arithmetic)") from None
        except MemoryError:
            raise Unreadable(f"{certificate}: needs more memory than there is, or than is allowed (--memory)") from None


def _bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None


class _Checking:
    """One certificate being checked."""

    def __init__(self, own: Certificate, network: Network, asked: Specification, arithmetic: Arithmetic) -> None:
        self.own, self.network, self.asked, self.arithmetic = own, network, asked, arithmetic
        self.outputs = sum(size for _, size in network.outputs)
        self.rows = self.parts = 0
        self.inside: dict[tuple[int, int], bool] = {}

    def verdict(self) -> Report:
        verdict = str(self.own.manifest.get("verdict"))
        if verdict not in PROVED:
            self.own.fail("manifest.json", f"its verdict is {verdict[:40]!r}")
        (self._unsat if verdict == "unsat" else self._sat)()
        return Report(verdict, self.arithmetic.name, PROVED[verdict], self.network.semantics, self.rows, self.parts)

    # sat

    def _sat(self) -> None:
        x = self.own.floats(self.own.manifest.get("witness"), "witness", self.asked.inputs)
        for disjunct in self.asked.disjuncts:
            point = disjunct.nearest([Fraction(v) for v in x.tolist()])
            if self.asked.inside.contains(point) and all(self._holds(row, point) for row in disjunct.rows):
                return
        raise NotAProof("the witness is not in the set, or its outputs do not certainly satisfy the specification")

    @lru_cache(maxsize=1)  # noqa: B019
    def _outputs(self, x: tuple[Fraction, ...]) -> Values:
        return self.network.evaluate(self.arithmetic.numbers(x).reshape(1, len(x)), self.arithmetic).reshape(self.outputs)

    def _holds(self, row: Row, x: tuple[Fraction, ...]) -> bool:
        constant = row.constant + sum((c * x[i] for i, c in row.inputs), Fraction(0))
        value = self.arithmetic.numbers([constant])
        if row.outputs:
            at = np.array([i for i, _ in row.outputs])
            terms = self._outputs(x).columns(at) * self.arithmetic.numbers([c for _, c in row.outputs])
            value = value + terms.total().reshape(1)
        top = float(value.upper()[0])
        return top < 0 if row.strict else top <= 0

    # unsat

    def _unsat(self) -> None:
        """Prove every refutation of every case; then every disjunct of the specification needs one that applies to it."""
        proved: dict[Row, list[tuple[Floats, Floats, frozenset[Row]]]] = {}
        chunk = 0
        for number, case in enumerate(items(self.own.manifest, "cases", "manifest.json")):
            where = f"case {number}"
            lower = self.own.floats(case.get("lower"), where, self.asked.inputs)
            upper = self.own.floats(case.get("upper"), where, self.asked.inputs)
            conjunctions = [self._rows(own, "rows", where) for own in items(case, "conjunctions", where)]
            given, inside = self._rows(case, "given", where), self.asked.inside
            tree = Tree(self.own, self.network, self.arithmetic, conjunctions, given, inside, lower, upper)
            while tree.pending:
                tree.chunk(self.own.read(f"chunks/{chunk}.json"), f"{where}, chunk {chunk}")
                chunk += 1
            self.rows += tree.rows
            self.parts += tree.count
            for weighted in tree.used:
                for row in weighted:
                    proved.setdefault(row, []).append((lower, upper, frozenset(weighted | {*given})))
        for number, disjunct in enumerate(self.asked.disjuncts):
            if not any(self._applies(found, disjunct) for row in disjunct.rows for found in proved.get(row, [])):
                raise NotAProof(f"nothing refutes conjunction {number} of the specification: {disjunct}")

    def _applies(self, found: tuple[Floats, Floats, frozenset[Row]], disjunct: Disjunct) -> bool:
        """Whether a refutation of rows on a box is one of a disjunct: it has these rows, and its box is no larger."""
        lower, upper, used = found
        if not used <= disjunct.rows_as_set:
            return False
        if disjunct.ends:
            return disjunct.within(lower, upper)
        key = id(lower), id(disjunct.base)  # many disjuncts have one box; both objects outlive this one
        if key not in self.inside:
            self.inside[key] = disjunct.within(lower, upper)
        return self.inside[key]

    def _rows(self, holder: dict[str, Any], key: str, where: str) -> tuple[Row, ...]:
        return tuple(self._row(stated, where) for stated in items(holder, key, where))

    def _row(self, stated: dict[str, Any], where: str) -> Row:
        try:
            outputs, inputs = (tuple(sorted((i, exact(c, where)) for i, c in stated.get(k, []))) for k in ("outputs", "inputs"))
        except (TypeError, ValueError):
            raise Unreadable(f"manifest.json: {where}: a row is no list of pairs") from None
        strict = stated.get("strict", False)
        places = [(i, self.outputs) for i, _ in outputs] + [(i, self.asked.inputs) for i, _ in inputs]
        if type(strict) is not bool or not all(type(i) is int and 0 <= i < size for i, size in places):
            raise Unreadable(f"manifest.json: {where}: a row names what is not there")
        return Row(outputs, inputs, exact(stated.get("constant", "0"), where), strict)
