"""Whether a certificate proves the answer to a question: hashes, bounds in order, refutations, and that nothing was left out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from bourn_check.arithmetic import Arithmetic, Floats, Values, arithmetic
from bourn_check.certificate import Certificate, exact
from bourn_check.dual import INTERVAL, Bounds, Chosen, Dual, Multipliers
from bourn_check.errors import NotAProof, Unreadable
from bourn_check.network import Network, Step
from bourn_check.specification import Disjunct, Row, Specification

_CHUNK = 1 << 22
"""Numbers of one set of rows."""
_MOST_FILE = 1 << 33


@dataclass(frozen=True)
class Report:
    """What was proved, by what, and what is trusted for it."""

    verdict: str
    arithmetic: str
    proved: str
    rows: int

    def __str__(self) -> str:
        trusted = {"float": "NumPy's float64 sums of products", "ball": "Arb (python-flint)", "rational": "FLINT (python-flint)"}
        return "\n".join(
            [
                f"proved: {self.proved}",
                "in real arithmetic, for the weights as stored; the deployed network rounds, which this says nothing about",
                f"{self.rows} bounds recomputed in {self.arithmetic} arithmetic",
                f"trusted: this checker, Python, {trusted[self.arithmetic]}, SHA-256, the parser of protobuf (onnx)",
            ]
        )


def check(certificate: str | Path, network: str | Path, specification: str | Path, how: str = "float") -> Report:
    """Check that ``certificate`` proves its verdict on the question of the two files.

    ``how``: ``float``, ``ball`` or ``rational``.  Raises :class:`NotAProof` where it does not, :class:`Unreadable` where a
    file cannot be read or holds what the checker does not know.
    """
    from bourn_check.read_onnx import read_network
    from bourn_check.read_vnnlib import read_specification

    with Certificate(certificate) as own, np.errstate(all="ignore"):
        try:
            files = {"network": _bytes(network), "specification": _bytes(specification)}
            for what, data in files.items():
                stated = own.manifest.get(what)
                if not isinstance(stated, dict) or stated.get("sha256") != hashlib.sha256(data).hexdigest():
                    raise NotAProof(f"it is about another {what}: the SHA-256 differs")
            net = read_network(files["network"], str(network))
            asked = read_specification(files["specification"], str(specification))
            if sum(size for _, size in net.inputs) != asked.inputs or sum(size for _, size in net.outputs) < asked.outputs:
                raise Unreadable(f"the network has not the {asked.inputs} inputs and {asked.outputs} outputs of the specification")
            return _Checking(own, net, asked, arithmetic(how)).verdict()
        except ArithmeticError as error:
            raise NotAProof(f"{error} ({how} arithmetic)") from None
        except MemoryError:
            raise Unreadable(f"{certificate}: needs more memory than there is") from None


def _bytes(path: str | Path) -> bytes:
    try:
        if Path(path).stat().st_size > _MOST_FILE:
            raise Unreadable(f"{path}: too large")
        return Path(path).read_bytes()
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None


def _items(holder: Any, key: str, where: str) -> list[dict[str, Any]]:
    """A list of objects in the manifest."""
    found = holder.get(key, [])
    if not isinstance(found, list) or not all(isinstance(f, dict) for f in found):
        raise Unreadable(f"manifest.json: {where}: {key!r} is no list of objects")
    return found


class _Checking:
    """One certificate being checked."""

    def __init__(self, own: Certificate, network: Network, asked: Specification, arithmetic: Arithmetic) -> None:
        self.own, self.network, self.asked, self.arithmetic = own, network, asked, arithmetic
        self.steps = network.nonlinear()
        self.outputs = sum(size for _, size in network.outputs)
        self.rows = 0
        self.inside: dict[tuple[int, int], bool] = {}

    def verdict(self) -> Report:
        verdict = self.own.manifest.get("verdict")
        if verdict == "unsat":
            self._unsat()
            proved = "unsat: no input of the specification's sets gives outputs that satisfy it"
        elif verdict == "sat":
            self._sat()
            proved = "sat: the input in the certificate lies in the set, and its outputs satisfy the specification"
        else:
            self.own.fail("manifest.json", f"its verdict is {str(verdict)[:40]!r}")
        return Report(str(verdict), self.arithmetic.name, proved, self.rows)

    # sat

    def _sat(self) -> None:
        x = self.own.floats(self.own.manifest.get("witness"), "witness", self.asked.inputs)
        point = [Fraction(v) for v in x.tolist()]
        y = self.network.evaluate(self.arithmetic.exact(x[None]), self.arithmetic).reshape(self.outputs)
        for disjunct in self.asked.disjuncts:
            if disjunct.contains(point) and all(self._holds(row, point, y) for row in disjunct.rows):
                return
        raise NotAProof("the witness is not in the set, or its outputs do not certainly satisfy the specification")

    def _holds(self, row: Row, x: list[Fraction], y: Values) -> bool:
        constant = row.constant + sum((c * x[i] for i, c in row.inputs), Fraction(0))
        value = self.arithmetic.numbers([constant])
        if row.outputs:
            at = np.array([i for i, _ in row.outputs])
            terms = y.columns(at) * self.arithmetic.numbers([c for _, c in row.outputs])
            value = value + terms.total().reshape(1)
        top = float(value.upper()[0])
        return top < 0 if row.strict else top <= 0

    # unsat

    def _unsat(self) -> None:
        """Prove every refutation of every case; then every disjunct of the specification needs one that applies to it."""
        proved: dict[Row, list[tuple[Floats, Floats, frozenset[Row]]]] = {}
        for number, case in enumerate(_items(self.own.manifest, "cases", "the certificate")):
            where = f"case {number}"
            lower = self.own.floats(case.get("lower"), where, self.asked.inputs)
            upper = self.own.floats(case.get("upper"), where, self.asked.inputs)
            dual = self._dual(lower, upper, {})
            dual = self._bounds(dual, case, where, assumed=False)
            for k, conjunction in enumerate(_items(case, "conjunctions", where)):
                at = f"{where}, conjunction {k}"
                rows = tuple(self._row(r, at) for r in _items(conjunction, "rows", at))
                used = self._refuted(dual, rows, conjunction, lower, upper, at)
                for row in used:
                    proved.setdefault(row, []).append((lower, upper, used))
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

    def _dual(self, lower: Floats, upper: Floats, bounds: dict[str, Bounds]) -> Dual:
        return Dual(self.network, self.arithmetic, self.arithmetic.exact(lower), self.arithmetic.exact(upper), bounds)

    def _row(self, stated: dict[str, Any], where: str) -> Row:
        def terms(key: str, size: int) -> tuple[tuple[int, Fraction], ...]:
            found = stated.get(key, [])
            try:
                pairs = [(i, exact(c, where)) for i, c in found]
            except (TypeError, ValueError):
                raise Unreadable(f"manifest.json: {where}: {key!r} is no list of pairs") from None
            if not all(type(i) is int and 0 <= i < size for i, _ in pairs):
                raise Unreadable(f"manifest.json: {where}: {key!r} names what is not there")
            return tuple(sorted(pairs))

        strict = stated.get("strict", False)
        if type(strict) is not bool:
            raise Unreadable(f"manifest.json: {where}: 'strict' is true or false")
        constant = exact(stated.get("constant", "0"), where)
        return Row(terms("outputs", self.outputs), terms("inputs", self.asked.inputs), constant, strict)

    def _refuted(
        self, dual: Dual, rows: tuple[Row, ...], proof: dict[str, Any], lower: Floats, upper: Floats, where: str
    ) -> frozenset[Row]:
        """The rows that cannot hold at once on the box, by the proof: a leaf, or a tree of splits of leaves."""
        used: set[Row] = set()
        stack = [(dual, proof, lower, upper, where)]
        while stack:
            dual, proof, lower, upper, where = stack.pop()
            split = proof.get("split")
            if split is not None:
                stack.extend(self._split(dual, proof, split, lower, upper, where))
                continue
            dual = self._bounds(dual, proof, where, assumed=True)
            if (lower <= upper).all() and all((b.lower <= b.upper).all() for b in dual.bounds.values()):
                used |= self._leaf(dual, rows, proof, where)
        return frozenset(used)

    def _split(
        self, dual: Dual, proof: dict[str, Any], split: Any, lower: Floats, upper: Floats, where: str
    ) -> Iterator[tuple[Dual, dict[str, Any], Floats, Floats, str]]:
        """Both halves: an entry of what a nonlinear step reads, or of the input, at most and at least a number."""
        dual = self._bounds(dual, proof, where, assumed=True)
        tensor, entry, at = (split.get(k) for k in ("tensor", "entry", "at")) if isinstance(split, dict) else (None, None, None)
        known = Bounds(lower, upper)
        if tensor is not None:
            size = self.network.sizes[str(tensor)] if str(tensor) in self.steps else 0
            known = dual.bounds.get(str(tensor), Bounds(np.full(size, -np.inf), np.full(size, np.inf)))
        if type(entry) is not int or not 0 <= entry < len(known.lower) or type(at) not in (int, float):
            raise Unreadable(f"manifest.json: {where}: a split names a nonlinear node or none, an entry and a number")
        for side in ("below", "above"):
            child = proof.get(side)
            if not isinstance(child, dict):
                raise NotAProof(f"{where}: the half {side!r} of a split is missing")
            low, high = known.lower.copy(), known.upper.copy()
            if side == "below":
                high[entry] = min(high[entry], at)
            else:
                low[entry] = max(low[entry], at)
            if tensor is None:
                yield self._dual(low, high, dict(dual.bounds)), child, low, high, f"{where}, {side}"
            else:
                own = replace(dual, bounds={**dual.bounds, str(tensor): Bounds(low, high)})
                yield own, child, lower, upper, f"{where}, {side}"

    def _leaf(self, dual: Dual, rows: tuple[Row, ...], proof: dict[str, Any], where: str) -> set[Row]:
        """The rows used; raises :class:`NotAProof` where the multipliers do not refute them."""
        stated = proof.get("weights", [])
        if not isinstance(stated, list) or len(stated) != len(rows):
            raise Unreadable(f"manifest.json: {where}: one weight a row is needed")
        weights = [exact(w, where) for w in stated]
        used = {row for w, row in zip(weights, rows, strict=True) if w}
        if not used or min(weights) < 0:
            raise NotAProof(f"{where}: weights are at least 0, and not all 0")
        bound = self._weighted(dual, rows, weights, self._multipliers(proof.get("multipliers", {}), 1, where))
        claimed = proof.get("bound")
        if not isinstance(claimed, int | float) or not bound >= claimed:
            raise NotAProof(f"{where}: a bound of {claimed} is claimed, {bound:.9g} is what its multipliers give")
        if not (bound > 0 or (bound >= 0 and any(w and row.strict for w, row in zip(weights, rows, strict=True)))):
            raise NotAProof(f"{where}: a bound of {bound:.9g} refutes nothing")
        return used

    def _weighted(self, dual: Dual, rows: tuple[Row, ...], weights: list[Fraction], chosen: Chosen) -> float:
        """The bound of the weighted sum of rows."""
        outputs, inputs, constant = [Fraction(0)] * self.outputs, [Fraction(0)] * self.asked.inputs, Fraction(0)
        for w, row in zip(weights, rows, strict=True):
            constant += w * row.constant
            for total, terms in ((outputs, row.outputs), (inputs, row.inputs)):
                for i, c in terms:
                    total[i] += w * c
        start: dict[str, Values] = {}
        for flat, tensors in ((outputs, self.network.outputs), (inputs, self.network.inputs)):
            begin = 0
            for name, size in tensors if any(flat) else ():
                own = self.arithmetic.numbers(flat[begin : begin + size]).reshape(1, size)
                start[name] = start[name] + own if name in start else own
                begin += size
        self.rows += 1
        return float(dual.bound(start, self.arithmetic.numbers([constant]), chosen)[0])

    # bounds

    def _bounds(self, dual: Dual, holder: dict[str, Any], where: str, *, assumed: bool) -> Dual:
        """The dual function that also stands on the bounds stated here, each of them proved from those before it."""
        for stated in _items(holder, "bounds", where):
            step = self.steps.get(str(stated.get("tensor")))
            if step is None:
                raise NotAProof(f"{where}: the network has no nonlinear node that computes {str(stated.get('tensor'))[:80]!r}")
            name, size = step.output, self.network.sizes[step.output]
            at = f"{where}, bounds of what {name!r} reads"
            lower = self.own.floats(stated.get("lower"), at, size)
            upper = self.own.floats(stated.get("upper"), at, size)
            if not assumed and not (lower <= upper).all():
                raise NotAProof(f"{at}: a lower end is above its upper end")
            covered = np.zeros((2, size), dtype=bool)
            for part in _items(stated, "parts", at):
                self._part(dual, step, part, lower, upper, covered, at)
            if not covered.all():
                raise NotAProof(f"{at}: entry {int(np.argwhere(~covered)[0][1])} has no proof")
            known = dual.bounds.get(name)
            if known is not None:
                lower, upper = np.maximum(lower, known.lower), np.minimum(upper, known.upper)
            dual = replace(dual, bounds={**dual.bounds, name: Bounds(lower, upper)})
        return dual

    def _part(
        self, dual: Dual, step: Step, part: dict[str, Any], lower: Floats, upper: Floats, covered: np.ndarray, where: str
    ) -> None:
        """Prove some ends: row r is entry ``rows[r]`` for a lower end, and entry -1 - ``rows[r]`` for an upper one."""
        size, signed = len(lower), self.own.integers(part.get("rows"), where)
        above = signed < 0
        entries = np.where(above, -1 - signed, signed)
        if not (entries < size).all():
            self.own.fail(where, f"an entry is beyond its {size}")
        chosen = self._multipliers(part.get("multipliers", {}), len(signed), where)
        ends = np.where(above, -upper[entries], lower[entries])
        for start in range(0, len(signed), most := max(1, _CHUNK // max(self.network.sizes.values()))):
            some = slice(start, start + most)
            rows = np.zeros((len(signed[some]), size))
            rows[np.arange(len(rows)), entries[some]] = np.where(above[some], -1.0, 1.0)
            own = chosen if isinstance(chosen, str) else {v: m.rows(some) for v, m in chosen.items()}
            zero = self.arithmetic.exact(np.zeros(len(rows)))
            found = dual.bound({step.inputs[0]: self.arithmetic.exact(rows)}, zero, own)
            self.rows += len(rows)
            if not (found >= ends[some]).all():
                bad = start + int(np.argmin(found >= ends[some]))
                end, side = abs(signed[bad]) - (1 if above[bad] else 0), "upper" if above[bad] else "lower"
                gives = -found[bad - start] if above[bad] else found[bad - start]
                raise NotAProof(
                    f"{where}: the {side} end of entry {end} is claimed to be {(upper if above[bad] else lower)[end]:.9g}, "
                    f"{gives:.9g} is what its multipliers give"
                )
        covered[above.astype(np.int64), entries] = True

    def _multipliers(self, stated: Any, rows: int, where: str) -> Chosen:
        if stated == INTERVAL:
            return INTERVAL
        if not isinstance(stated, dict) or not all(isinstance(m, dict) for m in stated.values()):
            raise Unreadable(f"manifest.json: {where}: multipliers are by tensor, or 'interval'")
        found = {}
        for name, own in stated.items():
            if name not in self.steps:
                raise NotAProof(f"{where}: the network has no nonlinear node that computes {name[:80]!r}")
            free = self.own.indices(own.get("free"), where, self.network.sizes[name])
            if "mu" in own:
                found[name] = Multipliers(free, mu=self.own.floats(own["mu"], where, rows, len(free)))
            else:
                below, above = (self.own.floats(own.get(side), where, len(free)) for side in ("below", "above"))
                found[name] = Multipliers(free, below=below, above=above)
        return found
