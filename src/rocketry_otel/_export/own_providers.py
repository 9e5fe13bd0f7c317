"""Our own providers, from the standard ``OTEL_*`` variables.

In: spans, log records and metrics of the SDK. Out: the same, each with the reference to its stored
record, in the queues. A provider is made only if the application has not set its own; making it
global is another step.
"""

from __future__ import annotations

import copy
import inspect
import os
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry.context import Context
from opentelemetry.sdk._logs import (
    LoggerProvider,
    LogRecordLimits,
    LogRecordProcessor,
    ReadableLogRecord,
)
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider

from rocketry_otel._runtime.scope import NAME

from . import otel_env as environment
from .buffer import QueueLimits
from .deferred import catch
from .encoded import Scope
from .encoding import limits_of_log_records, limits_of_spans
from .exporters import destinations, quiet
from .metric_push import MetricPush
from .queue import ExportQueue
from .record_ref import current_record_ref
from .run_clocks import in_run_time, note_start, set_run_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.sdk._logs import ReadWriteLogRecord
    from opentelemetry.sdk.trace import Span

    from .channel import Channel
    from .counters import Counters
    from .encoding import Limits
    from .outage import Outage


_DEFAULT_SERVICE = "rocketry"
# The last is the default.
_SAMPLERS = (
    *("always_on", "always_off", "traceidratio", "parentbased_always_off"),
    *("parentbased_traceidratio", "parentbased_always_on"),
)
_OF_ONE_PROCESS = ("service.instance.id", "process.")
_ATTRIBUTE_COUNT = 128
_EXEMPLAR_FILTERS: dict[str, Any] = {
    "trace_based": TraceBasedExemplarFilter,
    "always_on": AlwaysOnExemplarFilter,
    "always_off": AlwaysOffExemplarFilter,
}


# Each provider made here, with its channels, and the processor that hands items over to them.
_made: WeakKeyDictionary[Any, tuple[list[Channel], Any]] = WeakKeyDictionary()
# Providers that send their last items, while others are made in their place.
_retired: WeakSet[Any] = WeakSet()


class OwnMeterProvider(MeterProvider):
    """A meter provider that sends nothing from a forked child."""


def tracer_provider(counters: Counters, outage: Outage) -> tuple[TracerProvider, list[Channel]]:
    """Return a tracer provider, and the channels of its spans."""
    _check_sampler()
    with environment.without_bad_number("OTEL_TRACES_SAMPLER_ARG", most=1.0), quiet():
        limits = _span_limits()
        provider = TracerProvider(
            resource=_lasting_resource(), shutdown_on_exit=False, span_limits=limits
        )
    channels = _queues("traces", "BSP", 5000, counters, outage)
    hand_over = _SpanHandOver(channels, limits_of_spans(limits))
    provider.add_span_processor(hand_over)
    _made[provider] = (list(channels), hand_over)
    return provider, list(channels)


def logger_provider(counters: Counters, outage: Outage) -> tuple[LoggerProvider, list[Channel]]:
    """Return a logger provider, and the channels of its log records.

    Records of runs and log lines have channels of their own. So a body that logs without end costs
    no record of a run.
    """
    options: dict[str, Any] = {}
    if "log_record_limits" in inspect.signature(LoggerProvider).parameters:
        options["log_record_limits"] = limits = _log_record_limits()
    else:
        _remove_bad_limits()
        limits = LogRecordLimits()
    provider = LoggerProvider(resource=_lasting_resource(), shutdown_on_exit=False, **options)
    channels = _queues("logs", "BLRP", 1000, counters, outage)
    lines = _queues("logs", "BLRP", 1000, counters, outage, for_lines=True)
    hand_over = _LogHandOver(channels, lines, limits_of_log_records(limits))
    provider.add_log_record_processor(hand_over)
    _made[provider] = ([*channels, *lines], hand_over)
    return provider, [*channels, *lines]


def meter_provider(outage: Outage) -> tuple[OwnMeterProvider, list[Channel]]:
    """Return a meter provider, and the channels of its metrics."""
    interval = environment.whole_number("OTEL_METRIC_EXPORT_INTERVAL", 60_000, least=1) or 60_000
    resource, exemplar_filter = _resource(), _EXEMPLAR_FILTERS[environment.exemplar_filter()]()
    found = destinations("metrics")
    try:
        readers = [
            InMemoryMetricReader(
                preferred_temporality=destination.preference("_preferred_temporality"),
                preferred_aggregation=destination.preference("_preferred_aggregation"),
            )
            for destination in found
        ]
        provider = OwnMeterProvider(
            readers,
            resource=resource,
            exemplar_filter=exemplar_filter,
            shutdown_on_exit=False,
        )
    except Exception:
        for destination in found:
            destination.shutdown()
        raise
    # Each one starts a thread, so they are made last.
    channels: list[Channel] = [
        MetricPush(reader.get_metrics_data, destination, interval / 1000, outage)
        for reader, destination in zip(readers, found, strict=True)
    ]
    _made[provider] = (channels, None)
    return provider, channels


def is_idle(provider: Any) -> bool:
    """Return whether a provider is one of ours that is retired or whose channels are closed."""
    made = None if provider is None else _made.get(provider)
    if made is None:
        return False
    return provider in _retired or all(channel.is_closed for channel in made[0])


def retire(providers: Iterable[Any]) -> None:
    """Let other providers be made in the place of ours among these."""
    _retired.update(provider for provider in providers if provider in _made)


def take_over(provider: Any, idle: Any) -> None:
    """Send the items of an idle provider of ours by the channels of another one.

    A global provider cannot be replaced. After ``uninstrument`` and another ``instrument``, the
    global one goes on in this way.
    """
    (_, hand_over), (_, idle_hand_over) = _made[provider], _made[idle]
    if hand_over is not None and idle_hand_over is not None:
        idle_hand_over.take_over(hand_over)


class QueuesOfRuns:
    """The queues to which runs may be handed over as deferred items.

    Args:
        provider: A tracer or logger provider.
    """

    def __init__(self, provider: Any) -> None:
        self._hand_over = _made_of(provider)[1]
        self._processors = _processors_of(provider)

    def find(self) -> list[ExportQueue[Any]] | None:
        """Return the queues of a provider of ours.

        Returns:
            The queues. ``None`` for any other provider, and where the application has added a
            processor: that one sees each item at once.
        """
        hand_over = self._hand_over
        if hand_over is None or self._processors() != (hand_over,):
            return None
        queues: list[ExportQueue[Any]] = hand_over.queues
        return queues


def scope_of(provider: Any, instrument: Any) -> Scope | None:
    """Return the scope of items that may be encoded without a provider of ours.

    Args:
        provider: A tracer or logger provider.
        instrument: A tracer or a logger of it.

    Returns:
        The scope. ``None`` for any other provider, and where the SDK has to make each item: no
        destination takes bytes, or the SDK cuts texts, or it counts its own work.
    """
    channels, hand_over = _made_of(provider)
    counts = environment.text("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED")
    if hand_over is None or hand_over.limits is None or (counts or "").lower() == "true":
        return None
    if not any(channel.destination.takes_encoded for channel in channels):
        return None
    return Scope(provider, instrument, hand_over.limits)


def _made_of(provider: Any) -> tuple[list[Channel], Any]:
    try:
        return _made.get(provider, ([], None))
    except TypeError:  # a provider of the application that has no hash, or no weak references
        return [], None


def _processors_of(provider: Any) -> Callable[[], tuple[Any, ...]]:
    """Return a function that returns the processors of a provider at this moment."""
    # The SDK has no public way to see them.
    spans = getattr(provider, "_active_span_processor", None)
    if spans is not None:
        return lambda: getattr(spans, "_span_processors", ())
    records = getattr(provider, "_multi_log_record_processor", None)
    return lambda: getattr(records, "_log_record_processors", ())


class _SpanHandOver(SpanProcessor):
    """Hands each sampled span to the queues when it ends.

    Args:
        queues: The queues.
        limits: The limits of spans; ``None`` if the SDK has to make each of them.
    """

    def __init__(self, queues: list[ExportQueue[ReadableSpan]], limits: Limits | None) -> None:
        self.queues = queues
        self.limits = limits

    def take_over(self, other: _SpanHandOver) -> None:
        """Use the queues of another one from now on."""
        self.queues = other.queues

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        del parent_context
        note_start(span)

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if context is not None and context.trace_flags.sampled:
            span = in_run_time(span)
            if catch(span):
                return
            record_ref = current_record_ref()
            for queue in self.queues:
                queue.put(span, record_ref)


class _LogHandOver(LogRecordProcessor):
    """Hands each log record to the queues.

    Args:
        queues: The queues of our own records, those of runs.
        lines: The queues of all others: log lines of bodies, and what the application logs.
        limits: The limits of log records; ``None`` if the SDK has to make each of them.
    """

    def __init__(
        self,
        queues: list[ExportQueue[ReadableLogRecord]],
        lines: list[ExportQueue[ReadableLogRecord]],
        limits: Limits | None,
    ) -> None:
        self.queues = queues
        self.limits = limits
        self._lines = lines

    def take_over(self, other: _LogHandOver) -> None:
        """Use the queues of another one from now on."""
        self.queues, self._lines = other.queues, other._lines

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        record = copy.copy(log_record.log_record)
        # The context was needed for the ids alone, and may hold any object.
        record.context = Context()
        set_run_time(record, log_record.instrumentation_scope)
        readable = ReadableLogRecord(
            log_record=record,
            resource=log_record.resource or Resource.get_empty(),
            instrumentation_scope=log_record.instrumentation_scope,
            limits=log_record.limits,
        )
        if catch(readable):
            return
        scope = log_record.instrumentation_scope
        is_ours = scope is not None and scope.name == NAME
        record_ref = current_record_ref() if is_ours else None
        for queue in self.queues if is_ours else self._lines:
            queue.put(readable, record_ref)

    def shutdown(self) -> None:
        """Do nothing: the owner of the queue closes it."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: the owner of the queue flushes it."""
        del timeout_millis
        return True


def _queues(
    signal: str,
    prefix: str,
    delay: int,
    counters: Counters,
    outage: Outage,
    *,
    for_lines: bool = False,
) -> list[ExportQueue[Any]]:
    limits = _queue_limits(prefix, delay)
    queues = [
        ExportQueue[Any](signal, destination, limits, counters, outage, for_lines=for_lines)
        for destination in destinations(signal)
    ]
    for number, queue in enumerate(queues, start=1):
        if any(queue.name == other.name for other in queues[: number - 1]):
            queue.name += f" ({number})"
    return queues


def _queue_limits(prefix: str, default_delay: int) -> QueueLimits:
    """Return the limits of ``OTEL_BSP_*`` or ``OTEL_BLRP_*``, or the specification's defaults."""
    delay = environment.whole_number(f"OTEL_{prefix}_SCHEDULE_DELAY", default_delay)
    size = environment.whole_number(f"OTEL_{prefix}_MAX_QUEUE_SIZE", 2048, least=1) or 2048
    batch = environment.whole_number(f"OTEL_{prefix}_MAX_EXPORT_BATCH_SIZE", 512, least=1) or 512
    return QueueLimits(size=size, batch=min(batch, size), delay=(delay or 0) / 1000)


def _span_limits() -> SpanLimits:
    """Return the limits of spans in the environment; the SDK would raise at a bad value."""
    count, length = _general_limits()
    return SpanLimits(
        max_attributes=count,
        max_attribute_length=length,
        max_span_attributes=_limit("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", count),
        max_span_attribute_length=_limit("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", length),
        max_events=_limit("OTEL_SPAN_EVENT_COUNT_LIMIT", 128),
        max_links=_limit("OTEL_SPAN_LINK_COUNT_LIMIT", 128),
        max_event_attributes=_limit("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", count),
        max_link_attributes=_limit("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", count),
    )


def _log_record_limits() -> LogRecordLimits:
    """Return the limits of log records in the environment."""
    count, length = _general_limits()
    limits: Any = LogRecordLimits
    return limits(  # type: ignore[no-any-return]  # older SDKs have the first two alone
        max_attributes=count,
        max_attribute_length=length,
        max_log_record_attributes=_limit("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", count),
        max_log_record_attribute_length=_limit(
            "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", length
        ),
    )


def _remove_bad_limits() -> None:
    """Remove bad limits from the environment: an older SDK would raise at them for each record."""
    _general_limits()  # warns of them
    for name in ("OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"):
        if not os.environ.get(name, "0").strip().isdecimal():
            del os.environ[name]


def _general_limits() -> tuple[int, int]:
    return (
        _limit("OTEL_ATTRIBUTE_COUNT_LIMIT", _ATTRIBUTE_COUNT),
        _limit("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", SpanLimits.UNSET),
    )


def _limit(name: str, default: int) -> int:
    value = environment.whole_number(name, None if default == SpanLimits.UNSET else default)
    return SpanLimits.UNSET if value is None else value


def _check_sampler() -> None:
    """Warn of a sampler that the SDK does not know, or an argument that it cannot use."""
    name = environment.text("OTEL_TRACES_SAMPLER")
    if name is not None and name.lower() not in _SAMPLERS:
        environment.ignore("OTEL_TRACES_SAMPLER", name, " or ".join(_SAMPLERS), _SAMPLERS[-1])
    argument = environment.text("OTEL_TRACES_SAMPLER_ARG")
    if argument is None or name is None or not name.lower().endswith("traceidratio"):
        return
    try:
        is_good = 0.0 <= float(argument) <= 1.0
    except ValueError:
        is_good = False
    if not is_good:
        environment.ignore("OTEL_TRACES_SAMPLER_ARG", argument, "a number from 0 to 1", 1.0)


def _described_attributes() -> str:
    """Return the well-formed entries of ``OTEL_RESOURCE_ATTRIBUTES``."""
    described = environment.text("OTEL_RESOURCE_ATTRIBUTES") or ""
    pairs = [pair for pair in described.split(",") if pair.strip()]
    if not all("=" in pair for pair in pairs):
        environment.warn_once(
            f"OTEL_RESOURCE_ATTRIBUTES is {described!r}, and an entry of it is not of the form "
            "name=value: the entry is left out."
        )
    return ",".join(pair for pair in pairs if "=" in pair)


def _resource() -> Resource:
    """Return the resource of the environment; a service without a name is called ``rocketry``."""
    described = _described_attributes()
    _check_detectors()
    names = {pair.partition("=")[0].strip() for pair in described.split(",")}
    is_named = environment.text("OTEL_SERVICE_NAME") or SERVICE_NAME in names
    # The SDK reads the variable on threads of its own.
    with environment.replaced("OTEL_RESOURCE_ATTRIBUTES", described), quiet():
        return Resource.create({} if is_named else {SERVICE_NAME: _DEFAULT_SERVICE})


def _check_detectors() -> None:
    """Warn of a resource detector that is not installed."""
    variable, group = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "opentelemetry_resource_detector"
    for name in (environment.text(variable) or "").split(","):
        if name.strip() not in {"", "*"} and not entry_points(group=group, name=name.strip()):
            environment.warn_once(
                f"{variable} names {name.strip()!r}, and no such detector is installed: it is left "
                "out. Remove the name, or install the package that has the detector."
            )


def _lasting_resource() -> Resource:
    """Return the resource without the attributes that differ from process to process.

    If another process sends a span a second time, it must be the same to the byte. Attributes
    that the user has set stay.
    """
    resource = _resource()
    with environment.replaced("OTEL_RESOURCE_ATTRIBUTES", _described_attributes()):
        described = OTELResourceDetector().detect().attributes
    attributes = {
        name: described.get(name, value)
        for name, value in resource.attributes.items()
        if name in described or not name.startswith(_OF_ONE_PROCESS)
    }
    return Resource(attributes, resource.schema_url)
