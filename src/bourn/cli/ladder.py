"""bourn ladder: how far every method gets on one question, as bars, a picture or JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bourn.cli.main import plural
from bourn.cli.pictures import check_plot
from bourn.cli.questions import Ball, balls_options
from bourn.errors import UsageError

if TYPE_CHECKING:
    from bourn.formats.model import Model
    from bourn.ladders import Ladder, Rung
    from bourn.problem.problem import Question

BAR = 36
"""Characters of a full bar."""


@dataclass(frozen=True)
class Asked:
    """One question and how it is called; ``radius`` where it is about a ball."""

    title: str
    question: Question
    radius: float | None = None


@click.command(name="ladder", short_help="Compare all methods on one question, up to the barrier.")
@click.argument("net")
@click.argument("prop", required=False)
@balls_options
@click.option("--label", type=int, help="The class that the image is to keep; by default the one the network predicts.")
@click.option("--method", "-m", "names", multiple=True, help="Only these methods; by default all of the class.")
@click.option("--bracket", is_flag=True, help="Also prove what the barrier is at most, which no layer-wise method exceeds.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw it too: a .png or .svg file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Time limit for each method.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda.")
def command(
    net: str,
    prop: str | None,
    balls: tuple[Ball, ...],
    label: int | None,
    names: tuple[str, ...],
    bracket: bool,
    plot: Path | None,
    as_json: bool,
    timeout: float | None,
    device: str,
) -> None:
    """Ask all methods the same question about the network NET, and show how far each gets.

    The value is the question's margin: above 0 the property is proved.  LP-ALL's value is the barrier, which no layer-wise
    method exceeds; the attack's value bounds what any method can prove.  With a range of radii: bound against radius.

    \b
    bourn ladder net.onnx property.vnnlib
    bourn ladder net.onnx --image digits.npz --radius 0.03 --plot ladder.png
    bourn ladder net.onnx --image digits.npz --radius 0.01:0.1:10 --plot radii.png
    """
    if plot is not None:
        check_plot(plot)
    if (prop is None) == (not balls):
        raise UsageError("give the question: either a VNN-LIB file or --image and --radius")
    if label is not None and not balls:
        raise UsageError("--label needs --image and --radius")
    from bourn.formats.model import load
    from bourn.solvers.methods import METHODS, method

    chosen = [method(name) for name in names] or list(METHODS)
    model = load(net)
    click.echo(f"{model.name}: {model.graph}", err=True)
    found = [(asked, _climb(model, asked, chosen, bracket, timeout, device)) for asked in _questions(model, prop, balls, label)]
    if as_json:
        click.echo(json.dumps([_as_data(*one) for one in found], indent=2))
    else:
        for asked, ladder in found:
            click.echo("\n".join(table(asked.title, ladder)))
    if plot is not None:
        from bourn.cli.pictures import draw_ladder, draw_radii

        if len(found) == 1:
            draw_ladder(plot, f"{model.name}: {found[0][0].title}", found[0][1])
        else:
            draw_radii(plot, model.name, [(asked.radius or 0.0, ladder) for asked, ladder in found])
        click.echo(f"drawn: {plot}", err=True)


def _questions(model: Model, prop: str | None, balls: tuple[Ball, ...], label: int | None) -> list[Asked]:
    if prop is not None:
        from bourn.formats.vnnlib import load

        return [Asked(Path(prop).name, load(prop))]
    kept = balls[0].label(model) if label is None else label
    if label is None:
        click.echo(f"label: {kept}, the network's prediction", err=True)
    return [
        Asked(f"image {ball.index} keeps class {kept} within {ball.extent}", ball.robustness(model, kept), ball.radius)
        for ball in balls
    ]


def _climb(model: Model, asked: Asked, chosen: list[Any], bracket: bool, timeout: float | None, device: str) -> Ladder:
    from bourn.ladders import ladder

    def log(rung: Rung) -> None:
        outcome = f"{rung.value:.6g}" if rung.finished else "out of time"
        click.echo(f"  {rung.method.name}: {outcome} after {rung.seconds:.3f} s", err=True)

    click.echo(f"{asked.title}: {plural(len(chosen), 'method', 'methods')}", err=True)
    return ladder(model, asked.question, methods=chosen, timeout=timeout, bracket=bracket, device=device, log=log)


def table(title: str, ladder: Ladder) -> list[str]:
    """The ladder as lines of text, best value last, the attack at the end."""
    width = max(len("ceiling"), *(len(r.method.name) for r in ladder.rungs))
    scale = Scale.of(ladder)
    lines = [title, f"{'method':{width}}  {'bound':>11}  {'time':>9}  {'LPs':>6}"]
    for rung in ladder.rungs:
        value = f"{rung.value:11.6g}" if rung.finished else "out of time"
        marks = []
        if rung.value == ladder.barrier and rung.method.name == "lp-all":
            marks.append("the barrier")
        if rung.method.name == "lp-all" and rung.finished and not rung.optimal:
            marks.append("short of the barrier")
        if rung.value > 0:
            marks.append(f"proved, if {rung.method.trusts} is right" if rung.method.trusts else "proved")
        own = f"{rung.method.name:{width}}  {value}  {rung.seconds:7.3f} s  {rung.lps or '':>6}  {scale.bar(rung.value)}"
        lines.append(f"{own}  {', '.join(marks)}".rstrip())
    if math.isfinite(ladder.ceiling):
        meaning = "no layer-wise method can prove this" if ladder.ceiling < 0 else "no layer-wise method can prove more"
        lines.append(f"{'ceiling':{width}}  {ladder.ceiling:11.6g}  {'':9}  {'':>6}  {scale.bar(ladder.ceiling)}  {meaning}")
    if math.isfinite(ladder.attained):
        meaning = "a counterexample, before it is replayed" if ladder.attained <= 0 else "no method can prove more"
        attack = f"{'attack':{width}}  {ladder.attained:11.6g}  {'':9}  {'':>6}  {scale.bar(ladder.attained)}"
        lines.append(f"{attack}  {meaning}")
    return lines


@dataclass(frozen=True)
class Scale:
    """From values to lengths of bars; values far below the others are cut, so that these can be told apart."""

    low: float
    high: float

    @classmethod
    def of(cls, ladder: Ladder) -> Scale:
        """A scale that holds the better half of the values in any case."""
        values = sorted(r.value for r in ladder.rungs if math.isfinite(r.value))
        top = max([*values, *([ladder.attained] if math.isfinite(ladder.attained) else [])], default=1.0)
        if not values:
            return cls(top - 1, top)
        middle = values[len(values) // 2]
        low = max(values[0], top - 3 * max(top - middle, 1e-9))
        return cls(low - 0.05 * max(top - low, 1e-9), top)

    def bar(self, value: float) -> str:
        """A bar that ends at the value; a mark where it is cut."""
        share = (value - self.low) / (self.high - self.low) if math.isfinite(value) else 0.0
        if share <= 0:
            return "◂".ljust(BAR)
        eighths = round(min(1.0, share) * BAR * 8)
        full, rest = divmod(eighths, 8)
        return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(BAR)


def _as_data(asked: Asked, ladder: Ladder) -> dict[str, Any]:
    """What --json prints; null for a bound that was not found."""

    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    rungs = [
        {
            "method": r.method.name,
            "bound": finite(r.value),
            "seconds": round(r.seconds, 6),
            "linear_programs": r.lps,
            "refuted": r.refuted,
            "finished": r.finished,
            "trusts": r.method.trusts or None,
        }
        for r in ladder.rungs
    ]
    return {
        "question": asked.title,
        "radius": asked.radius,
        "conjunctions": ladder.conjunctions,
        "barrier": finite(ladder.barrier),
        "ceiling": finite(ladder.ceiling),
        "attack": finite(ladder.attained),
        "methods": rungs,
    }
