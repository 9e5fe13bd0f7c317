"""An application whose repository has a row of another program as the newest of a task."""

from __future__ import annotations

import time

import pytest
from rocketry.conditions import SchedulerCycles
from rocketry.conds import daily

from rocketry_otel import instrument, uninstrument
from rocketry_otel._delivery import worker
from tests.repositories.records import record
from tests.support.apps import make_app, succeed
from tests.support.foreign_rows import CASES, NAMES, add_foreign
from tests.support.otlp_receiver import OTLPReceiver

_SECONDS_OF_TWO_DAYS = 172_800


@pytest.mark.parametrize(("kind", "row"), CASES, ids=NAMES)
def test_foreign_row_stops_neither_an_application_nor_its_catch_up(
    make_repo, monkeypatch: pytest.MonkeyPatch, tmp_path, kind: str, row
) -> None:
    """The task runs, and the spans of the old run and of the new one arrive."""
    repo = make_repo(kind)
    ids = {"run_id": "old", "trace_id": "1" * 32, "span_id": "2" * 16}
    began = time.time() - _SECONDS_OF_TWO_DAYS
    repo.add(record("etl", created=began, **ids))
    repo.add(record("etl", "success", created=began + 1, **ids))
    add_foreign(repo, kind, row)
    monkeypatch.setenv("ROCKETRY_OTEL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(worker, "_SECONDS_BETWEEN_LOOKS", 0.05)
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        app = make_app()
        # Not by `app.task`: that would mark the function of all tests.
        app.session.create_task(func=succeed, name="etl", start_cond=daily)
        instrument(app, repo=repo)
        app.session.config.shut_cond = SchedulerCycles() >= 2
        app.run()
        # The state of a MongoDB that mongomock plays is nowhere: nothing is known to be sent.
        expected = 1 if kind == "mongodb" else 2
        assert receiver.wait_for(lambda its: len(its.spans) == expected, 20)
        uninstrument(app)
        spans = [item.span for item in receiver.spans]
    assert [span.name for span in spans] == ["run etl"] * expected
    assert [span.span_id.hex() for span in spans].count("2" * 16) == expected - 1
