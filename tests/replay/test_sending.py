"""What becomes of a replay when collectors misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redbird.repos import MemoryRepo

from rocketry_otel import Replay, Settings, SettingsError, TaskEventRecord, replay
from rocketry_otel._history.reconstruct import HistoryReader
from rocketry_otel._history.run_lookup import RunLookup
from rocketry_otel._replay.result import Tally
from rocketry_otel._replay.sending import channels, send_again
from tests.support.otlp_receiver import (
    Fault,
    Hang,
    Ok,
    OTLPReceiver,
    PartialSuccess,
    Slow,
    Status,
)

START = 1_700_000_000


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """The collector."""
    with OTLPReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        yield receiver


@pytest.fixture
def traces_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send spans alone, so that requests can be counted."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")


def history(runs: int) -> Any:
    """Return a repository of so many runs."""
    repo = MemoryRepo(model=TaskEventRecord)
    for number in range(runs):
        for action in ("run", "success"):
            created = START + number + (action == "success") / 2
            fields = {"task_name": "etl", "action": action, "created": created}
            repo.add(TaskEventRecord(**fields, run_id=f"r{number}", message="m"))
    return repo


def names_of(receiver: OTLPReceiver) -> list[float]:
    """Return the begin of each run that arrived, in their order."""
    return [it.span.start_time_unix_nano / 1e9 - START for it in receiver.spans]


def test_replay_gives_up_in_an_outage(receiver: OTLPReceiver) -> None:
    """The result has the number of waiting items and the error."""
    receiver.stop()
    began = time.monotonic()
    result = replay(history(3), patience=0.5)
    assert 0.5 <= time.monotonic() - began < 20
    assert (result.spans, result.log_records, result.complete) == (0, 0, False)
    assert (result.records, result.waiting, result.read) == (6, 9, True)
    assert result.error is not None
    assert result.error.startswith(f"{receiver.http_endpoint}/v1/traces: ")
    assert result.error.endswith("Connection refused")


def test_replay_reads_no_further_than_the_queues_reach(
    receiver: OTLPReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an outage the memory does not grow."""
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "40")
    receiver.stop()
    result = replay(history(500), patience=0.5)
    assert (result.complete, result.read, result.spans) == (False, False, 0)
    assert 0 < result.records < 100
    assert result.records + result.runs == result.waiting
    assert 0.0 < result.fraction < 0.1


def test_collector_that_comes_back_gets_everything(
    receiver: OTLPReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All items arrive in their order."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "40")
    receiver.behave(lambda number, _: Status(503) if 3 <= number < 9 else Ok())
    result = replay(history(300))
    assert (result.complete, result.spans, result.log_records) == (True, 300, 600)
    assert (result.waiting, result.error, result.refused) == (0, None, {})
    assert names_of(receiver) == list(range(300))


def test_throttling_collector_is_left_alone(receiver: OTLPReceiver) -> None:
    """The replay waits as long as the collector asks."""
    receiver.behave(lambda number, _: Status(429, retry_after=1) if number < 2 else Ok())
    result = replay(history(2))
    assert (result.complete, result.spans, result.log_records) == (True, 2, 4)
    assert result.seconds >= 1


def test_replay_gives_up_at_a_hanging_collector(receiver: OTLPReceiver) -> None:
    """Items in flight count as waiting."""
    receiver.behave(Hang())
    result = replay(history(1), patience=0.3)
    assert (result.complete, result.waiting, result.spans) == (False, 3, 0)
    assert result.error is None


def test_partial_success_is_counted(receiver: OTLPReceiver) -> None:
    """The rejected items are counted with the reason, if there is one."""

    def choose(_: int, signal: str) -> Fault:
        return PartialSuccess(2, "too old" if signal == "traces" else "")

    receiver.behave(choose)
    result = replay(history(5))
    assert (result.spans, result.log_records) == (3, 8)
    assert result.refused == {"too old": 2, "the collector gave no reason": 2}
    assert (result.complete, result.waiting, result.read) == (False, 0, True)


@pytest.mark.usefixtures("traces_alone")
def test_refused_span_costs_no_other(receiver: OTLPReceiver) -> None:
    """A refused batch is sent in parts, until the bad item is alone."""
    # All four; the first two; the first; the second; the last two.
    answers = [Status(400), Status(400), Ok(), Status(400), Ok()]
    receiver.behave(lambda number, _: answers[number])
    result = replay(history(4))
    assert names_of(receiver) == [0, 2, 3]
    assert (result.spans, result.refused) == (3, {"HTTP 400 Bad Request": 1})
    assert (result.complete, result.waiting) == (False, 0)


@pytest.mark.usefixtures("traces_alone")
def test_collector_that_refuses_all_is_an_outage(receiver: OTLPReceiver) -> None:
    """Nothing counts as refused."""
    receiver.behave(Status(400))
    result = replay(history(4), patience=0.3)
    assert (result.refused, result.waiting, result.complete) == ({}, 4, False)
    assert result.error == f"{receiver.http_endpoint}/v1/traces: HTTP 400 Bad Request"


def test_collector_without_logs_has_a_hint(receiver: OTLPReceiver) -> None:
    """The error names the variable that turns them off."""
    receiver.behave(lambda _, signal: Status(404) if signal == "logs" else Ok())
    result = replay(history(4), patience=0.5)
    assert (result.spans, result.waiting, result.complete) == (4, 8, False)
    assert result.error == (
        f"{receiver.http_endpoint}/v1/logs: HTTP 404 Not Found "
        "(if it never takes logs, set OTEL_LOGS_EXPORTER=none)"
    )


def test_replay_by_grpc(receiver: OTLPReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables choose the protocol."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.grpc_endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    receiver.behave(lambda number, _: Status(503) if number == 0 else Ok())
    result = replay(history(3))
    assert (result.spans, result.log_records, result.complete) == (3, 6, True)
    assert {one.protocol for one in receiver.requests} == {"grpc"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED is true: nothing can be sent"),
        (
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"},
            "OTEL_TRACES_EXPORTER and OTEL_LOGS_EXPORTER are none: nothing can be sent",
        ),
        (
            {"OTEL_LOGS_EXPORTER": "otlp,carrier-pigeon"},
            "OTEL_LOGS_EXPORTER names an exporter that cannot be used; it is otlp, carrier-pigeon",
        ),
    ],
)
def test_variables_without_a_destination_are_an_error(
    variables: dict[str, str],
    words: str,
    receiver: OTLPReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is sent or shown."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    shown: list[Replay] = []
    with pytest.raises(SettingsError, match=f"^{words}$"):
        replay(history(1), progress=shown.append)
    assert (receiver.requests, shown) == ([], [])


def test_unsampled_runs_have_no_span(
    receiver: OTLPReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when they were live; the result is complete."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    result = replay(history(50))
    assert 0 < result.unsampled < 50
    assert result.spans == len(receiver.spans) == 50 - result.unsampled
    assert (result.log_records, result.complete, result.waiting) == (100, True, 0)


@pytest.mark.usefixtures("receiver")
def test_item_that_cannot_be_handed_over_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs no other, and the replay is not complete."""

    def fail(*_: Any) -> Any:
        raise ValueError("odd")

    monkeypatch.setattr("rocketry_otel._telemetry.emitter.span_signal", fail)
    result = replay(history(2))
    assert (result.spans, result.log_records, result.waiting) == (0, 4, 0)
    assert result.refused == {"it cannot be handed over (traces): ValueError: odd": 2}
    assert not result.complete


def test_patience_does_not_end_during_a_long_search(receiver: OTLPReceiver) -> None:
    """It is for the collector, not for a repository with few chosen records."""
    receiver.behave(Slow(0.5))
    tally = Tally(None, None)
    tally.moved_at -= 1000
    repo = history(1)
    with channels(Settings(), tally) as where:
        send_again(HistoryReader(repo, RunLookup(repo)), where, tally, patience=20)
    assert tally.result().complete


def test_interrupt_ends_a_replay_at_once(receiver: OTLPReceiver) -> None:
    """The progress shows the result so far, and no thread goes on."""
    receiver.behave(Hang())
    shown: list[Replay] = []

    def interrupt(so_far: Replay) -> None:
        shown.append(so_far)
        if receiver.requests and so_far.read:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        replay(history(3), progress=interrupt)
    assert time.monotonic() - began < 9
    last = shown[-1]
    assert (last.read, last.complete, last.waiting, last.records) == (False, False, 9, 6)


@pytest.mark.usefixtures("receiver")
def test_no_thread_is_left() -> None:
    """The threads of the channels end with the replay."""
    others = set(threading.enumerate())
    assert replay(history(3)).complete
    deadline = time.monotonic() + 20
    ours = set(threading.enumerate()) - others
    for thread in ours:
        thread.join(max(deadline - time.monotonic(), 0.0))
    assert [thread.name for thread in ours if thread.is_alive()] == []
