"""bourn verify: decide a question, in bourn's own form of the command line or in the VNN-LIB standard's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bourn.cli.main import STARTED
from bourn.cli.questions import image_options, image_question
from bourn.errors import BournError, UsageError

if TYPE_CHECKING:
    from bourn.problem.problem import Question
    from bourn.verification import Result, Step


@click.command(name="verify")
@click.argument("files", nargs=-1, required=True, metavar="NET [PROP]")
@click.option("--network", "networks", multiple=True, metavar="NAME=FILE", help="The standard's form: verify QUERY --network NAME=FILE.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Time limit, start-up included.")
@image_options
@click.option("--result", type=click.Path(path_type=Path, dir_okay=False), help="Write VNN-COMP's result file.")
@click.option(
    "--serialise-assignments", type=click.Path(path_type=Path, file_okay=False), help="Also write the witness, a file for each variable."
)
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda.")
@click.option("-q", "--quiet", is_flag=True, help="Print the verdict only.")
def command(
    files: tuple[str, ...],
    networks: tuple[str, ...],
    timeout: float | None,
    image: str | None,
    index: int,
    radius: float | None,
    label: int | None,
    clip: tuple[float, float] | None,
    result: Path | None,
    serialise_assignments: Path | None,
    device: str,
    quiet: bool,
) -> None:
    """Decide whether the network NET can violate PROP, a VNN-LIB file, or an image's robustness.

    The first line on stdout is the verdict: unsat (the property is proved), sat (a counterexample was found and
    replayed in onnxruntime), unknown or timed-out.  What was done and why goes to stderr.

    \b
    bourn verify net.onnx property.vnnlib --timeout 60
    bourn verify net.onnx --image digits.npz --index 3 --radius 0.03
    bourn verify query.vnnlib --network f=net.onnx
    """
    try:
        left = None if timeout is None else _time_left(timeout)
        network, query = _network_and_query(files, networks, image is not None)
        found = _run(network, query, (image, index, radius, label, clip), left, device, quiet)
    except BournError:
        if result is not None:
            _write(result, "error\n")
        raise
    from bourn.formats import witness

    x, y = _witness(found)
    if result is not None:
        _write(result, witness.result_file(_result_status(found), found.question, x, y))
    if serialise_assignments is not None and x is not None and y is not None:
        _serialise(serialise_assignments, found.question, x, y)
    click.echo(found.status)
    if networks and x is not None and y is not None:
        click.echo(witness.standard_v2(found.question, x, y), nl=False)
    if not quiet:
        click.echo(str(found), err=True)


def _time_left(timeout: float) -> float:
    if not timeout > 0:
        raise UsageError(f"the timeout is {timeout:g} s; it must be above 0")
    return max(1e-3, timeout - (time.monotonic() - STARTED))


def _network_and_query(files: tuple[str, ...], networks: tuple[str, ...], has_image: bool) -> tuple[str, str | None]:
    """The network's file and the query's, from either form of the command line."""
    if networks:
        if has_image or len(files) != 1:
            raise UsageError("with --network there is one argument, the query, and no image")
        if len(networks) > 1:
            raise UsageError("questions about several networks are not supported yet; give one --network NAME=FILE")
        name, sign, file = networks[0].partition("=")
        if not sign or not name or not file:
            raise UsageError(f"--network wants NAME=FILE, not {networks[0]!r}")
        return networks[0], files[0]
    if has_image:
        if len(files) != 1:
            raise UsageError("give the network and --image, or the network and a VNN-LIB file, not both")
        return files[0], None
    if len(files) != 2:
        raise UsageError("give a network and a VNN-LIB file: bourn verify NET PROP")
    return files[0], files[1]


def _run(
    network: str,
    query: str | None,
    asked: tuple[str | None, int, float | None, int | None, tuple[float, float] | None],
    timeout: float | None,
    device: str,
    quiet: bool,
) -> Result:
    from bourn.formats.model import load
    from bourn.formats.vnnlib import load as load_query
    from bourn.verification import verify

    def log(step: Step) -> None:
        click.echo(f"  {step.what}: {step.seconds:.3f} s, {step.open} conjunction{'s' if step.open != 1 else ''} open", err=True)

    began = time.monotonic()
    question = None if query is None else load_query(query)
    if query is not None and question is not None and "=" in network and not Path(network).exists():
        network = _named(network, question)
    model = load(network)
    if question is None:
        question = image_question(model, *asked)
    if not quiet:
        click.echo(f"{model.name}: {model.graph}", err=True)
        cases = f"{len(question.cases)} input box{'es' if len(question.cases) != 1 else ''}"
        click.echo(f"question: {cases}, {question.rows} rows (counterexamples are sought)", err=True)
    left = None if timeout is None else max(1e-3, timeout - (time.monotonic() - began))
    return verify(model, question, timeout=left, device=device, log=None if quiet else log)


def _named(network: str, question: Question) -> str:
    """The file of NAME=FILE, whose name must be the query's network."""
    name, _, file = network.partition("=")
    if question.network_names and name not in question.network_names:
        declared = ", ".join(question.network_names)
        raise UsageError(f"--network names {name!r}, but the query declares {declared}")
    return file


def _witness(found: Result):  # type: ignore[no-untyped-def]
    from bourn.certificates.evidence import Falsified

    if isinstance(found.verdict, Falsified):
        return found.verdict.counterexample.x, found.verdict.counterexample.y
    return None, None


def _result_status(found: Result) -> str:
    return "timeout" if found.status == "timed-out" else found.status


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None


def _serialise(folder: Path, question: Question, x, y) -> None:  # type: ignore[no-untyped-def]
    """One NumPy file for each variable, named after it."""
    import numpy as np

    try:
        folder.mkdir(parents=True, exist_ok=True)
        position = {"input": 0, "output": 0}
        for variable in question.variables:
            values, start = (x, position["input"]) if variable.kind == "input" else (y, position["output"])
            size = int(np.prod(variable.shape))
            position[variable.kind] = start + size
            np.save(folder / f"{variable.name}.npy", values[start : start + size].reshape(variable.shape))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}") from None
