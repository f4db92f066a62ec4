"""Which figures the report has: the studies' overviews, the ladder's box plots, and where losses arise."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from bourn.layer_losses import ALL_LAYERS, INPUT_SET
from bourn.report.beside import is_attack
from bourn.report.figures import Axis, Box, Chart, Lane, Mark, short, stack
from bourn.report.names import canonical, family, mode_rank, mode_title, rank, title
from bourn.report.tables import DistortionRow, ErrorRow, TimeRow
from bourn.solvers.methods import BARRIER
from bourn.studies.store import Record

RELAXATION, INNER = "relaxation", "inner"
"""The two sources of loss, as the page colours them."""

Lanes = tuple[str, str, float]
"""A network, its training mode and a radius."""


class Ladders:
    """What the ladder study found, by network, mode and radius: gaps of single margins, and losses by layer."""

    def __init__(self) -> None:
        self.to_barrier: dict[Lanes, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.to_attack: dict[Lanes, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.losses: dict[Lanes, dict[str, list[list[dict[str, Any]]]]] = defaultdict(lambda: defaultdict(list))
        self.questions = 0
        self._asked: dict[tuple[Any, ...], set[str]] = defaultdict(set)

    def add(self, record: Record) -> None:
        """Keep one answer's gaps and losses."""
        task, result = record.task, record.result
        key = (task["network"], task["mode"], float(task["radius"]))
        asked = (*key, str(task["image"]), task["input_hash"], str(task["clip"]))
        self.questions += asked not in self._asked
        # A method asked twice, in ladders of different methods, counts once.
        known = self._asked[asked]
        bounds: Mapping[str, list[float | None]] = result["bounds"]
        attained: list[float | None] = result.get("attained") or []
        barrier = next((own for m, own in bounds.items() if canonical(m) == BARRIER), None)
        for m, own in bounds.items():
            if m in known:
                continue
            self.to_attack[key][m] += _differences(attained, own)
            if barrier is not None and canonical(m) != BARRIER:
                self.to_barrier[key][m] += _differences(barrier, own)
        for m, layers in (result.get("losses") or {}).items():
            if layers and m not in known:
                self.losses[key][m].append(layers)
        known.update(bounds)

    def boxes(self) -> list[Chart]:
        """For every family of networks the gap to the barrier, then the gap to the attack: a lane for each method and mode."""
        return [
            chart
            for found, name, target in (
                (self.to_barrier, "barrier", "the barrier (LP-ALL)"),
                (self.to_attack, "attack", "the attack's value"),
            )
            for chart in _box_charts(found, name, f"gap to {target}, in units of the margin")
        ]

    def stacks(self) -> list[Chart]:
        """For every network and radius a bar for each method: shares of its loss by layer, relaxation and bound loss apart."""
        return [_stack_chart(*key, methods) for key, methods in sorted(self.losses.items(), key=lambda item: _place(item[0]))]


def _place(key: Lanes) -> tuple[Any, ...]:
    return (family(key[0], key[1]).lower(), mode_rank(key[1]), key[2], key[0])


def _differences(above: list[float | None], own: list[float | None]) -> list[float]:
    """By how much margins fall short of others, where both are known."""
    pairs = zip(above, own, strict=False)
    return [a - b for a, b in pairs if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)]


def _box_charts(found: dict[Lanes, dict[str, list[float]]], name: str, axis_title: str) -> list[Chart]:
    families: dict[str, dict[Lanes, dict[str, list[float]]]] = defaultdict(dict)
    for key in sorted(found, key=_place):
        families[family(key[0], key[1])][key] = found[key]
    charts = []
    for base, members in families.items():
        values = [v for methods in members.values() for own in methods.values() for v in own]
        if not values:
            continue
        axis = Axis.powers(values, axis_title)
        lanes = []
        for m in _worst_first(members.values()):
            shown = title(m)
            for network, mode, radius in members:
                own = members[network, mode, radius].get(m)
                if own:
                    note = f"{mode_title(mode)}, {radius:g}"
                    box = Box.of(own, axis, f"{title(m)}, {note}")
                    lanes.append(Lane(shown, note, network, mode_title(mode), mode_rank(mode)[0], box=box))
                    shown = ""
        charts.append(Chart(base, "", axis, tuple(lanes), name=name))
    return charts


def _worst_first(members: Iterable[Mapping[str, list[float]]]) -> list[str]:
    """Methods by their median gap, the greatest first."""
    together: dict[str, list[float]] = defaultdict(list)
    for methods in members:
        for m, own in methods.items():
            together[m] += own
    return sorted((m for m in together if together[m]), key=lambda m: (-statistics.median(together[m]), rank(m)))


def _stack_chart(network: str, mode: str, radius: float, methods: Mapping[str, list[list[dict[str, Any]]]]) -> Chart:
    means = {m: _mean_losses(questions) for m, questions in methods.items()}
    shares: list[float] = [0.0, 100.0]
    for layers in means.values():
        total = sum(r + i for _, r, i in layers)
        for sign in (1, -1):
            extent = sum(max(0.0, sign * part) for _, r, i in layers for part in (r, i))
            shares.append(sign * 100 * extent / total if total > 0 else 0.0)
    axis = Axis.linear(shares, "share of what is lost, percent")
    lanes = []
    # The same layer has the same shade for every method.
    places = list(dict.fromkeys([INPUT_SET, *(name for layers in means.values() for name, _, _ in layers if name != ALL_LAYERS)]))
    shades = {name: i / max(1, len(places) - 1) for i, name in enumerate(places)} | {ALL_LAYERS: 0.5}
    for m in sorted(means, key=lambda m: (-sum(r + i for _, r, i in means[m]), rank(m))):
        layers = means[m]
        relaxed, inner = sum(r for _, r, _ in layers), sum(i for _, _, i in layers)
        total = relaxed + inner
        if total <= 0:
            continue
        note = f"{short(total)} = {short(relaxed)} + {short(inner)}"
        parts = [(f"{n}: relaxation loss", RELAXATION, r, shades[n]) for n, r, _ in layers if r]
        parts += [(f"{n}: bound loss", INNER, b, shades[n]) for n, _, b in layers if b]
        lanes.append(Lane(title(m), note, network, mode_title(mode), segments=stack(parts, total, axis)))
    count = max(len(questions) for questions in methods.values())
    about = f"{mode_title(mode)}, radius {radius:g}, mean of {count} {'question' if count == 1 else 'questions'}"
    return Chart(network, about, axis, tuple(lanes), zero=axis.at(0))


def _mean_losses(questions: list[list[dict[str, Any]]]) -> list[tuple[str, float, float]]:
    """(place, relaxation loss, bound loss) in the network's order, means over questions."""
    names = list(dict.fromkeys(layer["node"] for layers in questions for layer in layers))
    sums = {name: [0.0, 0.0] for name in names}
    for layers in questions:
        for layer in layers:
            sums[layer["node"]][0] += layer["relaxation"] or 0.0
            sums[layer["node"]][1] += layer["inner"] or 0.0
    return [(name, r / len(questions), i / len(questions)) for name, (r, i) in sums.items()]


def error_chart(rows: Iterable[ErrorRow]) -> Chart:
    """What is known of the adversarial error: from the attack's lower to the best upper bound, every method's upper marked."""
    own = [r for r in rows if r.images]
    methods = sorted({r.method for r in own if not is_attack(r.method)}, key=rank)
    axis = Axis.linear([], "images whose class may change, percent", 0.0, 100.0)
    lanes = []
    for key in dict.fromkeys((r.network, r.mode, r.radius) for r in own):
        some = [r for r in own if (r.network, r.mode, r.radius) == key]
        lower = max(r.lower.own or 0.0 for r in some)
        upper = min((r.upper.own for r in some if r.upper.own is not None), default=100.0)
        marks = [Mark(axis.at(lower), 0, f"attack: at least {lower:.2f} %")]
        for r in some:
            if r.upper.own is not None:
                tip = f"{title(r.method)}: at most {r.upper.own:.2f} %"
                marks.append(Mark(axis.at(r.upper.own), 1 + methods.index(r.method), tip))
        note = f"radius {key[2]:g}"
        lanes.append(
            Lane(key[0], note, key[0], mode_title(key[1]), marks=tuple(marks), span=(axis.at(lower), axis.at(max(lower, upper))))
        )
    return Chart("", "", axis, tuple(lanes), _legend(methods))


def distortion_chart(rows: Iterable[DistortionRow]) -> Chart:
    """Mean radii: every method's, and the attack's."""
    own = [r for r in rows if r.mean.own is not None]
    methods = sorted({r.method for r in own if not is_attack(r.method)}, key=rank)
    axis = Axis.linear([r.mean.own or 0.0 for r in own], "mean radius, \N{MULTIPLICATION SIGN} 10⁻³", low=0.0)
    lanes = []
    for key in dict.fromkeys((r.network, r.mode) for r in own):
        some = [r for r in own if (r.network, r.mode) == key]
        marks: list[Mark] = []
        certified: list[float] = []
        attacked: list[float] = []
        for r in some:
            mean = r.mean.own or 0.0
            series = 0 if is_attack(r.method) else 1 + methods.index(r.method)
            marks.append(Mark(axis.at(mean), series, f"{title(r.method)}: {mean:.2f} \N{MULTIPLICATION SIGN} 10⁻³"))
            (attacked if series == 0 else certified).append(axis.at(mean))
        span = (max(certified), max(max(certified), *attacked)) if certified and attacked else None
        lanes.append(Lane(key[0], mode_title(key[1]), key[0], mode_title(key[1]), marks=tuple(marks), span=span))
    return Chart("", "", axis, tuple(lanes), _legend(methods))


def _legend(methods: list[str]) -> tuple[tuple[int, str], ...]:
    return ((0, "attack (PGD)"), *((1 + i, title(m)) for i, m in enumerate(methods)))


def time_axis(rows: Iterable[TimeRow]) -> Axis:
    """One logarithmic axis for the times of all methods."""
    return Axis.powers([max(s, 1e-4) for r in rows for s in r.seconds], "seconds a question")
