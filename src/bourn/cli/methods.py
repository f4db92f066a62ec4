"""bourn methods: the table of methods."""

from __future__ import annotations

import click


@click.command(name="methods", short_help="Print the table of methods.")
def command() -> None:
    """Print the methods: each is a relaxation, a way to solve it, and a source of inner bounds."""
    from rich.console import Console
    from rich.table import Table

    from bourn.solvers.methods import METHODS

    table = Table(title="Methods, from cheap to dear: all sound, none complete", show_lines=True)
    for heading in ("name", "relaxation"):
        table.add_column(heading, overflow="fold")
    table.add_column("solved by", min_width=17)
    for heading in ("inner bounds", "source"):
        table.add_column(heading, overflow="fold")
    for m in METHODS:
        other = f"\n({', '.join(m.aliases)})" if m.aliases else ""
        table.add_row(f"[bold]{m.name}[/bold]{other}", m.relaxation, m.solved_by, m.inner_bounds, m.source)
    Console().print(table)
