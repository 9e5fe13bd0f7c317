from __future__ import annotations

import json
import logging
import logging.config
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Optional
from weakref import ref

import pytest
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind
from pydantic.v1 import BaseModel
from redbird.logging import RepoHandler
from redbird.repos import MemoryRepo
from rocketry.log import LogRecord, MinimalRecord, MinimalRunRecord

from rocketry_otel import (
    OTelRepoHandler,
    Settings,
    SettingsError,
    TaskEventRecord,
    instrument,
)
from tests.support.apps import make_app, run_tasks
from tests.support.otlp_receiver import OTLPReceiver
from tests.support.records import START, raised, task_record

if TYPE_CHECKING:
    from rocketry_otel.testing import TelemetryCapture


def handler_of(telemetry: TelemetryCapture, model: Any = TaskEventRecord, **kwargs: Any) -> Any:
    """Return a handler with a repository in memory."""
    return OTelRepoHandler(MemoryRepo(model=model), **telemetry.providers, **kwargs)


def test_handler_is_a_repo_handler(telemetry: TelemetryCapture) -> None:
    """It can replace any handler of Red Bird."""
    repo = MemoryRepo(model=TaskEventRecord)
    handler = OTelRepoHandler(repo, level=logging.INFO, **telemetry.providers)
    assert isinstance(handler, RepoHandler)
    assert handler.repo is repo
    assert handler.level == logging.INFO


def origin_of(handler: OTelRepoHandler, process: int) -> dict[str, Any]:
    """Return the attributes that a ``run`` record of a process has."""
    return {
        "host.name": socket.gethostname(),
        "process.pid": process,
        "rocketry.scheduler": handler._pipeline.worker.schedulers.name,
    }


def test_record_is_stored_with_its_ids(telemetry: TelemetryCapture) -> None:
    """A model with room gets ids, execution and the parts of the exception."""
    handler = handler_of(telemetry)
    handler.handle(task_record("run", run_id="r1", process=7, thread=8))
    handler.handle(
        task_record(
            "fail", run_id="r1", created=START + 2, runtime=2.0, process=7, thread=8,
            exc_info=raised(ValueError("boom")), name="rocketry.task._process",
        )
    )  # fmt: skip
    began, failed = handler.repo.filter_by().all()
    span = telemetry.span("etl")
    assert began.dict() == TaskEventRecord(
        task_name="etl",
        action="run",
        created=START,
        run_id="r1",
        message="Task 'etl' status: 'run'",
        process=7,
        thread="8",
        attributes=json.dumps(origin_of(handler, 7)),
        trace_id=f"{span.context.trace_id:032x}",
        span_id=f"{span.context.span_id:016x}",
    )
    assert failed.execution == "process"
    assert (failed.exc_type, failed.exc_message, failed.runtime) == ("ValueError", "boom", 2.0)
    assert failed.exc_text.endswith("ValueError: boom")
    assert failed.trace_id == began.trace_id


def test_return_value_is_stripped(telemetry: TelemetryCapture) -> None:
    """A child's return value is neither stored nor sent, also with a model of any field."""
    handler = handler_of(telemetry, dict)
    record = task_record("success", run_id="r1", __return__="secret")
    handler.handle(record)
    (row,) = handler.repo.filter_by().all()
    assert "__return__" not in row
    assert record.__return__ == "secret"
    assert "secret" not in telemetry.spans[0].to_json() + repr(vars(telemetry.log_records[0]))


def test_record_itself_is_unchanged(telemetry: TelemetryCapture) -> None:
    """Other handlers see the record that was logged."""
    handler = handler_of(telemetry)
    record = task_record("run", run_id="r1")
    before = dict(vars(record))
    handler.handle(record)
    assert vars(record) == before


@pytest.mark.parametrize("as_dict", [True, False])
def test_formatter_can_return_fields_or_a_record(
    telemetry: TelemetryCapture, *, as_dict: bool
) -> None:
    """As with Red Bird, the result of the formatter is stored."""

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> Any:
            record.task_name = "renamed"
            return dict(vars(record)) if as_dict else record

    handler = handler_of(telemetry)
    handler.setFormatter(Formatter())
    handler.handle(task_record("run", run_id="r1"))
    assert [record.task_name for record in handler.repo.filter_by().all()] == ["renamed"]


def test_replaced_format_is_called(telemetry: TelemetryCapture) -> None:
    """The default formatter is left out only where it would do nothing else."""
    handler = handler_of(telemetry, dict)

    def their_format(record: logging.LogRecord) -> str:
        return f"<{record.getMessage()}>"

    handler.handle(task_record("run", run_id="r1"))
    handler.format = their_format  # type: ignore[method-assign]
    handler.handle(task_record("success", run_id="r1"))
    assert [record["formatted_message"] for record in handler.repo.filter_by().all()] == [
        "Task 'etl' status: 'run'",
        "<Task 'etl' status: 'success'>",
    ]


def test_formatter_error_is_raised(
    telemetry: TelemetryCapture,
) -> None:
    """As with Red Bird the caller sees it; the span is sent all the same."""
    handler = handler_of(telemetry)
    handler.handle(task_record("run", run_id="r1"))
    with pytest.raises(TypeError):
        handler.handle(task_record("success", run_id="r1", args=("does not fit",)))
    assert telemetry.span("etl").attributes["rocketry.action"] == "success"
    assert telemetry.log_records[1].body == "Task 'etl' status: 'success'"


def test_repository_error_is_raised(
    telemetry: TelemetryCapture,
) -> None:
    """The next record is handled, so the guard against inner records is gone."""

    class Failing(MemoryRepo):
        def insert(self, item: Any) -> None:
            if item.action == "run":
                raise OSError("disk full")
            super().insert(item)

    handler = OTelRepoHandler(Failing(model=TaskEventRecord), **telemetry.providers)
    with pytest.raises(OSError, match="disk full"):
        handler.handle(task_record("run", run_id="r1"))
    handler.handle(task_record("success", run_id="r1"))
    assert [record.action for record in handler.repo.filter_by().all()] == ["success"]
    assert len(telemetry.log_records) == 2


@pytest.mark.parametrize(
    "name",
    ["opentelemetry.sdk", "urllib3.connectionpool", "requests", "grpc._channel", "rocketry_otel"],
)
def test_exporter_logs_are_not_handled(name: str, telemetry: TelemetryCapture) -> None:
    """A handler on the root logger would feed itself without end."""
    handler = handler_of(telemetry)
    assert not handler.filter(task_record("run", name=name))
    handler.handle(task_record(None, None, name=name))
    assert not telemetry.log_records


def test_repository_logs_are_not_handled(telemetry: TelemetryCapture) -> None:
    """A repository that logs during a write does not cause another write."""
    logger = logging.Logger("root")

    class Chatty(MemoryRepo):
        def insert(self, item: Any) -> None:
            logger.info("writing")
            super().insert(item)

    handler = OTelRepoHandler(Chatty(model=TaskEventRecord), **telemetry.providers)
    logger.addHandler(handler)
    logger.handle(task_record("run", run_id="r1"))
    assert len(handler.repo.filter_by().all()) == 1
    assert [record.body for record in telemetry.log_records] == ["Task 'etl' status: 'run'"]


def test_record_without_a_name_is_handled(telemetry: TelemetryCapture) -> None:
    """Some records are not made by a logger."""
    handler = handler_of(telemetry)
    fields = {"task_name": "etl", "action": "run", "created": START, "msg": "m"}
    handler.handle(logging.makeLogRecord(fields))
    assert [record.action for record in handler.repo.filter_by().all()] == ["run"]
    assert len(telemetry.log_records) == 1


def test_user_filter_is_obeyed(telemetry: TelemetryCapture) -> None:
    """``addFilter`` works as on any handler."""
    handler = handler_of(telemetry)
    handler.addFilter(lambda record: record.task_name == "etl")
    handler.handle(task_record("run"))
    handler.handle(task_record("run", "other"))
    assert [record.task_name for record in handler.repo.filter_by().all()] == ["etl"]


def test_excluded_task_is_stored_and_not_sent(telemetry: TelemetryCapture) -> None:
    """The repository gets all records, exporters only those that the patterns allow."""
    settings = Settings(include="etl-*, report", exclude="*-secret")
    handler = handler_of(telemetry, settings=settings)
    names = ["etl-a", "report", "etl-secret", "other"]
    for name in names:
        handler.handle(task_record("run", name, run_id=name))
        handler.handle(task_record("success", name, run_id=name))
    assert [record.task_name for record in handler.repo.filter_by(action="run").all()] == names
    sent = ["etl-a", "report"]
    assert [span.attributes["task_name"] for span in telemetry.spans] == sent
    assert {record.attributes["task_name"] for record in telemetry.log_records} == set(sent)
    points = telemetry.metric_points("rocketry.task.active")
    assert {point.attributes["task_name"] for point in points} == set(sent)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("internal", SpanKind.INTERNAL), ("consumer", SpanKind.CONSUMER), ("server", SpanKind.SERVER)],
)
def test_span_kind_can_be_set(name: str, kind: SpanKind, telemetry: TelemetryCapture) -> None:
    """Some backends list only spans of certain kinds."""
    handler = handler_of(telemetry, settings=Settings(span_kind=name))
    handler.handle(task_record("success", run_id="r1"))
    assert telemetry.span("etl").kind is kind


def test_bad_environment_raises_at_once(
    monkeypatch: pytest.MonkeyPatch, telemetry: TelemetryCapture
) -> None:
    """Settings come from the environment unless they are given."""
    monkeypatch.setenv("ROCKETRY_OTEL_EXCEPTIONS", "type")
    assert handler_of(telemetry).settings.exceptions == "type"
    monkeypatch.setenv("ROCKETRY_OTEL_EXCEPTIONS", "some")
    with pytest.raises(SettingsError, match="ROCKETRY_OTEL_EXCEPTIONS"):
        handler_of(telemetry)


@pytest.mark.parametrize(
    "model", [MinimalRecord, MinimalRunRecord, LogRecord, TaskEventRecord, dict]
)
def test_trace_id_is_found_from_stored_records(model: Any, telemetry: TelemetryCapture) -> None:
    """With any model, beginning and ending lead to the trace that was sent."""
    handler = handler_of(telemetry, model)
    handler.handle(task_record("run", run_id="r0", created=START - 9))
    handler.handle(task_record("success", run_id="r0", created=START - 8))
    telemetry.clear()
    handler.handle(task_record("run", run_id="r1", created=START))
    handler.handle(task_record("success", run_id="r1", created=START + 1))
    handler.handle(task_record("run", run_id="r2", created=START + 2))
    trace_id = f"{telemetry.span('etl').context.trace_id:032x}"
    records = handler.repo.filter_by().all()
    assert [handler.trace_id_of(record) for record in records[2:4]] == [trace_id, trace_id]
    assert handler.trace_id_of({"message": "no task event"}) is None


def test_single_ending_has_its_own_trace(telemetry: TelemetryCapture) -> None:
    """A failed setup has a trace too, and its stored record leads there."""
    handler = handler_of(telemetry, MinimalRunRecord)
    handler.handle(task_record("fail", run_id=None))
    (record,) = handler.repo.filter_by().all()
    assert handler.trace_id_of(record) == f"{telemetry.span('etl').context.trace_id:032x}"


def test_ending_finds_its_stored_beginning(telemetry: TelemetryCapture) -> None:
    """A handler that takes over during a run closes that run."""
    repo = MemoryRepo(model=TaskEventRecord)
    first = OTelRepoHandler(repo, **telemetry.providers)
    first.handle(task_record("run", run_id="r1", created=START))
    second = OTelRepoHandler(repo, **telemetry.providers)
    second.handle(task_record("success", run_id="r1", created=START + 1))
    span = telemetry.span("etl")
    assert (span.start_time, span.end_time) == (int(START * 1e9), int((START + 1) * 1e9))
    third = OTelRepoHandler(repo, **telemetry.providers)
    third.handle(task_record("fail", run_id="r1", created=START + 9))
    assert telemetry.spans[-1].start_time == int((START + 9) * 1e9)


def test_unreadable_repository_costs_the_beginning(telemetry: TelemetryCapture) -> None:
    """A crash without its run is shown all the same."""

    class Unreadable(MemoryRepo):
        def query_data(self, query: Any) -> Any:
            raise OSError("unreadable")

    handler = OTelRepoHandler(Unreadable(model=TaskEventRecord), **telemetry.providers)
    handler.handle(task_record("crash", run_id=None))
    span = telemetry.span("etl")
    assert span.start_time == span.end_time
    assert "rocketry.end_estimated" not in span.attributes


def test_unread_handler_warns_once(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """The handbook's recipe adds it behind the memory handler; the warning has the cure."""
    logger = logging.getLogger("rocketry.task")
    handler = handler_of(telemetry)
    logger.handlers = [RepoHandler(MemoryRepo(model=TaskEventRecord)), handler]
    child = logging.getLogger("rocketry.task.child")
    child.handle(task_record("run", name="rocketry.task.child"))
    child.handle(task_record("success", name="rocketry.task.child"))
    (warning,) = [record for record in caplog.records if record.name == "rocketry_otel"]
    assert warning.levelname == "WARNING"
    assert "instrument(app)" in warning.getMessage()
    assert "'rocketry.task'" in warning.getMessage()


@pytest.mark.parametrize("place", ["alone", "first", "nowhere", "cut off"])
def test_handler_in_its_place_does_not_warn(
    place: str, telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """That holds where Rocketry reads it, and where this is unknown."""
    logger = logging.getLogger("rocketry.task")
    handler = handler_of(telemetry)
    behind = RepoHandler(MemoryRepo(model=TaskEventRecord))
    logger.handlers = {"alone": [handler], "first": [handler, behind]}.get(place, [])
    name = "rocketry.task"
    if place == "cut off":
        name = "rocketry.task.cut_off"
        logging.getLogger(name).propagate = False
    handler.handle(task_record("run", name=name))
    assert not [record for record in caplog.records if record.name == "rocketry_otel"]


def test_closed_handler_goes_on(telemetry: TelemetryCapture) -> None:
    """``logging.config.dictConfig`` closes every handler, also those of other loggers."""
    handler = handler_of(telemetry)
    logging.getLogger("rocketry.task").handlers = [handler]
    handler.handle(task_record("run", run_id="r1"))
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    handler.handle(task_record("success", run_id="r1"))
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "success"]
    assert len(telemetry.spans) == 1
    assert handler._bridge.pipeline.counters.of("logs", "dropped") == {}


def test_closing_does_not_stop_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """``logging`` holds the handler's lock during a close, and each record needs that lock."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        handler = OTelRepoHandler(MemoryRepo(model=TaskEventRecord))
        rest, flush = handler._bridge.pipeline.rest, handler._pipeline.flush

        def log(of: str) -> None:
            record = task_record("success", run_id=of)
            task = threading.Thread(target=handler.handle, args=[record])
            task.start()
            task.join(20)
            assert task.is_alive() is False

        monkeypatch.setattr(handler._pipeline, "rest", lambda _: (log("close"), rest(20)))
        monkeypatch.setattr(handler._pipeline, "flush", lambda _: (log("flush"), flush(20)))
        logging.shutdown([ref(handler)])
        assert [record.run_id for record in handler.repo.filter_by().all()] == ["flush", "close"]
        # Afterwards the lock is free.
        log("afterwards")
        handler._bridge.pipeline.close(20)


def test_program_end_closes_for_good(telemetry: TelemetryCapture) -> None:
    """Later records are stored, lose their telemetry, and are counted."""
    handler = handler_of(telemetry)
    handler.handle(task_record("run", run_id="r1"))
    handler._bridge.pipeline.close(1.0)
    handler.handle(task_record("success", run_id="r1"))
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "success"]
    assert not telemetry.spans
    assert handler._bridge.pipeline.counters.of("logs", "dropped") == {"closed": 1}


def test_own_providers_go_on_after_a_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads and connections end, and are made again for later items."""
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        handler = OTelRepoHandler(MemoryRepo(model=TaskEventRecord))
        for number in range(3):
            handler.handle(task_record("success", run_id=f"r{number}"))
            handler.close()
            assert len(receiver.spans) == number + 1
        assert handler.flush(5.0) is True
        assert handler._bridge.pipeline.counters.total("traces", "delivered") == 3
        handler._bridge.pipeline.close(5.0)


def test_exit_in_an_exporter_leaves_the_handler_whole(
    telemetry: TelemetryCapture,
) -> None:
    """A signal handler may exit during a record; the next record is handled."""

    class Leaving(SpanProcessor):
        def on_end(self, span: Any) -> None:
            raise SystemExit

    telemetry.tracer_provider.add_span_processor(Leaving())
    handler = handler_of(telemetry)
    with pytest.raises(SystemExit):
        handler.handle(task_record("success", run_id="r1"))
    handler.handle(task_record("run", run_id="r2"))
    assert [record.run_id for record in handler.repo.filter_by().all()] == ["r1", "r2"]


def test_record_of_another_class_is_copied(telemetry: TelemetryCapture) -> None:
    """An application's own class of records may keep fields elsewhere."""

    class Slotted(logging.LogRecord):
        __slots__ = ("extra",)

        def getMessage(self) -> str:  # noqa: N802  # the name that logging gives it
            return f"{self.extra} {self.msg}"

    record = Slotted("rocketry.task", 20, __file__, 1, "there", None, None)
    record.extra = "hello"
    vars(record).update(task_name="etl", action="run")
    handler = handler_of(telemetry)
    handler.handle(record)
    assert [one.message for one in handler.repo.filter_by().all()] == ["hello there"]


def test_task_name_may_be_any_object(telemetry: TelemetryCapture) -> None:
    """Even a name that raises when it is shown stops no record."""

    class Evil:
        def __str__(self) -> str:
            raise RuntimeError("no")

    handler = handler_of(telemetry, dict)
    record = task_record("run", run_id="r1")
    record.name = Evil()
    handler.handle(record)
    assert len(handler.repo.filter_by().all()) == 1
    assert len(telemetry.log_records) == 1


def test_user_formatter_keeps_the_stored_record_whole(
    telemetry: TelemetryCapture,
) -> None:
    """To send it again later takes the message and the traceback."""

    class Short(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return "short"

    handler = handler_of(telemetry)
    handler.setFormatter(Short())
    handler.handle(task_record("fail", run_id="r1", exc_info=raised(ValueError("boom"))))
    (record,) = handler.repo.filter_by().all()
    assert record.message == "Task 'etl' status: 'fail'"
    assert record.exc_text.endswith("ValueError: boom")


def test_user_trace_id_is_replaced(telemetry: TelemetryCapture) -> None:
    """A filter that sets a request's id does not hide the run's trace."""
    handler = handler_of(telemetry)
    handler.handle(task_record("success", run_id="r1", trace_id="request-7"))
    (record,) = handler.repo.filter_by().all()
    assert record.trace_id == f"{telemetry.span('etl').context.trace_id:032x}"
    lookalike = {"task_name": "etl", "action": "run", "created": START, "trace_id": "request-7"}
    assert len(handler.trace_id_of(lookalike) or "") == 32


def test_unused_handler_flushes_at_once(telemetry: TelemetryCapture) -> None:
    """The flush returns true, and closing takes no time."""
    handler = handler_of(telemetry)
    assert handler.flush() is True
    handler.close()
    assert handler.flush(0.0) is True


def test_flush_reaches_the_application_s_providers(telemetry: TelemetryCapture) -> None:
    """With given providers it is true if they succeed in time."""
    handler = handler_of(telemetry)
    handler.handle(task_record("success", run_id="r1"))
    assert handler.flush(5.0) is True


def test_threads_can_share_a_handler(telemetry: TelemetryCapture) -> None:
    """Runs in many threads each have their own span."""
    handler = handler_of(telemetry)
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait(10)
        for run in range(50):
            run_id = f"{number}-{run}"
            handler.handle(task_record("run", f"t{number}", run_id=run_id))
            handler.handle(task_record("success", f"t{number}", run_id=run_id, created=START + 1))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({span.context.trace_id for span in telemetry.spans}) == 400
    assert {span.end_time - span.start_time for span in telemetry.spans} == {1_000_000_000}
    assert len(handler.repo.filter_by().all()) == 800


def test_hook_results_are_sent_and_stored(telemetry: TelemetryCapture) -> None:
    """Each hook gets the task, the record's fields and the outcome."""
    seen: list[Any] = []

    def name_span(task: Any, record: Any, outcome: str) -> str:
        seen.append((task, record["run_id"], record["created"], outcome))
        return f"{record['task_name']}: {outcome}"

    handler = handler_of(telemetry)
    handler.enrich(name_span, lambda *_: {"team": "data"})
    handler.handle(task_record("run", run_id="r1"))
    assert seen == []
    handler.handle(task_record("success", run_id="r1", created=START + 1))
    assert seen == [(None, "r1", START + 1, "success")]
    (span,) = telemetry.spans
    assert span.name == "etl: success"
    assert span.attributes["team"] == "data"
    assert "rocketry.span_name" not in span.attributes
    began, ended = handler.repo.filter_by().all()
    assert json.loads(began.attributes) == origin_of(handler, os.getpid())
    assert ended.attributes == '{"rocketry.span_name": "etl: success", "team": "data"}'


def test_raising_hook_costs_nothing_else(
    telemetry: TelemetryCapture, caplog: pytest.LogCaptureFixture
) -> None:
    """The run is stored and sent under its own name; the error is counted and logged once."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("a hook of the user's")

    handler = handler_of(telemetry)
    handler.enrich(broken, broken)
    for number in range(2):
        handler.handle(task_record("run", run_id=f"r{number}"))
        handler.handle(task_record("success", run_id=f"r{number}", created=START + 1))
    assert [span.name for span in telemetry.spans] == ["run etl", "run etl"]
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "success"] * 2
    points = telemetry.metric_points("rocketry.bridge.hook_errors")
    assert {(point.attributes["hook"], point.value) for point in points} == {
        ("enrich", 2),
        ("name_span", 2),
    }
    # No telemetry is lost: the alert on that does not fire.
    assert telemetry.metric_points("rocketry.bridge.failed") == []
    assert [record.getMessage().split()[2] for record in caplog.records] == ["enrich", "name_span"]


def test_second_ending_is_not_enriched_again(telemetry: TelemetryCapture) -> None:
    """Hooks are called once for each run."""
    seen: list[str] = []

    def enrich(_: Any, record: Any, outcome: str) -> dict[str, object]:
        seen.append(outcome)
        return {}

    handler = handler_of(telemetry)
    handler.enrich(None, enrich)
    handler.handle(task_record("run", run_id="r1"))
    handler.handle(task_record("fail", run_id="r1"))
    handler.handle(task_record("success", run_id="r1"))
    assert seen == ["fail"]


def test_model_without_room_gets_no_columns(telemetry: TelemetryCapture) -> None:
    """The live span has the values all the same."""
    handler = handler_of(telemetry, MinimalRunRecord)
    handler.enrich(None, lambda *_: {"team": "data"})
    handler.handle(task_record("success", run_id="r1"))
    assert telemetry.span("etl").attributes["team"] == "data"
    (record,) = handler.repo.filter_by().all()
    assert "attributes" not in record.dict()


def test_unhook_skips_a_deleted_session(telemetry: TelemetryCapture) -> None:
    """A handler outlives the sessions that it was hooked into."""
    handler = handler_of(telemetry)
    handler._hooks.append((None, lambda: None))
    handler.unhook()
    assert handler._hooks == []


class AnyRecord(BaseModel):
    """A record of a model without a required task or action."""

    created: float
    name: str
    task_name: Optional[str]  # noqa: UP045  # a model of pydantic 1 as users write it
    action: Optional[str]  # noqa: UP045
    message: Optional[str]  # noqa: UP045


@pytest.mark.parametrize("model", [AnyRecord, dict])
def test_record_without_action_is_stored(model: Any, telemetry: TelemetryCapture) -> None:
    """If the model accepts it, the row is that of Red Bird's own handler, on any logger."""
    handler, plain = handler_of(telemetry, model), RepoHandler(MemoryRepo(model=model))
    for name, task_name in (("rocketry.scheduler", None), ("rocketry.task", "etl")):
        record = task_record(None, task_name, name=name)
        handler.handle(record)
        plain.handle(record)
    rows = handler.repo.filter_by().all()
    assert len(rows) == 2
    assert rows == plain.repo.filter_by().all()
    assert len(telemetry.log_records) == 2


@pytest.mark.parametrize("model", [TaskEventRecord, MinimalRecord])
def test_record_refused_by_the_model_is_sent(model: Any, telemetry: TelemetryCapture) -> None:
    """A body that logs to its task's logger goes on, and its line is sent."""
    app = make_app(logger_repo=MemoryRepo(model=model))
    task = app.session.create_task(func=lambda: task.logger.info("half"), name="etl")
    handler = instrument(app, **telemetry.providers)
    run_tasks(app, "etl")
    assert task.status == "success"
    assert [record.action for record in handler.repo.filter_by().all()] == ["run", "success"]
    assert [record.body for record in telemetry.log_records][1] == "half"


def test_repository_error_is_raised_without_action(
    telemetry: TelemetryCapture,
) -> None:
    """If the model accepts a record and the write fails, the caller sees the error."""

    class Full(MemoryRepo):
        def insert(self, item: Any) -> None:
            raise OSError("disk full")

    handler = OTelRepoHandler(Full(model=AnyRecord), **telemetry.providers)
    with pytest.raises(OSError, match="disk full"):
        handler.handle(task_record(None, "etl"))
    assert len(telemetry.log_records) == 1
