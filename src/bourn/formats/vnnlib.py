"""VNN-LIB: questions as files, version 1.0 or 2.0, plain or gzipped."""

from __future__ import annotations

import gc
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bourn.errors import SpecificationError
from bourn.formats import vnnlib_v1, vnnlib_v2
from bourn.problem.problem import Question

_VERSION = re.compile(r"(?:\s|;[^\n]*\n)*\(\s*vnnlib-version\s*<\s*([\d.]+)\s*>")
_READERS: dict[str, Callable[[str, str], Question]] = {"1.0": vnnlib_v1.parse, "2.0": vnnlib_v2.parse}
_GZIP_MAGIC = b"\x1f\x8b"


def load(path: str | os.PathLike[str]) -> Question:
    """The question in a file; whether it is gzipped is seen from its content.

    Raises :class:`SpecificationError`, naming the file, if it cannot be read or is malformed, and
    :class:`EmptyInputSetError` if no input satisfies it.
    """
    name = os.fspath(path)
    try:
        data = Path(name).read_bytes()
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecificationError(f"cannot read the specification {name}: {reason}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecificationError(f"the specification {name} is not UTF-8 text (byte {error.start})") from None
    return parse(text, name)


def parse(text: str, source: str = "") -> Question:
    """The question that a text asks; a text that states no version is 1.0.

    ``source`` is what messages call it.  Raises :class:`SpecificationError` where it is malformed, and
    :class:`EmptyInputSetError` if no input satisfies it.
    """
    stated = _VERSION.match(text)
    version = stated.group(1) if stated else "1.0"
    where = f"{source}: " if source else ""
    # The standard's parser stops at a NUL as if the text ended there.
    if "\0" in text:
        raise SpecificationError(f"{where}the text holds a NUL character")
    if version not in _READERS:
        raise SpecificationError(f"{where}VNN-LIB {version} is not supported; bourn reads {' and '.join(_READERS)}")
    with _no_collection():
        return _READERS[version](text, source)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Reading makes millions of small objects and no cycles: searching them for garbage doubles its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
