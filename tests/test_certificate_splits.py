"""Certificates of what branch and bound proves of networks that are not piecewise linear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bourn
from bourn.plans import Bounding, Plan
from bourn.problem.problem import problems
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.input_splitting import InputSplitting
from bourn.solvers.subproblems import Splitting
from bourn_check import check
from certificate_files import Files, contents, mlp, specification


def by_splitting(folder: Path, activation: str, how: Splitting, share: float) -> Files:
    """A network, and a question that only splitting proves: ``share`` of the way from what ascent proves to what is attained."""
    files = Files(folder / "net.onnx", folder / "prop.vnnlib", folder / "proof.bourn")
    files.network.write_bytes(mlp(3, (6, 6), activation=activation).SerializeToString())
    loaded = bourn.load(files.network)
    ends = np.full(3, -0.5), np.full(3, 0.5)
    files.specification.write_text(specification(*ends, 2, "(assert (<= Y_0 0))"))
    ascent = bourn.method("alpha-crown-all")
    (problem,) = problems(loaded.graph, bourn.verify(loaded, files.specification, plan=Plan((Bounding(ascent),))).question)
    low = float(ascent.prepare(loaded.graph, problem.box).minimise(problem.objectives([bourn.Row.of({0: 1})])).bound)
    points = problem.box.sample(2000)[0]
    high = float(loaded.graph.evaluate(points).flatten(1)[:, 0].min())
    files.specification.write_text(specification(*ends, 2, f"(assert (<= Y_0 {low + share * (high - low)!r}))"))
    result = bourn.verify(files.network, files.specification, plan=Plan((Bounding(ascent), BranchAndBound(how))), timeout=60.0)
    assert result.status == "unsat", result
    bourn.write_certificate(result, files.certificate)
    return files


@pytest.mark.parametrize("activation", ["Tanh", "Sin"])
def test_halved_boxes_of_smooth_networks_are_bounded_as_the_checker_does(tmp_path: Path, activation: str) -> None:
    files = by_splitting(tmp_path, activation, InputSplitting(), 0.3)
    assert check(*files.arguments).parts > 1
    assert any("splits" in chunk and chunk["splits"] for chunk in contents(files.certificate)[2])
