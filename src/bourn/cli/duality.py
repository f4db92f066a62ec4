"""bourn duality: a question's relaxed program from both sides."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bourn.cli.questions import Ball, ball_options
from bourn.errors import UsageError

if TYPE_CHECKING:
    from bourn.views import Duality

COLUMNS = ("primal", "linear_program", "slopes", "multipliers", "lines", "gap")


@click.command(name="duality", short_help="The relaxed program's primal value, dual values and gap.")
@click.argument("net")
@click.argument("prop", required=False)
@ball_options
@click.option("--label", type=int, help="The class that the image is to keep; by default the one the network predicts.")
@click.option("--inner", default="crown", show_default=True, help="The method whose pre-activation bounds are stood on.")
@click.option("--steps", type=click.IntRange(0, 100_000), default=200, show_default=True, help="Steps of either ascent.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Time limit.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda.")
def command(
    net: str,
    prop: str | None,
    ball: Ball | None,
    label: int | None,
    inner: str,
    steps: int,
    as_json: bool,
    timeout: float | None,
    device: str,
) -> None:
    """Solve the relaxed program of every row of a question from both sides, on the same inner bounds.

    The primal value belongs to a feasible point of the relaxed program, the dual values are bounds: at the linear program's
    multipliers, by ascent on slopes and tangent points, by ascent on arbitrary multipliers, in closed form.  The gap is primal
    minus the best dual value; by strong duality it closes.

    \b
    bourn duality net.onnx property.vnnlib
    bourn duality net.onnx --image digits.npz --radius 0.03 --inner lp-all
    """
    if (prop is None) == (ball is None):
        raise UsageError("give the question: either a VNN-LIB file or --image and --radius")
    if label is not None and ball is None:
        raise UsageError("--label needs --image and --radius")
    from bourn.formats.model import load
    from bourn.views import duality

    model = load(net)
    click.echo(f"{model.name}: {model.graph}", err=True)
    if prop is not None:
        from bourn.formats.vnnlib import load as load_vnnlib

        question, title = load_vnnlib(prop), Path(prop).name
    else:
        assert ball is not None
        question, title = ball.robustness(model, label), f"image {ball.index} within {ball.extent}"

    def log(view: str, seconds: float) -> None:
        click.echo(f"  {view}: {seconds:.3f} s", err=True)

    found = duality(model, question, inner=inner, steps=steps, timeout=timeout, device=device, log=log)
    if as_json:
        click.echo(json.dumps(_as_data(title, found), indent=2))
    else:
        click.echo("\n".join(table(title, found)))


def table(title: str, found: Duality) -> list[str]:
    """One line a row, the greatest gap at the end."""
    width = max([len(v.row) for v in found.views] + [len("row")])
    names = [name.replace("_", " ") for name in COLUMNS]
    lines = [f"{title}, on the inner bounds of {found.inner.name}"]
    lines.append(f"{'row':{width}}" + "".join(f"  {name:>14}" for name in names))
    for view in found.views:
        lines.append(f"{view.row:{width}}" + "".join(f"  {getattr(view, name):14.9g}" for name in COLUMNS))
    lines.append(f"greatest gap {found.gap:.3g}, {found.seconds:.2f} s")
    return lines


def _as_data(title: str, found: Duality) -> dict[str, Any]:
    """What --json prints; null for a value that was not found."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    rows = [{"row": v.row, **{name: finite(getattr(v, name)) for name in COLUMNS}} for v in found.views]
    return {"question": title, "inner": found.inner.name, "gap": finite(found.gap), "rows": rows}
