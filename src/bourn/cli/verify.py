"""bourn verify: decide a question, in bourn's own form of the command line or in the VNN-LIB standard's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bourn.cli.counterexamples import Gathered, Wanted, gather, save, tell
from bourn.cli.main import in_bytes, plural, uncollected
from bourn.cli.questions import Ball, ball_options
from bourn.cli.stopping import INTERRUPTED, stoppable
from bourn.errors import UsageError

if TYPE_CHECKING:
    from bourn.certificates.account import Step
    from bourn.formats.model import Model
    from bourn.problem.problem import Question
    from bourn.verification import Result


_LEAST, _TIMES = 60.0, 20.0
"""Seconds that a certificate may take, and times as many as its verdict took, whichever is more."""


@dataclass(frozen=True)
class _Asked:
    """The files that the command line names: no query where it asks about a ball; networks by name in the standard's form."""

    networks: tuple[str, ...]
    query: str | None
    named: dict[str, str] | None = None


@click.command(name="verify", short_help="Decide whether a network can violate a property.")
@click.argument("files", nargs=-1, required=True, metavar="NET... [PROP]")
@click.option("--network", "networks", multiple=True, metavar="NAME=FILE", help="The standard's form: QUERY --network NAME=FILE.")
@click.option(
    "--timeout", type=float, metavar="SECONDS", help="Time limit, start-up included; without one, splitting ends after 10 s."
)
@ball_options
@click.option("--label", type=int, help="The class that the image is to keep; by default the one the network predicts.")
@click.option("--result", type=click.Path(path_type=Path, dir_okay=False), help="Also write VNN-COMP's result file.")
@click.option(
    "--serialise-assignments",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write a witness to NAME.pb files here instead of printing it.",
)
@click.option(
    "--all-counterexamples", "count", type=click.IntRange(min=1), metavar="N", help="Go on to N counterexamples, far apart."
)
@click.option(
    "--save",
    "saved",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Write counterexamples there: .npz, witnesses, and pictures of images.",
)
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a proof of the verdict that `bourn check` confirms (after the verdict; the time limit does not count).",
)
@click.option("--memory", metavar="SIZE", help="For what is computed, such as 500MB or 2GB; splitting ends where it is taken.")
@click.option("--workers", default=1, show_default=True, help="Processes for branch and bound that does not end soon.")
@click.option("--explain", "explained", is_flag=True, help="Say on stderr what was done, step by step, and why.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda.")
@click.option("-q", "--quiet", is_flag=True, help="Print the verdict and the witness only.")
@click.pass_obj
def command(
    began: float,
    files: tuple[str, ...],
    networks: tuple[str, ...],
    timeout: float | None,
    ball: Ball | None,
    label: int | None,
    result: Path | None,
    folder: Path | None,
    count: int | None,
    saved: Path | None,
    certificate: Path | None,
    memory: str | None,
    workers: int,
    explained: bool,
    device: str,
    quiet: bool,
) -> int:
    """Decide whether the network NET can violate PROP, a VNN-LIB file, or lose an image's class on a ball.

    The first line on stdout is the verdict: unsat (the property is proved), sat (a counterexample was found,
    replayed in onnxruntime, and follows), unknown or timed-out.  Then it says why.  The log goes to stderr.

    Ctrl-C and SIGTERM end it with what is known by then, once more at once.

    The input set is PROP's: boxes or, where it also bounds sums of inputs, as in (<= (+ X_0 X_1) 0.5), polytopes.

    \b
    bourn verify net.onnx property.vnnlib --timeout 60 --workers 4
    bourn verify net.onnx --image digits.npz --index 3 --radius 0.03
    bourn verify query.vnnlib --network f=net.onnx --network g=pruned.onnx
    bourn verify net.onnx property.vnnlib --certificate proof.bourn && bourn check proof.bourn net.onnx property.vnnlib
    """
    if certificate is not None:
        _check_certificate(certificate)
    wanted = Wanted(count, saved)
    wanted.check()
    if result is not None:
        _write(result, "")  # now, not after an hour, and no old verdict stays behind
    try:
        asked = _asked(files, networks, ball, label)
        limits = _Limits(timeout, began, None if memory is None else in_bytes(memory), workers)
        found, gathered, interrupted = _run(asked, ball, label, limits, wanted, device, quiet)
        _report(found, asked.named is not None, result, folder, quiet)
        if gathered is not None:
            tell(gathered, count)
            if saved is not None:
                save(gathered, saved)
        elif wanted:
            click.echo(f"no counterexample: {found.status}", err=True)
        if explained:
            _explain(found)
    except BaseException:
        if result is not None:
            _write(result, "error\n")
        raise
    if certificate is not None and not interrupted:
        interrupted = not _certify(found, certificate, quiet)
    return INTERRUPTED if interrupted else 0


def _explain(found: Result) -> None:
    from bourn.cli.explain import explain

    explain(found)


def _check_certificate(path: Path) -> None:
    if not path.resolve().parent.is_dir():
        raise UsageError(f"{path}: cannot be written: there is no folder {path.parent}")


def _certify(found: Result, path: Path, quiet: bool) -> bool:
    """Write the certificate, in :data:`_TIMES` the time that the verdict took, or say that there is nothing to write one about.

    False where it was interrupted.
    """
    from bourn.proofs import question_beside, write_certificate

    if found.status not in ("unsat", "sat"):
        click.echo(f"no certificate: {found.status} states nothing to be proved", err=True)
        return True
    limit = max(_LEAST, _TIMES * found.seconds)
    try:
        write_certificate(found, path, None if quiet else lambda text: click.echo(f"  certificate: {text}", err=True), limit)
    except KeyboardInterrupt:
        click.echo("no certificate: interrupted; the verdict stands", err=True)
        return False
    if not quiet:
        asked = "" if found.question.source else f", about the question in {question_beside(path)}"
        click.echo(f"certificate written to {path}{asked}", err=True)
    return True


def _asked(files: tuple[str, ...], networks: tuple[str, ...], ball: Ball | None, label: int | None) -> _Asked:
    """The networks' files and the query's, from either form of the command line."""
    if ball is None and files[-1].lower().endswith((".onnx", ".onnx.gz")) and (networks or len(files) > 1):
        raise UsageError(f"{files[-1]} is a network; the query comes last: bourn verify NET PROP, or QUERY --network NAME=NET")
    if label is not None and ball is None:
        raise UsageError("--label needs --image and --radius")
    if networks:
        if ball is not None or len(files) != 1:
            raise UsageError("with --network there is one argument, the query, and no image")
        named: dict[str, str] = {}
        for stated in networks:
            name, sign, file = stated.partition("=")
            if not sign or not name or not file:
                raise UsageError(f"--network wants NAME=FILE, not {stated!r}")
            if name in named:
                raise UsageError(f"--network names {name!r} twice")
            named[name] = file
        return _Asked(tuple(named.values()), files[0], named)
    if ball is not None:
        if len(files) != 1:
            raise UsageError("give the network and --image, or the network and a VNN-LIB file, not both")
        return _Asked(files, None)
    if len(files) < 2:
        raise UsageError("give a network and a question about it: bourn verify NET PROP, or NET --image FILE --radius R")
    return _Asked(files[:-1], files[-1])


@dataclass(frozen=True)
class _Limits:
    """Seconds since ``began``, and bytes, None: as many as there are; and processes."""

    timeout: float | None
    began: float
    memory: float | None
    workers: int


def _run(
    asked: _Asked, ball: Ball | None, label: int | None, limits: _Limits, wanted: Wanted, device: str, quiet: bool
) -> tuple[Result, Gathered | None, bool]:
    """The result, the counterexamples that were asked for, and whether Ctrl-C ended it."""
    from bourn.deadline import Deadline

    deadline = Deadline(limits.timeout, limits.began)
    with uncollected():
        from bourn.formats.joined import model_for
        from bourn.formats.model import load
        from bourn.formats.vnnlib import load as load_query
        from bourn.verification import verify

    def log(step: Step) -> None:
        stopped = step.stopped or (step.tree.stopped if step.tree is not None else "")
        more = f"; {stopped}" if stopped else ""
        click.echo(f"  {step.what}: {step.seconds:.3f} s, {plural(step.open, 'conjunction', 'conjunctions')} open{more}", err=True)

    if asked.query is None:
        assert ball is not None
        model = load(asked.networks[0])
        query = ball.robustness(model, label)
    else:
        query = load_query(asked.query)
        model = model_for(_files(asked, query), query)
    if not quiet:
        _announce(model, query)
    with stoppable() as stop:
        deadline = replace(deadline, stop=stop)
        memory, workers = limits.memory, limits.workers
        found = verify(
            model, query, timeout=deadline, device=device, memory=memory, workers=workers, log=None if quiet else log
        )
        gathered = gather(found, wanted, ball, label, deadline)
    return found, gathered, stop.reason == "interrupted"


def _files(asked: _Asked, query: Question) -> dict[str, str] | str:
    """The networks' files by name: as the command line names them, else in the order of declaration."""
    if asked.named is not None:
        return asked.named
    names = [network.name for network in query.networks if not network.equal_to]
    if len(asked.networks) == 1 and len(names) <= 1:
        return asked.networks[0]
    if len(names) != len(asked.networks):
        wanted = f"files for {', '.join(names)}" if names else "the file of one network"
        raise UsageError(f"{plural(len(asked.networks), 'network is', 'networks are')} given, but {asked.query} wants {wanted}")
    return dict(zip(names, asked.networks, strict=True))


def _announce(model: Model, question: Question) -> None:
    click.echo(f"{model.name}: {model.graph}", err=True)
    sets = plural(len(question.cases), "input set", "input sets")
    conjunctions = sum(len(case.specification.conjunctions) for case in question.cases)
    click.echo(
        f"is there a counterexample?  {sets}, {plural(conjunctions, 'conjunction', 'conjunctions')} of rows to refute", err=True
    )


def _report(found: Result, standard: bool, result: Path | None, folder: Path | None, quiet: bool) -> None:
    """The verdict, then the witness or, but for the standard's form, the reasons."""
    from bourn.certificates.describe import warning
    from bourn.certificates.evidence import Falsified, Verified
    from bourn.formats.witness import result_file

    verdict = found.verdict
    point = (verdict.counterexample.x, verdict.counterexample.y) if isinstance(verdict, Falsified) else (None, None)
    if result is not None:
        _write(result, result_file("timeout" if found.status == "timed-out" else found.status, found.question, *point))
    if isinstance(verdict, Falsified) and folder is not None:
        from bourn.formats.onnx_assignments import serialise

        files = serialise(folder, found.question, verdict.counterexample.x, verdict.counterexample.y)
        click.echo(f"{found.status}")
        click.echo(f"witness written to {', '.join(map(str, files))}", err=True)
    elif isinstance(verdict, Falsified):
        click.echo(result_file("sat", found.question, *point), nl=False)
    else:
        click.echo(found.status)
    if quiet and isinstance(verdict, Verified) and verdict.by_rounding is not None:
        click.echo(warning(verdict.by_rounding), err=True)
    if not quiet:
        click.echo(str(found), err=standard or isinstance(verdict, Falsified))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
