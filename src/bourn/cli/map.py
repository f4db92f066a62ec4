"""The map of methods, as text and as data; all of it is read from the table of methods."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bourn.solvers.methods import BARRIER, METHODS, Method, View
from bourn.solvers.outside import OUTSIDE

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree

HEADINGS = {View.PRIMAL: "PRIMAL: the relaxed problem", View.DUAL: "DUAL: multipliers, every one of them a bound"}
BARRIER_SAYS = "the barrier: no method of the class is above its value; primal and dual optimum are one"
OUTSIDE_SAYS = "outside the class: what is no layer-wise convex relaxation may pass the barrier"


def parents(m: Method, methods: tuple[Method, ...] = METHODS) -> tuple[str, ...]:
    """Of what a method is a special case, by its own claim or by one that it shares with its equals."""
    if m.special_case_of:
        return m.special_case_of
    equals = sorted((e for e in methods if e.name in m.equal_to), key=lambda e: e.view is not m.view)
    return next((e.special_case_of for e in equals if e.special_case_of), ())


def composition(m: Method) -> str:
    """Relaxation, solver and inner bounds in one line."""
    return f"{m.relaxation} · {m.solved_by} · inner bounds: {m.inner_bounds}"


def print_map() -> None:
    """Both columns below the barrier, special cases indented below what they are a special case of; then what is outside."""
    from rich import box
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    (barrier,) = (m for m in METHODS if m.name == BARRIER)
    console = Console()
    console.print(Panel(_entry(barrier, note=BARRIER_SAYS), box=box.HEAVY, title="all sound, none complete"))
    columns = Table(box=box.SIMPLE, expand=True, show_header=True, padding=(0, 1))
    primal, dual = (sum(m.view is view for m in METHODS) for view in View)
    for view, ratio in zip(View, (3, 2) if primal > dual else (1, 1), strict=True):
        columns.add_column(HEADINGS[view], ratio=ratio)
    columns.add_row(*(_column(view) for view in View))
    console.print(columns)
    outside = Table(title=OUTSIDE_SAYS, box=box.SIMPLE_HEAD, expand=True, title_justify="left")
    for heading in ("", "what it adds", "paper", "complete", "in bourn"):
        outside.add_column(heading, overflow="fold")
    for o in OUTSIDE:
        outside.add_row(Text(o.name, style="bold"), o.why, o.source, "yes" if o.complete else "no", o.available)
    console.print(outside)


def _column(view: View) -> Tree:
    """The methods of one side as a tree; a root is a special case of the barrier or of a method of the other side."""
    from rich.tree import Tree

    root = Tree("", hide_root=True, guide_style="dim")
    mine = {m.name: m for m in METHODS if m.view is view and m.name != BARRIER}

    def grow(branch: Tree, inside: str | None) -> None:
        for m in reversed(mine.values()):
            above = next((p for p in parents(m) if p in mine), None)
            if above == inside:
                other = [p for p in parents(m) if p not in mine and p != BARRIER]
                note = f"special case of {', '.join(other)}, a {_other(view).value} method" if other else ""
                # A root hangs from no line, so a blank one sets it apart.
                gap = "\n" if inside is None and branch.children else ""
                grow(branch.add(_entry(m, note=note, before=gap)), m.name)

    grow(root, None)
    return root


def _other(view: View) -> View:
    return View.DUAL if view is View.PRIMAL else View.PRIMAL


def _entry(m: Method, note: str = "", before: str = "") -> RenderableType:
    from rich.text import Text

    text = Text.assemble(before, (m.name, "bold"), "  ", m.title, "\n", (m.source, "italic"), "\n", (composition(m), "dim"))
    text.append(f"\nsound; {m.exactness.value}", "dim")
    if m.equal_to:
        text.append(f"\n= {', '.join(m.equal_to)}", "bold green")
    if note:
        text.append(f"\n{note}", "bold blue")
    return text


def as_data() -> dict[str, Any]:
    """The map as --json prints it."""

    def papers(entry: Any) -> list[dict[str, Any]]:
        return [dataclasses.asdict(p) for p in entry.papers]

    methods = [
        {
            "name": m.name,
            "title": m.title,
            "aliases": list(m.aliases),
            "view": m.view.value,
            "papers": papers(m),
            "relaxation": m.relaxation,
            "solved_by": m.solved_by,
            "inner_bounds": m.inner_bounds,
            "sound": True,
            "complete": False,
            "exactness": m.exactness.value,
            "equal_to": list(m.equal_to),
            "special_case_of": list(m.special_case_of),
        }
        for m in METHODS
    ]
    outside = [
        {"name": o.name, "adds": o.why, "papers": papers(o), "complete": o.complete, "command": o.command or None} for o in OUTSIDE
    ]
    return {"barrier": BARRIER, "methods": methods, "outside": outside}
