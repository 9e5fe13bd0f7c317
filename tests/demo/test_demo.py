import asyncio
import io
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import redirect_stdout
from dataclasses import replace
from types import SimpleNamespace

import pytest
import rocketry
from redbird.repos import MemoryRepo
from rocketry.exc import TaskInactionException

from rocketry_otel import (
    OTelRepoHandler,
    RepositoryError,
    Settings,
    TaskEventRecord,
    open_repository,
)
from rocketry_otel._cli.main import main
from rocketry_otel._demo import run, tasks
from rocketry_otel._demo.delivery import Delivery, deliver
from rocketry_otel._demo.quiet import RunCounter, quiet
from rocketry_otel._demo.report import advice, cut, query, repository, table, telemetry
from rocketry_otel._demo.screen import Screen
from rocketry_otel._model.event import parse_event
from rocketry_otel._model.ids import RunIds
from rocketry_otel._model.runs import Run
from tests.support.otlp_receiver import OTLPReceiver, attributes_of
from tests.support.processes import clean_environment, run_command
from tests.support.terminal import Terminal

TRACE = "0123456789abcdef0123456789abcdef"
COMMAND = [sys.executable, "-m", "rocketry_otel", "demo"]
TASKS = {
    "clean-up": "inaction",
    "extract": "success",
    "heartbeat": "success",
    "import-feed": "timeout",
    "load": "success",
    "poll-prices": "success",
    "send-invoices": "fail",
    "transform": "success",
}
LOGGERS = ("rocketry", "rocketry.task", "rocketry.scheduler", "rocketry_otel", "opentelemetry")


def _unpainted(text, _colour):
    return text


def _painted(text, colour):
    return f"<{colour}>{text}</>"


def _state_of_loggers():
    loggers = [logging.getLogger(name) for name in LOGGERS]
    return [(one.handlers, one.level, one.propagate, one.disabled) for one in loggers]


# --------------------------------------------------------------------------- the real thing


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A whole demo with a collector, in this process: what it printed, sent and kept."""
    url = f"sqlite:///{tmp_path_factory.mktemp('demo')}/tasks.db"
    out = io.StringIO()
    before = (_state_of_loggers(), signal.getsignal(signal.SIGINT), rocketry.session)
    with (
        OTLPReceiver(grpc=False) as receiver,
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
    ):
        # A fixture of this scope comes before the one that hides the user's variables.
        for name in list(os.environ):
            if name.startswith(("OTEL_", "ROCKETRY_OTEL_")):
                patch.delenv(name)
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        patch.setenv("COLUMNS", "80")
        status = main(["demo", "--seconds", "3", "--repo", url])
    after = (_state_of_loggers(), signal.getsignal(signal.SIGINT), rocketry.session)
    return SimpleNamespace(
        status=status,
        out=out.getvalue(),
        rows=_rows_of(out.getvalue()),
        spans=[it.span for it in receiver.spans],
        records=[it.log_record for it in receiver.log_records],
        endpoint=receiver.http_endpoint,
        repo=open_repository(url),
        url=url,
        before=before,
        after=after,
    )


def _rows_of(out):
    """Give the rows of the table as (task, how it ended, trace id)."""
    row = r"^\d\d:\d\d:\d\d  (\S+) +\d+\.\d\d s  (\w+) +([0-9a-f]{32})$"
    return re.findall(row, out, re.MULTILINE)


def _spans_of(shown, name):
    found = [span for span in shown.spans if span.name == f"run {name}"]
    return sorted(found, key=lambda span: span.start_time_unix_nano)


def test_demo_shows_every_way_to_end(shown):
    """Each of its tasks is in the table, and ended as it was meant to."""
    assert shown.status == 0
    assert {task: ended for task, ended, _ in shown.rows} == TASKS
    assert {ended for task, ended, _ in shown.rows if task == "poll-prices"} == {"success"}


def test_demo_sends_every_run_in_the_table(shown):
    """Each run in the table is one span of the same trace id, and there is no other."""
    sent = [(span.name.removeprefix("run "), span.trace_id.hex()) for span in shown.spans]

    assert sorted(sent) == sorted((task, trace_id) for task, _, trace_id in shown.rows)


def test_demo_counts_what_arrived(shown):
    """The numbers that it prints are those of what the collector got."""
    assert (
        f"Delivered to {shown.endpoint}: {len(shown.spans)} spans and {len(shown.records)} log "
        "records, and the metrics.\n"
    ) in shown.out
    assert len(shown.records) == 2 * len(shown.spans) == 2 * len(shown.rows)


def test_demo_uses_every_mode_of_execution(shown):
    """The spans bear all four modes."""
    modes = {attributes_of(span.attributes)["rocketry.execution"] for span in shown.spans}

    assert modes == {"main", "async", "thread", "process"}


def test_demo_pipeline_is_in_order(shown):
    """Each part of the pipeline starts after its predecessor has ended."""
    (extract, transform, load) = (_spans_of(shown, n)[0] for n in ("extract", "transform", "load"))

    assert extract.end_time_unix_nano <= transform.start_time_unix_nano
    assert transform.end_time_unix_nano <= load.start_time_unix_nano


def test_demo_has_overlapping_runs(shown):
    """A run of one task starts while an earlier one is still going, in a trace of its own."""
    first, second = _spans_of(shown, "poll-prices")[:2]

    assert second.start_time_unix_nano < first.end_time_unix_nano
    assert first.trace_id != second.trace_id


def test_demo_failure_has_its_exception(shown):
    """The failed run's span has the exception that its child process raised."""
    (span,) = _spans_of(shown, "send-invoices")
    (event,) = span.events
    attributes = attributes_of(event.attributes)

    assert attributes_of(span.attributes)["error.type"] == (
        "rocketry_otel._demo.tasks.MailServerError"
    )
    assert attributes["exception.message"] == "421 too many connections, try again later"
    assert "in send_invoices" in attributes["exception.stacktrace"]


def test_demo_timeout_is_one(shown):
    """The run that Rocketry terminated because its time was up says so."""
    (span,) = _spans_of(shown, "import-feed")

    assert attributes_of(span.attributes)["error.type"] == "timeout"


def test_demo_prints_what_the_repository_returns(shown):
    """The result under the expression is that of the very expression."""
    (record,) = shown.repo.filter_by(task_name="send-invoices", action="fail").all()

    assert (
        '>>> handler.repo.filter_by(task_name="send-invoices", action="fail").all()\n'
        "[TaskEventRecord(\n"
        "    task_name='send-invoices',\n"
        "    action='fail',\n"
        f"    created={record.created!r},\n"
        f"    run_id='{record.run_id}',\n"
    ) in shown.out
    assert f"    span_id='{record.span_id}',\n )]\n" in shown.out


def test_demo_names_the_repository(shown):
    """It says where the repository is, at its start and at its end."""
    assert f"\nRepository: {shown.url}\n" in shown.out
    assert f"\nRepository\n{shown.url}\nTo read it again:\n" in shown.out


def test_demo_makes_no_noise(shown):
    """Between the introduction and the table there is only how far it is."""
    between = shown.out.split("tasks.db\n\n", 1)[1].split("start     task", 1)[0]

    progress = r"(\d s of 3: |waiting for the last ones: )\d+ runs have ended, \d+ in progress"
    assert between
    assert all(re.fullmatch(progress, line) for line in between.splitlines())


def test_demo_fits_into_80_columns(shown):
    """No line is wider than the terminal, but for commands and addresses."""
    wide = [line for line in shown.out.splitlines() if len(line) > 80]

    assert all(line.startswith("  print(") or "://" in line or "-c" in line for line in wide)


def test_demo_leaves_the_process_as_it_was(shown):
    """Loggers, the signal handler and Rocketry's default session are what they were."""
    assert shown.after == shown.before


def test_demo_without_a_collector(tmp_path):
    """With nobody listening it succeeds, names the address and says what to start."""
    receiver = OTLPReceiver(grpc=False)
    with receiver:
        receiver.stop()  # the port is ours, and refuses
        done = run_command(
            [*COMMAND, "--seconds", "1"],
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
                "TMPDIR": str(tmp_path),
                "COLUMNS": "80",
            },
        )

    assert (done.returncode, done.stderr) == (0, "")
    assert f"Not delivered: no collector accepts it at {receiver.http_endpoint}.\n" in done.stdout
    assert "\n  docker compose up -d\n" in done.stdout
    assert f"\n{receiver.http_endpoint}; or one elsewhere:\n" in done.stdout
    assert done.stdout.count("Telemetry does not get through to") == 1
    (directory,) = tmp_path.iterdir()
    assert f"\nRepository\nsqlite:///{directory}/tasks.db\n" in done.stdout
    assert "\x1b" not in done.stdout
    assert "Traceback (" not in done.stdout.replace("exc_text='Traceback (", "")


@pytest.mark.usefixtures("_interruptible")
def test_demo_interrupted_in_a_process_of_its_own(tmp_path):
    """Ctrl-C in a terminal ends it and its children, with a short report and no traceback."""
    with OTLPReceiver(grpc=False) as receiver:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "OTEL_BLRP_SCHEDULE_DELAY": "50",
            "TMPDIR": str(tmp_path),
        }
        process = subprocess.Popen(
            COMMAND,
            env=clean_environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert receiver.wait_for(lambda it: _has_begun(it, "import-feed"), 30)
        # A terminal sends it to all processes of the group.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (130, "")
    assert re.search(r"^Interrupted; \d+ runs have ended\.$", out, re.MULTILINE)
    assert "\nTelemetry\nDelivered to" in out
    assert "start     task" not in out
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def _has_begun(receiver, task_name):
    names = [attributes_of(it.log_record.attributes) for it in receiver.log_records]
    return task_name in [it.get("task_name") for it in names]


@pytest.mark.usefixtures("_interruptible")
def test_demo_interrupted_here(monkeypatch, capsys):
    """An interrupt terminates what runs, and the status is that of SIGINT."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "50")

        def interrupt():
            receiver.wait_for(lambda it: _has_begun(it, "import-feed"), 30)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        status = main(["demo", "--repo", "memory://"])
        thread.join()

    out, err = capsys.readouterr()
    assert (status, err) == (130, "")
    assert "memory://, which ends with this process.\n" in out
    ended = [attributes_of(it.log_record.attributes) for it in receiver.log_records]
    assert ("import-feed", "terminate") in [
        (it["task_name"], it["rocketry.action"]) for it in ended
    ]


@pytest.mark.usefixtures("_interruptible")
def test_second_interrupt_is_an_exception():
    """Whoever presses Ctrl-C again does not wait any longer, and then it is as it was."""
    before = signal.getsignal(signal.SIGINT)

    with run._interrupts() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    assert signal.getsignal(signal.SIGINT) is before


def test_repository_that_fails_in_the_middle(monkeypatch, capsys):
    """A repository that takes no records gives a message and status 2."""

    class Full(MemoryRepo):
        def insert(self, item):
            raise OSError(28, "No space left on device")

    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setattr(run, "open_repository", lambda _: Full(model=TaskEventRecord))

    assert main(["demo"]) == 2

    assert capsys.readouterr().err == (
        "rocketry-otel: the repository failed: OSError: [Errno 28] No space left on device\n"
    )


def test_repository_error_without_a_cause(monkeypatch):
    """If Rocketry does not say why logging failed, its own words are shown."""

    async def serve(*_):
        raise run.TaskLoggingError("Logging failed")

    monkeypatch.setattr(run, "_serve", serve)

    with pytest.raises(RepositoryError, match=r"^the repository failed: TaskLoggingError: Log"):
        run._run(None, 1, None, None, None)


def test_file_of_its_own_without_sqlalchemy(monkeypatch, tmp_path):
    """Without SQLAlchemy the demo's repository is a CSV file, with it SQLite."""
    monkeypatch.setattr(run.tempfile, "mkdtemp", lambda prefix: f"{tmp_path}/a%b/{prefix}")
    path = f"{tmp_path}/a%25b/rocketry-otel-demo-"
    assert run._file_of_its_own() == f"sqlite:///{path}/tasks.db"

    monkeypatch.setattr(run, "find_spec", lambda _: None)
    assert run._file_of_its_own() == f"csv://{path}/tasks.csv"


def test_runs_of_this_demo_are_shown():
    """Runs are those of the records since it began, and the run that a crash cut off earlier."""
    repo = MemoryRepo(model=TaskEventRecord)
    records = [("old", "run", 1), ("old", "success", 2), ("cut off", "run", 3)]
    records += [("cut off", "crash", 5), ("new", "run", 6), ("new", "fail", 7), ("new", "fail", 8)]
    for name, action, created in records:
        run_id = None if action == "crash" else name
        repo.add(TaskEventRecord(task_name=name, action=action, created=created, run_id=run_id))

    cut_off, new = run._runs(repo, 4.0)

    times = [(it.began.created, it.ended.created) for it in (cut_off, new)]
    assert times == [(3_000_000_000, 5_000_000_000), (6_000_000_000, 7_000_000_000)]


@pytest.mark.parametrize("found", ["/opt/venv/bin/python", "/usr/bin/python", None])
def test_this_python(found, monkeypatch):
    """The short name is used only where it leads to the interpreter that runs."""
    monkeypatch.setattr(run.shutil, "which", lambda _: found)
    monkeypatch.setattr(sys, "executable", "/opt/venv/bin/python3.11")

    short = found == "/opt/venv/bin/python"
    assert run._this_python() == ("python" if short else "/opt/venv/bin/python3.11")


# --------------------------------------------------------------------------- its tasks


@pytest.fixture
def slept(monkeypatch):
    """The seconds that tasks would have slept, and no signal handler that they set stays."""
    seconds = []
    set_handlers = {}

    async def sleep(duration):
        seconds.append(duration)

    monkeypatch.setattr(time, "sleep", seconds.append)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(tasks.signal, "signal", set_handlers.__setitem__)
    return SimpleNamespace(seconds=seconds, handlers=set_handlers)


@pytest.mark.parametrize("task", [tasks.extract, tasks.poll_prices])
def test_async_tasks_succeed(task, slept):
    """What is to succeed on the event loop does."""
    coroutine = task()
    with pytest.raises(StopIteration):
        coroutine.send(None)

    assert len(slept.seconds) == 1


@pytest.mark.parametrize("task", [tasks.transform, tasks.load, tasks.heartbeat, tasks.import_feed])
def test_other_tasks_succeed(task, slept):
    """What is to succeed elsewhere does, if nobody terminates it."""
    assert task() is None
    assert len(slept.seconds) == 1


def test_failing_task_fails(slept):
    """The task that is to fail raises."""
    with pytest.raises(tasks.MailServerError, match=r"^421 too many connections"):
        tasks.send_invoices()


def test_idle_task_does_nothing(slept):
    """The task that is to do nothing says so in Rocketry's way."""
    with pytest.raises(TaskInactionException, match=r"^nothing is older than a week$"):
        tasks.clean_up()


def test_tasks_in_processes_leave_in_order(slept):
    """A child ignores Ctrl-C, which is its parent's, and leaves when it is terminated."""
    tasks.import_feed()

    assert slept.handlers[signal.SIGINT] is signal.SIG_IGN
    with pytest.raises(SystemExit, match=r"^$"):
        slept.handlers[signal.SIGTERM]()


def test_return_values_are_not_kept():
    """The application keeps no return values, which would stop it where children are spawned."""
    values = tasks.NoReturnValues()
    values["task"] = 1

    assert dict(values) == {}


# --------------------------------------------------------------------------- quiet


def test_quiet_keeps_warnings_once():
    """Warnings of ours and OpenTelemetry's are kept, each once; Rocketry's words are dropped."""
    with quiet() as kept:
        logging.getLogger("rocketry_otel").warning("a %s", "thing")
        logging.getLogger("rocketry_otel.x").warning("a thing")
        logging.getLogger("rocketry_otel").info("not this")
        logging.getLogger("opentelemetry.sdk").error("another")
        logging.getLogger("rocketry.scheduler").critical("noise")
        warnings.warn("noise", UserWarning, stacklevel=1)

    assert kept.texts == ["a thing", "another"]


def test_quiet_undoes_everything_after_an_error():
    """Whatever happens, the loggers and Rocketry's default session are as before."""
    before = (_state_of_loggers(), rocketry.session)

    def fail():
        tasks.make_app().session.set_as_default()
        logging.getLogger("rocketry.task").setLevel(logging.CRITICAL)
        raise RuntimeError

    with pytest.raises(RuntimeError), quiet():
        fail()

    assert (_state_of_loggers(), rocketry.session) == before


def test_run_counter():
    """Runs are counted as they begin and end; a crash of an earlier process ends none of ours."""
    counter = RunCounter()
    counters = []
    for action in ("crash", "run", "run", "success", "fail"):
        counter.emit(logging.makeLogRecord({"action": action}))
        counters.append((counter.ended, counter.in_flight))

    assert counters == [(1, 0), (1, 1), (1, 2), (2, 1), (3, 0)]


# --------------------------------------------------------------------------- delivery


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
    """If nothing happened there is nothing to tell, and nothing is missing."""
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


# --------------------------------------------------------------------------- the report


def _run(action, began=0.0, ended=None, task="t", **fields):
    """Return a run; without an ending time, it has no beginning."""
    first = parse_event({"task_name": task, "action": "run", "created": began})
    last = parse_event({"task_name": task, "action": action, "created": ended or began, **fields})
    return Run(RunIds(int(TRACE, 16), 1), None if ended is None else first, last)


@pytest.fixture
def _utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


FAILED = _run(
    "fail", 0.0, 1.234, "send-invoices", exc_type="a.MailError", exc_message="no\n  no " * 9
)
RUNS = [FAILED, _run("terminate", 1.5, task="a-task-with-a-very-long-name-indeed")]


@pytest.mark.usefixtures("_utc")
def test_table_in_80_columns():
    """In 80 columns all ids are whole and no line is longer."""
    assert table(RUNS, 80, _unpainted) == [
        "start     task             duration  ended      trace id",
        f"00:00:00  send-invoices      1.23 s  fail       {TRACE}",
        f"00:00:01  a-task-with-...            terminate  {TRACE}",
    ]


@pytest.mark.usefixtures("_utc")
def test_table_in_120_columns():
    """In 120 columns there is room for milliseconds and for what went wrong."""
    assert table(RUNS[:1], 120, _unpainted) == [
        f"start         task           duration  {'ended':47}  trace id",
        f"00:00:00.000  send-invoices    1.23 s  fail: MailError: {'no ' * 9}...  {TRACE}",
    ]


@pytest.mark.usefixtures("_utc")
def test_table_in_colours():
    """Colours do not change where the columns are."""
    runs = [_run(action, 0.0, 1.0) for action in ("success", "odd")]

    assert table(runs, 80, _painted) == [
        "<bold>start     task  duration  ended    trace id</>",
        f"00:00:00  t       1.00 s  <green>success</>  <dim>{TRACE}</>",
        f"00:00:00  t       1.00 s  <bold>odd    </>  <dim>{TRACE}</>",
    ]


def test_table_of_many_runs():
    """Of very many runs the last are shown, and it says how many are not."""
    lines = table([_run("success")] * 41, 80, _unpainted)

    assert lines[1] == "... 1 earlier run ..."
    assert len(lines) == 42


@pytest.mark.usefixtures("_utc")
@pytest.mark.parametrize(
    ("run_", "ended"),
    [
        (_run("terminate", message="Task 't' status: 'terminate' (timeouted)"), "timeout"),
        (_run("terminate", message="Task 't' status: 'terminate'"), "terminate"),
        (_run("fail", exc_type="ValueError", exc_message=""), "fail: ValueError"),
        (_run("fail"), "fail"),
        (replace(_run("success", 0.0, 1.0), ended=None), "running"),
    ],
)
def test_table_shows_the_ending(run_, ended):
    """The table shows how a run ended, and no duration if one of its ends is unknown."""
    _, row = table([run_], 120, _unpainted)

    assert row == f"00:00:00.000  t     {'':8}  {ended:<5}  {TRACE}"


def test_table_of_no_runs():
    """Where nothing ran there is a header alone."""
    assert table([], 80, _unpainted) == ["start     task  duration  ended  trace id"]


@pytest.mark.parametrize(
    ("records", "lines"),
    [
        ([], [">>> x", "[]"]),
        ([{"a": 1, "b": None}], [">>> x", "[TaskEventRecord(", "    a=1,", " )]"]),
        (
            [{"a": 1}, {"a": 2}, {"a": "long " * 9}],
            [
                ">>> x",
                "[... 2 earlier records ...",
                " TaskEventRecord(",
                "    a='long long...,",
                " )]",
            ],
        ),
    ],
)
def test_query(records, lines):
    """The newest of the records is shown, without empty fields, and cut to the width."""
    assert query("x", records, 20) == lines


@pytest.mark.parametrize(
    ("delivery", "line"),
    [
        (
            Delivery((), 0, 0, complete=True),
            "None was sent: OTEL_* variables turn it off, or the settings exclude the runs.",
        ),
        (
            Delivery(("http://a", "http://b"), 0, 0, complete=False),
            "<yellow>Not delivered: no collector accepts it at http://a and http://b.</>",
        ),
        (
            Delivery(("http://a",), 1, 2, complete=True),
            "<green>Delivered to http://a: 1 span and 2 log records, and the metrics.</>",
        ),
        (
            Delivery(("http://a",), 0, 1, complete=False),
            "<yellow>Delivered to http://a: 0 spans and 1 log record, but not all of it.</>",
        ),
    ],
)
def test_telemetry(delivery, line):
    """What was delivered, and what was not, is said with the address and the numbers."""
    assert telemetry(delivery, [], 80, _painted) == [line]


def test_telemetry_shows_warnings():
    """What was warned about follows, in lines that fit; addresses are not broken."""
    lines = telemetry(
        Delivery((), 0, 0, complete=True), ["to http://a-long.address: no"], 20, _painted
    )

    assert lines[1:] == ["  to", "  http://a-long.address:", "  no"]


def test_advice_with_a_collector():
    """Who has traces is told where to look at them."""
    lines = advice(Delivery(("http://a",), 1, 2, complete=True), "python")

    assert lines == [
        "Look at a run: copy its trace id from the table. After this project's",
        "`docker compose up -d` open",
        "  http://localhost:3000   Grafana: the dashboard; the id goes into a field there",
        "  http://localhost:16686  Jaeger: the trace; the id goes into the search box",
    ]


@pytest.mark.parametrize(
    ("endpoints", "where"), [((), "http://localhost:4318"), (("http://a",), "http://a")]
)
def test_advice_without_a_collector(endpoints, where):
    """Who has none is told what to start and what to run then."""
    assert advice(Delivery(endpoints, 0, 0, complete=False), "python") == [
        "To see the runs, start the programs that show them, in the directory of this",
        "project's docker-compose.yml:",
        "  docker compose up -d",
        "  python -m rocketry_otel demo",
        "and open",
        "  http://localhost:3000   Grafana: the dashboard, log lines, alerts",
        "  http://localhost:16686  Jaeger: the traces",
        "Without that file, Jaeger shows the traces alone:",
        "  docker run --rm -p 16686:16686 -p 4318:4318 jaegertracing/jaeger:2.20.0",
        "  OTEL_LOGS_EXPORTER=none OTEL_METRICS_EXPORTER=none python -m rocketry_otel demo",
        "Any other OpenTelemetry Collector works as well, if it listens at",
        f"{where}; or one elsewhere:",
        "  OTEL_EXPORTER_OTLP_ENDPOINT=http://host:4318 python -m rocketry_otel demo",
    ]


def test_command_that_reads_the_repository(tmp_path):
    """The command that is printed works as it stands, in a shell."""
    url = f"sqlite:///{tmp_path}/tasks.db"
    open_repository(url).add(
        TaskEventRecord(task_name="t", action="fail", created=1.0, exc_type="MyError")
    )
    command = "\n".join(repository(url, sys.executable)[2:])

    done = run_command(["/bin/sh", "-c", command])

    assert (done.returncode, done.stderr) == (0, "")
    assert "exc_type='MyError'" in done.stdout


def test_repository_in_memory():
    """There is no command to read what is gone."""
    assert repository("memory://", "python") == ["memory://, which ends with this process."]


def test_cut():
    """What fits stays, and what does not ends in dots."""
    assert [cut("abcdef", 6), cut("abcdef", 5)] == ["abcdef", "ab..."]


# --------------------------------------------------------------------------- the screen


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 80 columns that has colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_screen_updates_one_line(terminal):
    """On a terminal progress is one line, cut to the width, which the next line replaces."""
    screen = Screen(terminal)
    screen.progress("a")
    screen.progress("b" * 100)
    screen.line("done")
    screen.clear()
    screen.progress("c")
    screen.clear()

    written = terminal.getvalue().split("\r\x1b[K")
    assert written == ["", "a", "b" * 79, "done\n", "c", ""]


def test_screen_that_is_a_file():
    """Elsewhere progress is a line every two seconds, and there are no colours."""
    now = [0.0]
    stream = io.StringIO()
    screen = Screen(stream, lambda: now[0])
    for now[0] in (0.0, 1.9, 2.0, 3.0, 4.5):
        screen.progress(f"{now[0]}")
    screen.clear()

    assert stream.getvalue() == "2.0\n4.5\n"
    assert screen.paint("text", "red") == "text"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("NO_COLOR", "", "\x1b[31mtext\x1b[0m"),
        ("NO_COLOR", "1", "text"),
        ("TERM", "dumb", "text"),
    ],
)
def test_screen_colours(variable, value, expected, terminal, monkeypatch):
    """Colours are for terminals that have them and users who want them."""
    monkeypatch.setenv(variable, value)

    assert Screen(terminal).paint("text", "red") == expected


@pytest.mark.parametrize(("columns", "width"), [("20", 60), ("100", 100), ("300", 120)])
def test_screen_width(columns, width, terminal, monkeypatch):
    """The width is the terminal's, within reason."""
    monkeypatch.setenv("COLUMNS", columns)

    assert Screen(terminal).width == width
