"""The status of delivery, as a handler shows it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel import Delivery, OTelRepoHandler, SignalDelivery, open_repository
from rocketry_otel._delivery.checkpoint import Backlog
from rocketry_otel._delivery.status import status_of
from rocketry_otel._export.counters import Counters
from tests.support.otlp_receiver import Ok, OTLPReceiver, PartialSuccess, Status
from tests.support.records import START, task_record

BEGAN = datetime.fromtimestamp(START, timezone.utc)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """The collector."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
        yield receiver


@pytest.fixture
def handler(receiver: OTLPReceiver, tmp_path: Path) -> Iterator[OTelRepoHandler]:
    """A handler that sends there."""
    handler = OTelRepoHandler(open_repository(f"csv://{tmp_path}/tasks.csv"))
    yield handler
    receiver.behave(Ok())
    handler.close()


def run(handler: Any, number: int = 0) -> None:
    """Let a run begin and end, a minute after the last one."""
    for action in ("run", "success"):
        created = START + 60 * number + (action == "success")
        handler.handle(task_record(action, run_id=f"r{number}", created=created))


def test_status_before_the_first_record(handler: OTelRepoHandler) -> None:
    """Nothing is delivered, and the destination is not known yet."""
    assert handler.delivery == Delivery()
    assert Delivery().traces == SignalDelivery(
        destinations=(),
        delivered=0,
        waiting=0,
        refused=0,
        dropped=0,
        oldest_waiting=None,
        last_error=None,
    )


def test_status_after_delivery(handler: OTelRepoHandler, receiver: OTLPReceiver) -> None:
    """Each signal has its destination and the number of accepted items."""
    run(handler)
    assert handler.flush(20)
    place = receiver.http_endpoint
    assert handler.delivery == Delivery(
        traces=SignalDelivery(destinations=(f"{place}/v1/traces",), delivered=1),
        logs=SignalDelivery(destinations=(f"{place}/v1/logs",), delivered=2),
    )


def test_status_in_an_outage(handler: OTelRepoHandler, receiver: OTLPReceiver) -> None:
    """It has the number of waiting items, the oldest time and the error, which stays afterwards."""
    receiver.behave(Status(503))
    run(handler)
    run(handler, 1)
    assert not handler.flush(0.5)
    deadline = time.monotonic() + 20
    while None in {(delivery := handler.delivery).traces.last_error, delivery.logs.last_error}:
        assert time.monotonic() < deadline
        handler.flush(0.1)  # both have been answered only when both have an error
    assert (delivery.traces.waiting, delivery.logs.waiting) == (2, 4)
    assert (delivery.traces.delivered, delivery.logs.dropped) == (0, 0)
    assert delivery.logs.oldest_waiting == BEGAN
    assert delivery.traces.oldest_waiting == BEGAN.replace(second=BEGAN.second + 1)
    assert delivery.logs.last_error == "HTTP 503 Service Unavailable"
    receiver.behave(Ok())
    assert handler.flush(20)
    delivery = handler.delivery
    assert (delivery.traces.waiting, delivery.traces.oldest_waiting) == (0, None)
    assert (delivery.traces.delivered, delivery.logs.delivered) == (2, 4)
    assert delivery.traces.last_error == "HTTP 503 Service Unavailable"


def test_refused_items_are_counted(handler: OTelRepoHandler, receiver: OTLPReceiver) -> None:
    """They are counted by signal, with the collector's own message."""
    receiver.behave(lambda _, signal: PartialSuccess(1, "too old") if signal == "logs" else Ok())
    run(handler)
    assert not handler.flush(20)
    delivery = handler.delivery
    assert (delivery.traces.refused, delivery.logs.refused, delivery.logs.delivered) == (0, 1, 1)
    assert (delivery.traces.last_error, delivery.logs.last_error) == (None, "too old")
    assert delivery.logs.waiting == 0


def test_status_includes_the_backlog(handler: OTelRepoHandler) -> None:
    """The oldest time is that of queue and backlog together."""
    run(handler)
    assert handler.flush(20)
    providers = handler._bridge.pipeline.providers
    assert providers is not None
    since = int((START - 100) * 1e9)
    name = providers.queues[1].name
    assert name.startswith("logs ")
    backlogs = {name: Backlog(since, waiting=5), "logs of another process": Backlog(0, waiting=1)}
    delivery = status_of(providers.queues, backlogs, Counters())
    assert (delivery.traces.waiting, delivery.logs.waiting) == (0, 5)
    assert delivery.logs.oldest_waiting == datetime.fromtimestamp(START - 100, timezone.utc)


def test_status_after_close(handler: OTelRepoHandler, receiver: OTLPReceiver) -> None:
    """Undelivered items wait in the repository, and are counted."""
    receiver.behave(Status(503))
    handler.settings = handler.settings.copy(update={"shutdown_timeout": 0.2})
    run(handler)
    began = time.monotonic()
    handler.close()
    assert time.monotonic() - began < 10
    delivery = handler.delivery
    assert (delivery.traces.delivered, delivery.traces.waiting, delivery.logs.waiting) == (0, 1, 2)
    assert delivery.logs.oldest_waiting == BEGAN
