from __future__ import annotations

import time
from typing import Any

from redbird.repos import MemoryRepo

from rocketry_otel import Settings, TaskEventRecord
from rocketry_otel._delivery.pipeline import GivenProviders, Pipeline
from rocketry_otel._history.run_lookup import RunLookup


def test_a_pipeline_that_was_never_used_closes_at_once() -> None:
    """There are no providers, and closing does not look for any."""
    lost: list[Any] = []
    repo = MemoryRepo(model=TaskEventRecord)
    pipeline = Pipeline(
        Settings(), repo, RunLookup(repo), GivenProviders(), lambda *args: lost.append(args)
    )
    pipeline.begin_closing(time.monotonic())
    assert pipeline.is_closed
    assert pipeline.flush(0.0) is True
    pipeline.close(0.0)
    assert pipeline.providers is None
    assert lost == []
