"""Fixtures of the tests of a replay: a collector and a repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.histories import named_by_the_environment, two_runs
from tests.support.otlp_receiver import OTLPReceiver


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """The collector."""
    with named_by_the_environment(monkeypatch) as receiver:
        yield receiver


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A repository of two runs."""
    return two_runs(tmp_path)
