"""Certificates of what branch and bound proves of networks that are not piecewise linear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import bourn
from bourn.plans import Bounding, Plan
from bourn.problem.problem import problems
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.input_splitting import InputSplitting
from bourn.solvers.subproblems import Splitting
from bourn.solvers.value_splitting import ValueSplitting
from bourn_check import NotAProof, check
from certificate_files import Files, contents, mlp, rewritten, specification
from test_checker_functions import composed


def by_splitting(folder: Path, network: onnx.ModelProto, how: Splitting, share: float, radius: float) -> Files:
    """A network, and a question that only splitting proves: ``share`` of the way from what ascent proves to what is attained."""
    files = Files(folder / "net.onnx", folder / "prop.vnnlib", folder / "proof.bourn")
    files.network.write_bytes(network.SerializeToString())
    loaded = bourn.load(files.network)
    size = loaded.graph.nodes[0].size
    ends = np.full(size, -radius), np.full(size, radius)
    files.specification.write_text(specification(*ends, 2, "(assert (<= Y_0 0))"))
    ascent = bourn.method("alpha-crown-all")
    (problem,) = problems(loaded.graph, bourn.verify(loaded, files.specification, plan=Plan((Bounding(ascent),))).question)
    low = float(ascent.prepare(loaded.graph, problem.box).minimise(problem.objectives([bourn.Row.of({0: 1})])).bound)
    high = float(loaded.graph.evaluate(problem.box.sample(2000, torch.Generator().manual_seed(0))[0]).flatten(1)[:, 0].min())
    files.specification.write_text(specification(*ends, 2, f"(assert (<= Y_0 {low + share * (high - low)!r}))"))
    result = bourn.verify(files.network, files.specification, plan=Plan((Bounding(ascent), BranchAndBound(how))), timeout=20.0)
    assert result.status == "unsat", result
    bourn.write_certificate(result, files.certificate)
    return files


@pytest.mark.parametrize("activation", ["Tanh", "Sin"])
def test_halved_boxes_of_smooth_networks_are_bounded_as_the_checker_does(tmp_path: Path, activation: str) -> None:
    files = by_splitting(tmp_path, mlp(3, (6, 6), activation=activation), InputSplitting(), 0.15, 0.4)
    assert check(*files.arguments).parts > 1
    assert any("splits" in chunk and chunk["splits"] for chunk in contents(files.certificate)[2])


@pytest.mark.parametrize(
    ("network", "share", "radius"),
    [
        (composed("silu"), 0.15, 0.8),
        (composed("mul"), 0.3, 0.5),
    ],
    ids=["silu", "mul"],
)
def test_values_of_any_function_are_split(tmp_path: Path, network: onnx.ModelProto, share: float, radius: float) -> None:
    files = by_splitting(tmp_path, network, ValueSplitting(), share, radius)
    assert check(*files.arguments).parts > 1
    manifest, arrays, chunks = contents(files.certificate)
    places = [arrays[split["at"]] for chunk in chunks for split in chunk["splits"]]
    assert any((at != 0).any() for at in places)
    # A part that is split elsewhere than its proof was found for is no proof.
    at = next(split["at"] for chunk in chunks for split in chunk["splits"])
    arrays[at] = arrays[at] + 2.0**10
    rewritten(files.certificate, manifest, arrays, chunks)
    with pytest.raises(NotAProof, match="does not refute conjunction 0"):
        check(*files.arguments)
