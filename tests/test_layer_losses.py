"""losses_by_layer: the parts sum to what is lost, and each is what its definition says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import bourn
from bourn.layer_losses import ALL_LAYERS, INPUT_SET
from bourn.problem.problem import Objectives
from bourn.solvers.base import Prepared
from bourn.solvers.methods import BARRIER, method
from networks import random
from quick import QUICK
from samples import mlp, numbers

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TRACED = ("fast-lin", "crown", "crown-ibp", "alpha-crown", "lp-last", "planet", BARRIER)


def one_row(seed: int) -> Objectives:
    generator = random(seed)
    return Objectives(numbers(generator, 1, 1, 3), numbers(generator, 1, 1, 5) if seed % 2 else None, numbers(generator, 1, 1))


@pytest.mark.parametrize("chosen", QUICK, ids=lambda m: m.name)
def test_the_parts_sum_to_what_is_lost(chosen: bourn.Method) -> None:
    for seed in range(3):
        graph, objective = mlp(seed), one_row(seed)
        ball = bourn.linf_ball(numbers(random(seed + 50), 1, 1, 5), 0.4)
        point = ball.sample(1, random(seed))[0]
        found = bourn.losses_by_layer(graph, ball, objective, point, method=chosen)
        bound = float(chosen.prepare(graph, ball).minimise(objective).bound)
        assert found.bound == pytest.approx(bound, abs=1e-9)
        y = float(objective.outputs[0, 0] @ graph.evaluate(point)[0, 0] + objective.constant[0, 0])
        if objective.inputs is not None:
            y += float(objective.inputs[0, 0] @ point.flatten())
        assert found.attained == pytest.approx(y, abs=1e-12)
        assert found.relaxation + found.inner == pytest.approx(found.attained - found.bound, abs=1e-9)
        nodes = [graph.nodes[v].name for v in graph.nonlinear]
        assert [layer.node for layer in found.layers] in ([INPUT_SET, *nodes], [*nodes, ALL_LAYERS])
        assert (found.layers[0].node == INPUT_SET) or chosen.name not in TRACED
        assert all(layer.relaxation > -1e-9 for layer in found.layers)


def test_bound_loss_is_what_the_barriers_inner_bounds_gain() -> None:
    """Fast-Lin on LP-ALL's bounds of both layers, computed apart, differs from Fast-Lin by the whole bound loss."""
    graph, objective = mlp(7), one_row(8)
    ball = bourn.linf_ball(numbers(random(3), 1, 1, 5), 0.8)
    point = ball.sample(1, random(0))[0]
    chosen = method("fast-lin")
    tight = method(BARRIER).prepare(graph, ball).bounds
    found = bourn.losses_by_layer(graph, ball, objective, point, method=chosen, tight=tight)

    def value(prepared: Prepared) -> float:
        return float(prepared.minimise(objective).bound)

    on_tight = value(chosen.prepare(graph, ball, inner=tight))
    assert found.inner == pytest.approx(on_tight - found.bound, abs=1e-9)
    assert found.inner > 1e-3
    # The first pre-activation is affine in the input, on which all agree; all is lost at the second.
    assert [layer.inner for layer in found.layers[:2]] == [0.0, 0.0]
    assert found.relaxation == pytest.approx(found.attained - on_tight, abs=1e-9)


def test_bound_loss_counts_where_looseness_arises() -> None:
    """Of three layers, the second's looseness counts with what it does to the third's bounds."""
    from bourn.relaxations.relu import ReLU
    from networks import Layers

    layers = Layers((1, 5), random(1))
    node = 0
    for width in (6, 6, 6):
        node = layers.act(layers.dense(node, width, scale=0.6), ReLU())
    graph, objective = layers.builder.build(layers.dense(node, 3)), one_row(2)
    ball = bourn.linf_ball(torch.zeros(1, 1, 5, dtype=torch.float64), 1.0)
    found = bourn.losses_by_layer(graph, ball, objective, ball.middle, method="fast-lin")
    tight = method(BARRIER).prepare(graph, ball).bounds
    second = graph.pre_activations[1]
    told = method("fast-lin").prepare(graph, ball, begin={second: tight[second]})
    assert found.layers[2].inner == pytest.approx(float(told.minimise(objective).bound) - found.bound, abs=1e-9)
    assert found.layers[3].inner > 1e-6


def test_the_barrier_has_relaxation_loss_only_and_the_least_in_all() -> None:
    graph, objective = mlp(4), one_row(4)
    ball = bourn.linf_ball(numbers(random(9), 1, 1, 5), 0.6)
    point = ball.sample(1, random(1))[0]
    tight = method(BARRIER).prepare(graph, ball).bounds
    all_ = {n: bourn.losses_by_layer(graph, ball, objective, point, method=n, tight=tight) for n in ("crown", "lp-last", BARRIER)}
    assert all(layer.inner == 0 for layer in all_[BARRIER].layers)
    assert all_[BARRIER].relaxation <= min(found.relaxation for found in all_.values()) + 1e-9
    # On the same inner bounds LP-LAST and LP-ALL are one program.
    assert all_["lp-last"].relaxation == pytest.approx(all_[BARRIER].relaxation, abs=1e-7)


def test_a_real_network_from_a_file() -> None:
    with np.load(EXAMPLES / "digits_images.npz") as data:
        image, label = torch.from_numpy(data["image"][6:7]).double(), int(data["label"][6])
    ball = bourn.linf_ball(image, 0.115, clip=(0.0, 1.0))
    outputs = torch.zeros(1, 1, 10, dtype=torch.float64)
    outputs[0, 0, label], outputs[0, 0, 9] = 1.0, -1.0
    objective = Objectives(outputs, None, torch.zeros(1, 1, dtype=torch.float64))
    found = bourn.losses_by_layer(str(EXAMPLES / "digits_cnn.onnx"), ball, objective, image, method="crown")
    assert found.relaxation + found.inner == pytest.approx(found.attained - found.bound, abs=1e-9)
    assert len(found.layers) == 4


def test_what_does_not_fit_is_said() -> None:
    graph, ball = mlp(0), bourn.linf_ball(torch.zeros(1, 1, 5, dtype=torch.float64), 0.1)
    two = Objectives(torch.zeros(1, 2, 3, dtype=torch.float64), None, torch.zeros(1, 2, dtype=torch.float64))
    with pytest.raises(bourn.BournError, match="one row on one input set"):
        bourn.losses_by_layer(graph, ball, two, ball.middle)
    with pytest.raises(bourn.BournError, match="no method"):
        bourn.losses_by_layer(graph, ball, one_row(0), ball.middle, method="best")
