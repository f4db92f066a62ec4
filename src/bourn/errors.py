"""The exceptions that bourn raises on purpose: each message says what is wrong, where, and what to do.

Everything a user can cause is a :class:`BournError`; the command prints its message as one line and
exits with a status other than 0.  Anything else that escapes is a defect of bourn.
"""

from __future__ import annotations


class BournError(Exception):
    """Root of bourn's own errors."""


class NetworkError(BournError):
    """The network cannot be used: unreadable file, impossible shapes, weights that are not finite."""


class UnsupportedOperatorError(NetworkError):
    """The network holds an operator (or a use of one) that bourn does not read."""

    def __init__(self, op_type: str, node: str, why: str = "") -> None:
        self.op_type = op_type
        self.node = node
        detail = f": {why}" if why else ""
        super().__init__(
            f"operator {op_type} at node {node!r} is not supported{detail} "
            "('bourn supports --onnx-operators' lists what is)"
        )


class SpecificationError(BournError):
    """The question is malformed: unreadable file, unknown variable, a row that is not linear."""


class EmptyInputSetError(SpecificationError):
    """No input satisfies the question's input constraints, so there is nothing to verify."""


class UsageError(BournError):
    """An argument is wrong: a shape that does not fit, an unknown method, a timeout of zero."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had: Python's own, or one of torch's, which have no class in common."""
    if isinstance(error, BournError):
        return False
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error)
