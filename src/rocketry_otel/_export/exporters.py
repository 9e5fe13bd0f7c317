"""Exporters from the standard ``OTEL_*`` variables, as destinations.

In: a signal, and batches of its items. Out: requests to a collector, and its answer to each.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry.util.re import parse_env_headers

from rocketry_otel._runtime.forks import after_fork_in_child, calls
from rocketry_otel._runtime.scope import NAME

from . import otel_env as environment
from .encoded import Encoded, is_too_large, request_of, sender_of
from .endpoint import visible, without_secrets
from .responses import (
    LONGEST_ANSWER,
    Answer,
    NotAcceptedError,
    Result,
    WatchedStub,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_logger = logging.getLogger(NAME)

_DEFAULT_TIMEOUT = 10.0
_HTTP_PATHS = {"traces": "v1/traces", "logs": "v1/logs", "metrics": "v1/metrics"}
_CREDENTIAL_PROVIDERS = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_{}_CREDENTIAL_PROVIDER",
)
# gRPC's own pause grows to two minutes; these find a collector again within seconds.
_GRPC_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.max_receive_message_length", LONGEST_ANSWER),
)
# Loggers to keep quiet, besides that of the exporter's own module.
_TALKATIVE = (
    "opentelemetry.exporter.otlp.common.http",
    # Their warnings do not name the variable, and come once for each signal.
    "opentelemetry.sdk.resources",
    "opentelemetry.sdk.trace.sampling",
    # It logs a traceback at each search for a provider.
    "opentelemetry.util._providers",
    # It quotes a malformed header with the secret in it.
    "opentelemetry.util.re",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "urllib3.connectionpool",
    "urllib3.util.retry",
)


class Watch(Protocol):
    """The connection under an exporter, where the collector's answers can be read."""

    def take_result(self) -> Result | None:
        """Return the result of the last request, once; ``None`` if there was no request."""
        ...


class _Exporting(threading.local):
    """Whether this thread is inside an exporter of ours."""

    here = False


_exporting = _Exporting()


class _Quiet(logging.Filter):
    """Drops the log lines of exporters on our threads: one line of ours reports the outage."""

    def filter(self, _: logging.LogRecord) -> bool:
        return not _exporting.here


@contextmanager
def quiet() -> Iterator[None]:
    """Keep OpenTelemetry's own loggers quiet on this thread; the caller logs a line instead."""
    was_here, _exporting.here = _exporting.here, True
    try:
        yield
    finally:
        _exporting.here = was_here


_quiet = _Quiet()
for _talkative in _TALKATIVE:
    logging.getLogger(_talkative).addFilter(_quiet)


class ExporterDestination:
    """An exporter as a destination.

    Args:
        make: Makes the exporter (the SDK's, or any with its ``export`` and ``shutdown``), and the
            watch of its connection, if it can be watched.
        name: The destination as people may see it.
        endpoint: The endpoint with its secrets, which no reason of a failure may quote.
        signal: The signal, if the exporter can send bytes and its connection is watched.

    Attributes:
        takes_encoded: Whether a batch may have encoded items.
    """

    def __init__(
        self,
        make: Callable[[], tuple[Any, Watch | None]],
        name: str,
        endpoint: str = "",
        signal: str = "",
    ) -> None:
        self.name = name
        self._signal = signal
        self._endpoint = endpoint
        self._make = make
        self._made: tuple[Any, Watch | None] | None = self._make_quiet()
        self.takes_encoded = bool(signal) and sender_of(self._made[0]) is not None
        self._parents: list[Any] = []
        after_fork_in_child(self._leave_it_to_the_parent)

    def _leave_it_to_the_parent(self) -> None:
        # Two processes on one connection corrupt each other's requests. The child keeps it all the
        # same: to close or collect it would wait for gRPC's locks and threads, which only the
        # parent has.
        self._parents.append(self._made)
        self._made = None

    def export(self, batch: Any) -> Result:
        """Send a batch; never raises."""
        result = self._result_of(batch)
        return replace(result, reason=without_secrets(result.reason, self._endpoint))

    def _result_of(self, batch: Any) -> Result:
        _exporting.here = True
        try:
            return self._export(batch)
        except Exception as error:  # noqa: BLE001  # the exporter cannot be made
            return Result(Answer.REFUSED, shown(error))
        finally:
            _exporting.here = False

    def _export(self, batch: Any) -> Result:
        made = self._made
        if made is None:
            made = self._made = self._make_quiet()  # if it raises, nothing is sent
        exporter, watch = made
        result = self._try(exporter, watch, batch)
        if result.answer is Answer.REFUSED and self._made is not made:
            # An exporter that is shut down refuses everything; this batch is as good as any.
            return Result(Answer.UNAVAILABLE, "the exporter is shut down")
        return result

    def _try(self, exporter: Any, watch: Watch | None, batch: Any) -> Result:
        if watch is not None:
            watch.take_result()  # an older result may be left, if the exporter raised
        try:
            answer = self._send(exporter, batch)
        except NotAcceptedError as error:
            return error.result
        except Exception as error:  # noqa: BLE001  # an exporter may raise anything
            # A watched exporter has sent nothing: the batch cannot be encoded.
            return Result(Answer.REFUSED, shown(error), certain=watch is not None)
        if watch is not None:
            # The HTTP exporter swallows the exceptions of its session.
            return watch.take_result() or Result(
                Answer.REFUSED, "it cannot be encoded, or is too large", certain=True
            )
        if getattr(answer, "name", "") == "SUCCESS":
            return Result(Answer.ACCEPTED)
        return Result(Answer.REFUSED, "the exporter reports a failure")

    def _send(self, exporter: Any, batch: Any) -> Any:
        send = sender_of(exporter) if self.takes_encoded else None
        if send is None or not any(isinstance(item, Encoded) for item in batch):
            return exporter.export(batch)
        request = request_of(self._signal, batch)
        return None if is_too_large(exporter, request) else send(request)

    def _make_quiet(self) -> tuple[Any, Watch | None]:
        with quiet():
            made = self._make()
        modules = {class_.__module__ for class_ in type(made[0]).__mro__} - {"builtins"}
        for module in modules:
            logging.getLogger(module).addFilter(_quiet)
        return made

    def preference(self, name: str) -> Any:
        """Return a preference of a metric exporter, such as its temporality."""
        return getattr(self._made and self._made[0], name, None)

    def shutdown(self) -> None:
        """Give up the request in flight, and close the connection."""
        # The next export makes a new one. One that goes on sees by this that it was shut down.
        made, self._made = self._made, None
        if made is None:
            return
        _exporting.here = True
        try:
            made[0].shutdown()
        except Exception:  # the program ends, and nothing can be done
            _logger.debug("exporter did not shut down", exc_info=True)
        finally:
            _exporting.here = False


def destinations(signal: str) -> list[ExporterDestination]:
    """Return the destinations that ``OTEL_{SIGNAL}_EXPORTER`` names.

    Args:
        signal: ``traces``, ``logs`` or ``metrics``.

    Returns:
        One destination for each exporter. An exporter that is unknown or cannot be made is left
        out, with a warning.
    """
    found = []
    for name in environment.exporter_names(signal):
        try:
            found.append(_destination(signal, name))
        except Exception as error:  # noqa: BLE001, PERF203  # a third party's exporter may raise anything
            environment.warn_once(
                f"OTEL_{signal.upper()}_EXPORTER names {name}, which cannot be used: {shown(error)}"
            )
    return found


def _destination(signal: str, name: str) -> ExporterDestination:
    _warn_of_bad_headers(signal)
    protocol = {"otlp_proto_http": "http/protobuf", "otlp_proto_grpc": "grpc"}.get(name)
    if name == "otlp":
        protocol = environment.protocol(signal)
    if protocol == "grpc":
        return _grpc_destination(signal)
    if protocol == "http/protobuf":
        return _http_destination(signal)
    class_ = _exporter_class(signal, name)
    return ExporterDestination(lambda: (class_(), None), name)


def _http_destination(signal: str) -> ExporterDestination:
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415

    from .http_session import WatchedSession  # noqa: PLC0415  # slow to import

    class_ = _exporter_class(signal, "otlp_proto_http")
    timeout = _timeout(signal)
    compression = Compression(environment.compression(signal, ("gzip", "deflate")))
    endpoint = environment.text(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    if endpoint is None:
        base = environment.text("OTEL_EXPORTER_OTLP_ENDPOINT") or "http://localhost:4318"
        endpoint = f"{base.removesuffix('/')}/{_HTTP_PATHS[signal]}"
    # A credential provider brings its own session, and the exporter uses that one.
    has_session = environment.text(*(name.format(signal.upper()) for name in _CREDENTIAL_PROVIDERS))

    def make() -> tuple[Any, WatchedSession | None]:
        watch = None if has_session else WatchedSession(signal)
        options = {"timeout": timeout, "compression": compression, "session": watch}
        return class_(endpoint, **options), watch

    takes_encoded = signal != "metrics" and not has_session
    return _destination_at(endpoint, make, signal if takes_encoded else "")


def _grpc_destination(signal: str) -> ExporterDestination:
    from grpc import Compression  # noqa: PLC0415  # slow to import, and only some need it

    class_ = _exporter_class(signal, "otlp_proto_grpc")
    options = {
        "timeout": _timeout(signal),
        "compression": Compression.NoCompression,
        "channel_options": _GRPC_OPTIONS,
    }
    if environment.compression(signal, ("gzip",)) == "gzip":
        options["compression"] = Compression.Gzip
    endpoint = environment.text(
        f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    endpoint = endpoint or "http://localhost:4317"

    def make() -> tuple[Any, WatchedStub]:
        if calls.were_cut:
            raise RuntimeError(
                "gRPC cannot be used in a process that was forked in the midst of a call; "
                "http/protobuf can"
            )
        # The exporter is given the timeout, but reads this variable too, and raises at a bad value.
        with environment.without_bad_number(f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT"):
            exporter = class_(endpoint, **options)
        watch = WatchedStub(exporter._client)  # noqa: SLF001  # no public way to what it answers
        exporter._client = watch  # noqa: SLF001
        return exporter, watch

    return _destination_at(endpoint, make)


def _destination_at(
    endpoint: str, make: Callable[[], tuple[Any, Watch | None]], signal: str = ""
) -> ExporterDestination:
    try:
        return ExporterDestination(make, visible(endpoint), endpoint, signal)
    except Exception as error:  # noqa: BLE001  # a library may raise anything at a bad address
        # The library's own error quotes the endpoint with its password.
        raise ValueError(without_secrets(shown(error), endpoint)) from None


def _warn_of_bad_headers(signal: str) -> None:
    """Warn of a header variable with a malformed entry, without its value: it may be a secret."""
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"):
        value = environment.text(name)
        if value is None:
            continue
        entries = [entry for entry in value.split(",") if entry.strip()]
        with quiet():
            is_good = all(parse_env_headers(entry, liberal=True) for entry in entries)
        if not is_good:
            _warn_of_bad_variable(name)
        return


def _warn_of_bad_variable(name: str) -> None:
    environment.warn_once(
        f"{name} has an entry that is not of the form name=value with a percent-encoded value: "
        "the entry is left out."
    )


def _timeout(signal: str) -> float:
    return environment.seconds(
        f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        default=_DEFAULT_TIMEOUT,
    )


def _exporter_class(signal: str, name: str) -> Any:
    group = f"opentelemetry_{signal}_exporter"
    for entry_point in entry_points(group=group, name=name):
        return entry_point.load()
    known = {"otlp", "none"}.union(entry_point.name for entry_point in entry_points(group=group))
    raise LookupError(f"no such exporter is installed; there are {', '.join(sorted(known))}")
