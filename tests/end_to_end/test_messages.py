"""Bad settings: one message each, logged once, with the variable, the cause and the cure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redbird.repos import CSVFileRepo
from rocketry import Rocketry
from rocketry.log import MinimalRecord

from rocketry_otel import (
    OTelRepoHandler,
    RepositoryError,
    instrument,
    open_repository,
    uninstrument,
)
from tests.support.otlp_receiver import OTLPReceiver
from tests.support.records import task_record

LONG = 20.0
IGNORED = "{name} is {value!r}, which is not {allowed}: it is ignored, and {used} is used."
TOO_LONG = "[Errno 36] File name too long"
ON_AND_ON = " Tasks and their repository go on as before; it is tried again until it does."
LONG_NAME = "x" * 300


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OTLPReceiver]:
    """A collector that the environment names."""
    with OTLPReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        yield receiver


def ignored(name: str, value: str, allowed: str, used: object) -> tuple[dict[str, str], str]:
    """Return a bad variable and the message that it is ignored."""
    message = IGNORED.format(name=name, value=value, allowed=allowed, used=used)
    return {name: value}, message


SAMPLERS = (
    "always_on or always_off or traceidratio or parentbased_always_off or "
    "parentbased_traceidratio or parentbased_always_on"
)
IGNORED_SETTINGS = [
    ignored("OTEL_SDK_DISABLED", "1", "true or false", "false"),
    ignored("OTEL_BSP_SCHEDULE_DELAY", "x", "a whole number of 0 or more", 5000),
    ignored("OTEL_ATTRIBUTE_COUNT_LIMIT", "x", "a whole number of 0 or more", 128),
    ignored("OTEL_METRIC_EXPORT_INTERVAL", "0", "a whole number of 1 or more", 60000),
    ignored("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke", "http/protobuf or grpc", "http/protobuf"),
    ignored("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip, deflate or none", "none"),
    ignored("OTEL_EXPORTER_OTLP_TIMEOUT", "x", "a number of seconds above 0", 10.0),
    ignored("OTEL_TRACES_SAMPLER", "coin", SAMPLERS, "parentbased_always_on"),
    (
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "7"},
        (
            "OTEL_TRACES_SAMPLER_ARG is '7', which is not a number from 0 to 1: it is ignored, and "
            "1.0 is used."
        ),
    ),
    (
        {"OTEL_RESOURCE_ATTRIBUTES": "a=b,nonsense"},
        (
            "OTEL_RESOURCE_ATTRIBUTES is 'a=b,nonsense', and an entry of it is not of the form "
            "name=value: the entry is left out."
        ),
    ),
    (
        {"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "nope"},
        (
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS names 'nope', and no such detector is installed: "
            "it is left out. Remove the name, or install the package that has the detector."
        ),
    ),
    (
        {"OTEL_EXPORTER_OTLP_HEADERS": "nonsense"},
        (
            "OTEL_EXPORTER_OTLP_HEADERS has an entry that is not of the form name=value with a "
            "percent-encoded value: the entry is left out."
        ),
    ),
]


@pytest.mark.parametrize(("variables", "message"), IGNORED_SETTINGS)
def test_bad_variable_has_one_message_and_stops_nothing(
    receiver: OTLPReceiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
    message: str,
) -> None:
    """The variable is ignored, and all signals arrive."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    handler = OTelRepoHandler(open_repository("memory://"))
    for action in ("run", "success"):
        handler.handle(task_record(action))
    assert handler.flush(LONG)
    handler.close()
    assert len(receiver.spans) == 1
    assert receiver.metrics
    assert [record.getMessage() for record in caplog.records] == [message]


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


@pytest.mark.parametrize(
    ("protocol", "endpoint", "shown", "cause"),
    [
        (
            "http/protobuf",
            "{receiver.grpc_endpoint}",
            "{receiver.grpc_endpoint}/v1/traces",
            NOT_HTTP,
        ),
        ("grpc", "{receiver.http_endpoint}", "{receiver.http_endpoint}", NOT_GRPC),
        ("http/protobuf", "127.0.0.1:4318", "127.0.0.1:4318/v1/traces", NO_SCHEME),
        ("http/protobuf", "collector", "collector/v1/traces", NO_SCHEME),
    ],
)
def test_wrong_address_has_one_message_and_loses_nothing(
    receiver: OTLPReceiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    protocol: str,
    endpoint: str,
    shown: str,
    cause: str,
) -> None:
    """Records wait until the address is mended."""
    for signal in ("LOGS", "METRICS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.format(receiver=receiver))
    monkeypatch.setenv("ROCKETRY_OTEL_SHUTDOWN_TIMEOUT", "0")
    handler = OTelRepoHandler(open_repository("memory://"))
    for action in ("run", "success"):
        handler.handle(task_record(action))
    assert not handler.flush(1.0)
    delivery = handler.delivery.traces
    assert (delivery.waiting, delivery.refused, delivery.dropped) == (1, 0, 0)
    assert delivery.last_error == cause
    handler.close()
    place = shown.format(receiver=receiver)
    messages = [it.getMessage() for it in caplog.records if it.name.startswith("rocketry")]
    assert messages == [f"Telemetry does not get through to {place}: {cause}.{ON_AND_ON}"]


EXAMPLES = (
    "memory://, csv:///directory/file.csv, json:///directory, sqlite:///file.db, "
    "postgresql://user:password@host/database, mysql://user:password@host/database, "
    "mongodb://host/database"
)
MISSING = (
    "run_id, start, end, runtime, message, exc_text, exc_type, exc_message, process, thread, "
    "execution, links, attributes, events, trace_id, span_id"
)

PLAIN = (
    f"the columns of {{folder}}/plain.csv are not those of task events: missing: {MISSING}. Choose "
    "another file for new records; rocketry-otel replay sends those of this one."
)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("foo", f"foo: this is not the URL of a repository; examples: {EXAMPLES}"),
        (
            f"csv:///tmp/{LONG_NAME}",
            f"cannot open csv:///tmp/{LONG_NAME}: {TOO_LONG}: '/tmp/{LONG_NAME}'",
        ),
        (
            f"json:///tmp/{LONG_NAME}",
            f"cannot open json:///tmp/{LONG_NAME}: {TOO_LONG}: '/tmp/{LONG_NAME}'",
        ),
        (
            "csv://{folder}/plain.csv",
            PLAIN,
        ),
    ],
    ids=["no URL", "CSV with a long name", "JSON with a long name", "CSV of plain Rocketry"],
)
@pytest.mark.parametrize("source", ["ROCKETRY_OTEL_REPO", "the argument repo"])
def test_repository_that_cannot_be_opened_has_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, message: str, source: str
) -> None:
    """The error names where the URL is from, and nothing of the application has changed."""
    repo = CSVFileRepo(filename=tmp_path / "plain.csv", model=MinimalRecord)
    repo.add(MinimalRecord(created=1.0, action="run", task_name="etl"))
    url = url.format(folder=tmp_path)
    app = Rocketry(config={"execution": "main"})
    if source == "ROCKETRY_OTEL_REPO":
        monkeypatch.setenv(source, url)
        argument = None
    else:
        argument = url
    with pytest.raises(RepositoryError) as caught:
        instrument(app, repo=argument)
    uninstrument(app)
    assert str(caught.value) == f"{source} cannot be used: {message.format(folder=tmp_path)}"
