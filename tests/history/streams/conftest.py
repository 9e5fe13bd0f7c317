"""What the tests of stores share: nothing has been said before them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each test hear what is said once in a process."""
    monkeypatch.setattr("rocketry_otel._history.streams.base._logged", set())
