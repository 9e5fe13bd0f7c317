"""The demo as a whole: its output, its telemetry and its end."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import rocketry
from redbird.repos import MemoryRepo

from rocketry_otel import (
    RepositoryError,
    TaskEventRecord,
    open_repository,
)
from rocketry_otel._cli.main import main
from rocketry_otel._demo import run
from tests.demo.loggers import state_of_loggers
from tests.support.otlp_receiver import OTLPReceiver, attributes_of
from tests.support.processes import clean_environment, run_command

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


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A whole demo with a collector, in this process: its output, telemetry and records."""
    url = f"sqlite:///{tmp_path_factory.mktemp('demo')}/tasks.db"
    out = io.StringIO()
    before = (state_of_loggers(), signal.getsignal(signal.SIGINT), rocketry.session)
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
        status = main(["demo", "--seconds", "3.8", "--repo", url])
    after = (state_of_loggers(), signal.getsignal(signal.SIGINT), rocketry.session)
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


def _runs_in(shown):
    """Give the spans of runs, without those that are inside them."""
    return [span for span in shown.spans if span.name.startswith("run ")]


def _actions_in(shown):
    """Give the log records of runs, without the lines of bodies."""
    return [it for it in shown.records if it.event_name.startswith("rocketry.task.")]


def _inside(shown, span):
    """Give the spans whose parent is a span, in their order."""
    found = [it for it in shown.spans if it.parent_span_id == span.span_id]
    assert {it.trace_id for it in found} <= {span.trace_id}
    return sorted(found, key=lambda it: it.start_time_unix_nano)


def _lines_of(shown, span):
    """Give the log lines of the body of a run."""
    return [
        it.body.string_value
        for it in shown.records
        if it.trace_id == span.trace_id and not it.event_name
    ]


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
    sent = [(it.name.removeprefix("run "), it.trace_id.hex()) for it in _runs_in(shown)]

    assert sorted(sent) == sorted((task, trace_id) for task, _, trace_id in shown.rows)


def test_demo_counts_its_telemetry(shown):
    """The printed numbers are those of the collector, less those that children sent."""
    of_children = [span for span in shown.spans if span.name == "clean prices"]
    spans = len(shown.spans) - len(of_children)
    lines = ("the price of plums is missing", "invoice 1 of 3 is sent")
    records = [it for it in shown.records if it.body.string_value not in lines]
    assert (
        f"Delivered to {shown.endpoint}: {spans} spans and {len(records)} log "
        "records, and the metrics.\n"
    ) in shown.out
    assert len(_actions_in(shown)) == 2 * len(_runs_in(shown)) == 2 * len(shown.rows)


def test_demo_uses_every_mode_of_execution(shown):
    """The spans bear all four modes."""
    modes = {attributes_of(it.attributes)["rocketry.execution"] for it in _runs_in(shown)}

    assert modes == {"main", "async", "thread", "process"}


def test_demo_pipeline_is_in_order(shown):
    """Each part of the pipeline starts after its predecessor has ended."""
    (extract, transform, load) = (_spans_of(shown, n)[0] for n in ("extract", "transform", "load"))

    assert extract.end_time_unix_nano <= transform.start_time_unix_nano
    assert transform.end_time_unix_nano <= load.start_time_unix_nano
    assert [link.span_id for link in transform.links] == [extract.span_id]
    assert [link.span_id for link in load.links] == [transform.span_id]
    assert (
        "\nEach run of the pipeline has a link to the run that it waited for:\n"
        f"  load       {load.trace_id.hex()}  waited for\n"
        f"  transform  {transform.trace_id.hex()}  waited for\n"
        f"  extract    {extract.trace_id.hex()}\n\n"
    ) in shown.out


def test_demo_has_spans_and_log_lines_inside_its_runs(shown):
    """A request over HTTP, SQL queries and a child's own span are in the traces of their runs."""
    (extract, transform, load) = (_spans_of(shown, n)[0] for n in ("extract", "transform", "load"))

    (client,) = _inside(shown, extract)
    (server,) = _inside(shown, client)
    assert (client.name, server.name) == ("GET", "GET /prices")
    for span in (client, server):
        assert attributes_of(span.attributes)["http.response.status_code"] == 200
    assert [it.name for it in _inside(shown, transform)] == ["clean prices"]
    assert [attributes_of(it.attributes) for it in _inside(shown, load)] == [
        {
            "db.system.name": "sqlite",
            "db.query.text": "INSERT INTO prices VALUES ('apples', 1.2), ('pears', 2.5)",
        },
        {"db.system.name": "sqlite", "db.query.text": "SELECT count(*) FROM prices"},
    ]
    assert _lines_of(shown, extract) == ["3 prices have come"]
    assert _lines_of(shown, transform) == ["the price of plums is missing"]
    assert _lines_of(shown, load) == ["2 prices are stored"]


def test_demo_has_overlapping_runs(shown):
    """A run starts while an earlier run of the task goes on, in a separate trace."""
    # On a slow machine some are later.
    pairs = pairwise(_spans_of(shown, "poll-prices"))
    overlapping = [
        (first.trace_id, second.trace_id)
        for first, second in pairs
        if second.start_time_unix_nano < first.end_time_unix_nano
    ]

    assert overlapping
    assert all(first != second for first, second in overlapping)


def test_demo_failure_has_its_exception(shown):
    """The failed run's span has the exception that its child process raised."""
    # On a slow machine there are several.
    span = _spans_of(shown, "send-invoices")[-1]
    (event,) = span.events
    attributes = attributes_of(event.attributes)

    assert attributes_of(span.attributes)["error.type"] == (
        "rocketry_otel._demo.tasks.MailServerError"
    )
    assert attributes["exception.message"] == "421 too many connections, try again later"
    assert "in send_invoices" in attributes["exception.stacktrace"]


def test_demo_timeout_is_one(shown):
    """The run that Rocketry terminated has the error type of a timeout."""
    types = {
        attributes_of(span.attributes)["error.type"] for span in _spans_of(shown, "import-feed")
    }

    assert types == {"timeout"}


def test_demo_prints_a_query(shown):
    """The result under the expression is that of the very expression, its newest record whole."""
    *earlier, record = shown.repo.filter_by(task_name="send-invoices", action="fail").all()
    first = (
        f"[... {len(earlier)} earlier record{'s' if len(earlier) > 1 else ''} ...\n "
        if earlier
        else "["
    )

    assert (
        '>>> handler.repo.filter_by(task_name="send-invoices", action="fail").all()\n'
        f"{first}TaskEventRecord(\n"
        "    task_name='send-invoices',\n"
        "    action='fail',\n"
        f"    created={record.created!r},\n"
        f"    run_id='{record.run_id}',\n"
    ) in shown.out
    assert (
        f"    span_id='{record.span_id}',\n )]\n"
        ">>> print(_[-1].exc_text)\nTraceback (most recent call last):\n"
    ) in shown.out
    assert '    raise MailServerError("421 too many connections, try again later")\n' in shown.out


def test_demo_names_the_repository(shown):
    """The URL of the repository is shown at the start and at the end."""
    assert f"\nRepository: {shown.url}\n" in shown.out
    assert f"\nRepository\n{shown.url}\nTo read it again:\n" in shown.out


def test_demo_makes_no_noise(shown):
    """Between the introduction and the table there is only how far it is."""
    between = shown.out.split("tasks.db\n\n", 1)[1].split("start     task", 1)[0]

    progress = r"(\d s of 3\.8: |waiting for the last ones: )\d+ runs have ended, \d+ in progress"
    assert between
    assert all(re.fullmatch(progress, line) for line in between.splitlines())


def test_demo_fits_into_80_columns(shown):
    """No line is wider than the terminal, but for commands and addresses."""
    wide = [line for line in shown.out.splitlines() if len(line) > 80]

    assert all(line.startswith("  print(") or "://" in line or "-c" in line for line in wide)


def test_demo_leaves_the_process_as_it_was(shown):
    """Loggers, the signal handler and Rocketry's default session are as before."""
    assert shown.after == shown.before


@pytest.mark.parametrize("keep", [True, False])
def test_folder_of_the_demo_is_kept_on_demand(keep):
    """Without being asked to keep it, the demo removes the folder of its repository."""
    with run._folder_of_its_own(keep=keep) as folder:
        (Path(folder) / "tasks.db").touch()
    assert Path(folder).exists() is keep
    shutil.rmtree(folder, ignore_errors=True)


def test_demo_without_a_collector(tmp_path):
    """Without a collector, the demo succeeds, and shows the address and the programs to start.

    With --keep its folder stays.
    """
    receiver = OTLPReceiver(grpc=False)
    with receiver:
        receiver.stop()  # the port is ours, and refuses
        done = run_command(
            [*COMMAND, "--seconds", "1", "--keep"],
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
                "TMPDIR": str(tmp_path),
                "COLUMNS": "80",
            },
        )

    assert (done.returncode, done.stderr) == (0, "")
    assert f"Not delivered: no collector accepts it at {receiver.http_endpoint}.\n" in done.stdout
    assert "\n  docker compose -f rocketry-stack/docker-compose.yml up -d\n" in done.stdout
    assert f"\n{receiver.http_endpoint}; or one elsewhere:\n" in done.stdout
    assert done.stdout.count("Telemetry does not get through to") == 1
    (directory,) = tmp_path.iterdir()
    assert f"\nRepository\nsqlite:///{directory}/tasks.db\n" in done.stdout
    assert "\x1b" not in done.stdout
    shown = done.stdout.count("exc_text='Traceback (") + done.stdout.count("exc_text)\nTraceback (")
    assert done.stdout.count("Traceback (") == shown


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_interrupted_in_a_process_of_its_own(tmp_path, number):
    """The signal ends it and its children, with a short report and no traceback.

    A terminal sends Ctrl-C to all processes of the group; SIGTERM comes to one.
    """
    send = os.killpg if number == signal.SIGINT else os.kill
    with OTLPReceiver(grpc=False) as receiver:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "OTEL_BLRP_SCHEDULE_DELAY": "50",
            "TMPDIR": str(tmp_path),
            "PYTHONFAULTHANDLER": "1",
        }
        process = subprocess.Popen(
            COMMAND,
            env=clean_environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert receiver.wait_for(lambda it: _has_begun(it, "import-feed"), 120)
            send(process.pid, number)
            out, err = process.communicate(timeout=120)
        except BaseException:
            # The place of each thread is then in the output of the test.
            os.killpg(process.pid, signal.SIGABRT)
            sys.stdout.write("\n".join(process.communicate()))
            raise

    assert (process.returncode, err) == (128 + number, "")
    assert re.search(r"^Interrupted; \d+ runs have ended\.$", out, re.MULTILINE)
    assert "\nTelemetry\nDelivered to" in out
    assert "\nRepository\nIt was temporary, and is removed." in out
    # A child that was killed may have left what its multiprocessing kept there.
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("rocketry")] == []
    assert "start     task" not in out
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def _has_begun(receiver, task_name):
    names = [attributes_of(it.log_record.attributes) for it in receiver.log_records]
    return task_name in [it.get("task_name") for it in names]


@pytest.mark.usefixtures("_interruptible")
def test_demo_interrupted_here(monkeypatch, capsys):
    """An interrupt terminates the runs, and the status is that of SIGINT."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "50")

        def interrupt():
            receiver.wait_for(lambda it: _has_begun(it, "import-feed"), 120)
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
        (it.get("task_name"), it.get("rocketry.action")) for it in ended
    ]


@pytest.mark.usefixtures("_terminable")
@pytest.mark.parametrize(("arguments", "kept"), [([], 0), (["--keep"], 1)])
def test_signal_before_the_first_run(monkeypatch, tmp_path, arguments, kept):
    """It ends the demo at once, and the folder is gone unless it is to be kept."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(run, "_introduce", lambda *_: signal.raise_signal(signal.SIGTERM))

    assert main(["demo", *arguments]) == 128 + signal.SIGTERM

    assert len(list(tmp_path.iterdir())) == kept


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
    """If Rocketry gives no cause of a failure, its own message is shown."""

    async def serve(*_):
        raise run.TaskLoggingError("Logging failed")

    monkeypatch.setattr(run, "_serve", serve)

    with pytest.raises(RepositoryError, match=r"^the repository failed: TaskLoggingError: Log"):
        run._run(None, 1, None, None, None)


def test_file_of_its_own_without_sqlalchemy(monkeypatch):
    """Without SQLAlchemy the demo's repository is a CSV file, with it SQLite."""
    assert run._file_in("/home/a%b") == "sqlite:////home/a%25b/tasks.db"

    monkeypatch.setattr(run, "find_spec", lambda _: None)
    assert run._file_in("/home/a%b") == "csv:///home/a%25b/tasks.csv"


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
