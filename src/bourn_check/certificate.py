"""The certificate's file, read with distrust: nothing is unpacked to disk, and every size is looked at before it is believed."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from contextlib import AbstractContextManager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.lib import format as npy

from bourn_check.arithmetic import Floats, Index
from bourn_check.errors import Unreadable

FORMAT, VERSION = "bourn certificate", 2
MOST_MEMBERS, MOST_TEXT, MOST_ARRAY, MOST_IN_ALL = 1_000_000, 1 << 28, 1 << 31, 1 << 36
"""Members of the zip, and bytes of a text (the manifest, a chunk), of an array and of everything, unpacked."""
_DIGITS = 4000


def exact(text: object, where: str) -> Fraction:
    """The rational number that a string such as "0.1", "-3e-2" or "1/3" stands for."""
    if not isinstance(text, str) or len(text) > _DIGITS:
        raise Unreadable(f"{where}: {str(text)[:40]!r} is no number in a string")
    _, _, exponent = text.lower().partition("e")
    try:
        if exponent and abs(int(exponent)) > _DIGITS:
            raise ValueError
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise Unreadable(f"{where}: {text[:40]!r} is no number") from None


class Certificate(AbstractContextManager["Certificate"]):
    """An open certificate: its manifest, and its arrays one by one."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise Unreadable(f"{path}: not a certificate: {_line(error)}") from None
        members = self._zip.infolist()
        self._sizes = {m.filename: m.file_size for m in members}
        if len(members) > MOST_MEMBERS or len(self._sizes) != len(members) or sum(self._sizes.values()) > MOST_IN_ALL:
            self.fail("its list of members", "too many, too large, or two of one name")
        self.manifest = self.read("manifest.json")
        if self.manifest.get("format") != FORMAT or self.manifest.get("version") != VERSION:
            self.fail("format", f"this reads {FORMAT!r} of version {VERSION}")

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def fail(self, where: str, what: str) -> NoReturn:
        raise Unreadable(f"{self.path}: {where}: {what}")

    def _read(self, name: str, most: int) -> bytes:
        size = self._sizes.get(name)
        if size is None:
            self.fail(name, "is missing")
        if size > most:
            self.fail(name, f"{size} bytes are too many")
        try:
            with self._zip.open(name) as member:
                data = member.read(size + 1)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, ValueError) as error:
            self.fail(name, _line(error))
        if len(data) != size:
            self.fail(name, "is cut short or longer than stated")
        return data

    def read(self, name: str) -> dict[str, Any]:
        """A member that is a JSON object: the manifest, or a chunk of a proof."""
        try:
            found = json.loads(self._read(name, MOST_TEXT).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            self.fail(name, _line(error))
        if not isinstance(found, dict):
            self.fail(name, "is no object")
        return found

    def _array(self, name: object, where: str) -> np.ndarray:
        if not isinstance(name, str):
            self.fail(where, "names no array")
        data = self._read(f"arrays/{name}.npy", MOST_ARRAY)
        stream = BytesIO(data)
        try:
            version = npy.read_magic(stream)
            if version != (1, 0):
                raise ValueError("only version 1.0 of the npy format is read")
            shape, fortran, dtype = npy.read_array_header_1_0(stream, max_header_size=10_000)
        except (ValueError, EOFError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            self.fail(f"array {name}", _line(error))
        left = len(data) - stream.tell()
        if fortran or dtype.hasobject or len(shape) > 2 or any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != left:
            self.fail(f"array {name}", f"its header says {shape} of {dtype}, and {left} bytes follow")
        return np.frombuffer(data, dtype=dtype, offset=stream.tell()).reshape(shape)

    def floats(self, name: object, where: str, *shape: int) -> Floats:
        """A finite array of float32 or float64 numbers of this shape."""
        found = self._array(name, where)
        if found.dtype not in (np.dtype("<f4"), np.dtype("<f8")) or found.shape != shape:
            self.fail(where, f"array {name} is {found.dtype} of shape {found.shape}; floats of shape {shape} are needed")
        if not np.isfinite(found).all():
            self.fail(where, f"array {name} holds NaN or infinity")
        return found.astype(np.float64)

    def indices(self, name: object, where: str, size: int, ascending: bool = False) -> Index:
        """Entries of a tensor of ``size``, each once if ``ascending``."""
        found = self.integers(name, where)
        if len(found) and not (found.min() >= 0 and found.max() < size and (not ascending or (np.diff(found) > 0).all())):
            self.fail(where, f"array {name} does not hold {'ascending ' * ascending}numbers from 0 to below {size}")
        return found

    def integers(self, name: object, where: str) -> Index:
        """Integers, one axis."""
        found = self._array(name, where)
        if found.dtype.kind not in "iu" or found.ndim != 1 or found.dtype.itemsize > 8 or (found.dtype.kind == "u"):
            self.fail(where, f"array {name} is {found.dtype} of shape {found.shape}; integers are needed")
        return found.astype(np.int64)


def items(holder: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """A list of objects; none where there is no such key."""
    found = holder.get(key, [])
    if not isinstance(found, list) or not all(isinstance(f, dict) for f in found):
        raise Unreadable(f"{where}: {key!r} is no list of objects")
    return found


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
