"""bourn methods: the table of methods, and the map of what is whose special case."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bourn.cli.pictures import check_plot


@click.command(name="methods", short_help="Print the methods, as a table or a map.")
@click.option("--map", "as_map", is_flag=True, help="Print the map: which is whose special case, and what lies outside.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the map: a .png or .svg file.")
@click.option("--json", "as_json", is_flag=True, help="Print the map as JSON.")
def command(as_map: bool, plot: Path | None, as_json: bool) -> None:
    """Print the methods: each is a relaxation, a way to solve it, and a source of inner bounds.

    The map orders them as Salman et al. 2019 do: primal and dual methods, every one a special case of LP-ALL, whose value is
    the barrier that none of them exceeds.

    \b
    bourn methods --map
    bourn methods --map --plot map.svg
    """
    if plot is not None:
        check_plot(plot)
    from bourn.cli.map import as_data, print_map

    if as_json:
        click.echo(json.dumps(as_data(), indent=2, ensure_ascii=False))
    elif as_map:
        print_map()
    elif plot is None:
        _print_table()
    if plot is not None:
        from bourn.cli.map_picture import draw_map

        draw_map(plot)
        click.echo(f"drawn: {plot}", err=True)


def _print_table() -> None:
    from rich.console import Console
    from rich.table import Table

    from bourn.solvers.methods import BEYOND, METHODS

    beyond = "Outside the class, beyond its barrier: sound, where HiGHS is trusted if that is right"
    for title, methods in (("Methods, from cheap to dear: all sound, none complete", METHODS), (beyond, BEYOND)):
        table = Table(title=title, show_lines=True)
        for heading in ("name", "relaxation"):
            table.add_column(heading, overflow="fold")
        table.add_column("solved by", min_width=17)
        for heading in ("inner bounds", "source"):
            table.add_column(heading, overflow="fold")
        for m in methods:
            other = f"\n({', '.join(m.aliases)})" if m.aliases else ""
            trusted = f"\ntrusted: {m.trusts}" if m.trusts else ""
            table.add_row(f"[bold]{m.name}[/bold]{other}", m.relaxation, m.solved_by + trusted, m.inner_bounds, m.source)
        Console().print(table)
