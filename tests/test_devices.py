"""The same code on any device: on a pretended one everything runs, and gives the CPU's numbers but for the order of sums."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bourn
from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.deadline import Deadline
from bourn.formats.toml import read_toml
from bourn.network.graph import Graph
from bourn.problem.balls import lp_ball
from bourn.problem.input_set import InputSet, linf_ball
from bourn.problem.problem import Objectives, Problem
from bourn.problem.specification import Conjunction, Row, Specification
from bourn.relaxations.relu import ReLU
from bourn.relaxations.sigmoid import Sigmoid
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.input_splitting import InputSplitting
from bourn.solvers.methods import Method, method
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.subproblems import Splitting
from bourn.solvers.value_splitting import ValueSplitting
from bourn.studies.description import Description
from bourn.studies.engines import InProcess
from bourn.studies.running import Study, run
from bourn.studies.store import Store
from far_device import far_device
from networks import Layers, convolutional, mlp, random, residual
from quick import PROVED

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES, DIGITS = ROOT / "examples", ROOT / "studies" / "digits.toml"


HERE = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
DEVICES = pytest.mark.parametrize("device", ["far", pytest.param("cuda", marks=HERE)])


def on(device: str) -> AbstractContextManager[object]:
    return far_device() if device == "far" else nullcontext()


def graphs() -> dict[str, Graph]:
    return {
        "mlp": mlp(Layers((1, 3), random(1)), (5, 5), 3, (ReLU(),)),
        "convolutional": convolutional(Layers((1, 2, 4, 4), random(2)), 3, (ReLU(),)),
        "residual": residual(Layers((1, 3), random(3)), 4, 1, 3, (ReLU(),)),
        "sigmoid": mlp(Layers((1, 3), random(4)), (4, 4), 3, (Sigmoid(),)),
    }


def answers(m: Method, graph: Graph, sets: InputSet, device: str) -> list[Tensor]:
    """Bounds of three objectives and of all pre-activations, back on the CPU."""
    objectives = Objectives(torch.eye(3, dtype=torch.float64)[None], None, torch.zeros(1, 3, dtype=torch.float64))
    prepared = m.prepare(graph.to(device), sets.to(device))
    found = [prepared.minimise(objectives.to(device)).bound]
    found += [end for b in prepared.bounds.values() for end in (b.lower, b.upper)]
    return [t.cpu() for t in found]


def compare(m: Method, graph: Graph, sets: InputSet, device: str) -> None:
    expected = answers(m, graph, sets, "cpu")
    with on(device):
        found = answers(m, graph, sets, device)
    # Ascent goes another way where a slope turns on the last digit.
    slack = 0.02 if isinstance(m.solver, DualAscent) else 1e-9
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=slack, atol=slack)


@DEVICES
@pytest.mark.parametrize("name", graphs())
@pytest.mark.parametrize("m", PROVED, ids=lambda m: m.name)
def test_methods(m: Method, name: str, device: str) -> None:
    graph = graphs()[name]
    compare(m, graph, linf_ball(torch.full((2, *graph.input_shape), 0.1, dtype=torch.float64), 0.2), device)


@DEVICES
@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("name", ["crown", "alpha-crown", "lp-last"])
def test_other_input_sets(name: str, norm: int, device: str) -> None:
    graph = graphs()["mlp"]
    center = torch.full((1, *graph.input_shape), 0.1, dtype=torch.float64)
    compare(method(name), graph, lp_ball(center, 0.2, norm=norm, clip=(0, 1)), device)


FEW = DualAscent(steps=4)
HOWS: tuple[Splitting, ...] = (InputSplitting(batch=16), NeuronSplitting(), ValueSplitting(root=FEW, ascent=FEW))

HARD: Mapping[str, tuple[float, str]] = {"verified": (-0.05, "unsat"), "falsified": (0.05, "sat")}


@DEVICES
@pytest.mark.parametrize("how", HOWS, ids=lambda how: how.name)
@pytest.mark.parametrize("above", HARD)
def test_splitting(how: Splitting, above: str, device: str) -> None:
    """Around the minimum over a grid of points, which no bound before splitting reaches."""
    graph = mlp(Layers((1, 2), random(7)), (6, 6), 1, (ReLU(),))
    sets = linf_ball(torch.zeros(1, *graph.input_shape, dtype=torch.float64), 1.0)
    ends = torch.linspace(-1, 1, 201, dtype=torch.float64)
    least = float(graph.evaluate(torch.cartesian_prod(ends, ends).reshape(-1, 1, 2)).min())
    shift, status = HARD[above]
    row = Row.of({0: 1}, {}, -Fraction(least + shift))
    with on(device):
        problem = Problem(graph.to(device), sets.to(device), Specification((Conjunction((row,)),)))
        inner = dict(method("crown").prepare(problem.network, problem.box).bounds)

        def accept(x: Tensor) -> bool:
            return float(problem.network.evaluate(x[None])) <= least + shift

        outcome = how.run(problem, [0], inner, accept, Deadline(60.0))
    assert outcome.found if status == "sat" else outcome.refuted


def images() -> tuple[Tensor, list[int]]:
    data = np.load(EXAMPLES / "digits_images.npz")
    return torch.from_numpy(data["image"][:3]).to(torch.float64).reshape(3, -1), data["label"][:3].tolist()


@DEVICES
@pytest.mark.parametrize("radius", [0.02, 0.2], ids=["easy", "hard"])
@pytest.mark.parametrize("network", ["digits_mlp.onnx", "digits_cnn.onnx"])
def test_verify(network: str, radius: float, device: str) -> None:
    x, labels = images()
    question = bourn.robustness(x[0], labels[0], radius, 10)
    expected = bourn.verify(EXAMPLES / network, question, timeout=20).status
    with on(device):
        assert bourn.verify(EXAMPLES / network, question, device=device, timeout=20).status == expected


@DEVICES
def test_radius(device: str) -> None:
    x, _ = images()
    asked: dict[str, Any] = {"methods": ("crown", "lp-all"), "precision": 0.01, "attack": ProjectedGradient(steps=5, restarts=1)}
    expected = bourn.radius(EXAMPLES / "digits_mlp.onnx", x[:1], **asked)
    with on(device):
        found = bourn.radius(EXAMPLES / "digits_mlp.onnx", x[:1], device=device, **asked)
    for a, b in zip(expected.certified, found.certified, strict=True):
        torch.testing.assert_close(b.radius.cpu(), a.radius, rtol=0.02, atol=0)


@DEVICES
@pytest.mark.parametrize("study", ["adversarial-error", "minimum-distortion"])
def test_studies(study: str, tmp_path: Path, device: str) -> None:
    data = {**read_toml(DIGITS), "study": study, "methods": ["crown", "lp-all"]}
    if study == "minimum-distortion":
        data = {k: v for k, v in data.items() if k != "cascade"}
        data["networks"] = [{k: v for k, v in n.items() if k != "radii"} for n in data["networks"][:1]]
    data["images"] = {**data["images"], "count": 1 if study == "minimum-distortion" else 3}
    description = Description.from_data(data, "digits", DIGITS.parent)
    found = {}
    for place in ("cpu", device):
        with Store(tmp_path / f"{place}.db") as store, on(place) if place == device else nullcontext():
            run(Study.of(description), store, InProcess(), place)
            found[place] = {r.key: r.result.get("outcome") for r in store.records()}
    assert found["cpu"] == found[device]
