"""bourn methods: the table of methods."""

from __future__ import annotations

import click


@click.command(name="methods")
def command() -> None:
    """Print the methods: each is a relaxation, a way to solve it, and a source of inner bounds."""
    from rich.console import Console
    from rich.table import Table

    from bourn.solvers.methods import METHODS

    table = Table(title="Methods, from cheap to dear: all sound, none complete", show_lines=False)
    for heading in ("name", "known as", "relaxation", "solved by", "inner bounds", "source"):
        table.add_column(heading)
    for m in METHODS:
        names = ", ".join((m.name, *m.aliases))
        table.add_row(names, m.title, m.relaxation, m.solved_by, m.inner_bounds, m.source)
    Console().print(table)
