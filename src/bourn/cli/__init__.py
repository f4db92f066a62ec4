"""The command: ``bourn verify | bound | methods | supports``."""

from __future__ import annotations

from bourn.cli.main import main

__all__ = ["main"]
