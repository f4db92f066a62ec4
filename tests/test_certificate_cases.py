"""Certificates in which bounds are proved by cases: of every row leaves that leave nothing out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bourn
from bourn.plans import Bounding, Plan, Stand
from bourn.problem.problem import problems
from bourn.solvers.adjustments import leaves_of, with_leaves
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn_check import NotAProof, Unreadable, check
from certificate_files import Arrays, Chunks, Files, Manifest, changed, contents, mlp, specification

DEEP = with_leaves(bourn.method("split-all"), 24)
BOUNDS = Plan((Bounding(bourn.method("crown")), Bounding(DEEP, Stand.ON_TOP)))


def asked(folder: Path, plan: Plan, share: float) -> Files:
    """A network, and a question that trees of inner bounds prove at ``share`` of the way from what ascent proves."""
    files = Files(folder / "net.onnx", folder / "prop.vnnlib", folder / "proof.bourn")
    files.network.write_bytes(mlp(4, (8, 8, 6), inputs=4).SerializeToString())
    loaded = bourn.load(files.network)
    ends = np.full(4, -0.9), np.full(4, 0.9)
    files.specification.write_text(specification(*ends, 2, "(assert (<= Y_0 0))"))
    (problem,) = problems(loaded.graph, bourn.verify(loaded, files.specification, plan=BOUNDS, timeout=60.0).question)
    objectives = problem.objectives([bourn.Row.of({0: 1})])
    ascent = bourn.method("alpha-crown-all").prepare(loaded.graph, problem.box)
    low = float(ascent.minimise(objectives).bound)
    best = float(DEEP.prepare(loaded.graph, problem.box, begin=ascent.bounds).minimise(objectives).bound)
    assert best > low + 1e-2 * abs(low)
    files.specification.write_text(specification(*ends, 2, f"(assert (<= Y_0 {low + share * (best - low)!r}))"))
    result = bourn.verify(files.network, files.specification, plan=plan, timeout=60.0)
    assert result.status == "unsat", result
    bourn.write_certificate(result, files.certificate)
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return asked(tmp_path_factory.mktemp("cases"), BOUNDS, 0.9)


def cases(chunks: Chunks) -> list[dict[str, Any]]:
    return [bounds for chunk in chunks for bounds in chunk["bounds"] if "cases" in bounds]


def test_names_say_the_leaves() -> None:
    assert leaves_of(DEEP.name) == 24
    assert [leaves_of(name) for name in ("split-all", "crown", "a, b leaves", "milp, trusting HiGHS")] == [0] * 4


@pytest.mark.parametrize("arithmetic", ["float", "ball", "rational"])
def test_bounds_by_cases_check(files: Files, arithmetic: str) -> None:
    report = check(*files.arguments, arithmetic)
    assert report.verdict == "unsat"
    assert cases(contents(files.certificate)[2])


def test_splits_stand_on_bounds_by_cases(tmp_path: Path) -> None:
    plan = Plan((*BOUNDS.steps, BranchAndBound(NeuronSplitting())))
    own = asked(tmp_path, plan, 1.05)
    assert len(contents(own.certificate)[2]) > 1
    assert check(*own.arguments).verdict == "unsat"


def first(arrays: Arrays, chunks: Chunks) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first bounds by cases, and their first sides."""
    bounds = next(b for b in cases(chunks) if b["cases"]["sides"])
    return bounds, bounds["cases"]["sides"][0]


def other_side(manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    """A leaf assumes the other side of all that it assumes: its own side is left out."""
    name = first(arrays, chunks)[1]["entries"]
    arrays[name] = arrays[name].copy()
    arrays[name][0] = -1 - arrays[name][0]


def another_row(manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    """A leaf is said to be of the row before its own."""
    name = first(arrays, chunks)[0]["cases"]["of"]
    arrays[name] = arrays[name].copy()
    arrays[name][arrays[name] == arrays[name].max()] -= 1


def no_leaf(manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    """There are no leaves at all, and a bound of nothing would be infinite."""
    bounds, _ = first(arrays, chunks)
    bounds["cases"]["sides"] = []
    arrays[bounds["cases"]["of"]] = np.zeros(0, dtype="<i8")
    bounds["multipliers"] = {}


def both_sides(manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    """A leaf assumes both sides of an entry, and so is next to empty."""
    _, sides = first(arrays, chunks)
    leaf, entries = arrays[sides["leaf"]], arrays[sides["entries"]]
    arrays[sides["leaf"]], arrays[sides["entries"]] = np.append(leaf, leaf[0]), np.append(entries, -1 - entries[0])


def further_side(manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    """A leaf assumes one side more, which no other leaf makes up for."""
    bounds, _ = first(arrays, chunks)
    tensor, leaf, entries = (bounds["cases"]["sides"][0][key] for key in ("tensor", "leaf", "entries"))
    taken = {e if e >= 0 else -1 - e for e in arrays[entries][arrays[leaf] == 0].tolist()}
    entry = next(e for e in range(8) if e not in taken)
    arrays["more"], arrays["side"] = np.zeros(1, dtype="<i8"), np.array([entry], dtype="<i8")
    bounds["cases"]["sides"].append({"tensor": tensor, "leaf": "more", "entries": "side"})


def no_object(manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    """What should say of which row a leaf is, and what it assumes, says nothing at all."""
    bounds, _ = first(arrays, chunks)
    bounds["cases"] = "interval"


@pytest.mark.parametrize("fault", [other_side, another_row, no_leaf, both_sides, further_side, no_object])
def test_leaves_that_leave_something_out_prove_nothing(files: Files, fault: Callable[[Manifest, Arrays, Chunks], None]) -> None:
    other = changed(files, fault)
    with pytest.raises((NotAProof, Unreadable)):
        check(*other.arguments)


def test_multipliers_of_leaves_are_not_believed(files: Files) -> None:
    """Any multipliers give valid bounds; these give weaker ones, which prove less."""

    def none(manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
        for bounds in cases(chunks):
            for own in bounds["multipliers"].values():
                arrays[own["mu"]] = np.zeros_like(arrays[own["mu"]])

    with pytest.raises(NotAProof, match="does not refute"):
        check(*changed(files, none).arguments)
