from __future__ import annotations

import gc
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from rocketry_otel._runtime import shutdown
from tests.support.otlp_receiver import Hang, Ok, OTLPReceiver, Status, attributes_of
from tests.support.processes import Finished, run_python

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHUTDOWN_TIMEOUT = 1.0
PROTOCOLS = ("http/protobuf", "grpc")

# Prints when it begins to leave; a child's end is printed by its parent.
PROGRAM = """
    import logging, multiprocessing, os, sys, time, uuid

    from rocketry_otel import OTelRepoHandler, open_repository

    logger = logging.getLogger("rocketry.task")
    logger.setLevel("INFO")
    logger.propagate = False
    logger.addHandler(handler := OTelRepoHandler(open_repository("memory://")))


    def run(task_name):
        run_id = uuid.uuid4().hex
        for action in ("run", "success"):
            logger.info("", extra={"task_name": task_name, "action": action, "run_id": run_id})


    def say(what):
        print(what, time.time(), flush=True)


    def child():
        for _ in range(3):
            run("child")
        say("child leaves")


    def fork():
        pid = os.fork()
        if pid == 0:
            child()
            sys.exit()
        os.waitpid(pid, 0)


    def start(method):
        process = multiprocessing.get_context(method).Process(target=child)
        process.start()
        process.join()


    if __name__ == "__main__":
        how = sys.argv[1]
        run("main")
        # The parent's exporter is sending when the child is made.
        handler.flush(float(sys.argv[2]))
        if how != "main":
            fork() if how == "os.fork" else start(how)
            say("child is gone")
        for _ in range(3):
            run("main")
        say("main leaves")
"""


def leave(
    receiver: OTLPReceiver, protocol: str, how: str = "main", flush: float = 5, **env: str
) -> tuple[Finished, dict[str, float], float]:
    """Run the program; return its result, the times of its events, and its end."""
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "ROCKETRY_OTEL_SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT),
    }
    # Python 3.12 warns of any fork with threads; the warning is no part of this test.
    options = ("-W", "ignore:This process:DeprecationWarning")
    done = run_python(PROGRAM, how, str(flush), env={**settings, **env}, options=options)
    left = time.time()
    lines = [line.rpartition(" ") for line in done.stdout.splitlines()]
    return done, {what: float(when) for what, _, when in lines}, left


def spans_of(receiver: OTLPReceiver, task_name: str) -> int:
    """Count the spans of a task that have arrived."""
    names = [attributes_of(it.span.attributes)["task_name"] for it in receiver.spans]
    return names.count(task_name)


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """A receiver, named by the environment."""
    with OTLPReceiver() as receiver:
        yield receiver


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("collector", ["dead", "hanging", "refusing", "closed for an hour"])
@pytest.mark.parametrize("how", ["main", "os.fork", "fork"])
def test_end_takes_the_shutdown_timeout(
    receiver: OTLPReceiver, protocol: str, collector: str, how: str
) -> None:
    """A program and its children end in time and log one line, with any collector."""
    if collector == "dead":
        receiver.stop()
    faults = {"hanging": Hang(), "refusing": Status(503), "closed for an hour": Status(429, 3600)}
    receiver.behave(faults.get(collector, Ok()))
    done, times, left = leave(receiver, protocol, how, flush=0.3)
    took = {"main": left - times["main leaves"]}
    if how != "main":
        took["child"] = times["child is gone"] - times["child leaves"]

    assert done.returncode == 0
    # A request takes ten seconds; the machine may be busy with other tests.
    assert max(took.values()) <= SHUTDOWN_TIMEOUT + 5
    lines = [line for line in done.stderr.splitlines() if "fork_posix.cc" not in line]
    assert len(lines) <= len(took)
    for line in lines:
        # A child that was forked during a gRPC call must not use gRPC.
        cut = "gRPC cannot be used in a process that was forked" in line
        assert cut or line.startswith("Telemetry does not get through to http://127")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("how", ["main", "os.fork", "fork", "spawn", "forkserver"])
def test_last_records_are_sent_at_the_end(receiver: OTLPReceiver, protocol: str, how: str) -> None:
    """With a working collector nothing is lost without a flush."""
    done, _, _ = leave(receiver, protocol, how, ROCKETRY_OTEL_SHUTDOWN_TIMEOUT="10")
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "fork_posix.cc" not in line] == []
    assert spans_of(receiver, "main") == 4
    assert spans_of(receiver, "child") == (0 if how == "main" else 3)
    assert len(receiver.log_records) == 2 * len(receiver.spans)
    assert receiver.malformed == []


class Closable:
    shutdown_timeout = 3.0

    def __init__(self, log: list[Any], work: Callable[[], None] = lambda: None) -> None:
        self.log = log
        self.work = work

    def begin_closing(self, deadline: float) -> None:
        self.log.append(("begin", deadline))

    def close(self, timeout: float) -> None:
        self.log.append(timeout)
        shutdown.forget(self)
        self.work()


def test_time_limits_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """All begin to send before one is waited for, and share the time."""
    now = [100.0]
    monkeypatch.setattr(shutdown.time, "monotonic", lambda: now[0])
    log: list[Any] = []

    def take_two_seconds() -> None:
        now[0] += 2.0

    closables = [Closable(log, take_two_seconds) for _ in range(3)]
    for closable in closables:
        shutdown.remember(closable)
    shutdown.close_all()
    assert log == [("begin", 103.0)] * 3 + [3.0, 1.0, 0.0]
    log.clear()
    closables.clear()
    shutdown.close_all()
    assert 3.0 not in log


def test_failed_close_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is logged, and the other objects are closed."""
    log: list[Any] = []

    def fail() -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(shutdown.time, "monotonic", lambda: 100.0)
    closables = [Closable(log, fail) for _ in range(2)]
    for closable in closables:
        shutdown.remember(closable)
    shutdown.close_all()
    assert [entry for entry in log if not isinstance(entry, tuple)] == [3.0, 3.0]
    assert [record.getMessage() for record in caplog.records] == [
        "Telemetry could not be ended"
    ] * 2


def test_forgotten_object_is_not_closed() -> None:
    """The registry keeps no object alive and closes none twice."""
    log: list[Any] = []
    forgotten, gone = Closable(log), Closable(log)
    for closable in (forgotten, gone):
        shutdown.remember(closable)
    shutdown.forget(forgotten)
    alive = weakref.ref(gone)
    del gone, closable
    gc.collect()
    assert alive() is None
    shutdown.close_all()
    assert log == []


TWO_HANDLERS = """
    import logging, os, sys

    from rocketry_otel import OTelRepoHandler, open_repository

    for name, endpoint in zip(("first", "second"), sys.argv[1:]):
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        logger = logging.getLogger(name)
        logger.setLevel("INFO")
        logger.propagate = False
        logger.addHandler(OTelRepoHandler(open_repository("memory://")))
        for action in ("run", "success"):
            logger.info("", extra={"task_name": name, "action": action, "run_id": "r1"})
"""


@pytest.mark.parametrize("hanging", ["first", "second"])
def test_hanging_handler_takes_no_time_from_others(receiver: OTLPReceiver, hanging: str) -> None:
    """All are closed at once, so each has its whole time limit."""
    with OTLPReceiver() as other:
        other.behave(Hang())
        endpoints = [other.http_endpoint, receiver.http_endpoint]
        env = {
            "OTEL_METRICS_EXPORTER": "none",
            # Nothing is sent before the program ends.
            "OTEL_BSP_SCHEDULE_DELAY": "60000",
            "OTEL_BLRP_SCHEDULE_DELAY": "60000",
            "ROCKETRY_OTEL_SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT),
        }
        ordered = endpoints if hanging == "first" else reversed(endpoints)
        done = run_python(TWO_HANDLERS, *ordered, env=env)
        assert done.returncode == 0
    assert len(receiver.spans) == 1
    assert len(receiver.log_records) == 2
