"""Training: every mode learns, its bounds are the methods' own, and the same study gives the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bourn.errors import UsageError
from bourn.formats.torch import from_module
from bourn.network.graph import Graph
from bourn.problem.input_set import linf_ball
from bourn.problem.problem import label_margins
from bourn.solvers.methods import method
from bourn.training import loop
from bourn.training.attack import attack
from bourn.training.bounds import fast_lin_bounds, interval_bounds
from bourn.training.data import Images
from bourn.training.evaluation import evaluate
from bourn.training.loop import Epoch, train
from bourn.training.losses import LOSSES, Step
from bourn.training.networks import Trained, as_graph, build
from bourn.training.settings import MODES, Study, Training, study

DENSE: dict[str, Any] = {"hidden": [12, 12]}
CONVOLUTIONAL: dict[str, Any] = {
    "convolutions": [{"channels": 6, "kernel": 3, "stride": 2, "padding": 1}, {"channels": 8, "kernel": 2}],
    "hidden": [16],
}
SHAPE = (1, 1, 6, 6)


def tiny() -> Images:
    """Ten random patterns and noisy copies of them."""
    noise = torch.Generator().manual_seed(0)
    patterns = torch.rand(10, *SHAPE[1:], generator=noise).round()
    y = torch.arange(10).repeat(20)
    x = (patterns[y] + 0.2 * torch.randn(len(y), *SHAPE[1:], generator=noise)).clamp(0, 1)
    return Images(x[:160], y[:160], x[160:], y[160:])


def tiny_study(network: dict[str, Any] = DENSE, **training: Any) -> Study:
    settings = {"radius": 0.05, "epochs": 4, "ramp": 0, "batch": 16, "learning_rate": 0.01, **training}
    return study({"network": network, "training": settings})


def weights(trained: Trained) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trained.module.parameters()])


@pytest.mark.parametrize("network", [DENSE, CONVOLUTIONAL], ids=["dense", "convolutional"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_lowers_its_loss(mode: str, network: dict[str, Any]) -> None:
    epochs: list[Epoch] = []
    train(tiny_study(network, epochs=6, radius=0.02, learning_rate=0.02), mode, tiny(), log=epochs.append)
    assert [e.number for e in epochs] == list(range(1, 7))
    assert epochs[-1].loss < 0.8 * epochs[0].loss
    assert epochs[-1].right > epochs[0].right
    assert all((e.held is None) == (mode == "normal") for e in epochs)
    assert all(e.held is None or e.held <= e.right for e in epochs)
    assert mode == "normal" or (epochs[-1].held or 0) > max(0.25, epochs[0].held or 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_fixes_the_weights_and_nothing_else(mode: str) -> None:
    images, asked = tiny(), tiny_study(epochs=2)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = weights(train(asked, mode, images))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(weights(train(asked, mode, images)), first)
    assert not torch.equal(weights(train(tiny_study(epochs=2, seed=1), mode, images)), first)


@pytest.mark.parametrize("mode", ["adversarial", "interval"])
def test_an_interrupted_run_ends_as_one_in_one_go(mode: str, tmp_path: Path) -> None:
    images, asked, checkpoint = tiny(), tiny_study(ramp=3), tmp_path / "a.checkpoint"

    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(asked, mode, images, checkpoint=checkpoint, log=stop)
    epochs: list[Epoch] = []
    resumed = train(asked, mode, images, checkpoint=checkpoint, log=epochs.append)
    assert [e.number for e in epochs] == [3, 4]
    assert torch.equal(weights(resumed), weights(train(asked, mode, images)))
    assert torch.equal(weights(train(asked, mode, images, checkpoint=checkpoint)), weights(resumed))
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    images, checkpoint = tiny(), tmp_path / "a.checkpoint"
    train(tiny_study(epochs=1), "normal", images, checkpoint=checkpoint)
    with pytest.raises(UsageError, match=r"other settings"):
        train(tiny_study(epochs=1, seed=1), "normal", images, checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UsageError, match="no readable checkpoint"):
        train(tiny_study(epochs=1), "normal", images, checkpoint=checkpoint)


def test_a_loss_that_is_not_finite_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_epoch", lambda *_: (float("nan"), 0.0, None))
    with pytest.raises(UsageError, match="loss is nan in epoch 1"):
        train(tiny_study(), "normal", tiny())


def float64(network: dict[str, Any], scale: float = 1.0) -> tuple[Trained, Graph]:
    """A network in float64, its graph that shares the parameters, and its graph as the reader makes it."""
    asked = tiny_study(network)
    built = build(asked.network, SHAPE, 10, 3)
    with torch.no_grad():
        for parameter in built.module.parameters():
            parameter.mul_(scale)
    read = from_module(built.module, SHAPE)
    module = built.module.double()
    return Trained(module, as_graph(module, SHAPE)), read


@pytest.mark.parametrize("network", [DENSE, CONVOLUTIONAL], ids=["dense", "convolutional"])
@pytest.mark.parametrize("radius", [0.0, 0.02, 0.3])
def test_training_bounds_are_those_of_the_methods(network: dict[str, Any], radius: float) -> None:
    ours, read = float64(network, scale=1.5)
    images = tiny()
    x, y = images.x[:6].double()[:, None], images.y[:6]
    ball = linf_ball(x, radius, clip=(0, 1))
    margins = label_margins(y, 10)
    with torch.no_grad():
        intervals = interval_bounds(ours.graph, ball.lower, ball.upper)
        rows = margins.outputs.reshape(6, 9, 1, 10)
        found, inner = fast_lin_bounds(ours.graph, ball.lower, ball.upper, rows)
    ibp, fast_lin = (method(name).prepare(read, ball) for name in ("ibp", "fast-lin"))
    assert torch.allclose(found, fast_lin.minimise(margins).bound, atol=1e-5)
    unstable = 0
    ends = zip((*ours.graph.pre_activations, ours.graph.output), (*read.pre_activations, read.output), strict=True)
    for own, other in ends:
        theirs = ibp.node(other)
        assert torch.allclose(intervals[own][0].reshape(theirs.shape), theirs.lower, atol=1e-5)
        assert torch.allclose(intervals[own][1].reshape(theirs.shape), theirs.upper, atol=1e-5)
        if own in inner:
            # Bounds of neurons that are proved stable may be loose, for nothing stands on them.
            theirs = fast_lin.bounds[other]
            open_ = (theirs.lower < 0) & (theirs.upper > 0)
            unstable += int(open_.sum())
            for mine, given in zip(inner[own], (theirs.lower, theirs.upper), strict=True):
                assert torch.allclose(mine.reshape(given.shape)[open_], given[open_], atol=1e-5)
    assert (unstable > 0) == (radius > 0)


@pytest.mark.parametrize("mode", ["dual-bound", "interval"])
def test_gradients_of_the_bounds(mode: str) -> None:
    images = tiny()
    x, y = images.x[:2].double(), images.y[:2]
    ours, _ = float64(CONVOLUTIONAL)
    parameters = list(ours.module.parameters())

    def loss(*_: Tensor) -> Tensor:
        settings = Training(radius=0.1, kappa=0.25)
        trained = Trained(ours.module, as_graph(ours.module, SHAPE))
        return LOSSES[mode](Step(trained, x, y, settings, 1.0, torch.Generator())).loss

    assert torch.autograd.gradcheck(loss, parameters, fast_mode=True)


@pytest.mark.parametrize("mode", ["dual-bound", "interval"])
def test_robust_losses_are_upper_bounds_of_the_loss_under_attack(mode: str) -> None:
    images = tiny()
    trained = train(tiny_study(CONVOLUTIONAL, epochs=2), "normal", images)
    settings, noise = Training(radius=0.1, kappa=0.0), torch.Generator().manual_seed(0)
    x, y = images.test_x, images.test_y
    with torch.no_grad():
        robust = float(LOSSES[mode](Step(trained, x, y, settings, 1.0, noise)).loss)
    hard = attack(trained.module, x, y, 0.1, 20, noise)
    with torch.no_grad():
        plain, attacked = (float(F.cross_entropy(trained.module(points), y)) for points in (x, hard))
    assert plain < attacked < robust


def test_the_measures_are_in_order() -> None:
    images = tiny()
    trained = train(tiny_study(epochs=6), "dual-bound", images)
    read = from_module(trained.module, SHAPE)
    methods = [method(name) for name in ("ibp", "fast-lin", "lp-all")]
    found = evaluate(trained.module, read, images.test_x[::4], images.test_y[::4], 0.05, methods=methods)
    by_ibp, by_fast_lin, by_lp = found.certified
    assert found.images == 10
    assert 0 < by_ibp.share <= by_lp.share <= found.attacked <= found.right
    assert by_fast_lin.share <= by_lp.share
    assert 0 < by_lp.gap < by_ibp.gap
    # The same network at a radius at which everything falls.
    lost = evaluate(trained.module, read, images.test_x, images.test_y, 0.9, methods=methods[:1])
    assert lost.attacked == lost.certified[0].share == 0 < lost.right
