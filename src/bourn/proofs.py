"""write_certificate: a verdict as a file that the independent checker (bourn_check) confirms.

The verdict's multipliers are found again rather than kept: layer after layer, each pre-activation's bounds are proved from those
before it, by the cheapest multipliers that do, rounded to float32, and stated anew for these.  So the bounds in the file are
not those of the run, but they stand on nothing else than what is in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bourn.certificates.evidence import Falsified, Refutation, Verified
from bourn.certificates.file import CertificateFile, stated
from bourn.errors import UsageError
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import Box, InputSet
from bourn.problem.problem import Problem, problems
from bourn.problem.specification import Conjunction
from bourn.program.relaxed import start
from bourn.proving import Level, Proof
from bourn.relaxations.base import ElementWise, LineRule
from bourn.verification import Result

OPERATORS = ("Abs", "Clip", "LeakyRelu", "Relu")
"""The nonlinear operators that certificates are written and checked for."""


def write_certificate(result: Result, path: str | Path, log: Callable[[str], None] | None = None) -> None:
    """Write the certificate of a verdict: of ``unsat`` the proof, of ``sat`` the witness.

    ``result`` is what :func:`bourn.verify` returned for an ONNX file and a VNN-LIB file.  ``log`` is called as layers are done.
    Raises :class:`UsageError` for other verdicts and questions, for networks with nonlinear operators other than
    :data:`OPERATORS`, for input sets other than bounded boxes, and where no multipliers were found that prove the verdict again.
    """
    verdict, source = result.verdict, result.question.source
    if not isinstance(verdict, Verified | Falsified):
        raise UsageError(f"no certificate is written: the verdict is {result.status}, which states nothing to be proved")
    if not isinstance(result.model.source, str | Path) or not source or not Path(source).is_file():
        raise UsageError("a certificate is about an ONNX file and a VNN-LIB file; this network or this question is no file")
    if isinstance(verdict, Falsified) and verdict.counterexample.real is not None:
        raise UsageError("no certificate is written: the input set holds no number of the network's type, so no witness")
    with CertificateFile(path, Path(result.model.source), Path(source)) as file:
        if isinstance(verdict, Falsified):
            file.manifest |= {"verdict": "sat", "witness": file.array(np.asarray(verdict.counterexample.x, dtype="<f8"))}
            return
        graph = result.model.graph.to("cpu")
        names = operator_names(graph, Path(result.model.source))
        cases = []
        for number, (problem, refutations) in enumerate(zip(problems(graph, result.question), verdict.refutations, strict=True)):
            if not refutations:
                continue
            say = (lambda text, n=number: log(f"case {n}: {text}")) if log is not None else None
            cases.append(_case(file, problem, names, refutations, say))
        file.manifest |= {"verdict": "unsat", "cases": cases}


def level_of(method: str) -> Level:
    """Where to begin, by the name of the method that refuted."""
    words = method.split()[0]
    if words.startswith(("lp-", "planet")):
        return Level.LINEAR_PROGRAM
    return Level.ASCENT if words.startswith(("alpha", "dvijotham", "split")) else Level.CLOSED_FORM


def operator_names(graph: Graph, path: Path) -> dict[int, str]:
    """For every nonlinear node the tensor that its operator computes in the file.

    Raises :class:`UsageError` for an operator that certificates are not written for yet.
    """
    from bourn.formats.onnx import read_model

    computed, by_source = {}, {}
    for node in read_model(path).graph.node:
        computed[node.output[0]] = node.op_type
        by_source[f"{node.op_type} {node.name or node.output[0]}"] = node.output[0]
    names = {}
    for v in graph.nonlinear:
        node = graph.nodes[v]
        operator = node.source.split(" ")[0]
        name = node.name if computed.get(node.name) == operator else by_source.get(node.source)
        if operator not in OPERATORS or name is None or not isinstance(node.operation, ElementWise):
            raise UsageError(
                f"no certificate can be written yet for {operator or 'the'} node {node.name!r}; "
                f"nonlinear operators that can be are {', '.join(OPERATORS)}"
            )
        names[v] = name
    if len(set(names.values())) != len(names):
        raise UsageError("no certificate can be written yet: two of the network's nodes come from one operator of the file")
    return names


def _proof(
    file: CertificateFile,
    problem: Problem,
    names: dict[int, str],
    wanted: list[tuple[Conjunction, tuple[float, ...]]],
    level: Level,
    log: Callable[[str], None] | None = None,
    outside: Mapping[int, Interval] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Bounds, and of every conjunction wanted the refutation: on the lowest level, from ``level`` on, on which there is one.

    No refutations where the bounds contradict those from ``outside``.
    """
    for own in (own for own in Level if own >= level):
        proof = Proof(file, problem, names, own, start(problem.network, problem.box, LineRule.AREA), outside or {})
        for z in problem.network.pre_activations:
            proof.add(z)
            if log is not None:
                log(f"bounds of {problem.network.nodes[z].name!r} proved ({own.name.lower().replace('_', ' ')})")
            if proof.empty:
                return proof.bounds, []
        found = []
        for conjunction, w in wanted:
            refuted = proof.refute(conjunction.weighted(w), w, conjunction.rows)
            if refuted is None:
                break
            found.append(refuted)
        if len(found) == len(wanted):
            return proof.bounds, found
    raise UsageError("no certificate was written: multipliers rounded to float32 that prove the verdict again were not found")


def _case(
    file: CertificateFile, problem: Problem, names: dict[int, str], refutations: Sequence[Any], log: Callable[[str], None] | None
) -> dict[str, Any]:
    """A case as the manifest has it; refutations are one for each conjunction, by a bound or by a tree of splits."""
    box = problem.box
    if not isinstance(box, Box) or not bool(torch.isfinite(box.interval.magnitude).all()):
        raise UsageError("no certificate can be written yet for input sets other than bounded boxes")
    plain = [r for r in refutations if isinstance(r, Refutation)]
    bounds: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    if plain:
        wanted = [(r.conjunction, r.weights) for r in plain]
        bounds, found = _proof(file, problem, names, wanted, max(level_of(r.method) for r in plain), log)
    proofs = iter(found)
    conjunctions = []
    for r in refutations:
        own = next(proofs) if isinstance(r, Refutation) else Tree(file, problem, names, r, log).proof()
        conjunctions.append({"rows": [stated(row) for row in r.conjunction.rows]} | own)
    lower, upper = (file.array(t.flatten().numpy().astype("<f8")) for t in (box.lower, box.upper))
    return {"lower": lower, "upper": upper, "bounds": bounds, "conjunctions": conjunctions}


@dataclass(eq=False)
class Tree:
    """A refutation by a tree of splits on its way: ``tree`` has a conjunction and leaves, each of these splits and weights."""

    file: CertificateFile
    problem: Problem
    names: dict[int, str]
    tree: Any
    log: Callable[[str], None] | None = None
    done: int = 0

    def proof(self) -> dict[str, Any]:
        """The tree as the manifest has it."""
        return self._part(list(self.tree.leaves), 0, self.problem.box, {})

    def _part(self, leaves: list[Any], depth: int, box: InputSet, outside: dict[int, Interval]) -> dict[str, Any]:
        if len(leaves) == 1 and len(leaves[0].splits) == depth:
            return self._leaf(leaves[0].weights, box, outside)
        split = leaves[0].splits[depth]
        graph = self.problem.network
        z = graph.number(split.node)
        place: dict[str, Any] = {"entry": split.entry, "at": split.value}
        if z != 0:
            readers = graph.readers(z)
            if len(readers) != 1 or graph.nodes[readers[0]].inputs[0] != z:
                raise UsageError(f"no certificate can be written yet for a split of {split.node!r}, which is moved or read twice")
            place["tensor"] = self.names[readers[0]]
        halves: dict[str, Any] = {"split": place}
        for half in ("below", "above"):
            some = [leaf for leaf in leaves if leaf.splits[depth].part.name.lower() == half]
            known = box.interval if z == 0 else outside.get(z, _everything(graph.nodes[z].shape))
            ends = [known.lower.clone(), known.upper.clone()]
            end = ends[half == "below"].view(-1)
            end[split.entry] = (torch.minimum if half == "below" else torch.maximum)(end[split.entry], end.new_tensor(split.value))
            if bool((ends[0] > ends[1]).any()):
                halves[half] = {"bounds": []}
                continue
            own = Interval(*ends)
            halves[half] = self._part(some, depth + 1, *((Box(own), outside) if z == 0 else (box, {**outside, z: own})))
        return halves

    def _leaf(self, weights: tuple[float, ...], box: InputSet, outside: dict[int, Interval]) -> dict[str, Any]:
        problem = replace(self.problem, box=box)
        wanted = [(self.tree.conjunction, weights)]
        bounds, found = _proof(self.file, problem, self.names, wanted, Level.CLOSED_FORM, outside=outside)
        self.done += 1
        if self.log is not None:
            self.log(f"leaf {self.done} of {len(self.tree.leaves)} proved")
        return {"bounds": bounds} | (found[0] if found else {})


def _everything(shape: tuple[int, ...]) -> Interval:
    ends = torch.full((1, *shape), torch.inf, dtype=torch.float64)
    return Interval(-ends, ends)
