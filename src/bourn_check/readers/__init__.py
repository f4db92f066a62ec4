"""Readers of the files: ONNX (``onnx.py`` and its tables of operators) and VNN-LIB, simpler than bourn's and their own."""

import gzip
import io

_MOST = 1 << 32


def unpacked(data: bytes) -> bytes:
    """A file's bytes, gzipped or not; raises OSError, EOFError or zlib.error for what cannot be unpacked."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    found = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_MOST)
    if len(found) == _MOST:
        raise OSError("too large")
    return found
