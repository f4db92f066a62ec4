"""The map of methods as a picture: arranged by what is whose special case, drawn by matplotlib.

Rows are depths below the barrier.  Within a row a box stands where arrows are short and run through no other box, so
a new method finds its place by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

from bourn.cli.pictures import ATTACK, INK, new_figure, save
from bourn.cli.pictures import BARRIER as NAVY
from bourn.solvers.methods import BARRIER, METHODS, Method, View
from bourn.solvers.outside import OUTSIDE

Methods = tuple[Method, ...]
Places = dict[str, tuple[int, int]]
"""Method to row (1: right below the barrier) and slot, from left to right, those of the dual column last."""

WIDTH, HEIGHT, PITCH_X, PITCH_Y = 2.44, 1.1, 2.68, 1.46
FILL = {View.PRIMAL: ("#eef3f9", "#5c80ad"), View.DUAL: ("#ecf6f1", "#4d9a7c")}
GREY = "#5b6672"


@dataclass(frozen=True)
class Arrangement:
    """Where everything stands: ``primal`` slots first, then the dual ones up to ``slots``; ``rows`` of boxes."""

    places: Places
    primal: int
    slots: int
    rows: int


def depths(methods: Methods) -> dict[str, int]:
    """Row of every method but the barrier: below all that it is a special case of, equals side by side in a row of their own."""
    known = {m.name: m for m in methods}
    groups = {m.name: frozenset((m.name, *m.equal_to)) & frozenset(known) for m in methods if m.name != BARRIER}

    def depth(group: frozenset[str]) -> int:
        above = {p for name in group for p in known[name].special_case_of if p in groups and p not in group}
        return 1 + max((depth(groups[p]) for p in above), default=0)

    # Doubled, so that groups of equals come half a step after the rest of their depth.
    order = {name: 2 * depth(group) + (len(group) > 1) for name, group in groups.items()}
    rows = {value: row for row, value in enumerate(sorted(set(order.values())), start=1)}
    return {name: rows[value] for name, value in order.items()}


def arrange(methods: Methods = METHODS) -> Arrangement:
    """The arrangement of least cost that moving one row at a time finds."""
    rows = depths(methods)
    names = {view: [[m.name for m in methods if m.view is view and rows.get(m.name) == r] for r in _count(rows)] for view in View}
    # One lane more than boxes, for arrows that pass a row.
    primal = 1 + max(map(len, names[View.PRIMAL]))
    dual = max(1, *map(len, names[View.DUAL]))
    slots = {View.PRIMAL: range(primal), View.DUAL: range(primal, primal + dual)}
    best: tuple[float, Places] | None = None
    for backward in (False, True):
        places: Places = {}
        for view in View:
            own = list(reversed(slots[view])) if backward else list(slots[view])
            places |= {name: (r, own[i]) for r, row in enumerate(names[view], start=1) for i, name in enumerate(row)}
        found = _improved(methods, places, names, slots)
        if best is None or found[0] < best[0]:
            best = found
    assert best is not None
    return Arrangement(best[1], primal, primal + dual, max(rows.values()))


def _count(rows: Mapping[str, int]) -> range:
    return range(1, 1 + max(rows.values()))


def _improved(
    methods: Methods, places: Places, names: Mapping[View, list[list[str]]], slots: Mapping[View, range]
) -> tuple[float, Places]:
    least = _cost(methods, places)
    while True:
        before = least
        for view in View:
            for r, row in enumerate(names[view], start=1):
                for chosen in permutations(slots[view], len(row)):
                    moved = places | {name: (r, slot) for name, slot in zip(row, chosen, strict=True)}
                    cost = _cost(methods, moved)
                    if cost < least - 1e-9:
                        least, places = cost, moved
        if least == before:
            return least, places


def edges(methods: Methods) -> Iterator[tuple[str, str]]:
    """(special case, what it is a special case of), the barrier included; what equals share is stated once."""
    for m in methods:
        if m.name != BARRIER:
            yield from ((m.name, p) for p in m.special_case_of)


def equalities(methods: Methods, places: Places) -> Iterator[tuple[str, str]]:
    """Neighbours in a row of equals."""
    for m in methods:
        group = sorted((name for name in (m.name, *m.equal_to) if name in places), key=lambda name: places[name][1])
        if len(group) > 1 and group[0] == m.name:
            yield from pairwise(group)


def _cost(methods: Methods, places: Places) -> float:
    """Arrows through boxes count most, then arrows upon each other, crossings, lengths."""
    taken, cost = set(places.values()), 0.0
    buses: list[tuple[int, float, float, str]] = []
    bars = [(places[a][0], places[a][1], places[b][1]) for a, b in equalities(methods, places)]
    cost += sum(20 * ((row, s) in taken) for row, a, b in bars for s in range(a + 1, b)) + sum(b - a for _, a, b in bars)
    for child, parent in edges(methods):
        row, slot = places[child]
        top, lane = places.get(parent, (0, slot))
        cost += sum(20 * ((r, lane) in taken) for r in range(top + 1, row))
        cost += sum(1.5 for r, a, b in bars if top < r < row and a < lane < b)
        cost += abs(lane - slot) * (1.0 + 0.01 * slot) + 0.001 * slot
        buses.append((row, min(slot, lane), max(slot, lane), parent))
    for i, (row, a, b, parent) in enumerate(buses):
        for other, c, d, target in buses[:i]:
            cost += 4 * (other == row and target != parent and min(b, d) > max(a, c))
    return cost


def draw_map(path: Path, methods: Methods = METHODS) -> None:
    """Outside above the barrier, the methods of both columns below it, arrows from special cases to what they are one of."""
    found = arrange(methods)
    per_row = 4
    lines = -(-len(OUTSIDE) // per_row)
    width, top = found.slots * PITCH_X + 0.3, 1.1 + lines * 0.86
    figure, axes = new_figure(width, found.rows * PITCH_Y + 0.72 + top)
    # One unit is one inch, so that the text fits into the boxes.
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.axis("off")
    axes.set_xlim(-PITCH_X / 2 - 0.15, (found.slots - 0.5) * PITCH_X + 0.15)
    axes.set_ylim(-found.rows * PITCH_Y - 0.72, top)
    left, right = -PITCH_X / 2 + 0.05, (found.slots - 0.5) * PITCH_X - 0.05
    _outside(axes, left, right, per_row, lines)
    _barrier(axes, left, right, next(m for m in methods if m.name == BARRIER))
    _columns(axes, found)
    for child, parent in edges(methods):
        _arrow(axes, found.places, child, parent)
    for a, b in equalities(methods, found.places):
        _equal(axes, found.places, a, b)
    for m in methods:
        if m.name != BARRIER:
            _box(axes, m, *_center(found.places[m.name]))
    axes.text(
        left,
        -found.rows * PITCH_Y - 0.6,
        "arrow: special case of (on its inner bounds the other's optimum is nowhere below it)    =: the same value    "
        "all sound, none below the barrier complete    (ReLU networks, boxes)",
        fontsize=9,
        color=GREY,
    )
    save(figure, path)


def _center(place: tuple[int, int]) -> tuple[float, float]:
    row, slot = place
    return slot * PITCH_X, -0.42 - (row - 0.5) * PITCH_Y


def _rounded(axes: Any, x: float, y: float, width: float, height: float, **style: Any) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08", **style))


def _box(axes: Any, m: Method, x: float, y: float) -> None:
    fill, edge = FILL[m.view]
    _rounded(axes, x - WIDTH / 2, y - HEIGHT / 2, WIDTH, HEIGHT, facecolor=fill, edgecolor=edge, linewidth=1.2, zorder=3)
    text = [
        (_short(m.title, 26), 10.5, "bold", INK),
        (m.source, 8.2, "normal", GREY),
        (_short(m.relaxation, 36), 8.2, "normal", INK),
        (m.solved_by, 8.2, "normal", INK),
        (f"inner bounds: {m.inner_bounds}", 8.2, "normal", INK),
        (m.exactness.value, 8.2, "bold", edge),
    ]
    _lines(axes, x, y + HEIGHT / 2 - 0.165, text, 0.158)


def _short(words: str, most: int) -> str:
    """Up to the first colon; without what stands in parentheses or after a comma where that is too long."""
    words = words.split(":")[0] if "(ReLU:" not in words else words
    for mark in (" (", ", "):
        if len(words) > most:
            words = words.split(mark)[0]
    return words


def _lines(axes: Any, x: float, y: float, text: list[tuple[str, float, str, str]], step: float) -> None:
    for number, (line, size, weight, color) in enumerate(text):
        axes.text(
            x, y - number * step, line, ha="center", va="center", fontsize=size, fontweight=weight, color=color, zorder=4
        )


def _barrier(axes: Any, left: float, right: float, m: Method) -> None:
    _rounded(axes, left, -0.02, right - left, 0.5, facecolor=NAVY, edgecolor=NAVY, zorder=3)
    middle = (left + right) / 2
    axes.text(middle, 0.33, m.title, ha="center", va="center", color="white", fontsize=12.5, fontweight="bold", zorder=4)
    says = f"{m.source}: {m.relaxation}, {m.solved_by}, inner bounds: {m.inner_bounds}; {m.exactness.value}."
    axes.text(
        middle, 0.12, f"{says}  No method below is above its value.", ha="center", va="center", color="white", fontsize=9, zorder=4
    )


def _columns(axes: Any, found: Arrangement) -> None:
    cut = (found.primal - 0.5) * PITCH_X
    bottom = -found.rows * PITCH_Y - 0.36
    axes.plot([cut, cut], [bottom, -0.12], color="#c8ced6", linewidth=1, linestyle=(0, (4, 4)), zorder=0)
    for x, align, view in ((cut - 0.1, "right", View.PRIMAL), (cut + 0.1, "left", View.DUAL)):
        axes.text(x, -0.16, view.name, ha=align, va="top", fontsize=11, fontweight="bold", color=FILL[view][1])


def _outside(axes: Any, left: float, right: float, per_row: int, lines: int) -> None:
    pitch = (right - left) / per_row
    heading = "OUTSIDE THE CLASS of layer-wise convex relaxations: may pass the barrier"
    axes.text(left + 0.06, 0.74 + lines * 0.86, heading, fontsize=11, fontweight="bold", color=ATTACK, va="center")
    for number, o in enumerate(OUTSIDE):
        x = left + (number % per_row + 0.5) * pitch
        y = 0.6 + (lines - 0.5 - number // per_row) * 0.86
        style = {"facecolor": "#fdf5f2", "edgecolor": ATTACK, "linewidth": 1, "linestyle": (0, (4, 2)), "zorder": 3}
        _rounded(axes, x - pitch / 2 + 0.06, y - 0.36, pitch - 0.12, 0.72, **style)
        text = [
            (o.name + (" (complete)" if o.complete else ""), 10.5, "bold", INK),
            (o.source, 8.2, "normal", GREY),
            (o.why, 8.2, "normal", INK),
            (o.available, 8.2, "normal", ATTACK),
        ]
        _lines(axes, x, y + 0.24, text, 0.16)


def _arrow(axes: Any, places: Places, child: str, parent: str) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Line

    x, y = _center(places[child])
    start = y + HEIGHT / 2
    lane, end = (_center(places[parent])[0], _center(places[parent])[1] - HEIGHT / 2) if parent in places else (x, -0.04)
    bus = start + (PITCH_Y - HEIGHT) * 0.45
    corners = [(x, start), (x, bus), (lane, bus), (lane, end)] if lane != x else [(x, start), (x, end)]
    style: dict[str, Any] = {"arrowstyle": "-|>,head_width=3.2,head_length=6", "color": GREY, "linewidth": 1.3, "zorder": 2}
    axes.add_patch(FancyArrowPatch(path=Line(corners), joinstyle="round", shrinkA=0, shrinkB=0, **style))


def _equal(axes: Any, places: Places, a: str, b: str) -> None:
    (x, y), (other, _) = _center(places[a]), _center(places[b])
    start, end = x + WIDTH / 2, other - WIDTH / 2
    for shift in (-0.035, 0.035):
        axes.plot([start, end], [y + shift, y + shift], color=INK, linewidth=1.4, zorder=1, solid_capstyle="butt")
