"""Log records in a real store behind the collector: VictoriaLogs, as docs/stack.md offers it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import requests

from .compose import WITH_VICTORIA_LOGS, services_of
from .conftest import NUMBERS_APP
from .servers import Collector, VictoriaLogs, eventually


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[VictoriaLogs]:
    """The store, with the arguments of the Compose file."""
    arguments = services_of(*WITH_VICTORIA_LOGS)["victoria-logs"]["command"]
    kept = [it for it in arguments if not it.startswith("-storageDataPath=")]
    assert len(kept) == len(arguments) - 1
    with VictoriaLogs(tmp_path_factory.mktemp("victoria-logs"), kept) as store:
        yield store


@pytest.fixture(scope="module")
def collector(store, stack, tmp_path_factory) -> Iterator[Collector]:
    """A collector that sends log records there, by the variable of the Compose file alone."""
    endpoint = services_of(*WITH_VICTORIA_LOGS)["collector"]["environment"]["LOKI_ENDPOINT"]
    endpoint = endpoint.replace("http://victoria-logs:9428", store.url)
    directory = tmp_path_factory.mktemp("collector")
    with Collector(directory, stack.jaeger.otlp_endpoint, endpoint) as collector:
        yield collector


def test_loki_is_left_out():
    """No service needs it, and it is not started."""
    found = services_of(*WITH_VICTORIA_LOGS)
    assert "loki" not in found
    assert "loki" not in {name for it in found.values() for name in it.get("depends_on", {})}


def stored(ran) -> Counter:
    """Return name and ids of the log records that a repository's records are."""
    return Counter(
        (f"rocketry.task.{record['action']}", record["trace_id"], record["span_id"])
        for record in ran.records
    )


def wait_for_all(store, ran) -> list[dict[str, str]]:
    """Wait until the store has each record of a repository, and no other; return its lines."""

    def lines() -> list[dict[str, str]]:
        return store.query(f'"service.name":={ran.service}')

    def found() -> Counter:
        return Counter((it["event_name"], it["trace_id"], it["span_id"]) for it in lines())

    eventually(lambda: found() == stored(ran), 60, f"{stored(ran).total()} lines of {ran.service}")
    return lines()


def test_every_record_is_there(run_app, collector, store):
    """With the ids of its run, its time to the nanosecond, and the reason of a failure."""
    ran = run_app("logged", {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint})
    lines = wait_for_all(store, ran)
    failed = [line for line in lines if line["event_name"] == "rocketry.task.fail"]
    assert failed
    for line in failed:
        assert line["severity_text"] == "ERROR"
        assert (line["task_name"], line["rocketry.action"]) == ("fail", "fail")
        assert (line["exception.type"], line["exception.message"]) == ("ValueError", "boom")
        assert line["exception.stacktrace"].rstrip().endswith("ValueError: boom")
    (run,) = {line["trace_id"] for line in failed[:1]}
    assert {line["event_name"] for line in store.query(f"trace_id:={run}")} == {
        "rocketry.task.run",
        "rocketry.task.fail",
    }
    assert requests.get(f"{store.url}/select/vmui/", timeout=5).ok


def test_huge_text_of_wide_characters_is_taken(run_app, collector, store):
    """It is shortened by its bytes, and so no store refuses the line."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint,
        "MESSAGE": "\u00e9" * 40_000,
    }
    lines = wait_for_all(store, run_app("wide", env, app=NUMBERS_APP, args=["1"]))
    (failed,) = (line for line in lines if line["event_name"] == "rocketry.task.fail")
    message, stacktrace = failed["exception.message"], failed["exception.stacktrace"]
    assert 8_000 < len(message.encode()) < 8_300
    assert 32_000 < len(stacktrace.encode()) < 32_900


def test_store_is_killed(run_app, collector, store):
    """What came while it was away is in the collector's queue, and arrives afterwards."""
    store.kill()
    ran = run_app("while-away", {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint}, 1)
    assert ran.flushed
    store.start()
    wait_for_all(store, ran)
