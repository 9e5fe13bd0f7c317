"""What stops, dies or is away: nothing is lost between the application and Jaeger."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.otlp_receiver import OTLPReceiver

from .conftest import Ran, arrive
from .outage_app import application, goes_on
from .servers import Collector, Jaeger, eventually


@pytest.fixture
def loki() -> Iterator[OTLPReceiver]:
    """Stand in for Loki."""
    with OTLPReceiver(grpc=False) as receiver:
        yield receiver


@pytest.fixture
def jaeger(tmp_path) -> Jaeger:
    """Not started yet."""
    return Jaeger(tmp_path / "jaeger")


@pytest.fixture
def collector(tmp_path, jaeger, loki) -> Collector:
    """Not started yet."""
    return Collector(tmp_path / "collector", jaeger.otlp_endpoint, loki.http_endpoint)


def all_log_records_arrive(loki: OTLPReceiver, ran: Ran) -> None:
    """Wait until the log record of every stored record has arrived; twice is as good as once."""
    stored = {(it["action"], it["trace_id"]) for it in ran.records}

    def arrived() -> set:
        return {
            (it.log_record.event_name.removeprefix("rocketry.task."), it.log_record.trace_id.hex())
            for it in loki.log_records
        }

    assert loki.wait_for(lambda _: arrived() >= stored, 60), stored - arrived()
    assert arrived() == stored


def test_collector_is_stopped_and_started_again(tmp_path, collector, jaeger, loki):
    """The application goes on, keeps what it has, and sends it when the collector is back."""
    with jaeger, collector, application(tmp_path, collector, 8) as running:
        eventually(lambda: len(jaeger.trace_ids("outage")) > 5)
        collector.stop()
        before = len(jaeger.trace_ids("outage"))
        goes_on(tmp_path)
        collector.start()
        ran = running.finished("outage")
        assert ran.flushed
        assert len(ran.trace_ids) > before
        arrive(jaeger, ran)
        all_log_records_arrive(loki, ran)


def test_collector_is_killed_with_its_queue_full(tmp_path, collector, jaeger, loki):
    """What it had accepted is on its disk, and is sent after its next start."""
    with collector:
        with application(tmp_path, collector, 4) as running:
            ran = running.finished("outage")
        assert ran.flushed
        waiting = eventually(
            lambda: (
                (sizes := collector.queue_sizes())["otlp_grpc/jaeger"] >= len(ran.trace_ids)
                and sizes
            )
        )
        assert waiting["otlp_grpc/jaeger"] > 0
        collector.kill()
        with jaeger:
            collector.start()
            arrive(jaeger, ran)
            eventually(lambda: collector.queue_sizes()["otlp_grpc/jaeger"] == 0)
            all_log_records_arrive(loki, ran)


def test_queue_that_is_full_makes_the_application_wait(tmp_path, jaeger, loki):
    """Nothing is dropped to make room: what does not fit waits in the application."""
    collector = Collector(
        tmp_path / "collector",
        jaeger.otlp_endpoint,
        loki.http_endpoint,
        env={"COLLECTOR_QUEUE_SIZE": "40", "COLLECTOR_BATCH_SIZE": "10"},
    )
    with collector:
        # A request that is larger than the whole queue would wait for ever.
        short = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
        short["OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"] = "10"
        with application(tmp_path, collector, 4, **short) as running:
            full = eventually(
                lambda: (size := collector.queue_sizes()["otlp_grpc/jaeger"]) > 20 and size
            )
            assert full <= 40
            goes_on(tmp_path)
            collector.kill()
            with jaeger:
                collector.start()
                ran = running.finished("outage")
                assert ran.flushed
                assert len(ran.trace_ids) > 40
                arrive(jaeger, ran)


def test_jaeger_is_away_while_the_application_runs(tmp_path, collector, jaeger, loki):
    """The application does not notice; all of it is there when Jaeger comes back, and after."""
    with jaeger, collector:
        with application(tmp_path, collector, 6) as running:
            eventually(lambda: len(jaeger.trace_ids("outage")) > 5)
            jaeger.stop()
            ran = running.finished("outage")
        assert ran.flushed
        assert ran.stderr == ""
        assert eventually(lambda: collector.queue_sizes()["otlp_grpc/jaeger"]) > 0
        jaeger.start()
        arrive(jaeger, ran)
        eventually(lambda: collector.queue_sizes()["otlp_grpc/jaeger"] == 0)
        jaeger.stop()
        jaeger.start()
        assert jaeger.trace_ids("outage") == ran.trace_ids


def test_jaeger_is_killed(tmp_path, collector, jaeger, loki):
    """What it has accepted is on its disk; what it has not is still in the collector's queue."""
    with jaeger, collector:
        with application(tmp_path, collector, 5) as running:
            eventually(lambda: len(jaeger.trace_ids("outage")) > 5)
            jaeger.kill()
            jaeger.start()
            ran = running.finished("outage")
        assert ran.flushed
        arrive(jaeger, ran)


def test_loki_is_away(tmp_path, collector, jaeger, loki):
    """Log records wait in the collector, and traces do not wait for them."""
    loki.stop()
    with jaeger, collector:
        with application(tmp_path, collector, 3) as running:
            ran = running.finished("outage")
        assert ran.flushed
        arrive(jaeger, ran)
        assert collector.queue_sizes()["otlp_http/loki"] == len(ran.records)
        loki.start()
        all_log_records_arrive(loki, ran)
