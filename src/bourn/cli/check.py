"""bourn check: hand a certificate to the independent checker."""

from __future__ import annotations

import click

from bourn.errors import UsageError


@click.command(name="check", short_help="Confirm a certificate, independently of how it was found.")
@click.argument("certificate")
@click.argument("network", metavar="NET")
@click.argument("specification", metavar="PROP")
@click.option(
    "--arithmetic",
    type=click.Choice(("float", "ball", "rational")),
    default="float",
    show_default=True,
    help="float64 with error bounds (fast), balls of 128 bits, or rational numbers (exact; small networks).",
)
def command(certificate: str, network: str, specification: str, arithmetic: str) -> int:
    """Check that CERTIFICATE, as bourn verify --certificate writes it, proves its verdict about NET and PROP.

    The checker is a package of its own, bourn_check, which imports nothing of bourn: `python -m bourn_check` does the same.
    Exit status: 0 if it is a proof, 1 if it is not, 2 if a file cannot be read.

    \b
    bourn verify net.onnx property.vnnlib --certificate proof.bourn
    bourn check proof.bourn net.onnx property.vnnlib --arithmetic ball
    """
    from bourn_check import NotAProof, Unreadable, check

    try:
        click.echo(str(check(certificate, network, specification, arithmetic)))
    except NotAProof as error:
        click.echo(f"not a proof: {error}")
        return 1
    except Unreadable as error:
        raise UsageError(f"cannot be read: {error}") from None
    return 0
