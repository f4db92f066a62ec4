"""TOML files, which describe studies and trainings."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from bourn.errors import UsageError


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file; raises :class:`UsageError` where it cannot be read."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is no TOML file: {error}") from None
