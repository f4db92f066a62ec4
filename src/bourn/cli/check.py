"""bourn check: hand certificates to the independent checker, one, or all that a study keeps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from bourn.cli.main import plural
from bourn.errors import UsageError
from bourn_check.limits import GIGABYTES, SECONDS


@click.command(name="check", short_help="Confirm certificates, independently of how they were found.")
@click.argument("certificate", metavar="CERTIFICATE|STORE")
@click.argument("network", metavar="[NET", required=False)
@click.argument("specification", metavar="PROP]", required=False)
@click.option(
    "--arithmetic",
    type=click.Choice(("float", "ball", "rational")),
    default="float",
    show_default=True,
    help="float64 with error bounds (fast), balls of 128 bits, or rational numbers (exact; small networks).",
)
@click.option(
    "--semantics",
    type=click.Choice(("real", "float32")),
    default="real",
    show_default=True,
    help="Of the network in real numbers, or as float32 arithmetic evaluates it, with sums in any order.",
)
@click.option("--memory", type=float, default=GIGABYTES, show_default=True, metavar="GB", help="Address space for a certificate.")
@click.option("--time-limit", type=float, default=SECONDS, show_default=True, metavar="SECONDS", help="For a certificate.")
@click.option("--workers", type=int, default=1, show_default=True, help="Processes, for a store.")
def command(
    certificate: str,
    network: str | None,
    specification: str | None,
    arithmetic: str,
    semantics: str,
    memory: float,
    time_limit: float,
    workers: int,
) -> int:
    """Check that CERTIFICATE, as bourn verify --certificate writes it, proves its verdict about NET and PROP.

    Or check all certificates of a study's STORE, which 'bourn study adversarial-error --certificates' or
    'bourn study minimum-distortion --certificates' wrote beside it.

    The checker is a package of its own, bourn_check, which imports nothing of bourn: `python -m bourn_check` does the same.
    Exit status: 0 if it is a proof, 1 if it is not, 2 if a file cannot be read; for a store the worst of all.

    \b
    bourn verify net.onnx property.vnnlib --certificate proof.bourn
    bourn check proof.bourn net.onnx property.vnnlib --arithmetic ball
    bourn check proof.bourn net.onnx property.vnnlib --semantics float32
    bourn check digits.db --workers 2
    """
    if not (memory > 0 and time_limit > 0):
        raise UsageError("--memory and --time-limit must be above 0")
    if network is None:
        return _store(Path(certificate), arithmetic, memory, time_limit, workers, semantics)
    if specification is None:
        raise UsageError("give a certificate, the network and the VNN-LIB file, or a study's store alone")
    from bourn_check import NotAProof, Unreadable, check
    from bourn_check.limits import limits

    try:
        with limits(memory, time_limit):
            click.echo(str(check(certificate, network, specification, arithmetic, semantics)))
    except NotAProof as error:
        click.echo(f"not a proof: {error}")
        return 1
    except Unreadable as error:
        raise UsageError(f"cannot be read: {error}") from None
    return 0


def _store(path: Path, arithmetic: str, memory: float, seconds: float, workers: int, semantics: str) -> int:
    """Check what a study keeps: a line for each that fails, and a line of sums."""
    from bourn.cli.study import shown
    from bourn.studies.certificates import NOT_A_PROOF, PROVED, UNREADABLE, certified, check_all
    from bourn.studies.running import Progress
    from bourn.studies.store import Store

    counts: Counter[str] = Counter()
    with Store(path, create=False) as store, shown("certificates") as show:
        total = sum(1 for _ in certified(store))
        for told in check_all(store, arithmetic, workers, memory, seconds, semantics):
            counts[told.outcome] += 1
            if told.outcome in (NOT_A_PROOF, UNREADABLE):
                click.echo(f"{told.files.certificate}: {told.outcome}: {told.reason}")
            show(Progress(total, counts.total(), 0))
    others = [f"{number} {outcome}" for outcome, number in sorted(counts.items()) if outcome != PROVED]
    click.echo(", ".join([f"{plural(total, 'certified image', 'certified images')}: {counts[PROVED]} proved", *others]))
    return 1 if counts[NOT_A_PROOF] else 2 if counts[UNREADABLE] else 0
