"""python -m bourn_check CERTIFICATE NET PROP: exit status 0 if it is a proof, 1 if it is not, 2 if a file cannot be read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bourn_check.limits import GIGABYTES, SECONDS, limits


def main(arguments: Sequence[str] | None = None, name: str = "bourn_check") -> int:
    """Check, print what was found, return the exit status."""
    parser = argparse.ArgumentParser(prog=name, description="Check that a certificate proves its verdict about NET and PROP.")
    parser.add_argument("certificate", metavar="CERTIFICATE", help="a .bourn file, as bourn verify --certificate writes it")
    parser.add_argument("network", metavar="NET", help="the ONNX file")
    parser.add_argument("specification", metavar="PROP", help="the VNN-LIB file")
    parser.add_argument(
        "--arithmetic",
        choices=("float", "ball", "rational"),
        default="float",
        help="float64 with error bounds (fast), Arb's balls of 128 bits, or rational numbers (exact; small networks)",
    )
    parser.add_argument(
        "--semantics",
        choices=("real", "float32"),
        default="real",
        help="of the network in real numbers, or as float32 arithmetic evaluates it, with sums in any order",
    )
    parser.add_argument("--memory", type=float, default=GIGABYTES, metavar="GB", help="address space; %(default)s by default")
    parser.add_argument("--time-limit", type=float, default=SECONDS, metavar="S", help="seconds; %(default)s by default")
    asked = parser.parse_args(arguments)
    from bourn_check import NotAProof, Unreadable, check

    try:
        with limits(asked.memory, asked.time_limit):
            report = check(asked.certificate, asked.network, asked.specification, asked.arithmetic, asked.semantics)
    except NotAProof as error:
        print(f"not a proof: {error}")
        return 1
    except Unreadable as error:
        print(f"{name}: cannot be read: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; nothing is proved", file=sys.stderr)
        return 130
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
