"""bourn_check: an independent checker of bourn's certificates.

It imports nothing of bourn, and no solver: NumPy, python-flint for two of its three arithmetics, and onnx to parse model files.
``docs/trust.md`` has the theorem that it checks, ``docs/certificates.md`` the format.
"""

from bourn_check.checking import Report, check
from bourn_check.errors import NotAProof, Unreadable

__all__ = ["NotAProof", "Report", "Unreadable", "check"]
