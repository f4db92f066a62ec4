"""The training loop: epochs of Adam, a checkpoint after each, from which the same run goes on."""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bourn.errors import UsageError
from bourn.training.data import CLASSES, Images
from bourn.training.losses import LOSSES, Step
from bourn.training.networks import Trained, build
from bourn.training.settings import Study, Training


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to, on the training images as it went through them: mean ``loss``, ``right`` and ``held``, the shares
    that :class:`bourn.training.losses.Outcome` speaks of.  ``radius``: at its end; ``left``: estimated seconds to the last
    epoch."""

    number: int
    of: int
    radius: float
    loss: float
    right: float
    held: float | None
    seconds: float
    left: float


@dataclass(eq=False)
class Run:
    """One network on its way: what a checkpoint holds."""

    network: Trained
    optimiser: torch.optim.Adam
    noise: torch.Generator
    done: int = 0


def train(
    study: Study,
    mode: str,
    images: Images,
    *,
    checkpoint: Path | None = None,
    log: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train the study's network in one ``mode``; ``log`` is called after every epoch.

    ``checkpoint``: a file that holds the state after the last whole epoch; where it is there already, training goes on from
    it, and ends with the same weights as in one go.  On one machine, torch release and number of threads the weights depend
    on the study alone, bit by bit.  Raises :class:`UsageError` where the checkpoint is of another study or unreadable, and
    where the loss is no longer finite.
    """
    settings = study.modes[mode]
    network = build(study.network, images.shape, CLASSES, settings.seed)
    optimiser = torch.optim.Adam(network.module.parameters(), lr=settings.learning_rate)
    run = Run(network, optimiser, torch.Generator().manual_seed(settings.seed))
    identity = repr((study.data, study.network, mode, settings))
    if checkpoint is not None and checkpoint.exists():
        _restore(run, checkpoint, identity)
    seconds: list[float] = []
    while run.done < settings.epochs:
        began = time.monotonic()
        loss, right, held = _epoch(run, mode, images, settings)
        run.done += 1
        if not math.isfinite(loss):
            raise UsageError(f"{mode}: the loss is {loss} in epoch {run.done}; lower [training] learning_rate or radius")
        if checkpoint is not None:
            _save(run, checkpoint, identity)
        seconds.append(time.monotonic() - began)
        if log is not None:
            radius = settings.radius * settings.strength(run.done)
            # The last epochs tell more: the radius grows, and with it the work.
            left = (settings.epochs - run.done) * sum(seconds[-5:]) / len(seconds[-5:])
            log(Epoch(run.done, settings.epochs, radius, loss, right, held, seconds[-1], left))
    return run.network


def _epoch(run: Run, mode: str, images: Images, settings: Training) -> tuple[float, float, float | None]:
    """One pass over the training images in a random order; the mean loss and the shares right and held."""
    order = torch.split(torch.randperm(len(images.x), generator=run.noise), settings.batch)
    rate = settings.learning_rate * (1 + math.cos(math.pi * run.done / settings.epochs)) / 2
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    loss, right, held, counted = 0.0, 0, 0, True
    for number, batch in enumerate(order):
        strength = settings.strength(run.done + number / len(order))
        found = LOSSES[mode](Step(run.network, images.x[batch], images.y[batch], settings, strength, run.noise))
        run.optimiser.zero_grad()
        torch.autograd.backward(found.loss)
        run.optimiser.step()
        loss += float(found.loss.detach()) * len(batch)
        right += int(found.right.sum())
        counted &= found.held is not None
        held += 0 if found.held is None else int(found.held.sum())
    total = len(images.x)
    return loss / total, right / total, held / total if counted else None


def _save(run: Run, path: Path, identity: str) -> None:
    """Write the checkpoint beside its place and move it there, so that the file is whole whenever the process ends."""
    state = {
        "identity": identity,
        "done": run.done,
        "module": run.network.module.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "noise": run.noise.get_state(),
    }
    beside = path.with_name(path.name + ".new")
    try:
        torch.save(state, beside)
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path}: the checkpoint cannot be written: {' '.join(str(error).split())[:200]}") from None


def _restore(run: Run, path: Path, identity: str) -> None:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        stored = state["identity"]
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError):
        raise UsageError(f"{path}: is no readable checkpoint; --restart trains anew") from None
    if stored != identity:
        raise UsageError(f"{path}: is of other settings than these; choose another folder, or --restart to train anew")
    run.network.module.load_state_dict(state["module"])
    run.optimiser.load_state_dict(state["optimiser"])
    run.noise.set_state(state["noise"])
    run.done = state["done"]
