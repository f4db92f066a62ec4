"""write_certificate: a verdict as a file that the independent checker (bourn_check) confirms.

The verdict's multipliers are found again rather than kept: layer after layer, each pre-activation's bounds are proved from those
before it, by the cheapest multipliers that do, and trees of splits are walked anew from the root.  So the bounds that the checker
comes to are not those of the run, but they stand on nothing else than what is in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bourn.certificates.evidence import Falsified, Refutation, Verified
from bourn.certificates.file import CertificateFile, stated
from bourn.certificates.splits import Leaf, SplitTree, together
from bourn.deadline import Deadline
from bourn.errors import UsageError
from bourn.formats.vnnlib_writing import as_vnnlib
from bourn.network.graph import Graph
from bourn.problem.problem import Problem, Question, problems
from bourn.program.branches import refusal
from bourn.proof_neurons import grow_by_neuron
from bourn.proof_sets import HalfSpaces, stated_set
from bourn.proof_trees import Grown, grow_by_input
from bourn.proof_values import grow_by_value
from bourn.proving import Level, Proof
from bourn.relaxations.power import Power
from bourn.relaxations.product import Product
from bourn.relaxations.silu import Silu
from bourn.solvers.adjustments import leaves_of
from bourn.solvers.row_trees import RowTrees
from bourn.verification import Result

OPERATORS = (
    *("Abs", "Clip", "LeakyRelu", "Relu", "PRelu", "Max", "Min", "MaxPool", "GlobalMaxPool", "ReduceMax"),
    *("Sigmoid", "Tanh", "Atan", "Erf", "Softsign", "Exp", "Log", "Softplus", "Elu", "Selu", "Celu", "Gelu", "Sin", "Cos"),
    *("Pow", "Sqrt", "Reciprocal", "Mul", "Div", "MatMul", "Softmax", "HardSigmoid", "HardSwish"),
)
"""The operators with nonlinear functions in them that certificates are written and checked for."""

_PARTS = ("elu", "exponentials", "gate", "greatest", "power", "products", "reciprocal", "shares", "sigmoid")
"""What functions within operators are called, after the operator's tensor and a dot."""

_SAME = ("Dropout", "Identity")
"""Operators that the graph has no nodes of."""

Log = Callable[[str], None] | None


def write_certificate(
    result: Result, path: str | Path, log: Callable[[str], None] | None = None, timeout: float | None = None
) -> None:
    """Write the certificate of a verdict: of ``unsat`` the proof, of ``sat`` the witness.

    ``result`` is what :func:`bourn.verify` returned for an ONNX file.  A question that is no VNN-LIB file is written as one beside
    the certificate, with the ending ``.vnnlib``.  ``log`` is called as layers are done; ``timeout``: seconds.  Raises
    :class:`UsageError` for other verdicts, for networks with nonlinear operators other than :data:`OPERATORS`, for unbounded input
    sets, and where no multipliers were found that prove the verdict again.
    """
    verdict, deadline = result.verdict, Deadline(timeout)
    if not isinstance(verdict, Verified | Falsified):
        raise UsageError(f"no certificate is written: the verdict is {result.status}, which states nothing to be proved")
    if result.question.joined:
        raise UsageError("no certificate can be written yet for questions about several networks or hidden nodes")
    network = result.model.source
    if not isinstance(network, str | Path) or not Path(network).is_file():
        raise UsageError("a certificate is about an ONNX file and a VNN-LIB file; this network is no file")
    with _question(result.question, Path(path)) as asked, CertificateFile(path, Path(network), asked) as file:
        if isinstance(verdict, Falsified):
            found = verdict.counterexample
            x = np.asarray(found.x, dtype="<f8")
            if found.real is not None:  # the set holds no number of the network's type: the checker takes the point nearest to x
                x = np.clip(x, *found.real)
            file.manifest |= {"verdict": "sat", "witness": file.array(x)}
            return
        graph, names, refuted = _as_stored(result.model.graph.to("cpu"), Path(network), verdict.refutations)
        leaves = max((leaves_of(step.what) for step in result.steps if not step.skipped), default=0)
        inner = RowTrees(leaves=leaves) if leaves else None
        cases: list[dict[str, Any]] = []
        for number, (problem, refutations) in enumerate(zip(problems(graph, result.question), refuted, strict=True)):
            say = (lambda text, n=number: log(f"case {n}: {text}")) if log is not None else None
            cases.extend(_cases(file, problem, not result.question.source, names, refutations, inner, say, deadline))
        file.manifest |= {"verdict": "unsat", "cases": cases}


def question_beside(path: Path) -> Path:
    """Where the question of a certificate is written that is no file yet."""
    return path.with_suffix(".vnnlib")


@contextmanager
def _question(question: Question, path: Path) -> Iterator[Path]:
    """The question's file: its own, or one beside the certificate, which is gone again where no certificate is written."""
    if question.source and Path(question.source).is_file():
        yield Path(question.source)
        return
    text, beside = as_vnnlib(question), question_beside(path)
    try:
        if beside.exists() and beside.read_text() != text:
            raise UsageError(f"{beside}: is there and asks something else; the certificate's question would be written there")
        fresh = not beside.exists()
        beside.write_text(text)
    except OSError as error:
        raise UsageError(f"{beside}: cannot be written: {error.strerror}") from None
    try:
        yield beside
    except BaseException:
        if fresh:
            beside.unlink(missing_ok=True)
        raise


Refutations = tuple[tuple[Refutation | SplitTree, ...], ...]


def _as_stored(graph: Graph, path: Path, refutations: Refutations) -> tuple[Graph, dict[int, str], Refutations]:
    """The graph with the names of its nonlinear nodes; that of the file's own operators where some were fused into others."""
    try:
        return graph, operator_names(graph, path), refutations
    except UsageError:
        from bourn.formats.onnx import load
        from bourn.network.rewrite import simplify

        plain = simplify(load(path, simplify=False), fused=False)
        return plain, operator_names(plain, path), tuple(tuple(map(_unsplit, own)) for own in refutations)


def _unsplit(refutation: Refutation | SplitTree) -> Refutation | SplitTree:
    """A tree's splits are of another graph's nodes: the same without."""
    if isinstance(refutation, Refutation):
        return refutation
    first = refutation.leaves[0]
    return SplitTree(refutation.conjunction, (Leaf((), first.weights, first.bound, first.method),))


def level_of(method: str) -> Level:
    """Where to begin, by the name of the method that refuted."""
    words = method.split()[0]
    if words.startswith(("lp-", "planet", "milp", "anderson", "k-relu", "cuts")):
        return Level.LINEAR_PROGRAM
    if words == "ibp":
        return Level.INTERVALS
    if method == "crown":
        return Level.LINES
    return Level.ASCENT if words.startswith(("alpha", "dvijotham", "split")) else Level.CLOSED_FORM


def operator_names(graph: Graph, path: Path) -> dict[int, str]:
    """For every nonlinear node its name in a certificate: the tensor that its operator computes in the file, and the part of it.

    Raises :class:`UsageError` for an operator that certificates are not written for yet.
    """
    from bourn.formats.onnx import read_model

    computed, by_source = {}, {}
    for node in read_model(path).graph.node:
        computed[node.output[0]] = node
        by_source[f"{node.op_type} {node.name or node.output[0]}"] = node.output[0]
    names = {}
    for v in graph.nonlinear:
        node = graph.nodes[v]
        own = by_source.get(node.source, "")
        name, operator = "", node.source.split(" ")[0]
        for candidate in (node.name, own):
            while candidate in computed and computed[candidate].op_type in _SAME:  # the graph's node is called after the last
                candidate = computed[candidate].input[0]
            if not name and candidate in computed and computed[candidate].op_type in OPERATORS:
                name, operator = candidate, computed[candidate].op_type
        if own and node.name in {f"{own}.{part}" for part in _PARTS}:
            name = node.name
        fused = operator == "Mul" and not (isinstance(node.operation, Product | Power) or node.operation == Silu())
        if operator not in OPERATORS or not name or fused:
            raise UsageError(
                f"no certificate can be written yet for {operator or 'the'} node {node.name!r}; "
                f"operators that can be are {', '.join(OPERATORS)}"
            )
        names[v] = name
    if len(set(names.values())) != len(names):
        raise UsageError("no certificate can be written yet: two of the network's nodes come from one operator of the file")
    return names


def _cases(
    file: CertificateFile,
    problem: Problem,
    made: bool,
    names: dict[int, str],
    refutations: Sequence[Refutation | SplitTree],
    inner: RowTrees | None,
    log: Log,
    deadline: Deadline,
) -> list[dict[str, Any]]:
    """The cases as the manifest has them, their chunks written: what bounds refute, and what trees of one kind of split do."""
    problem, given = stated_set(problem, made)
    plain = [r for r in refutations if isinstance(r, Refutation)]
    trees = [r for r in refutations if not isinstance(r, Refutation)]
    if plain:
        by_trees = any(leaves_of(r.method) for r in plain)
        found = _plain(problem, names, plain, inner if by_trees else None, given, log, deadline)
        if found is not None:
            file.chunk(found)
        else:  # by a method that has no multipliers, or none that were found again: by cases
            trees = [SplitTree(r.conjunction, (Leaf((), r.weights, r.bound, r.method),)) for r in plain] + trees
            plain = []
    on_input = [t for t in trees if any(leaf.splits and leaf.splits[0].node == problem.network.nodes[0].name for leaf in t.leaves)]
    on_neurons = [t for t in trees if t not in on_input]
    groups: list[Sequence[Refutation | SplitTree]] = [plain]
    for own, grow in ((on_input, _grow_by_input), (on_neurons, _grow_within)):
        if own:
            try:
                groups += grow(Grown(file, problem, names, own, log, deadline, inner, given))
            except UsageError as error:
                trusting = {leaf.method.partition("trusting ")[2] for tree in own for leaf in tree.leaves} - {""}
                raise UsageError(f"{error}; trusted: {', '.join(sorted(trusting))}" if trusting else str(error)) from None
    whole: dict[str, Any] = {
        side: file.array(t.flatten().numpy().astype("<f8"))
        for side, t in (("lower", problem.box.lower), ("upper", problem.box.upper))
    }
    if given is not None:
        whole["given"] = [stated(row) for row in given.rows]
    return [
        whole | {"conjunctions": [{"rows": [stated(row) for row in r.conjunction.rows]} for r in own]} for own in groups if own
    ]


def _grow_by_input(own: Grown) -> list[Sequence[SplitTree]]:
    grow_by_input(own)
    return [own.trees]


def _grow_within(own: Grown) -> list[Sequence[SplitTree]]:
    """Splits within the network, of ReLUs at their kinks where that suffices, else of any function at any value; trees by case."""
    root, graph = Proof(own.problem, own.names, Level.ASCENT, own.inner, own.deadline, own.given), own.problem.network
    for z in graph.pre_activations:
        root.add(z)
    if all(len(graph.readers(z)) == 1 for z in graph.pre_activations) and not refusal(root.program):
        grow_by_neuron(own, root)
        return [own.trees]
    groups = together(list(own.trees))
    for some in groups:
        grow_by_value(replace(own, trees=some), root)
    return [*groups]


def _plain(
    problem: Problem,
    names: dict[int, str],
    wanted: Sequence[Refutation],
    inner: RowTrees | None,
    given: HalfSpaces | None,
    log: Log,
    deadline: Deadline,
) -> dict[str, Any] | None:
    """The only chunk of a proof without splits, on the lowest level on which there is one."""
    for level in (own for own in Level if own >= max(level_of(r.method) for r in wanted)):
        proof = Proof(problem, names, level, inner, deadline, given)
        for z in problem.network.pre_activations:
            proof.add(z)
            if log is not None:
                log(f"bounds of {problem.network.nodes[z].name!r} proved ({level.name.lower().replace('_', ' ')})")
        found = []
        for k, r in enumerate(wanted):
            stated = proof.refute(r.conjunction.weighted(r.weights), r.weights, r.conjunction.rows)
            if stated is None:
                break
            weights = np.array([r.weights], dtype="<f8")
            found.append({"conjunction": k, "of": np.zeros(1, dtype="<i8"), "weights": weights} | stated)
        if len(found) == len(wanted):
            return {"parts": np.zeros(1, dtype="<i8"), "bounds": proof.bounds, "refuted": found}
    return None
