"""bourn bound: print or save bounds of a network's nodes."""

from __future__ import annotations

from pathlib import Path

import click

from bourn.cli.main import plural
from bourn.cli.questions import image_options, read_image
from bourn.errors import UsageError


@click.command(name="bound")
@click.argument("net")
@click.argument("prop", required=False)
@image_options
@click.option("--method", "-m", default="crown", show_default=True, help="A name of 'bourn methods'.")
@click.option("--node", "-n", "nodes", multiple=True, help="A node to bound, by name; by default all pre-activations and the output.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Write the bounds to a NumPy .npz file.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Time limit.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda.")
def command(
    net: str,
    prop: str | None,
    image: str | None,
    index: int,
    radius: float | None,
    label: int | None,
    clip: tuple[float, float],
    method: str,
    nodes: tuple[str, ...],
    save: Path | None,
    timeout: float | None,
    device: str,
) -> None:
    """Bound the nodes of the network NET over PROP's input boxes, or over a ball around an image.

    \b
    bourn bound net.onnx property.vnnlib --method fast-lin
    bourn bound net.onnx --image digits.npz --radius 0.03 --node logits --save bounds.npz
    """
    import math

    import torch

    from bourn.bounding import bound
    from bourn.deadline import OutOfTime
    from bourn.formats.model import load
    from bourn.formats.vnnlib import load as load_query
    from bourn.interval import Interval
    from bourn.problem.input_set import Box, linf_ball

    if (prop is None) == (image is None):
        raise UsageError("give either a VNN-LIB file or --image and --radius for the input set")
    model = load(net)
    if prop is not None:
        question = load_query(prop)
        boxes = [case.box.interval for case in question.cases]
        box = Box(Interval(torch.cat([b.lower for b in boxes]), torch.cat([b.upper for b in boxes])))
    else:
        if radius is None:
            raise UsageError("--image needs --radius")
        assert image is not None
        center = read_image(image, index, math.prod(model.graph.input_shape))
        box = linf_ball(center[None], radius, clip=None if any(map(math.isnan, clip)) else clip)
    try:
        found = bound(model, box, method=method, nodes=nodes or None, timeout=timeout, device=device)
    except OutOfTime:
        raise UsageError(f"out of time after {timeout:g} s, before all nodes were bounded") from None
    if save is not None:
        try:
            found.save(save)
        except OSError as error:
            raise UsageError(f"{save}: cannot be written: {error.strerror}") from None
        click.echo(f"{len(found.nodes)} nodes written to {save}", err=True)
    click.echo(f"{found.method.title}: {found.seconds:.3f} s, {plural(box.batch, 'input box', 'input boxes')}", err=True)
    for name, z in found.nodes.items():
        click.echo(f"{name} {list(z.shape[1:])}")
        if z.lower[0].numel() > 20 or box.batch > 1:
            low, high, width = z.lower.min().item(), z.upper.max().item(), (z.upper - z.lower).mean().item()
            click.echo(f"  from {low:.6g} to {high:.6g}, mean width {width:.6g} (--save keeps all)")
        else:
            for i, (low, high) in enumerate(zip(z.lower.flatten().tolist(), z.upper.flatten().tolist(), strict=True)):
                click.echo(f"  [{i}] {low!r} {high!r}")
