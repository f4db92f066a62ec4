"""bourn bound: print or save bounds of a network's nodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bourn.cli.main import in_bytes, plural
from bourn.cli.questions import Ball, ball_options
from bourn.errors import UsageError

if TYPE_CHECKING:
    from bourn.bounding import Bounds
    from bourn.formats.model import Model
    from bourn.interval import Interval
    from bourn.problem.input_set import InputSet

SHOWN = 20
"""Nodes with more entries than this are summed up."""


@click.command(name="bound", short_help="Bound a network's nodes over an input set.")
@click.argument("net")
@click.argument("prop", required=False)
@ball_options
@click.option("--method", "-m", default="crown", show_default=True, help="A name of 'bourn methods'.")
@click.option("--node", "-n", "nodes", multiple=True, help="A node's name; by default all pre-activations and the output.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Also write the bounds to a NumPy .npz file.")
@click.option("--with", "given", metavar="FILE", help="Rely on these bounds of pre-activations too: a file that --save wrote.")
@click.option("--gap", type=float, help="For lp-all: how near to its optimum, relative; 1e-8 or less is exact.")
@click.option("--memory", metavar="SIZE", help="For what is computed, such as 500MB or 2GB; more problems than fit go in parts.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Time limit, start-up included.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda.")
@click.pass_obj
def command(
    began: float,
    net: str,
    prop: str | None,
    ball: Ball | None,
    method: str,
    nodes: tuple[str, ...],
    save: Path | None,
    given: str | None,
    gap: float | None,
    memory: str | None,
    timeout: float | None,
    device: str,
) -> None:
    """Bound the nodes of the network NET over PROP's input set, or over a ball around an image.

    Where PROP, a VNN-LIB file, bounds sums of inputs, the set is a polytope.  Of several sets (an "or" of inputs) the boxes
    around them are taken, and what is printed holds for all.

    \b
    bourn bound net.onnx property.vnnlib --method fast-lin
    bourn bound net.onnx --image digits.npz --radius 0.03 --node logits --save bounds.npz
    bourn bound net.onnx --image digits.npz --radius 0.03 --method lp-all --with bounds.npz
    """
    from bourn.bounding import bound
    from bourn.deadline import Deadline, OutOfTime
    from bourn.formats.model import load

    if (prop is None) == (ball is None):
        raise UsageError("give the input set: either a VNN-LIB file or --image and --radius")
    if save is not None and not save.parent.is_dir():
        raise UsageError(f"{save}: there is no folder {save.parent}")
    deadline = Deadline(timeout, began)
    asked: InputSet | None = None if prop is None else _input_sets(prop)
    model = load(net)
    if asked is None:
        assert ball is not None
        asked = ball.input_set(model)
    try:
        outside = None if given is None else _outside(given, model)
        found = bound(
            model,
            asked,
            method=method,
            nodes=nodes or None,
            outside=outside,
            gap=gap,
            memory=None if memory is None else in_bytes(memory),
            timeout=deadline,
            device=device,
        )
    except OutOfTime:
        raise UsageError(f"out of time after {timeout:g} s, before all nodes were bounded") from None
    if save is not None:
        _save(found, save)
    _print(found, asked.batch)


def _input_sets(prop: str) -> InputSet:
    """The input set of a VNN-LIB file; of several, the boxes around them as a batch."""
    import torch

    from bourn.formats.vnnlib import load
    from bourn.interval import Interval
    from bourn.problem.input_set import Box

    query = load(prop)
    if query.joined:
        raise UsageError(f"{prop}: is about several networks or hidden nodes, of which `bourn verify` alone makes one network")
    boxes = [case.box for case in query.cases]
    if len(boxes) == 1:
        return boxes[0]
    return Box(Interval(torch.cat([b.lower for b in boxes]), torch.cat([b.upper for b in boxes])))


def _outside(file: str, model: Model) -> dict[str, Interval]:
    """Bounds of pre-activations in a file; those of other nodes of the network, which --save writes too, are left out."""
    from bourn.bounding import read_bounds

    found = read_bounds(file)
    numbers = {name: model.graph.number(name) for name in found}
    kept = {name: bounds for name, bounds in found.items() if numbers[name] in model.graph.pre_activations}
    click.echo(f"relying on the bounds of {', '.join(kept) or 'no node'} in {file}: what follows holds where they hold", err=True)
    return kept


def _save(found: Bounds, file: Path) -> None:
    try:
        found.save(file)
    except OSError as error:
        raise UsageError(f"{file}: cannot be written: {error.strerror}") from None
    click.echo(f"{plural(len(found.nodes), 'node', 'nodes')} written to {file}", err=True)


def _print(found: Bounds, batch: int) -> None:
    trusted = f"; what follows holds if {found.method.trusts} is right" if found.method.trusts else ""
    click.echo(f"{found.method.title} over {plural(batch, 'input set', 'input sets')}: {found.seconds:.3f} s{trusted}", err=True)
    for name, z in found.nodes.items():
        click.echo(f"{name} {list(z.shape[1:])}")
        for line in _lines(z):
            click.echo(f"  {line}")


def _lines(z: Interval) -> list[str]:
    if z.shape[0] > 1 or z.lower[0].numel() > SHOWN:
        low, high, width = z.lower.min().item(), z.upper.max().item(), (z.upper - z.lower).mean().item()
        return [f"from {low:.6g} to {high:.6g}, mean width {width:.6g} (--save keeps all)"]
    ends = zip(z.lower.flatten().tolist(), z.upper.flatten().tolist(), strict=True)
    return [f"[{i}] {low!r} {high!r}" for i, (low, high) in enumerate(ends)]
