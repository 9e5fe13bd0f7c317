"""What the tests of stores share: nothing has been said before them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _forget_logged_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test see a warning that is logged once in a process."""
    monkeypatch.setattr("rocketry_otel._history.streams.base._logged", set())
