"""Certificates as files: a zip of arrays, written as they come, and a manifest; docs/certificates.md describes both."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bourn._version import __version__
from bourn.errors import UsageError
from bourn.problem.specification import Row

FORMAT, VERSION = "bourn certificate", 2


class CertificateFile:
    """A certificate being written; it appears under its name when all is written, and not at all after an error.

    Raises :class:`UsageError` where it cannot be written.
    """

    def __init__(self, path: str | Path, network: Path, specification: Path) -> None:
        self.path = Path(path)
        self.manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "written_by": f"bourn {__version__}",
            "network": {"sha256": _sha256(network)},
            "specification": {"sha256": _sha256(specification)},
        }
        self._arrays = self._chunks = 0
        try:
            number, self._temporary = tempfile.mkstemp(suffix=".bourn.part", dir=self.path.parent)
            self._zip = zipfile.ZipFile(os.fdopen(number, "wb"), "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror}") from None

    def array(self, values: np.ndarray) -> str:
        """Write an array; its name in the manifest."""
        name = str(self._arrays)
        self._arrays += 1
        stream = io.BytesIO()
        np.lib.format.write_array(stream, np.ascontiguousarray(values), version=(1, 0), allow_pickle=False)
        self._zip.writestr(f"arrays/{name}.npy", stream.getvalue())
        return name

    def chunk(self, stated: Mapping[str, Any]) -> None:
        """Write the next chunk of a proof, the arrays in it first."""
        self._zip.writestr(f"chunks/{self._chunks}.json", json.dumps(self._plain(stated), allow_nan=False))
        self._chunks += 1

    def _plain(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, Mapping):
            return {key: self._plain(own) for key, own in value.items()}
        return [self._plain(own) for own in value] if isinstance(value, list) else value

    def __enter__(self) -> CertificateFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._zip.writestr("manifest.json", json.dumps(self.manifest, indent=1, allow_nan=False))
            stream = self._zip.fp
            self._zip.close()
            if stream is not None:
                stream.close()
            if kind is None:
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(self._temporary, 0o666 & ~mask)
                os.replace(self._temporary, self.path)
        except OSError as failed:
            raise UsageError(f"{self.path}: cannot be written: {failed.strerror}") from None
        finally:
            Path(self._temporary).unlink(missing_ok=True)


def stated(row: Row) -> dict[str, Any]:
    """A row as the manifest has it: exact numbers as strings."""
    return {
        "outputs": [[i, str(c)] for i, c in row.outputs],
        "inputs": [[i, str(c)] for i, c in row.inputs],
        "constant": str(row.constant),
        "strict": row.strict,
    }


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
