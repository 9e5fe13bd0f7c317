"""Makes the spans of runs with their own ids, on any tracer provider.

In: a span signal, the ids of its run, and the sampler's decision. Out: a span that has ended.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from rocketry_otel._export.encoded import Encoded
from rocketry_otel._export.encoding import encode_span
from rocketry_otel._export.own_providers import scope_of
from rocketry_otel._model.signals import EXCEPTION_EVENT, link_attributes
from rocketry_otel._runtime.scope import NAME, SCHEMA_URL, VERSION

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

    from rocketry_otel._model.annotations import Attributes, RunLink
    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._model.signals import SpanSignal

_logger = logging.getLogger(NAME)

_KINDS = {
    "internal": SpanKind.INTERNAL,
    "consumer": SpanKind.CONSUMER,
    "server": SpanKind.SERVER,
}
_ALWAYS_ON = ("AlwaysOnSampler", "ParentBased{root:AlwaysOnSampler,")
# The second flag of W3C Trace Context: the low 56 bits of the ids are uniform.
_SAMPLED = TraceFlags(TraceFlags.SAMPLED | 0x02)
_NOT_SAMPLED = TraceFlags(0x02)


class _Chosen(threading.local):
    """The ids and the sampling of the next span that this thread starts."""

    ids: RunIds | None = None
    sampling: SamplingResult | None = None


class _ChosenIds(IdGenerator):
    """Gives the span that is being made the ids of its run."""

    def __init__(self, chosen: _Chosen, otherwise: IdGenerator) -> None:
        self._chosen = chosen
        self._otherwise = otherwise

    def generate_trace_id(self) -> int:
        ids = self._chosen.ids
        return self._otherwise.generate_trace_id() if ids is None else ids.trace_id

    def generate_span_id(self) -> int:
        ids = self._chosen.ids
        return self._otherwise.generate_span_id() if ids is None else ids.span_id

    def is_trace_id_random(self) -> bool:
        """Return true: the low 56 bits of a hash are uniform."""
        return True


class _ChosenSampling(Sampler):
    """Gives the span of a run the decision that was made when the run began."""

    def __init__(self, chosen: _Chosen, otherwise: Sampler) -> None:
        self._chosen = chosen
        self._otherwise = otherwise

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        decided = self._chosen.sampling
        return self._otherwise.should_sample(*args, **kwargs) if decided is None else decided

    def get_description(self) -> str:
        return self._otherwise.get_description()


class RunTracer:
    """Makes the spans of runs.

    The id generator and the sampler are replaced only on the tracer of our own instrumentation
    scope. No other tracer of the provider is touched.

    Args:
        provider: The provider of the tracer.
        kind: ``internal``, ``consumer`` or ``server``.

    Attributes:
        samples_all: Whether every span is sampled: then no sampler is asked.
    """

    def __init__(self, provider: TracerProvider, kind: str) -> None:
        self._tracer: Tracer = provider.get_tracer(NAME, VERSION, SCHEMA_URL)
        self._scope = scope_of(provider, self._tracer)
        self._kind = _KINDS[kind]
        self._chosen, self._sampler = _choose_ids(self._tracer)
        # The most common sampler always samples: no call is needed.
        if self._sampler is not None and self._sampler.get_description().startswith(_ALWAYS_ON):
            self._sampler = None
        self.samples_all = self._sampler is None

    def is_sampled(self, sampling: SamplingResult | None) -> bool:
        """Return whether a run is sampled, as far as is known."""
        if sampling is None:
            return self.samples_all
        return sampling.decision is Decision.RECORD_AND_SAMPLE

    def sampling_of(
        self, ids: RunIds, name: str, attributes: Attributes, parent: RunLink | None = None
    ) -> SamplingResult | None:
        """Return the sampler's decision for a run that begins; ``None`` if it always samples."""
        if self._sampler is None:
            return None
        return self._sampler.should_sample(
            _context_with(parent), ids.trace_id, name, self._kind, attributes, ()
        )

    def context_of(self, ids: RunIds, sampling: SamplingResult | None) -> Context:
        """Return a context that holds the run's span, for the spans and log records of the run."""
        span_context = SpanContext(
            ids.trace_id,
            ids.span_id,
            is_remote=False,
            trace_flags=self.flags_of(sampling),
            trace_state=None if sampling is None else sampling.trace_state,
        )
        return set_span_in_context(NonRecordingSpan(span_context), Context())

    @staticmethod
    def flags_of(sampling: SamplingResult | None) -> TraceFlags:
        """Return the trace flags of a run with this decision of the sampler."""
        is_sampled = sampling is None or sampling.decision is Decision.RECORD_AND_SAMPLE
        return _SAMPLED if is_sampled else _NOT_SAMPLED

    def encode(
        self, signal: SpanSignal, ids: RunIds, sampling: SamplingResult | None
    ) -> Encoded | None:
        """Return the span that ``record`` makes as bytes; ``None`` if only the SDK can make it."""
        if signal.parent is not None:
            return None
        if sampling is not None:
            if sampling.trace_state:
                return None
            signal = signal._replace(attributes=_with_sampler(signal.attributes, sampling))
        scope = self._scope
        if scope is None or not scope.limits.allow_span(signal):
            return None
        return Encoded(scope, encode_span(signal, ids, self._kind))

    def record(self, signal: SpanSignal, ids: RunIds, sampling: SamplingResult | None) -> None:
        """Make the span of a run that has ended, with its times set back."""
        chosen = self._chosen
        chosen.ids = ids
        if sampling is not None:
            attributes = _with_sampler(signal.attributes, sampling)
            chosen.sampling = SamplingResult(sampling.decision, attributes, sampling.trace_state)
        try:
            span = self._tracer.start_span(
                signal.name,
                _context_with(signal.parent),
                self._kind,
                signal.attributes,
                [_link(link) for link in signal.links],
                start_time=signal.start,
                record_exception=False,
                set_status_on_exception=False,
            )
        finally:
            chosen.ids = None
            chosen.sampling = None
        for event in signal.events:
            span.add_event(event.name, dict(event.attributes), event.time)
        if signal.exception is not None:
            span.add_event(EXCEPTION_EVENT, signal.exception, signal.exception_time)
        if signal.error is not None:
            span.set_status(Status(StatusCode.ERROR, signal.error))
        span.end(signal.end)


def _with_sampler(attributes: Attributes, sampling: SamplingResult) -> dict[str, Any]:
    return {**sampling.attributes, **attributes}


def _context_with(parent: RunLink | None) -> Context:
    """Return the context that a run is made in: an empty one, unless it has a parent."""
    if parent is None:
        return Context()
    return set_span_in_context(NonRecordingSpan(_remote(parent)), Context())


def _remote(link: RunLink) -> SpanContext:
    # A run is in the trace of a request only if that is sampled.
    return SpanContext(
        link.trace_id, link.span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )


def _link(link: RunLink) -> Link:
    return Link(_remote(link), link_attributes(link))


def _choose_ids(tracer: Any) -> tuple[_Chosen, Sampler | None]:
    """Replace the id generator and the sampler of an SDK tracer, once for each tracer."""
    generator = getattr(tracer, "id_generator", None)
    sampler = getattr(tracer, "sampler", None)
    if isinstance(generator, _ChosenIds) and isinstance(sampler, _ChosenSampling):
        return generator._chosen, sampler._otherwise  # noqa: SLF001  # a class of this module
    chosen = _Chosen()
    if not isinstance(generator, IdGenerator) or not isinstance(sampler, Sampler):
        if not type(tracer).__name__.startswith("NoOp"):
            _logger.warning(
                "The tracer provider is not the OpenTelemetry SDK's: spans of runs get its own "
                "ids, not those that the repository and the log records show."
            )
        return chosen, None
    tracer.id_generator = _ChosenIds(chosen, generator)
    tracer.sampler = _ChosenSampling(chosen, sampler)
    return chosen, sampler
