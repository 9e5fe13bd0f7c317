"""Bad settings of an application, in one table: the whole message of each, which is given once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from redbird.repos import CSVFileRepo
from rocketry.log import MinimalRecord

from rocketry_otel import RepositoryError, SettingsError, instrument, uninstrument
from tests.support.apps import make_app, run_tasks, succeed
from tests.support.otlp_receiver import OTLPReceiver

LONG = 20.0
SHORT = 1.0
LONG_NAME = "x" * 300


class Surroundings(NamedTuple):
    """A collector, and a folder with a file: settings of the table name them."""

    collector: OTLPReceiver
    folder: Path

    def fill(self, text: str) -> str:
        """Put addresses and paths into a text."""
        return text.format(
            grpc=self.collector.grpc_endpoint,
            http=self.collector.http_endpoint,
            folder=self.folder,
        )


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Surroundings]:
    """A collector that the environment names, and a CSV file that plain Rocketry wrote."""
    repo = CSVFileRepo(filename=tmp_path / "plain.csv", model=MinimalRecord)
    repo.add(MinimalRecord(created=1.0, action="run", task_name="etl"))
    with OTLPReceiver() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.http_endpoint)
        yield Surroundings(collector, tmp_path)


class Seen(NamedTuple):
    """What became of an application with a bad setting."""

    is_instrumented: bool
    is_sent: bool
    spans: int
    waiting: int
    has_metrics: bool


# The setting is ignored, and all is well.
SENT = Seen(is_instrumented=True, is_sent=True, spans=1, waiting=0, has_metrics=True)
# Nothing is lost: the run waits until the address is mended.
WAITS = Seen(is_instrumented=True, is_sent=False, spans=0, waiting=1, has_metrics=False)
# An error at once; the application runs as if it had not been instrumented.
ERROR = Seen(is_instrumented=False, is_sent=False, spans=0, waiting=0, has_metrics=False)


SAMPLERS = (
    "always_on or always_off or traceidratio or parentbased_always_off or "
    "parentbased_traceidratio or parentbased_always_on"
)
NOT_THROUGH = (
    "Telemetry does not get through to {place}: {cause}. Tasks and their repository go on as "
    "before; it is tried again until it does."
)
NOT_HTTP = (
    "the port does not speak HTTP, and may be one for gRPC: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, "
    "or use the port of OTLP over HTTP (4318 as a rule)"
)
NOT_GRPC = (
    "the port does not speak gRPC, and may be one for HTTP: set "
    "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use the port of OTLP over gRPC (4317 as a rule)"
)
NO_SCHEME = (
    "the address needs http:// or https:// at its beginning (OTEL_EXPORTER_OTLP_ENDPOINT or "
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)"
)
URLS = (
    "memory://, csv:///directory/file.csv, json:///directory, sqlite:///file.db, "
    "postgresql://user:password@host/database, mysql://user:password@host/database, "
    "mongodb://host/database"
)
COLUMNS = (
    "run_id, start, end, runtime, message, exc_text, exc_type, exc_message, process, thread, "
    "execution, links, attributes, events, trace_id, span_id"
)
TOO_LONG = f"[Errno 36] File name too long: '/tmp/{LONG_NAME}'"
SETTINGS = ", ".join(
    f"ROCKETRY_OTEL_{name}"
    for name in (
        *("CATCH_UP", "EXCEPTIONS", "EXCLUDE", "GLOBAL_PROVIDERS", "INCLUDE", "JOIN_TRACES"),
        *("LINKS", "LOG_LINES", "PROPAGATE_BAGGAGE", "PYDANTIC", "REPO", "RETENTION"),
        *("SHUTDOWN_TIMEOUT", "SIGTERM", "SPAN_KIND", "STATE_DIR", "TRACE_URL"),
    )
)


def ignored(value: str, allowed: str, used: object) -> Callable[[str], str]:
    """Return a function of the variable's name that gives the message."""
    text = f"is {value!r}, which is not {allowed}: it is ignored, and {used} is used."
    return lambda name: f"{name} {text}"


def explained(value: str, allowed: str) -> Callable[[str], str]:
    """Return a function of the variable's name that gives the message of an error."""
    return lambda name: f"{name} is {value!r}; allowed is {allowed}."


def case(
    seen: Seen, variables: str, message: str | Callable[[str], str]
) -> tuple[Seen, dict[str, str], str]:
    """Return a row of the table; the message may depend on the name of the last variable."""
    pairs = dict(pair.split("=", 1) for pair in variables.split(" "))
    return seen, pairs, message if isinstance(message, str) else message([*pairs][-1])


def not_through(place: str, cause: str) -> str:
    """Return the message that an address does not take telemetry."""
    return NOT_THROUGH.format(place=place, cause=cause)


NUMBER = "a whole number of 0 or more"
TABLE = [
    case(SENT, "OTEL_SDK_DISABLED=1", ignored("1", "true or false", "false")),
    case(SENT, "OTEL_BSP_SCHEDULE_DELAY=x", ignored("x", NUMBER, 5000)),
    case(SENT, "OTEL_ATTRIBUTE_COUNT_LIMIT=x", ignored("x", NUMBER, 128)),
    case(
        SENT,
        "OTEL_METRIC_EXPORT_INTERVAL=0",
        ignored("0", "a whole number of 1 or more", 60000),
    ),
    case(
        SENT,
        "OTEL_EXPORTER_OTLP_PROTOCOL=smoke",
        ignored("smoke", "http/protobuf or grpc", "http/protobuf"),
    ),
    case(
        SENT,
        "OTEL_EXPORTER_OTLP_COMPRESSION=zstd",
        ignored("zstd", "gzip, deflate or none", "none"),
    ),
    case(
        SENT,
        "OTEL_EXPORTER_OTLP_TIMEOUT=x",
        ignored("x", "a number of seconds above 0", 10.0),
    ),
    case(SENT, "OTEL_TRACES_SAMPLER=coin", ignored("coin", SAMPLERS, "parentbased_always_on")),
    case(
        SENT,
        "OTEL_TRACES_SAMPLER=traceidratio OTEL_TRACES_SAMPLER_ARG=7",
        ignored("7", "a number from 0 to 1", 1.0),
    ),
    case(
        SENT,
        "OTEL_RESOURCE_ATTRIBUTES=a=b,nonsense",
        "OTEL_RESOURCE_ATTRIBUTES is 'a=b,nonsense', and an entry of it is not of the form "
        "name=value: the entry is left out.",
    ),
    case(
        SENT,
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS=nope",
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS names 'nope', and no such detector is installed: "
        "it is left out. Remove the name, or install the package that has the detector.",
    ),
    case(
        SENT,
        "OTEL_EXPORTER_OTLP_HEADERS=nonsense",
        "OTEL_EXPORTER_OTLP_HEADERS has an entry that is not of the form name=value with a "
        "percent-encoded value: the entry is left out.",
    ),
    case(
        SENT,
        "ROCKETRY_OTEL_REPOSITORY=sqlite:///tasks.db",
        "No such setting: ROCKETRY_OTEL_REPOSITORY (did you mean ROCKETRY_OTEL_REPO?). There are: "
        f"{SETTINGS}.",
    ),
    case(
        WAITS,
        "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_EXPORTER_OTLP_ENDPOINT={grpc}",
        not_through("{grpc}/v1/traces", NOT_HTTP),
    ),
    case(
        WAITS,
        "OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_EXPORTER_OTLP_ENDPOINT={http}",
        not_through("{http}", NOT_GRPC),
    ),
    case(
        WAITS,
        "OTEL_EXPORTER_OTLP_ENDPOINT=127.0.0.1:4318",
        not_through("127.0.0.1:4318/v1/traces", NO_SCHEME),
    ),
    case(
        WAITS,
        "OTEL_EXPORTER_OTLP_ENDPOINT=collector",
        not_through("collector/v1/traces", NO_SCHEME),
    ),
    case(
        ERROR,
        "ROCKETRY_OTEL_REPO=foo",
        "ROCKETRY_OTEL_REPO cannot be used: foo: this is not the URL of a repository; examples: "
        f"{URLS}",
    ),
    case(
        ERROR,
        f"ROCKETRY_OTEL_REPO=csv:///tmp/{LONG_NAME}",
        f"ROCKETRY_OTEL_REPO cannot be used: cannot open csv:///tmp/{LONG_NAME}: {TOO_LONG}",
    ),
    case(
        ERROR,
        f"ROCKETRY_OTEL_REPO=json:///tmp/{LONG_NAME}",
        f"ROCKETRY_OTEL_REPO cannot be used: cannot open json:///tmp/{LONG_NAME}: {TOO_LONG}",
    ),
    case(
        ERROR,
        "ROCKETRY_OTEL_REPO=csv://{folder}/plain.csv",
        "ROCKETRY_OTEL_REPO cannot be used: the columns of {folder}/plain.csv are not those of "
        f"task events: missing: {COLUMNS}. Choose another file for new records; rocketry-otel "
        "replay sends those of this one.",
    ),
    case(
        ERROR, "ROCKETRY_OTEL_SHUTDOWN_TIMEOUT=x", explained("x", "a number of seconds, 0 or more")
    ),
    case(ERROR, "ROCKETRY_OTEL_EXCEPTIONS=some", explained("some", "full, message or type")),
    case(ERROR, "ROCKETRY_OTEL_SPAN_KIND=x", explained("x", "internal, consumer or server")),
]


@pytest.mark.parametrize(
    ("seen", "variables", "message"),
    TABLE,
    ids=[" ".join(f"{name}={value[:30]}" for name, value in it[1].items()) for it in TABLE],
)
def test_bad_setting_has_one_message_and_loses_nothing(
    surroundings: Surroundings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seen: Seen,
    variables: dict[str, str],
    message: str,
) -> None:
    """The application runs its task in any case, and its history has the run."""
    # The logs and metrics of a destination that does not answer have messages of their own.
    if seen is WAITS:
        monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
        monkeypatch.setenv("ROCKETRY_OTEL_SHUTDOWN_TIMEOUT", "0")
    for name, value in variables.items():
        monkeypatch.setenv(name, surroundings.fill(value))
    app = make_app()
    app.session.create_task(func=succeed, name="etl")
    messages = []
    handler = None
    try:
        handler = instrument(app)
    except (RepositoryError, SettingsError) as error:
        messages.append(str(error))
    run_tasks(app, "etl")
    assert [it.action for it in app.session["etl"].logger.filter_by().all()] == ["run", "success"]
    is_sent = handler is not None and handler.flush(LONG if seen is SENT else SHORT)
    waiting = 0 if handler is None else handler.delivery.traces.waiting
    uninstrument(app)
    if handler is not None:
        handler.close()
    messages += [
        it.getMessage()
        for it in caplog.records
        if it.levelno >= logging.WARNING and it.name.startswith("rocketry")
    ]
    assert messages == [surroundings.fill(message)]
    spans, has_metrics = len(surroundings.collector.spans), bool(surroundings.collector.metrics)
    assert Seen(handler is not None, is_sent, spans, waiting, has_metrics) == seen


def test_error_of_the_argument_names_the_argument(tmp_path: Path) -> None:
    """The rest of the message is that of the variable."""
    app = make_app()
    with pytest.raises(RepositoryError) as caught:
        instrument(app, repo=str(tmp_path / "foo"))
    assert str(caught.value) == (
        f"the argument repo cannot be used: {tmp_path}/foo: this is not the URL of a repository; "
        f"examples: {URLS}"
    )
