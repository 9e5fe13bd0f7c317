"""Applications that run late, or miss slots, with clocks of their own and in real time."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rocketry.conds import after_success, cron, daily, every, hourly, retry, secondly

from rocketry_otel import current_run, instrument, open_repository, replay
from rocketry_otel._instrumentation.schedule_watch import _watches
from rocketry_otel.testing import ManualClock, TelemetryCapture
from tests.support.apps import make_app, start_method, succeed
from tests.support.otlp_receiver import OTLPReceiver, attributes_of
from tests.support.processes import run_python

EVENT = "rocketry.task.missed"
LONGEST = 60.0


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine in Berlin, where the clocks change."""
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()
    assert os.environ.get("TZ") != "Europe/Berlin"


def local(*date: int) -> float:
    """Return a local time in seconds since the epoch."""
    return dt.datetime(*date).timestamp()  # type: ignore[misc,arg-type]  # noqa: DTZ001


class Story:
    """An application whose clock is moved at the steps of a story, one after the other."""

    def __init__(self, telemetry: TelemetryCapture, start: float, **config: Any) -> None:
        self.telemetry = telemetry
        self.clock = ManualClock(start)
        self.app = make_app(time_func=self.clock, **config)
        self.session = self.app.session
        self._steps: list[tuple[Callable[[], bool], Callable[[], object]]] = []

    def set_clock(self, *date: int) -> None:
        """Set the clock to a local time."""
        self.clock.advance(local(*date) - self.clock())

    def task(self, name: str, start_cond: Any = None, func: Any = None, **options: Any) -> Any:
        """Add a task."""
        return self.session.create_task(
            func=func or (lambda: None), name=name, start_cond=start_cond, **options
        )

    def when(self, condition: Callable[[], bool], step: Callable[[], object]) -> None:
        """Make a step as soon as the one before was made and a condition is true."""
        self._steps.append((condition, step))

    def _cycle(self) -> None:
        if self._steps and self._steps[0][0]():
            self._steps.pop(0)[1]()

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Return the attributes of the spans of a task."""
        found = [dict(span.attributes or {}) for span in self.telemetry.spans]
        return [one for one in found if one["task_name"] == name]

    def has_run(self, name: str, times: int) -> Callable[[], bool]:
        """Return a condition: a task has run so often."""
        return lambda: len(self.runs(name)) >= times

    def missed(self) -> list[dict[str, Any]]:
        """Return the attributes of the events of missed slots."""
        return [
            dict(record.attributes or {})
            for record in self.telemetry.log_records
            if record.event_name == EVENT
        ]

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait in a body, while the scheduler is blocked."""
        deadline = time.monotonic() + LONGEST
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)

    def run(self) -> None:
        """Run the scheduler until all steps are made."""
        instrument(self.app, **self.telemetry.providers)
        self.session.hooks.scheduler_cycle.append(self._cycle)
        stop = threading.Timer(LONGEST, self.session.shut_down)
        stop.start()
        self.app.run()
        stop.cancel()
        assert self._steps == []

    def points(self, name: str) -> dict[Any, Any]:
        """Return the values of a metric by its attributes."""
        return {
            tuple(sorted(point.attributes.values())): getattr(point, "value", None)
            or getattr(point, "sum", None)
            for point in self.telemetry.metric_points(name)
        }


def test_blocked_slot_is_known_while_the_scheduler_is_blocked(telemetry: TelemetryCapture) -> None:
    """At 02:05 it is known that the 02:00 backup did not start, and by which task."""
    story = Story(telemetry, local(2026, 1, 10, 2, 0, 10))
    seen: list[Any] = []

    def long() -> None:
        story.set_clock(2026, 1, 11, 2, 5)
        story.wait(story.missed)
        seen.append((story.missed(), story.points("rocketry.task.missed"), current_run().task_name))

    story.task("backup", cron("0 2 * * *"))
    task = story.task("long", func=long)

    def before_the_slot() -> None:
        seen.append(story.points("rocketry.task.next_run"))
        story.set_clock(2026, 1, 11, 1, 58)
        task.run()

    def next_day() -> None:
        story.set_clock(2026, 1, 12, 2, 0, 5)

    story.when(story.has_run("backup", 1), before_the_slot)
    story.when(story.has_run("long", 1), next_day)
    story.when(story.has_run("backup", 2), story.session.shut_down)
    story.run()

    missed = {
        "task_name": "backup",
        "rocketry.schedule.time": "2026-01-11T01:00:00Z",
        "rocketry.missed.reason": "blocked",
        "rocketry.missed.blocked_by": "long",
        "rocketry.schedule.missed": 1,
    }
    assert seen == [
        {("backup",): local(2026, 1, 11, 2)},
        ([missed], {("backup", "blocked"): 1}, "long"),
    ]
    assert story.missed() == [missed]
    first, second = story.runs("backup")
    names = {name for name in second if name.startswith(("rocketry.schedule", "rocketry.missed"))}
    assert {name: second[name] for name in names} == {
        "rocketry.schedule.time": "2026-01-12T01:00:00Z",
        "rocketry.schedule.delay": 5.0,
        "rocketry.schedule.missed": 1,
        "rocketry.missed.reason": "blocked",
        "rocketry.missed.blocked_by": "long",
    }
    # The scheduler started ten seconds after the slot had begun.
    assert first["rocketry.schedule.time"] == "2026-01-10T01:00:00Z"
    assert first["rocketry.schedule.delay"] == 0.0
    assert "rocketry.schedule.missed" not in first
    assert story.points("rocketry.task.schedule_delay") == {("backup",): 5.0}


def parts_of(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return what a span has of its schedule."""
    kinds = ("rocketry.schedule.", "rocketry.missed.")
    return {name: value for name, value in attributes.items() if name.startswith(kinds)}


def test_idle_tasks_and_new_ones_miss_nothing(telemetry: TelemetryCapture) -> None:
    """A disabled, held or deleted task misses no slot, nor does one before its first run ever."""
    story = Story(telemetry, local(2026, 1, 10, 2, 0, 10))
    names = ("backup", "disabled", "released", "deleted")
    tasks = {name: story.task(name, cron("0 2 * * *")) for name in names}
    tasks["new"] = story.task("new", cron("0 3 * * *"))

    def long() -> None:
        story.set_clock(2026, 1, 11, 2, 5)
        story.wait(story.missed)
        # Long enough for the thread to look again.
        story.wait(lambda: story.points("rocketry.task.missed"))
        tasks["released"].disabled = False
        story.set_clock(2026, 1, 11, 3, 5)

    blocker = story.task("long", func=long)
    held: list[Any] = []

    def before_the_slots() -> None:
        story.set_clock(2026, 1, 11, 1, 58)
        tasks["disabled"].disabled = tasks["released"].disabled = True
        story.session.remove_task(tasks["deleted"])
        blocker.run()

    def hold() -> None:
        story.session.scheduler.on_hold = True

    def held_over_a_slot() -> None:
        held.extend(story.missed())
        story.set_clock(2026, 1, 12, 2, 5)

    def release() -> None:
        story.session.scheduler.on_hold = False
        story.set_clock(2026, 1, 13, 2, 0, 30)

    def looked() -> bool:
        watched: Any = _watches[story.session]._watched
        return all(watched.get(task).idle >= story.clock() for task in story.session.tasks)

    story.when(lambda: all(story.has_run(name, 1)() for name in names), before_the_slots)
    story.when(story.has_run("long", 1), hold)
    story.when(looked, held_over_a_slot)
    story.when(looked, release)
    story.when(story.has_run("backup", 2), story.session.shut_down)
    story.run()
    assert [one["task_name"] for one in held] == ["backup"]
    assert story.missed() == held
    (_, after_hold) = story.runs("released")
    # It was released in between, and the slot had begun thirty seconds before.
    assert parts_of(after_hold)["rocketry.schedule.delay"] == 30.0
    assert "rocketry.schedule.missed" not in after_hold


def test_window_is_missed_when_it_closes_and_delays_count_from_the_start(
    telemetry: TelemetryCapture,
) -> None:
    """A fresh daily task in the evening is not 21 hours late; a window has until its end."""
    story = Story(telemetry, local(2026, 1, 10, 21, 4))
    story.task("fresh", daily)
    story.task("window", daily.between("20:00", "22:00"))
    story.task("often", every("10 min"))
    seen: list[Any] = []

    def long() -> None:
        story.set_clock(2026, 1, 11, 21, 59, 59)
        seen.append(story.missed())
        story.set_clock(2026, 1, 11, 22, 0, 1)
        story.wait(story.missed)
        seen.append(story.missed())

    blocker = story.task("long", func=long, priority=1)

    def block() -> None:
        story.set_clock(2026, 1, 11, 19, 0)
        blocker.run()

    story.when(story.has_run("window", 1), block)
    story.when(story.has_run("often", 2), story.session.shut_down)
    story.run()
    (fresh, *_) = story.runs("fresh")
    assert parts_of(fresh) == {
        "rocketry.schedule.time": "2026-01-09T23:00:00Z",
        "rocketry.schedule.delay": 0.0,
    }
    assert seen[0] == []
    (missed,) = seen[1]
    assert (missed["task_name"], missed["rocketry.schedule.time"]) == (
        "window",
        "2026-01-11T19:00:00Z",
    )
    first, second, *_ = story.runs("often")
    assert parts_of(first) == {}
    # Ten minutes after 21:04; it has no slots and so misses none.
    assert second["rocketry.schedule.time"] == "2026-01-10T20:14:00Z"
    assert second["rocketry.schedule.delay"] == 24 * 3600 + 46 * 60 + 1


def test_run_that_takes_a_day_lets_the_next_slot_go_by(telemetry: TelemetryCapture) -> None:
    """The reason is that the run before goes on."""
    release = threading.Event()
    story = Story(telemetry, local(2026, 1, 10, 2, 0, 10))
    story.task("slow", cron("0 2 * * *"), release.wait, execution="thread")

    def all_missed() -> bool:
        return {one["task_name"] for one in story.missed()} == {"slow"}

    story.when(story.session["slow"].is_alive, lambda: story.set_clock(2026, 1, 11, 2, 2))
    story.when(all_missed, release.set)
    story.when(story.has_run("slow", 1), lambda: story.set_clock(2026, 1, 12, 2, 0, 0))
    story.when(story.has_run("slow", 2), story.session.shut_down)
    story.run()
    (missed,) = story.missed()
    assert missed["rocketry.missed.reason"] == "running"
    assert "rocketry.missed.blocked_by" not in missed
    assert parts_of(story.runs("slow")[1])["rocketry.missed.reason"] == "running"


GATE = multiprocessing.get_context("fork").Event()


def wait_for_the_gate() -> None:
    """Go on until the test lets the child process end."""
    assert GATE.wait(LONGEST)


def test_task_at_the_limit_of_processes_lets_its_slot_go_by(telemetry: TelemetryCapture) -> None:
    """Another process is the only one that may run; the reason names no task."""
    story = Story(telemetry, local(2026, 1, 10, 2, 0, 10), max_process_count=1)
    report = story.task("report", cron("0 2 * * *"), succeed, execution="process")
    long = story.task("long", func=wait_for_the_gate, execution="process")

    def before_the_slot() -> None:
        story.set_clock(2026, 1, 11, 1, 58)
        long.run()

    def after_the_slot() -> None:
        story.set_clock(2026, 1, 11, 2, 1, 1)

    def next_day() -> None:
        story.set_clock(2026, 1, 12, 2, 0, 5)

    with start_method("fork"):
        story.when(lambda: story.has_run("report", 1)() and not report.n_alive, before_the_slot)
        story.when(lambda: long.status == "run", lambda: story.set_clock(2026, 1, 11, 2, 0, 30))
        # One step a cycle: the scheduler has looked at the report in between.
        story.when(lambda: True, after_the_slot)
        story.when(lambda: bool(story.missed()), GATE.set)
        story.when(story.has_run("long", 1), next_day)
        story.when(story.has_run("report", 2), story.session.shut_down)
        story.run()
    expected = {"rocketry.missed.reason": "limit", "rocketry.schedule.missed": 1}
    assert story.missed() == [
        {"task_name": "report", "rocketry.schedule.time": "2026-01-11T01:00:00Z", **expected}
    ]
    assert story.points("rocketry.task.missed") == {("limit", "report"): 1}
    assert parts_of(story.runs("report")[1]) == {
        "rocketry.schedule.time": "2026-01-12T01:00:00Z",
        "rocketry.schedule.delay": 5.0,
        **expected,
    }


HALF_HOUR = 1_800.0


@pytest.mark.parametrize(
    ("first", "last", "runs"),
    [
        # The clock jumps from 02:00 to 03:00: the day has 23 hours, and 02:30 never comes.
        ((2026, 3, 28, 1), (2026, 3, 30, 3, 30), {"daily": 3, "hourly": 50, "at 02:30": 2}),
        # The clock goes back from 03:00 to 02:00: 25 hours, and 02:30 comes twice.
        ((2026, 10, 24, 1), (2026, 10, 26, 3, 30), {"daily": 3, "hourly": 51, "at 02:30": 3}),
    ],
    ids=["spring", "autumn"],
)
def test_day_of_changing_clocks_has_each_slot_once(
    first: tuple[int, ...], last: tuple[int, ...], runs: dict[str, int], telemetry: TelemetryCapture
) -> None:
    """No run is counted as missed, and none has the slot of another."""
    # A second late: at the very edge of a slot, Rocketry takes it for the one before.
    story = Story(telemetry, local(*first) + 1.0)
    conditions = {"daily": daily, "hourly": hourly, "at 02:30": cron("30 2 * * *")}
    for name, condition in conditions.items():
        story.task(name, condition)
    looks = [0]
    story.session.hooks.scheduler_cycle.append(lambda: looks.append(looks.pop() + 1))

    def step() -> None:
        looks[0] = 0
        story.clock.advance(HALF_HOUR)

    # In the second cycle after a step, all tasks of that time have run.
    for _ in range(int((local(*last) - local(*first)) / HALF_HOUR)):
        story.when(lambda: looks[0] > 1, step)
    story.when(lambda: looks[0] > 1, story.session.shut_down)
    story.run()
    times = {name: [one["rocketry.schedule.time"] for one in story.runs(name)] for name in runs}
    assert {name: len(found) for name, found in times.items()} == runs
    assert {name: len(set(found)) for name, found in times.items()} == runs
    delays = {one["rocketry.schedule.delay"] for name in runs for one in story.runs(name)}
    assert delays == {0.0, 1.0}
    assert story.missed() == []
    assert not any("rocketry.schedule.missed" in one for name in runs for one in story.runs(name))


def test_missed_slot_is_found_in_real_time(telemetry: TelemetryCapture) -> None:
    """A task of each second misses one while another blocks the scheduler for longer."""
    app = make_app()
    done: list[int] = []

    def events() -> list[Any]:
        return [one for one in telemetry.log_records if one.event_name == EVENT]

    def block() -> None:
        deadline = time.monotonic() + LONGEST
        while not events() and time.monotonic() < deadline:
            time.sleep(0.005)
        app.session.shut_down()

    app.session.create_task(func=lambda: done.append(1), name="tick", start_cond=secondly)
    blocker = app.session.create_task(func=block, name="block")
    app.session.hooks.scheduler_cycle.append(lambda: blocker.run() if len(done) == 1 else None)
    instrument(app, **telemetry.providers)
    app.run()
    (event, *_) = events()
    attributes = dict(event.attributes or {})
    assert attributes["rocketry.missed.blocked_by"] == "block"
    began = dt.datetime.fromisoformat(
        str(attributes["rocketry.schedule.time"]).replace("Z", "+00:00")
    ).timestamp()
    assert event.timestamp / 1e9 - began - 1 > 0
    assert event.trace_id == 0


def test_requests_retries_and_dependencies_have_their_own_delays(
    telemetry: TelemetryCapture,
) -> None:
    """A requested run has no slot; others wait for an ending, from which their delay counts."""
    story = Story(telemetry, local(2026, 1, 10, 12, 0))
    attempts: list[int] = []

    def fail_once() -> None:
        attempts.append(1)
        story.clock.advance(100)
        if len(attempts) == 1:
            raise ValueError("again")

    story.task("etl", daily | retry(1), fail_once)
    story.task("report", after_success("etl"))
    story.task("both", daily & after_success("etl"))
    task = story.task("asked", daily.between("23:00", "23:30"))
    task.run()
    story.when(story.has_run("both", 1), story.session.shut_down)
    story.run()
    first, second = story.runs("etl")
    assert parts_of(first)["rocketry.schedule.delay"] == 0.0
    assert parts_of(second) == {
        "rocketry.schedule.time": "2026-01-09T23:00:00Z",
        "rocketry.schedule.delay": 0.0,
    }
    assert parts_of(story.runs("report")[0]) == {"rocketry.schedule.delay": 0.0}
    assert parts_of(story.runs("both")[0]) == {
        "rocketry.schedule.time": "2026-01-09T23:00:00Z",
        "rocketry.schedule.delay": 0.0,
    }
    assert parts_of(story.runs("asked")[0]) == {}


# A nightly backup on a clock that starts where the test wants it, and what ends the process.
PROGRAM = """
import datetime, os, signal, sys, time
from rocketry import Rocketry
from rocketry.conds import cron
from rocketry_otel import instrument
from rocketry_otel._delivery.settled_slots import SettledSlots

start, repo, ends_by = float(sys.argv[1]), sys.argv[2], sys.argv[3]
began = time.time()
app = Rocketry(config={"time_func": lambda: start + time.time() - began}, cycle_sleep=0.01)
done = []

@app.task(cron("0 2 * * *"), execution="main")
def backup():
    done.append(1)

@app.task(cron("0 3 * * *"), execution="main")
def never_ran_before():
    pass

handler = instrument(app, repo=repo)

def end_after_a_run():
    if done:
        assert handler.flush(20)
        if ends_by == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        app.session.shut_down()

def end_after_the_event():
    stored = SettledSlots(handler._pipeline.worker.folder).all()
    if "backup" in stored and stored["backup"].missed == 2:
        assert handler.flush(20)
        os.kill(os.getpid(), signal.SIGKILL)

end = end_after_the_event if ends_by == "event" else end_after_a_run
app.session.hooks.scheduler_cycle.append(end)
app.run()
"""


def backups(receiver: OTLPReceiver) -> dict[bytes, Any]:
    """Return the spans of the backup, each once: a killed process may have sent one twice."""
    spans = [one.span for one in receiver.spans if one.span.name == "run backup"]
    return {span.span_id: span for span in spans}


@pytest.mark.slow
def test_kill_over_slots_is_one_event_after_two_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nights are one event and one count; the next run has both, and a replay the same."""
    repo = f"sqlite:///{tmp_path}/records.db"

    def process(date: tuple[int, ...], ends_by: str, code: int, receiver: OTLPReceiver) -> None:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, "TZ": "Europe/Berlin"}
        env["OTEL_METRIC_EXPORT_INTERVAL"] = "20"
        done = run_python(PROGRAM, str(local(*date)), repo, ends_by, env=env)
        assert done.returncode == code, done.stderr

    with OTLPReceiver(grpc=False) as receiver:
        process((2026, 1, 10, 2, 0, 5), "kill", -9, receiver)
        process((2026, 1, 12, 5, 0), "event", -9, receiver)
        process((2026, 1, 12, 6, 0), "event", -9, receiver)
        process((2026, 1, 13, 2, 0, 5), "run", 0, receiver)
        events = [
            attributes_of(one.log_record.attributes)
            for one in receiver.log_records
            if one.log_record.event_name == EVENT
        ]
        assert events == [
            {
                "task_name": "backup",
                "rocketry.schedule.time": "2026-01-11T01:00:00Z",
                "rocketry.missed.reason": "scheduler_down",
                "rocketry.schedule.missed": 2,
            }
        ]
        live = backups(receiver)
        assert len(live) == 2
        newest = max(live.values(), key=lambda span: span.start_time_unix_nano)
        assert parts_of(attributes_of(newest.attributes)) == {
            "rocketry.schedule.time": "2026-01-13T01:00:00Z",
            "rocketry.schedule.delay": pytest.approx(0, abs=30),
            "rocketry.schedule.missed": 2,
            "rocketry.missed.reason": "scheduler_down",
        }
        receiver.clear()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        assert replay(open_repository(repo)).complete
        again = backups(receiver)
        assert {key: span.SerializeToString(deterministic=True) for key, span in again.items()} == {
            key: span.SerializeToString(deterministic=True) for key, span in live.items()
        }
