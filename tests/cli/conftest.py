"""Fixtures of the tests of a replay: a collector and a repository."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.histories import named_by_the_environment, two_runs
from tests.support.otlp_receiver import OTLPReceiver
from tests.support.runs import write_runs


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """The collector."""
    with named_by_the_environment(monkeypatch) as receiver:
        yield receiver


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A repository of two runs."""
    return two_runs(tmp_path)


@pytest.fixture
def runs_url(tmp_path: Path) -> str:
    """A repository of runs with every ending."""
    url = f"sqlite:///{tmp_path}/repo/tasks.db"
    write_runs(url)
    return url


@pytest.fixture
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()
