"""How much of the demo's telemetry was delivered."""

import logging
import time

import pytest
from redbird.repos import MemoryRepo

from rocketry_otel import (
    OTelRepoHandler,
    Settings,
    TaskEventRecord,
)
from rocketry_otel._demo.delivery import Delivery, deliver
from rocketry_otel._demo.quiet import quiet
from tests.support.otlp_receiver import OTLPReceiver


@pytest.fixture
def handler():
    """A handler of its own providers, which is closed in no time."""
    handler = OTelRepoHandler(
        MemoryRepo(model=TaskEventRecord), settings=Settings(shutdown_timeout=0)
    )
    yield handler
    handler.close()


def _log_a_run(handler):
    for action in ("run", "success"):
        fields = {
            "name": "rocketry.task",
            "task_name": "t",
            "action": action,
            "run_id": "1",
            "created": 1.0,
        }
        handler.handle(logging.makeLogRecord(fields))


def test_delivery_without_any_record(handler):
    """Without records, the delivery is empty and complete."""
    assert deliver(handler, 5) == Delivery((), 0, 0, complete=True)


def test_delivery_when_export_is_off(handler, monkeypatch):
    """Where the environment turns the export off, there is no endpoint."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    _log_a_run(handler)

    assert deliver(handler, 5) == Delivery((), 0, 0, complete=True)


def test_delivery_to_two_endpoints(handler, monkeypatch):
    """Endpoints are named once each, without the paths that all signals have."""
    with OTLPReceiver(grpc=False) as one, OTLPReceiver(grpc=False) as other:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", one.http_endpoint)
        address = f"{other.http_endpoint}/v1/logs"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", address)
        _log_a_run(handler)

        assert deliver(handler, 10) == Delivery(
            (one.http_endpoint, other.http_endpoint), 1, 2, complete=True
        )


def test_delivery_does_not_wait_without_hope(handler, monkeypatch):
    """If nothing has got through and an outage is known, the time limit is short."""
    with OTLPReceiver(grpc=False) as receiver:
        receiver.stop()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        _log_a_run(handler)
        with quiet():
            assert not handler.flush(0.3)
            began = time.monotonic()
            delivery = deliver(handler, 60)

    assert delivery == Delivery((receiver.http_endpoint,), 0, 0, complete=False)
    assert time.monotonic() - began < 30
