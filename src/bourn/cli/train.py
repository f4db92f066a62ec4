"""bourn train: small networks, trained so that they can be certified."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bourn.errors import UsageError

if TYPE_CHECKING:
    from bourn.solvers.methods import Method
    from bourn.training.data import Images
    from bourn.training.evaluation import Evaluation
    from bourn.training.loop import Epoch
    from bourn.training.networks import Trained
    from bourn.training.settings import Study

SAVED_IMAGES = 100
"""Test images that are written beside the networks."""


@click.command(name="train", short_help="Train small networks that can be certified.")
@click.argument("study")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for networks and checkpoints.")
@click.option("--method", "-m", "names", multiple=True, help="Certify by this method; by default crown.  May be repeated.")
@click.option("--images", type=click.IntRange(min=1), metavar="N", help="Measure on the first N test images; by default all.")
@click.option("--radius", type=float, help="Measure at this radius; by default at the one of each network's training.")
@click.option("--restart", is_flag=True, help="Train anew, also where the folder holds checkpoints.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def command(
    study: str, out: Path, names: tuple[str, ...], images: int | None, radius: float | None, restart: bool, as_json: bool
) -> None:
    """Train one network for every mode that the TOML file STUDY names, and measure what each is worth.

    The modes: normal, adversarial (projected gradient descent), dual-bound (Wong and Kolter's) and interval training.  The
    folder gets MODE.onnx and images.npz, the first test images.  An interrupted run goes on from its last epoch when the
    command is given again.

    \b
    bourn train examples/train_digits.toml --out trained
    bourn train examples/train_digits.toml --out trained --method crown --method lp-all --images 100
    bourn verify trained/interval.onnx --image trained/images.npz --index 3 --radius 0.1
    """
    from bourn.training.settings import read

    asked = read(study)
    if radius is not None and not 0 <= radius < 1:
        raise UsageError(f"--radius is {radius:g}; it must be at least 0 and below 1, for pixels are in [0, 1]")
    _folder(out)
    from bourn.solvers.methods import method

    methods = [method(name) for name in names or ("crown",)]
    from bourn.training.data import load

    data = load(asked.data)
    _save_images(data, out / "images.npz")
    found = {}
    for mode, settings in asked.modes.items():
        network = _train(asked, mode, data, out, restart)
        measured_at = settings.radius if radius is None else radius
        found[mode] = _measure(network, mode, data, out, methods, images, measured_at)
    if as_json:
        click.echo(json.dumps({mode: asdict(evaluation) for mode, evaluation in found.items()}, indent=2))
    else:
        click.echo("\n".join(table(found)))


def _train(study: Study, mode: str, data: Images, out: Path, restart: bool) -> Trained:
    """Train in one mode, or go on with it."""
    from bourn.training.loop import train

    checkpoint = out / f"{mode}.checkpoint"
    if restart:
        checkpoint.unlink(missing_ok=True)
    pace = Pace()

    def log(epoch: Epoch) -> None:
        pace.say(line(mode, epoch), always=epoch.number in (1, epoch.of))

    resumed = checkpoint.exists()
    click.echo(f"{mode}: {'going on from' if resumed else 'training,'} {checkpoint if resumed else out}", err=True)
    try:
        return train(study, mode, data, checkpoint=checkpoint, log=log)
    except KeyboardInterrupt:
        if checkpoint.exists():
            click.echo(f"{mode}: stopped; {checkpoint} keeps the last whole epoch, and the same command goes on from it", err=True)
        raise


def _measure(
    network: Trained, mode: str, data: Images, out: Path, methods: list[Method], images: int | None, radius: float
) -> Evaluation:
    """Write the network and measure what its file holds."""
    from bourn.formats.onnx import from_bytes
    from bourn.formats.torch import export
    from bourn.training.evaluation import evaluate

    model, pace = export(network.module, data.shape), Pace()
    _write(out / f"{mode}.onnx", model)

    def log(name: str, done: int, left: float) -> None:
        pace.say(f"{mode}: bounded by {name}: {done} images done, about {left:.0f} s left")

    x, y = data.test_x[:images], data.test_y[:images]
    return evaluate(network.module, from_bytes(model, mode), x, y, radius, methods=methods, log=log)


class Pace:
    """Lines on stderr, at most one a second, that nobody has to read by the hundred."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def say(self, text: str, always: bool = False) -> None:
        """Print the line if it is time for one."""
        if always or time.monotonic() - self._last >= 1:
            click.echo(text, err=True)
            self._last = time.monotonic()


def line(mode: str, epoch: Epoch) -> str:
    """An epoch, for people to read."""
    held = {"adversarial": "under attack"}.get(mode, "certified")
    shares = f"right {epoch.right:.1%}" + ("" if epoch.held is None else f", {held} {epoch.held:.1%}")
    return (
        f"{mode}: epoch {epoch.number} of {epoch.of}: radius {epoch.radius:.4g}, loss {epoch.loss:.4f}, {shares}; "
        f"{epoch.seconds:.1f} s, about {epoch.left:.0f} s left"
    )


def table(found: dict[str, Evaluation]) -> list[str]:
    """One line a mode: shares of the test images, and for each method its certified share and mean gap."""
    first = next(iter(found.values()))
    columns = [f"{c.method:>12}  {'mean gap':>9}" for c in first.certified]
    lines = [f"{'mode':12} {'radius':>7}  {'right':>7}  {'attacked':>8}  " + "  ".join(columns)]
    for mode, one in found.items():
        cells = [f"{c.share:12.2%}  {c.gap:9.4g}" for c in one.certified]
        lines.append(f"{mode:12} {one.radius:7.4g}  {one.right:7.2%}  {one.attacked:8.2%}  " + "  ".join(cells))
    return [*lines, f"of {first.images} test images"]


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: the folder cannot be made: {error.strerror}") from None


def _save_images(data: Images, path: Path) -> None:
    import io

    import numpy as np

    stream = io.BytesIO()
    np.savez_compressed(stream, image=data.test_x[:SAVED_IMAGES].numpy(), label=data.test_y[:SAVED_IMAGES].numpy())
    _write(path, stream.getvalue())


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    beside: Any = path.with_name(path.name + ".new")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
