"""Our bytes are the bytes that the SDK's own encoder makes of the same span and log record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.sampling import Decision, SamplingResult
from opentelemetry.trace import TraceState

from rocketry_otel._export import own_providers as own
from rocketry_otel._export.counters import Counters
from rocketry_otel._export.deferred import made
from rocketry_otel._export.encoded import Encoded, request_of
from rocketry_otel._export.outage import Outage
from rocketry_otel._model.event import ENDINGS, TaskEvent, parse_event
from rocketry_otel._model.runs import Run, RunTracker
from rocketry_otel._model.signals import LogSignal, SpanSignal, log_signal, span_signal
from rocketry_otel._telemetry.logs import EventLogger
from rocketry_otel._telemetry.tracing import RunTracer
from tests.support.channels import deferred

# Lone surrogates and NUL among them: they are cleaned before.
TEXTS = st.text(max_size=20) | st.just("\udc80\x00") | st.sampled_from(("ä", "x" * 200, "Ω" * 3000))
VALUES = st.one_of(
    TEXTS,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 300),
    st.floats(),
    st.lists(TEXTS, max_size=3),
    st.lists(st.integers(-3, 2**40), max_size=3),
    st.lists(st.floats(), max_size=3),
    st.lists(st.booleans(), max_size=3),
    st.lists(TEXTS | st.integers() | st.none(), max_size=3),
)
ATTRIBUTES = st.dictionaries(TEXTS, VALUES, max_size=6)
TIMES = st.floats(0, 4e9) | st.just(0.0) | st.just(1e300)
EVENTS = st.lists(
    st.fixed_dictionaries(
        {"name": TEXTS, "time": st.integers(0, 2**63 - 1), "attributes": ATTRIBUTES}
    ),
    max_size=3,
)
LINKS = st.lists(
    st.fixed_dictionaries(
        {
            "trace_id": st.integers(1, 2**128 - 1).map("{:032x}".format),
            "span_id": st.integers(1, 2**64 - 1).map("{:016x}".format),
            "link": st.sampled_from(("", "dependency", "request")),
            "attributes": ATTRIBUTES,
        }
    ),
    max_size=3,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "task_name": TEXTS,
    "created": TIMES,
    "run_id": st.none() | TEXTS,
    "message": st.none() | TEXTS,
    "levelno": st.none() | st.integers(0, 60),
    "execution": st.sampled_from((None, "main", "process")),
    "attributes": st.none() | ATTRIBUTES,
    "events": st.none() | EVENTS,
    "links": st.none() | LINKS,
    "exc_type": st.none() | TEXTS,
    "exc_message": st.none() | TEXTS,
    "exc_text": st.none() | TEXTS,
}
BEGINNINGS = st.none() | st.fixed_dictionaries(FIELDS)
ENDINGS_OF_RUNS = st.fixed_dictionaries({**FIELDS, "action": st.sampled_from(sorted(ENDINGS))})
RECORDS = st.fixed_dictionaries(
    {**FIELDS, "action": st.none() | TEXTS | st.sampled_from(sorted(ENDINGS))}
)
DETAILS = st.sampled_from(("full", "message", "type"))

LIMITS: tuple[Mapping[str, str], ...] = (
    {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "4", "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "2"},
    {"OTEL_SPAN_EVENT_COUNT_LIMIT": "1", "OTEL_SPAN_LINK_COUNT_LIMIT": "1"},
    {"OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "1", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "2"},
    {"OTEL_ATTRIBUTE_COUNT_LIMIT": "0"},
    {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "5"},
    {"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "5"},
)

often = hypothesis_settings(
    deadline=None,
    max_examples=30,
    # The fixture holds no state of an example.
    suppress_health_check=(HealthCheck.function_scoped_fixture, HealthCheck.too_slow),
)


class Providers:
    """Providers of our own that have sent nothing, and the items that the SDK makes with them."""

    def __init__(self) -> None:
        counters = Counters()
        self.tracer, spans = own.tracer_provider(counters, Outage(counters))
        self.logger, records = own.logger_provider(counters, Outage(counters))
        self.channels = [*spans, *records]
        self.spans = RunTracer(self.tracer, "consumer")
        self.logs = EventLogger(self.logger)

    def span_of_sdk(
        self, signal: SpanSignal, run: Run, sampling: SamplingResult | None = None
    ) -> Any:
        """Return the span of the SDK."""
        return made(deferred(lambda: self.spans.record(signal, run.ids, sampling)))

    def log_of_sdk(self, signal: LogSignal, run: Run | None) -> Any:
        """Return the log record of the SDK."""
        context = None if run is None else self.spans.context_of(run.ids, run.sampling)
        return made(deferred(lambda: self.logs.record(signal, context)))

    def encoded_log(self, signal: LogSignal, run: Run | None) -> Encoded | None:
        """Return our log record."""
        ids = None if run is None else run.ids
        flags = self.spans.flags_of(None if run is None else run.sampling)
        return self.logs.encode(signal, ids, flags)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Providers]]:
    """Make the providers of a test, in an environment with these variables."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=1.0,place=K%C3%B6ln,empty=")
    found: list[Providers] = []

    def make_them(**variables: str) -> Providers:
        if not found:
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            found.append(Providers())
        return found[0]

    yield make_them
    for channel in (channel for one in found for channel in one.channels):
        channel.begin_closing(0.0)
        channel.finish_closing()


def run_of(beginning: dict[str, Any] | None, ending: dict[str, Any]) -> tuple[Run, TaskEvent]:
    """Return a run with its ending, which is of the same task and run id."""
    tracker = RunTracker()
    if beginning is not None:
        began = parse_event({**ending, **beginning, "action": "run"})
        tracker.observe(began)
        ending = {**ending, "task_name": beginning["task_name"], "run_id": beginning["run_id"]}
    ended = parse_event(ending)
    run = tracker.observe(ended).run
    assert run is not None
    return run, ended


def check_span(providers: Providers, signal: SpanSignal, run: Run) -> bool:
    """Compare a span with that of the SDK; return whether it was encoded."""
    sampling = providers.spans.sampling_of(run.ids, signal.name, signal.attributes)
    encoded = providers.spans.encode(signal, run.ids, sampling)
    if encoded is not None:
        of_sdk = providers.span_of_sdk(signal, run, sampling)
        expected = encode_spans([of_sdk]).SerializePartialToString()
        assert request_of("traces", [encoded]) == expected
    return encoded is not None


def check_log(providers: Providers, signal: LogSignal, run: Run | None) -> bool:
    """Compare a log record with that of the SDK; return whether it was encoded."""
    encoded = providers.encoded_log(signal, run)
    if encoded is not None:
        expected = encode_logs([providers.log_of_sdk(signal, run)]).SerializePartialToString()
        assert request_of("logs", [encoded]) == expected
    return encoded is not None


@often
@given(beginning=BEGINNINGS, ending=ENDINGS_OF_RUNS, detail=DETAILS)
def test_span_is_the_bytes_of_the_sdk(
    make: Callable[..., Providers], beginning: Any, ending: Any, detail: Any
) -> None:
    """Runs of all kinds: with and without a beginning, exception, events, links, attributes."""
    providers = make()
    run, ended = run_of(beginning, ending)
    assert check_span(providers, span_signal(run, ended, detail), run)


@often
@given(fields=RECORDS, detail=DETAILS, of=st.sampled_from(("run", "none")))
def test_log_record_is_the_bytes_of_the_sdk(
    make: Callable[..., Providers], fields: Any, detail: Any, of: str
) -> None:
    """Records of all kinds, of a run and of none."""
    providers = make()
    event = parse_event(fields)
    run = Run(RunTracker().ids(event), event) if of == "run" else None
    assert check_log(providers, log_signal(event, detail), run)


@pytest.mark.filterwarnings("ignore:Log record attributes were dropped")
@pytest.mark.parametrize("limits", LIMITS, ids="+".join)
@hypothesis_settings(parent=often, max_examples=10)
@given(beginning=BEGINNINGS, ending=ENDINGS_OF_RUNS)
def test_limits_of_the_environment_are_kept(
    make: Callable[..., Providers], limits: Mapping[str, str], beginning: Any, ending: Any
) -> None:
    """Within them the bytes are those of the SDK; beyond them the SDK makes the item."""
    providers = make(**limits)
    run, ended = run_of(beginning, ending)
    span = span_signal(run, ended, "full")
    record = log_signal(ended, "full")
    cuts_texts = any("LENGTH" in name for name in limits)
    if not check_span(providers, span, run):
        of_sdk = encode_spans([providers.span_of_sdk(span, run)])
        assert cuts_texts or is_cut(of_sdk.resource_spans[0].scope_spans[0].spans[0])
    if not check_log(providers, record, run):
        log_of_sdk = encode_logs([providers.log_of_sdk(record, run)])
        assert cuts_texts or is_cut(log_of_sdk.resource_logs[0].scope_logs[0].log_records[0])


def is_cut(message: Any) -> bool:
    """Return whether the SDK has dropped a part of an item."""
    parts = [message, *getattr(message, "events", ()), *getattr(message, "links", ())]
    return any(
        getattr(part, f"dropped_{name}_count", 0)
        for part in parts
        for name in ("attributes", "events", "links")
    )


@pytest.mark.parametrize(("kind", "most"), [("dependency", 1), ("", 2)])
@pytest.mark.parametrize("above", [0, 1])
def test_kind_of_a_link_counts_as_an_attribute(
    make: Callable[..., Providers], kind: str, most: int, above: int
) -> None:
    """A link that a body has added has none."""
    attributes = {str(number): number for number in range(most + above)}
    link = {"trace_id": f"{1:032x}", "span_id": f"{1:016x}", "link": kind}
    signal, run = example(links=[{**link, "attributes": attributes}])
    providers = make(OTEL_LINK_ATTRIBUTE_COUNT_LIMIT="2")
    assert check_span(providers, signal, run) is (above == 0)


def example(action: str = "success", **fields: Any) -> tuple[SpanSignal, Run]:
    """Return the span of a run of 1.5 s."""
    began = {"task_name": "etl", "created": 1.7e9, "run_id": "r1"}
    run, ended = run_of(began, {**began, "created": 1.7e9 + 1.5, "action": action, **fields})
    return span_signal(run, ended, "full"), run


@pytest.mark.parametrize("sampler", ["traceidratio", "parentbased_traceidratio"])
def test_span_of_a_sampler_is_the_bytes_of_the_sdk(
    make: Callable[..., Providers], sampler: str
) -> None:
    """Its attributes are those of the beginning."""
    providers = make(OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG="1.0")
    assert check_span(providers, *example(attributes={"rows": 7}))


def test_attributes_of_a_sampler_come_first(make: Callable[..., Providers]) -> None:
    """A sampler may add attributes of plain types."""
    signal, run = example()
    providers = make()
    sampling = SamplingResult(Decision.RECORD_AND_SAMPLE, {"by": "sampler", "task_name": "other"})
    encoded = providers.spans.encode(signal, run.ids, sampling)
    assert encoded is not None
    of_sdk = encode_spans([providers.span_of_sdk(signal, run, sampling)])
    assert request_of("traces", [encoded]) == of_sdk.SerializePartialToString()
    attributes = of_sdk.resource_spans[0].scope_spans[0].spans[0].attributes
    assert [one.key for one in attributes][:2] == ["by", "task_name"]
    assert attributes[1].value.string_value == "etl"


def test_trace_state_is_left_to_the_sdk(make: Callable[..., Providers]) -> None:
    """No sampler of our own providers has one."""
    signal, run = example()
    state = TraceState([("a", "b")])
    sampling = SamplingResult(Decision.RECORD_AND_SAMPLE, {}, state)
    assert make().spans.encode(signal, run.ids, sampling) is None


@pytest.mark.parametrize("value", [None, b"bytes", {"a": 1}, object()])
def test_values_of_other_types_are_left_to_the_sdk(
    make: Callable[..., Providers], value: object
) -> None:
    """A sampler may have added any."""
    signal, run = example()
    sampling = SamplingResult(Decision.RECORD_AND_SAMPLE, {"odd": value})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="is no plain value"):
        make().spans.encode(signal, run.ids, sampling)


@pytest.mark.parametrize(("trace_id", "span_id"), [("0", "1"), ("1", "0")])
def test_link_to_no_span_is_left_to_the_sdk(
    make: Callable[..., Providers], trace_id: str, span_id: str
) -> None:
    """It keeps one with attributes, and drops another."""
    link = {"trace_id": trace_id, "span_id": span_id, "link": "dependency"}
    signal, run = example(links=[link])
    with pytest.raises(ValueError, match="a link to no span"):
        make().spans.encode(signal, run.ids, None)


def test_destination_that_takes_no_bytes_needs_no_scope(make: Callable[..., Providers]) -> None:
    """The SDK makes each item."""
    providers = make(OTEL_TRACES_EXPORTER="console", OTEL_LOGS_EXPORTER="console")
    signal, run = example()
    assert providers.spans.encode(signal, run.ids, None) is None
    assert providers.encoded_log(log_signal(parse_event({}), "full"), run) is None


def test_internal_metrics_of_the_sdk_count_each_item(make: Callable[..., Providers]) -> None:
    """So the SDK has to make it."""
    providers = make(OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED="true")
    signal, run = example()
    assert providers.spans.encode(signal, run.ids, None) is None
    assert providers.encoded_log(log_signal(parse_event({}), "full"), run) is None
