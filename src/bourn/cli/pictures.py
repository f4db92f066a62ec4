"""Pictures of ladders, drawn by matplotlib, and what all pictures share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bourn.errors import UsageError

if TYPE_CHECKING:
    from bourn.ladders import Ladder

PROVED, OPEN, BARRIER, ATTACK, INK = "#2a7f5f", "#8fa3b8", "#1f3a5f", "#c2452d", "#22272e"
_PALETTE = (
    *("#b9c4cf", "#8fa3b8", "#bcbd6a", "#6f8fb3", "#c9a66b", "#b07aa1", "#76b7b2", "#8cd17d"),
    *("#499894", "#59a14f", "#e08a4c", "#4e79a7", "#9c755f", "#d37295", "#6b4c9a", "#a0522d"),
)


def check_plot(plot: Path) -> None:
    """Whether a picture can be written there, said before an hour's work; raises :class:`UsageError`."""
    if plot.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--plot {plot}: the name must end in .png or .svg")
    if not plot.parent.is_dir():
        raise UsageError(f"--plot {plot}: there is no folder {plot.parent}")


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes in the style of all pictures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "svg.fonttype": "none", "axes.edgecolor": "#c8ced6", "text.color": INK})
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, length=0)
    return figure, axes


def save(figure: Any, path: Path) -> None:
    """Write the figure, and let go of it."""
    import matplotlib.pyplot as plt

    try:
        # Without a date in it the same ladder gives the same file.
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else {})
    except OSError as error:
        raise UsageError(f"--plot {path}: cannot be written: {error.strerror or error}") from None
    finally:
        plt.close(figure)


def draw_ladder(path: Path, title: str, ladder: Ladder) -> None:
    """Bars of all methods' values; the barrier, 0 and the attack's value as lines; the region no layer-wise method enters."""
    rungs = [r for r in ladder.rungs if r.finished and math.isfinite(r.value)]
    if not rungs:
        raise UsageError("there is nothing to draw: no method found a bound")
    figure, axes = new_figure(9, 1.6 + 0.36 * len(rungs))
    values = [r.value for r in rungs]
    top = max([*values, *([ladder.attained] if math.isfinite(ladder.attained) else [])])
    # Values far below the others are cut, so that these can be told apart.
    low = max(values[0], top - 3 * max(top - sorted(values)[len(values) // 2], 1e-9))
    span = max(top - low, 1e-9)
    left = low - 0.06 * span
    colors = [PROVED if v > 0 else OPEN for v in values]
    axes.barh(range(len(rungs)), [max(v, left + 0.02 * span) - left for v in values], left=left, color=colors, height=0.62)
    for y, rung in enumerate(rungs):
        programs = f", {rung.lps} LPs" if rung.lps else ""
        cut = "◂ " if rung.value < left else ""
        label = f"{cut}{rung.value:.4g}   {_seconds(rung.seconds)}{programs}"
        inside = rung.value > left + 0.45 * span
        axes.text(
            (rung.value if inside else max(rung.value, left + 0.02 * span)) + (-0.01 if inside else 0.01) * span,
            y,
            label,
            ha="right" if inside else "left",
            va="center",
            fontsize=8.5,
            color="white" if inside else INK,
        )
    axes.set_yticks(range(len(rungs)), [r.method.title.split(":")[0] for r in rungs])
    _lines(axes, ladder, left, top + 0.04 * span)
    axes.set_xlim(left, top + 0.04 * span)
    axes.set_xlabel("lower bound of the margin (above 0: proved)")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    save(figure, path)


def _lines(axes: Any, ladder: Ladder, left: float, right: float) -> None:
    if left < 0 < right:
        axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    barrier = ladder.barrier
    if barrier is not None and math.isfinite(barrier):
        axes.axvline(barrier, color=BARRIER, linewidth=1.6, label="the barrier: no layer-wise method gets further")
        if math.isfinite(ladder.attained):
            axes.axvspan(barrier, ladder.attained, color=BARRIER, alpha=0.08, linewidth=0)
    if math.isfinite(ladder.attained):
        axes.axvline(ladder.attained, color=ATTACK, linewidth=1.6, label="attack: no method at all gets further")
    if axes.get_legend_handles_labels()[0]:
        axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def draw_radii(path: Path, title: str, ladders: list[tuple[float, Ladder]]) -> None:
    """Every method's value against the radius; the attack's on the other side."""
    figure, axes = new_figure(8.5, 5)
    names = dict.fromkeys(r.method.name for _, ladder in ladders for r in ladder.rungs)
    best = [max((r.value for r in ladder.rungs), default=0.0) for _, ladder in ladders]
    for number, name in enumerate(names):
        points = [(radius, r.value) for radius, ladder in ladders for r in ladder.rungs if r.method.name == name and r.finished]
        points = [(radius, value) for radius, value in points if math.isfinite(value)]
        barrier = name == "lp-all"
        axes.plot(
            *zip(*points, strict=True) if points else ((), ()),
            color=BARRIER if barrier else _PALETTE[number % len(_PALETTE)],
            linewidth=2.4 if barrier else 1.3,
            label=f"{name} (the barrier)" if barrier else name,
            zorder=3 if barrier else 2,
        )
    attack = [(radius, ladder.attained) for radius, ladder in ladders if math.isfinite(ladder.attained)]
    if attack:
        axes.plot(*zip(*attack, strict=True), color=ATTACK, linewidth=2, linestyle=(0, (4, 2)), label="attack")
    barriers = {radius: ladder.barrier for radius, ladder in ladders if ladder.barrier is not None}
    shared = [(radius, barriers[radius], value) for radius, value in attack if radius in barriers]
    if shared:
        axes.fill_between(*zip(*shared, strict=True), color=BARRIER, alpha=0.08, linewidth=0, label="out of every layer-wise reach")
    axes.axhline(0, color=INK, linewidth=1)
    high = max([*best, *(value for _, value in attack)])
    low = min([0.0, *best])
    axes.set_ylim(low - 0.6 * (high - low), high + 0.05 * (high - low))
    axes.set_xlabel("radius")
    axes.set_ylabel("lower bound of the margin (above 0: proved)")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8.5)
    save(figure, path)


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
