"""bourn radius: how far from images their class is certified, by several methods, and how near a counterexample was found."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bourn.cli.main import plural
from bourn.cli.questions import Images, images_options
from bourn.errors import UsageError

if TYPE_CHECKING:
    from bourn.network.graph import Graph
    from bourn.radii import Certified, Radii

USUAL = ("ibp", "fast-lin", "crown", "alpha-crown-all", "lp-all")
"""Methods by default."""

FEW_NEURONS = 2000
"""Up to so many neurons LP-ALL is asked by default."""


@click.command(name="radius", short_help="How far from an image is its class certified?")
@click.argument("net")
@images_options
@click.option("--label", type=int, help="The class that the images are to keep; by default the one the network predicts for each.")
@click.option("--method", "-m", "names", multiple=True, help=f"Only these of 'bourn methods'.  [default: {', '.join(USUAL)}]")
@click.option("--precision", default=1e-3, show_default=True, help="How near the ends of a search come to each other, relatively.")
@click.option("--cap", type=float, metavar="RADIUS", help="Search no further.  [default: as far as --clip, or 1000]")
@click.option("--no-attack", is_flag=True, help="Look for no counterexamples.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Write the counterexamples to a NumPy .npz file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Time limit, start-up included.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda.")
@click.pass_obj
def command(
    began: float,
    net: str,
    images: Images,
    label: int | None,
    names: tuple[str, ...],
    precision: float,
    cap: float | None,
    no_attack: bool,
    save: Path | None,
    as_json: bool,
    timeout: float | None,
    device: str,
) -> None:
    """Search for the largest radius at which the network NET surely keeps the class of an image, by several methods.

    A certified radius holds in real arithmetic for the weights as stored.  By IBP and LP-ALL it is the largest that the method
    certifies, to the precision; by others one that was found.  The attack's is the distance of the nearest counterexample
    found, replayed.  What is true lies between the two.

    \b
    bourn radius net.onnx --image digits.npz --index 0-9
    bourn radius net.onnx --image digits.npz --index 3 --norm 2 -m crown -m lp-all --save nearest.npz
    """
    from bourn.attacks.projected_gradient import ProjectedGradient
    from bourn.deadline import Deadline
    from bourn.formats.model import load
    from bourn.radii import radius
    from bourn.solvers.methods import method

    deadline = Deadline(timeout, began)
    if save is not None and (no_attack or not save.parent.is_dir()):
        raise UsageError("--save needs an attack" if no_attack else f"{save}: there is no folder {save.parent}")
    chosen = [method(name) for name in names]
    model = load(net)
    click.echo(f"{model.name}: {model.graph}", err=True)
    numbers, centers = images.read(model)
    methods = chosen or [method(name) for name in _usual(model.graph)]
    found = radius(
        model,
        centers,
        labels=label,
        methods=methods,
        norm=images.norm,
        clip=images.clip,
        precision=precision,
        cap=cap,
        attack=None if no_attack else ProjectedGradient(restarts=5),
        timeout=deadline,
        device=device,
        log=_Progress().log,
    )
    if save is not None:
        _save(found, numbers, save)
    click.echo(json.dumps(as_data(found, numbers, images.norm), indent=2) if as_json else "\n".join(table(found, numbers)))
    for line in notes(found):
        click.echo(line, err=True)


def _usual(graph: Graph) -> tuple[str, ...]:
    neurons = sum(graph.nodes[v].size for v in graph.nonlinear)
    if neurons <= FEW_NEURONS:
        return USUAL
    click.echo(f"lp-all is left out, for the network has {neurons} neurons; -m lp-all asks for it", err=True)
    return USUAL[:-1]


@dataclass
class _Progress:
    """Says at most every two seconds, and at the end, how far a search is, and how long it may still take."""

    name: str = ""
    began: float = 0.0
    said: float = field(default_factory=time.monotonic)

    def log(self, name: str, done: int, total: int) -> None:
        """To standard error: the search ``name`` is done with so many images of all."""
        now = time.monotonic()
        if name != self.name:
            self.name, self.began = name, self.said
        spent = now - self.began
        if done == total:
            click.echo(f"  {name}: {plural(total, 'image', 'images')}, {spent:.2f} s", err=True)
        elif now - self.said > 2:
            left = f", about {spent / done * (total - done):.0f} s left" if done else ""
            click.echo(f"  {name}: {done} of {total} images after {spent:.0f} s{left}", err=True)
        else:
            return
        self.said = now


def table(found: Radii, numbers: list[int]) -> list[str]:
    """One line an image: its label, every method's certified radius, the attack's, and the greatest certified as a share of it."""
    names = [c.method.name for c in found.certified]
    heads = ["image", "label", *names, *(["attack", "certified/attack"] if found.attacked else [])]
    rows = [heads]
    for b, number in enumerate(numbers):
        row = [str(number), str(int(found.labels[b])), *(_certified(c, b) for c in found.certified)]
        if found.attacked:
            nearest, best = found.attacked[b], max((float(c.radius[b]) for c in found.certified), default=0.0)
            reach = shown(nearest.radius, ROUND_CEILING) if nearest.counterexample else "none"
            row += [reach if nearest.finished else f"<= {reach}"]
            row += [f"{best / nearest.radius:.3f}" if names and nearest.counterexample and nearest.radius > 0 else "-"]
        rows.append(row)
    if len(numbers) > 1:
        rows.append(["mean", "", *(f"{float(c.radius.mean()):.6g}" for c in found.certified)])
        if found.attacked:
            reached = [n.radius for n in found.attacked]
            rows[-1] += [f"{sum(reached) / len(reached):.6g}" if all(map(math.isfinite, reached)) else "-", ""]
    widths = [max(len(row[k]) for row in rows) for k in range(len(heads))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _certified(c: Certified, b: int) -> str:
    radius = float(c.radius[b])
    text = shown(radius, ROUND_FLOOR)
    if not bool(c.finished[b]):
        return f">= {text}"
    return f"cap {text}" if math.isinf(float(c.failed[b])) and radius > 0 else text


def shown(radius: float, rounding: str) -> str:
    """Six digits of a radius: certified ones rounded down, attacks' up, so that what is shown holds too."""
    return f"{float(Context(6, rounding).create_decimal(repr(radius))):.6g}"


def notes(found: Radii) -> list[str]:
    """What is to be known of the table."""
    lines = []
    best = [c.method.name for c in found.certified if c.monotone]
    others = [c.method.name for c in found.certified if not c.monotone]
    if best:
        lines.append(f"{', '.join(best)}: the largest radius that the method certifies, to {found.precision:g}")
    if others:
        lines.append(f"{', '.join(others)}: a radius found; the method may certify a larger one")
    if any(bool((c.failed.isinf() & (c.radius > 0) & c.finished).any()) for c in found.certified):
        lines.append(f"cap: certified as far as the search goes (--cap), {float(found.cap.max()):.6g} at most")
    if any(bool((c.radius == 0).any()) for c in found.certified):
        lines.append("0: not certified at any radius")
    if any(not bool(c.finished.all()) for c in found.certified) or any(not n.finished for n in found.attacked):
        lines.append(">= and <=: out of time; what was found by then")
    if found.attacked:
        replayed = sorted({f", replayed in {n.counterexample.replayed_in}" for n in found.attacked if n.counterexample is not None})
        lines.append(f"attack: the nearest counterexample found{''.join(replayed)}")
    return lines


def as_data(found: Radii, numbers: list[int], norm: float) -> dict[str, Any]:
    """What --json prints; null for what was not found."""

    def finite(value: Any) -> float | None:
        return float(value) if math.isfinite(value) else None

    entries = []
    for b, number in enumerate(numbers):
        methods = {
            c.method.name: {
                "certified": float(c.radius[b]),
                "failed": finite(c.failed[b]),
                "finished": bool(c.finished[b]),
                "evaluations": int(c.evaluations[b]),
            }
            for c in found.certified
        }
        entry: dict[str, Any] = {"image": number, "label": int(found.labels[b]), "cap": float(found.cap[b]), "methods": methods}
        if found.attacked:
            n = found.attacked[b]
            entry["attack"] = {"radius": finite(n.radius), "missed": n.missed, "finished": n.finished, "evaluations": n.evaluations}
        entries.append(entry)
    seconds = {c.method.name: round(c.seconds, 6) for c in found.certified}
    return {"norm": f"{norm:g}", "precision": found.precision, "seconds": seconds, "images": entries}


def _save(found: Radii, numbers: list[int], file: Path) -> None:
    import numpy as np

    have = [(number, n) for number, n in zip(numbers, found.attacked, strict=True) if n.counterexample is not None]
    points = [n.counterexample.x for _, n in have if n.counterexample is not None]
    outputs = [n.counterexample.y for _, n in have if n.counterexample is not None]
    arrays = {
        "images": np.array(points),
        "outputs": np.array(outputs),
        "number": np.array([number for number, _ in have]),
        "radius": np.array([n.radius for _, n in have]),
    }
    try:
        with file.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise UsageError(f"{file}: cannot be written: {error.strerror}") from None
    click.echo(f"{plural(len(have), 'counterexample', 'counterexamples')} written to {file}", err=True)
