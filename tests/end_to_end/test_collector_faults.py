"""A collector in trouble, from the log record of a task to the wire."""

from __future__ import annotations

import inspect
import logging
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider

from rocketry_otel import OTelRepoHandler, open_repository
from tests.support.otlp_receiver import (
    Fault,
    Hang,
    Ok,
    OTLPReceiver,
    PartialSuccess,
    Redirect,
    Reset,
    Slow,
    Status,
    attributes_of,
)
from tests.support.processes import run_python
from tests.support.rotel import rotel_before

pytestmark = pytest.mark.slow

PROTOCOLS = ("http/protobuf", "grpc")
LONG = 20.0


class Bench:
    """A handler on the task logger, before a receiver."""

    def __init__(self, receiver: OTLPReceiver, protocol: str) -> None:
        self.receiver = receiver
        self.endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = protocol
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = self.endpoint
        self.logger = logging.getLogger("rocketry.task")
        self.logger.setLevel(logging.INFO)
        self.handler = OTelRepoHandler(open_repository("memory://"))
        self.logger.addHandler(self.handler)

    @property
    def counters(self) -> Any:
        return self.handler._bridge.pipeline.counters

    def log(self, action: str, run_id: str, task_name: str = "etl", **extra: Any) -> None:
        extra = {"task_name": task_name, "action": action, "run_id": run_id, **extra}
        self.logger.info("Task %s: %s", task_name, action, extra=extra)

    def run(self, times: int = 1, task_name: str = "etl") -> None:
        for _ in range(times):
            run_id = uuid.uuid4().hex
            self.log("run", run_id, task_name)
            self.log("success", run_id, task_name)

    def flush(self, timeout: float = LONG) -> bool:
        return self.handler.flush(timeout)

    def end(self) -> None:
        """Close, and see all threads end, so that all of their lines are in the log."""
        self.handler.close()
        signals = self.handler._bridge.pipeline._signals
        for channel in signals.providers.channels if signals else ():
            if channel._thread is not None:
                channel._thread.join(LONG)


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    """Each of the two protocols."""
    return str(request.param)


@pytest.fixture
def bench(protocol: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A handler before a receiver, in each protocol."""
    for name in ("PROTOCOL", "ENDPOINT"):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", "set by the bench")
    monkeypatch.setenv("ROCKETRY_OTEL_SHUTDOWN_TIMEOUT", "1")
    with OTLPReceiver() as receiver:
        bench = Bench(receiver, protocol)
        yield bench
        receiver.behave(Ok())
        receiver.release()
        bench.end()
        assert receiver.malformed == []


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """Return a function that gives all lines that reached the root logger but the tasks' own."""
    caplog.set_level(logging.DEBUG)

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name != "rocketry.task"]

    return lines


BEGIN = "Telemetry does not get through to "
END = "Telemetry gets through to "


def test_first_record_decides_whose_providers_are_used(bench: Bench, monkeypatch: Any) -> None:
    """An application that sets its provider after the handler was made still wins."""
    from rocketry_otel.testing import capture_telemetry  # noqa: PLC0415

    with capture_telemetry() as telemetry:
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: telemetry.tracer_provider)
        bench.run()
        assert telemetry.span("etl").name == "run etl"
        bench.flush()  # its result depends on that provider
        assert bench.receiver.spans == []
        assert len(bench.receiver.log_records) == 2


def test_idle_handler_has_no_threads(bench: Bench) -> None:
    """Making a handler opens no connection."""
    assert bench.flush(0.0) is True
    assert bench.handler._bridge.pipeline._signals is None


@pytest.mark.parametrize(
    "fault",
    [
        *(Status(code) for code in (401, 404, 429, 500, 503)),
        Status(429, retry_after=3600),
        Redirect(),
        Hang(),
        Reset(),
        None,
    ],
    ids=str,
)
def test_outage_makes_flush_false_in_time_and_two_lines(
    bench: Bench, lines: Any, fault: Fault | None
) -> None:
    """If telemetry is held up, a flush returns false in time, and nothing is lost."""
    # Connected before: a connection that takes too long would be another outage.
    bench.run(1)
    assert bench.flush() is True
    if fault is None:
        bench.receiver.stop()
    else:
        bench.receiver.behave(fault)
    bench.run(3)
    began = time.monotonic()
    assert bench.flush(0.7) is False
    # A request takes ten seconds.
    assert 0.6 < time.monotonic() - began < 6.0
    if fault is None:
        bench.receiver.start()
    bench.receiver.behave(Ok())
    bench.receiver.release()
    if isinstance(fault, Status) and fault.retry_after:
        # Five minutes are the most that a collector is left alone.
        assert len(lines()) == 1
        return
    assert bench.flush() is True
    bench.end()
    assert Counter(it.span.name for it in bench.receiver.spans) == {"run etl": 4}
    assert len(bench.receiver.log_records) == 8
    logged = lines()
    assert len(logged) == (0 if isinstance(fault, Hang) else 2)
    if logged:
        assert logged[0].startswith(f"{BEGIN}{bench.endpoint}")
        assert logged[1].startswith(f"{END}{bench.endpoint}")
        assert logged[1].endswith(" s.")


def test_refusal_makes_flush_false_at_once_and_one_line(bench: Bench, lines: Any) -> None:
    """Refused telemetry is not sent again, not counted as delivered, and logged once."""
    bench.receiver.behave(PartialSuccess(1, "too old"))
    bench.run(3)
    assert bench.flush() is False
    bench.run(3)
    assert bench.flush() is False
    bench.end()
    assert [line.partition(" refused ")[0] for line in lines()] == [
        line.partition(" refused ")[0] for line in lines()[:1]
    ]
    assert lines()[0].startswith(bench.endpoint)
    for signal in ("traces", "logs"):
        assert bench.counters.of(signal, "failed") == {"refused": 2}
        assert bench.counters.total(signal, "dropped") == 0


def test_slow_collector_is_no_trouble(bench: Bench, lines: Any) -> None:
    """A flush waits for an answer that comes in time, and returns the true result."""
    bench.receiver.behave(Slow(0.3))
    bench.run()
    assert bench.flush(0.05) is False
    assert bench.flush() is True
    assert lines() == []


def test_emit_never_waits_for_the_collector(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task never waits for telemetry: the overflow comes from the repository later."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "50")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "0")
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "50")
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "0")
    bench.receiver.behave(Hang())
    bench.run()
    assert bench.receiver.wait_for(lambda it: {"traces", "logs"} <= {r.signal for r in it.requests})
    bench.run(200)
    assert not any(it.taken for it in bench.receiver.requests)
    assert bench.counters.of("traces", "delivered") == {}
    assert len(bench.handler.repo.filter_by().all()) == 402
    bench.receiver.behave(Ok())
    bench.receiver.release()
    assert bench.flush() is True
    for signal, items in {"traces": 201, "logs": 402}.items():
        assert bench.counters.of(signal, "dropped") == {}
        assert bench.counters.of(signal, "delivered") == {"": items}
        assert bench.counters.total(signal, "replayed") >= items - 100
    arrived = {attributes_of(it.span.attributes)["rocketry.run_id"] for it in bench.receiver.spans}
    assert arrived == {r.run_id for r in bench.handler.repo.filter_by(action="success").all()}


def test_short_outage_loses_nothing(bench: Bench, lines: Any) -> None:
    """Records from before, during and after an outage arrive once, in their order."""
    for number in range(50):
        bench.run(task_name=f"before {number}")
    assert bench.flush() is True
    bench.receiver.stop()
    for number in range(700):
        bench.run(task_name=f"during {number}")
    assert bench.flush(0.5) is False
    bench.receiver.start()
    for number in range(50):
        bench.run(task_name=f"after {number}")
    assert bench.flush() is True
    bench.end()
    names = [it.span.name for it in bench.receiver.spans]
    assert names == [
        f"run {when} {number}"
        for when, count in (("before", 50), ("during", 700), ("after", 50))
        for number in range(count)
    ]
    assert len(bench.receiver.log_records) == 1600
    assert [line[: len(BEGIN)] for line in lines()] == [BEGIN, END + lines()[1][len(END) :][:8]]
    assert bench.counters.total("traces", "dropped") == 0


def test_batch_that_is_too_large_is_halved(bench: Bench, lines: Any) -> None:
    """A collector that takes small requests only gets all there is in small requests."""

    def refuse_large(_: int, signal: str) -> Fault:
        message = bench.receiver._arriving
        return Status(413) if signal == "traces" and message.ByteSize() > 3000 else Ok()

    choose = bench.receiver._choose_fault

    def note(arrival: Any) -> Fault:
        bench.receiver._arriving = arrival.message  # type: ignore[attr-defined]
        return choose(arrival)

    bench.receiver._choose_fault = note  # type: ignore[method-assign]
    if bench.endpoint == bench.receiver.grpc_endpoint:
        pytest.skip("the receiver does not name a size in its status: see test_destinations")
    bench.receiver.behave(refuse_large)
    bench.run(100)
    assert bench.flush() is True
    assert len(bench.receiver.spans) == 100
    assert len(bench.receiver.trace_requests) > 4
    assert lines() == []


def test_poison_item_does_not_cost_its_neighbours(bench: Bench, lines: Any) -> None:
    """Only the item that cannot be encoded is lost, and one line reports it."""
    bench.run(20)
    signals = bench.handler._bridge.pipeline._signals
    assert signals is not None
    signals.providers.tracer.get_tracer("other").start_span("\ud800").end()
    bench.run(20)
    assert bench.flush() is False
    bench.end()
    assert Counter(it.span.name for it in bench.receiver.spans) == {"run etl": 40}
    assert bench.counters.of("traces", "failed") == {"refused": 1}
    assert bench.counters.of("traces", "delivered") == {"": 40}
    assert len(lines()) == 1
    assert " refused 1 of the traces: " in lines()[0]


def test_half_of_the_runs_are_kept_with_a_ratio_of_one_half(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ratio keeps its share of runs, and log records show whether their run was kept."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "5000")
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "5000")
    bench.run(2000)
    assert bench.flush() is True
    kept = {it.span.trace_id for it in bench.receiver.spans}
    assert 870 < len(kept) < 1130  # six standard deviations
    assert len(bench.receiver.log_records) == 4000
    flags = {(r.trace_id in kept, r.flags & 1) for _, _, r in bench.receiver.log_records}
    assert flags == {(True, 1), (False, 0)}


def test_real_collector_passes_everything_on(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a collector that others wrote spans and log records arrive whole."""
    with OTLPReceiver() as receiver:
        with rotel_before(receiver, tmp_path) as rotel:
            endpoint = rotel.grpc_endpoint if protocol == "grpc" else rotel.http_endpoint
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            handler = OTelRepoHandler(open_repository("memory://"))
            logger = logging.getLogger("rocketry.task")
            logger.setLevel(logging.INFO)
            logger.addHandler(handler)
            for number in range(100):
                for action in ("run", "success"):
                    extra = {"task_name": "etl", "action": action, "run_id": f"run-{number}"}
                    logger.info("hello", extra=extra)
            assert handler.flush(LONG) is True
            handler.close()
            # It sends its queue on before it ends.
        assert len(receiver.spans) == 100
        span = receiver.spans[0]
        assert span.span.name == "run etl"
        assert span.scope.name == "rocketry_otel"
        assert attributes_of(span.resource.attributes)["service.name"] == "rocketry"
        assert attributes_of(span.span.attributes) == {
            "task_name": "etl",
            "rocketry.run_id": "run-0",
            "rocketry.action": "success",
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
        }
        assert len(receiver.log_records) == 200
        record = receiver.log_records[0].log_record
        assert record.event_name == "rocketry.task.run"
        assert record.body.string_value == "hello"
        assert record.trace_id == span.span.trace_id
        assert record.span_id == span.span.span_id


FORKS = """
    import logging, multiprocessing, sys, threading, uuid

    from rocketry_otel import OTelRepoHandler, open_repository

    logger = logging.getLogger("rocketry.task")
    logger.setLevel("INFO")
    logger.propagate = False
    handler = OTelRepoHandler(open_repository("memory://"))
    logger.addHandler(handler)
    more = True


    def run(task_name):
        run_id = uuid.uuid4().hex
        for action in ("run", "success"):
            logger.info("", extra={"task_name": task_name, "action": action, "run_id": run_id})


    def child():
        for _ in range(5):
            run("child")


    def keep_running():
        while more:
            run("parent")
            handler.flush(5)


    threads = [threading.Thread(target=keep_running) for _ in range(2)]
    for thread in threads:
        thread.start()
    codes = []
    for _ in range(10):
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(20)
        codes.append(process.exitcode)
        if process.exitcode is None:
            process.kill()
    more = False
    for thread in threads:
        thread.join()
    print(codes == [0] * 10 or codes, handler.flush(10))
"""


def test_children_forked_during_exports_deliver(protocol: str) -> None:
    """Each child delivers its records once, and the parent's connection stays whole."""
    with OTLPReceiver() as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        env = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        done = run_python(FORKS, env=env)
        assert [line for line in done.stderr.splitlines() if "fork_posix.cc" not in line] == []
        assert done.stdout == "True True\n"
        names = Counter(it.span.name for it in receiver.spans)
        assert names["run child"] == 50
        assert names["run parent"] >= 2
        assert len(receiver.log_records) == 2 * len(receiver.spans)
        assert receiver.malformed == []


DISABLED = """
    import logging, sys, threading

    from rocketry_otel import OTelRepoHandler, open_repository

    logger = logging.getLogger("rocketry.task")
    logger.setLevel("INFO")
    logger.addHandler(handler := OTelRepoHandler(open_repository("memory://")))
    for action in ("run", "success"):
        logger.info("", extra={"task_name": "etl", "action": action, "run_id": "1"})
    print(threading.active_count(), handler.flush(), len(handler.repo.filter_by().all()))
    print([name for name in sys.modules if name.startswith("opentelemetry.exporter.otlp.proto.")])
"""


def test_disabled_sdk_loads_no_exporter_and_starts_no_thread() -> None:
    """With ``OTEL_SDK_DISABLED`` the repository works, and nothing else is there."""
    done = run_python(DISABLED, env={"OTEL_SDK_DISABLED": "true"})
    assert (done.stdout, done.stderr) == ("1 True 2\n[]\n", "")


CONSOLE = """
    import logging

    from rocketry_otel import OTelRepoHandler, open_repository

    logger = logging.getLogger("rocketry.task")
    logger.setLevel("INFO")
    logger.addHandler(OTelRepoHandler(open_repository("memory://")))
    for action in ("run", "success"):
        logger.info("hello", extra={"task_name": "etl", "action": action, "run_id": "1"})
"""


def test_console_shows_all_three_signals() -> None:
    """For a first look no collector is needed."""
    env = {f"OTEL_{signal}_EXPORTER": "console" for signal in ("TRACES", "LOGS", "METRICS")}
    done = run_python(CONSOLE, env=env)
    assert done.stderr == ""
    assert '"name": "run etl"' in done.stdout
    assert '"event_name": "rocketry.task.success"' in done.stdout
    assert '"name": "rocketry.task.duration"' in done.stdout


# The SDK before 1.45 reads these for itself, at each log record, and raises.
READ_BY_OLD_SDKS = ("OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT")
BAD = {
    "OTEL_TRACES_EXPORTER": "otlp,zipkin",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "later",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "zip",
    "OTEL_EXPORTER_OTLP_HEADERS": "nonsense",
    "OTEL_TRACES_SAMPLER": "coin",
    "OTEL_BSP_SCHEDULE_DELAY": "x",
    "OTEL_BSP_MAX_QUEUE_SIZE": "0",
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "-5",
    "OTEL_METRIC_EXPORT_INTERVAL": "often",
    "OTEL_METRICS_EXEMPLAR_FILTER": "some",
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "few",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "short",
    "OTEL_SPAN_EVENT_COUNT_LIMIT": "-1",
    "OTEL_RESOURCE_ATTRIBUTES": "nonsense",
}


def test_telemetry_arrives_with_every_variable_wrong(
    bench: Bench, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each bad value is warned about by name, nothing is raised, and everything arrives."""
    if bench.endpoint == bench.receiver.grpc_endpoint:
        monkeypatch.setitem(BAD, "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    if "log_record_limits" not in inspect.signature(LoggerProvider).parameters:
        for name in READ_BY_OLD_SDKS:
            monkeypatch.delitem(BAD, name)
    for name, value in BAD.items():
        monkeypatch.setenv(name, value)
    bench.run(3)
    assert bench.flush() is True
    assert len(bench.receiver.spans) == 3
    assert len(bench.receiver.log_records) == 6
    assert len(bench.receiver.metrics) > 0
    logged = "\n".join(lines())
    not_ours = {
        "OTEL_TRACES_SAMPLER": "coin",
        "OTEL_EXPORTER_OTLP_HEADERS": "nonsense",
        "OTEL_RESOURCE_ATTRIBUTES": "nonsense",
    }
    for name, value in BAD.items():
        if (name, value) != ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"):
            assert not_ours.get(name, name) in logged


def test_flush_under_the_handlers_own_lock_does_not_deadlock(bench: Bench, lines: Any) -> None:
    """``logging.shutdown`` flushes with the lock held, while an exporter's thread logs a line."""
    root = logging.getLogger()
    root.addHandler(bench.handler)
    try:
        bench.receiver.stop()
        bench.run()
        done = threading.Event()

        def flush() -> None:
            bench.handler.acquire()
            try:
                bench.flush(0.7)
            finally:
                bench.handler.release()
            done.set()

        threading.Thread(target=flush, daemon=True).start()
        assert done.wait(LONG)
        assert [line.startswith(BEGIN) for line in lines()] == [True]
        bench.receiver.start()
        assert bench.flush() is True
    finally:
        root.removeHandler(bench.handler)


def test_after_the_end_records_are_stored_but_not_sent(bench: Bench) -> None:
    """After the end records are written to the repository, and counted as not sent."""
    bench.run()
    bench.handler._bridge.pipeline.close(5.0)
    bench.run()
    assert len(bench.receiver.spans) == 1
    assert len(bench.handler.repo.filter_by().all()) == 4
    assert bench.counters.of("logs", "dropped") == {"closed": 2}
    assert bench.flush(0.0) is True
