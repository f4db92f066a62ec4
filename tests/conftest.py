"""What several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# The same examples in every run: a change fails for what it changed, not for what was drawn.
settings.register_profile(
    "bourn",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("bourn")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of networks, images and questions: ``$BOURN_DATA``, or ``shared/data`` beside the repository."""
    stated = os.environ.get("BOURN_DATA")
    folder = Path(stated) if stated else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("set BOURN_DATA to the folder of benchmark data")
    return folder


@pytest.fixture(autouse=True)
def short_splitting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions without a time limit that branch and bound leaves open do not hold up the tests."""
    monkeypatch.setattr("bourn.solvers.branch_and_bound.SECONDS", 0.5)
