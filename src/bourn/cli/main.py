"""The command group, its options ``--name`` and ``--version``, and what becomes of errors.

Exit status: 0 with a verdict (unknown and timed-out are verdicts), 1 where ``bourn check`` was given no proof, 2 for a
user's error, 70 for a defect of bourn, 130 after Ctrl-C, 141 where the reader of stdout went away.  Results go to stdout,
everything else to stderr.
"""

from __future__ import annotations

import gc
import importlib
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from bourn._version import __version__
from bourn.errors import BournError, UsageError, out_of_memory

_STARTED = time.monotonic()

_COMMANDS = {
    "bound": "bourn.cli.bound",
    "check": "bourn.cli.check",
    "compete": "bourn.cli.compete",
    "duality": "bourn.cli.duality",
    "ladder": "bourn.cli.ladder",
    "methods": "bourn.cli.methods",
    "radius": "bourn.cli.radius",
    "report": "bourn.cli.report",
    "study": "bourn.cli.study",
    "supports": "bourn.cli.supports",
    "train": "bourn.cli.train",
    "verify": "bourn.cli.verify",
}


class _LazyGroup(click.Group):
    """Loads a command's module when it is asked for, so that ``bourn --version`` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(_COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command


def _print_name(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo("bourn")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
@click.option("--name", is_flag=True, expose_value=False, is_eager=True, callback=_print_name, help="Print the tool's name.")
def group() -> None:
    """Certify what a neural network does on a whole region of inputs, by convex relaxation."""


def main() -> None:
    """The entry point: runs the command and turns every failure into one line and an exit status."""
    status = run(sys.argv[1:], _STARTED)
    gc.freeze()  # at its end Python looks for garbage among all that torch has made, for 0.15 s: there is nothing to free for
    sys.exit(status)


def run(arguments: list[str], began: float | None = None) -> int:
    """Run the command; returns its exit status.  Time limits count from ``began``, by default now."""
    try:
        status = group.main(arguments, prog_name="bourn", standalone_mode=False, obj=time.monotonic() if began is None else began)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        where = f" (see '{error.ctx.command_path} --help')" if isinstance(error, click.UsageError) and error.ctx else ""
        return _fail(error.format_message() + where, 2)
    except BournError as error:
        return _fail(str(error), 2)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted; no verdict", 130)
    except (BrokenPipeError, SystemExit):  # click turns the first into the second
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if out_of_memory(error):
            return _fail("out of memory; a smaller question or a machine with more memory is needed", 71)
        if os.environ.get("BOURN_DEBUG"):
            raise
        message = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(f"internal error, please report it: {message[:300]} (BOURN_DEBUG=1 shows where)", 70)


def _fail(message: str, status: int) -> int:
    click.echo(f"bourn: {' '.join(message.split())}", err=True)
    return status


@contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection: importing torch makes many objects and no garbage, and looking for it takes 0.1 s and more."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def plural(count: int, one: str, many: str) -> str:
    """A count with the right form of its noun."""
    return f"{count} {one if count == 1 else many}"


def in_bytes(size: str) -> float:
    """A size such as 500MB or 2 GB in bytes; raises :class:`UsageError` where it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)I?B?", size.strip().upper())
    if found is None or float(found[1]) == 0:
        raise UsageError(f"{size!r} is no size; write one such as 500MB or 2GB")
    return float(found[1]) * 1000.0 ** " KMGT".index(found[2] or " ")
