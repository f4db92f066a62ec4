"""--explain: what a verdict took, step by step, and why one step followed the other.  Written from the result's own record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bourn.certificates.account import Kind, Step, Tree
from bourn.cli.main import plural

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bourn.verification import Result

_NAME_WIDTH = 44
"""Conjunctions are written out up to so many characters."""


def explain(result: Result) -> None:
    """Print it to stderr."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=False)
    console.print(Text("How it came to this", style="bold"))
    if len(result.question.cases) > 1:
        console.print(Text(f"{len(result.question.cases)} input sets:"))
        for line in _sums(result.steps):
            console.print(Text(f"  {line}"))
        console.print(Text("the one that took longest:"))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    steps, number = _longest(result.steps), 0
    before: Step | None = None
    for step in steps:
        number += not step.skipped
        time = "" if step.skipped else f"{step.seconds:.3f} s"
        table.add_row("-" if step.skipped else str(number), _body(result, before, step), time)
        before = before if step.skipped else step
    console.print(table)
    if result.unreached:
        why = "not needed" if result.status in ("sat", "unsat") else "not reached"
        console.print(Text(f"{why}: {'; '.join(dict.fromkeys(result.unreached))}", style="dim"))


def _body(result: Result, before: Step | None, step: Step) -> RenderableType:
    """A step's name, and under it what there is to say."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    on = f", on {step.stands_on}" if step.stands_on and "inner bounds" not in step.what else ""
    if step.skipped:
        return Text(f"{step.what}: skipped, because {step.skipped}", style="dim")
    details = Table.grid(padding=(0, 2, 0, 0))
    details.add_column(style="dim")
    details.add_column()
    for label, text in _details(result, before, step):
        details.add_row(label, Text(text))
    return Group(Text.assemble((step.what, "bold green" if step.decided else "bold"), on), details)


def _longest(steps: Sequence[Step]) -> list[Step]:
    """The steps of the case that took longest."""
    spent: dict[int, float] = {}
    for step in steps:
        spent[step.case] = spent.get(step.case, 0.0) + step.seconds
    longest = max(spent, key=spent.__getitem__, default=0)
    return [step for step in steps if step.case == longest]


def _sums(steps: Sequence[Step]) -> Iterator[str]:
    """For every kind of step how many there were, how long they took and what they decided."""
    for what in dict.fromkeys(step.what for step in steps if not step.skipped):
        own = [step for step in steps if step.what == what and not step.skipped]
        decided = plural(sum(step.decided for step in own), "conjunction", "conjunctions")
        yield f"{what}: {plural(len(own), 'time', 'times')}, {sum(step.seconds for step in own):.3f} s, decided {decided}"


def _details(result: Result, before: Step | None, step: Step) -> Iterator[tuple[str, str]]:
    """Why the step was taken and what came of it, with labels."""
    yield "why", _why(before, step)
    if step.met is not None:
        met = "no value that is a number" if math.isinf(step.met) else f"{step.met:.6g}"
        yield "met", f"{met} at the least (a counterexample has at most 0)"
    if step.tree is not None:
        yield "tree", str(step.tree)
        for way in step.tree.ways:
            forecast = _forecast(step.tree, way.forecast, step.left)
            yield "way", f"{way.name}: {plural(way.subproblems, 'subproblem', 'subproblems')} in {way.seconds:.3g} s{forecast}"
    if step.bounds:
        yield "bounds", "; ".join(_bound(result, step, k, bound) for k, bound in step.bounds)
    if step.stopped:
        yield "stopped", step.stopped
    if result.status == "sat" and step is result.steps[-1]:
        yield "then", "a counterexample was met, which ended it"
        return
    decided = "" if step.kind is Kind.ATTACK else f"decided {step.decided}, "
    unstable = "" if step.unstable is None or step.kind is Kind.ATTACK else f"; {_neurons(step.unstable)} left"
    yield "then", f"{decided}{plural(step.open, 'conjunction', 'conjunctions')} open{unstable}"


def _why(before: Step | None, step: Step) -> str:
    """Why this step came next."""
    if before is None and step.kind is Kind.ATTACK:
        return "a counterexample would end it at once"
    if step.kind is Kind.ATTACK:
        return "cheap bounds left something open, and what follows is dear: a longer look for a counterexample"
    if step.kind is Kind.BARRIER:
        return "what is open may be beyond every layer-wise method"
    if before is not None and before.tree is not None and before.tree.left:
        return f"splitting ended early ({before.tree.stopped}); from tighter bounds its tree is smaller"
    if step.kind is Kind.SPLITTING:
        return "on a part of the input set bounds are tighter than on the whole"
    if before is None or (before.kind is Kind.ATTACK and before.unstable is None):
        return "the cheapest bounds come first"
    if "begun from" in step.stands_on:
        return "tightens the inner bounds themselves, which is dear, and everything behind them"
    if "of all methods" in step.stands_on:
        return "every neuron has the best inner bounds of several methods now"
    return "its lines are better at some neurons; the best bounds of all methods are kept"


def _forecast(tree: Tree, forecast: float, left: float) -> str:
    """How long a way was forecast to take for what is open: no more than a guess."""
    if not tree.left:
        return ""
    text = f"about {forecast:.2g} s" if forecast < 1e4 else "hours" if forecast < 1e6 else "for ever"
    limit = "" if math.isinf(left) else f", with {max(left, 0.0):.3g} s left"
    return f"; forecast for the open parts: {text}{limit}"


def _bound(result: Result, step: Step, k: int, bound: float) -> str:
    text = str(result.question.cases[step.case].specification.conjunctions[k])
    name = text if len(text) <= _NAME_WIDTH else f"conjunction {k}"
    return f"{name} has {'no bound' if math.isinf(bound) else f'{bound:.6g}'}"


def _neurons(count: int) -> str:
    return plural(count, "unstable neuron", "unstable neurons")
