"""bourn supports: whether a network can be read, and what the VNN-LIB standard asks a tool about itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from bourn.cli.main import plural
from bourn.errors import UsageError


def _opsets() -> Sequence[str]:
    from bourn.formats.onnx import OPSETS

    return [str(OPSETS[0]), str(OPSETS[-1])]


def _operators() -> Sequence[str]:
    from bourn.formats.onnx import supported_operators

    return supported_operators()


_ANSWERS: dict[str, tuple[Callable[[], Sequence[str]], str]] = {
    "--onnx-opset-versions": (_opsets, "Oldest and newest operator set."),
    "--onnx-element-types": (lambda: ["float16", "float32", "float64"], "Element types of inputs."),
    "--onnx-operators": (_operators, "Operators, one a line."),
    "--vnnlib-versions": (lambda: ["1.0", "2.0"], "Oldest and newest version."),
    "--hidden-node-theories": (lambda: ["NH", "H"], "Hidden nodes in queries."),
    "--multiple-input-output-theories": (lambda: ["SIO", "MIO"], "Several inputs and outputs."),
    "--multiple-network-theories": (lambda: ["SNET", "MNET", "MENET", "MINET"], "Several networks, equal and isomorphic ones."),
    "--multiple-node-comparison-theories": (lambda: ["SNC", "MNC"], "Rows over several variables."),
    "--arithmetic-complexity-theories": (lambda: ["BND", "OUTC", "LIN"], "Linear arithmetic."),
    "--optimised-disjunctive-reasoning": (lambda: ["false"], "Each input box is its own problem."),
    "--serialise-assignments": (lambda: ["true"], "Witnesses can be written to files."),
}


def _questions(function: Callable[..., Any]) -> Callable[..., Any]:
    for flag, (_, text) in reversed(_ANSWERS.items()):
        function = click.option(flag, flag.strip("-").replace("-", "_"), is_flag=True, help=text)(function)
    return function


@click.command(name="supports", short_help="Say whether a network can be read, and what else can.")
@click.argument("net", required=False)
@_questions
def command(net: str | None, **asked: bool) -> int:
    """Say whether the network NET can be read, and which nodes stop it; or answer the VNN-LIB standard's questions.

    Exit status 0 if NET can be read, 1 if not.
    """
    flags = [flag for flag in _ANSWERS if asked[flag.strip("-").replace("-", "_")]]
    if (net is None) == (not flags):
        raise UsageError("give a network, or one of the standard's questions (see 'bourn supports --help')")
    for flag in flags:
        click.echo("\n".join(_ANSWERS[flag][0]()))
    return 0 if net is None else _diagnose(net)


def _diagnose(net: str) -> int:
    from bourn.formats.onnx import diagnose, load

    obstacles = diagnose(net)
    if obstacles:
        click.echo(f"no: {plural(len(obstacles), 'node stops', 'nodes stop')} the reading of {net}")
        for o in obstacles:
            click.echo(f"  {o.reason}")
        return 1
    click.echo(f"yes: {load(net)}")
    return 0
