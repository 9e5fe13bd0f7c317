"""The answers of destinations.

In: an HTTP response or a gRPC error. Out: accepted, refused or unavailable, with the reason.

The SDK's exporters hide the difference: a redirect and a partial success count as success, and a
refusal looks like an outage. So the connection under the exporter is watched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from rocketry_otel._model.text import one_line
from rocketry_otel._runtime.forks import calls

from .backoff import SHORTEST_PAUSE

NOT_GRPC = (
    "the port does not speak gRPC, and may be one for HTTP: set "
    "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use the port of OTLP over gRPC (4317 as a rule)"
)

# A longer pause is cut to this one: a wrong clock must not end all telemetry.
_LONGEST_RETRY_AFTER = 300.0
# A collector's answer to a batch is a number and a message. gRPC's own limit is 4 MiB.
LONGEST_ANSWER = 16 * 1024 * 1024
_TOO_LONG_FOR_GRPC = f"vs. {LONGEST_ANSWER})"


class Answer(Enum):
    """The answer of a destination to a batch."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # for good: the same batch would be refused again
    UNAVAILABLE = "unavailable"  # worth another try


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a batch.

    A destination may send any text and any pause. Here the text becomes one line of bounded
    length, and the pause is bounded.

    Attributes:
        answer: The answer of the destination.
        reason: Why some items were not accepted.
        rejected: The number of items left out of an accepted batch (OTLP's partial success).
        retry_after: The pause that the destination asked for, in seconds; ``None`` if it asked for
            no pause, and the usual one is made.
        certain: Whether the fault is surely in the batch: it cannot be encoded. The cause of
            another refusal may be the destination.
        unknown: Whether the destination answers, but does not know the signal.
    """

    answer: Answer
    reason: str = ""
    rejected: int = 0
    retry_after: float | None = None
    certain: bool = False
    unknown: bool = False

    def __post_init__(self) -> None:
        """Bound the text and the pause of the destination."""
        object.__setattr__(self, "reason", one_line(self.reason))
        object.__setattr__(self, "retry_after", _bounded(self.retry_after))


class Destination(Protocol):
    """A collector or another exporter, with the true result of each batch.

    Attributes:
        name: The destination as people may see it.
        takes_encoded: Whether a batch may have encoded items.
    """

    name: str
    takes_encoded: bool

    def export(self, batch: Any) -> Result:
        """Send a batch; never raises."""
        ...

    def shutdown(self) -> None:
        """Give up the request in flight, and close the connection."""
        ...


class NotAcceptedError(Exception):
    """Carries a result through an exporter, which would log and forget it."""

    def __init__(self, result: Result) -> None:
        """Carry ``result``."""
        super().__init__(result.reason)
        self.result = result


class WatchedStub:
    """A gRPC stub whose ``Export`` raises ``NotAcceptedError`` unless the batch is accepted."""

    def __init__(self, stub: Any) -> None:
        """Watch ``stub``."""
        self._stub = stub
        self._result: Result | None = None

    def take_result(self) -> Result | None:
        """Return the result of the last accepted request, once."""
        result, self._result = self._result, None
        return result

    def Export(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802  # the service's own name
        """Call the service."""
        import grpc  # noqa: PLC0415  # slow to import, and only some need it

        try:
            with calls:
                response = self._stub.Export(*args, **kwargs)
        except grpc.RpcError as error:
            result = _result_of_rpc(error)
            if result.answer is not Answer.ACCEPTED:
                raise NotAcceptedError(result) from error
            self._result = result
            return None
        except ValueError as error:  # gRPC raises it if the channel was closed meanwhile
            raise NotAcceptedError(Result(Answer.UNAVAILABLE, shown(error))) from error
        self._result = accepted(response)
        return response


def shown(error: BaseException) -> str:
    """Return an error in one line."""
    return one_line(f"{type(error).__name__}: {error}")


def _bounded(seconds: float | None) -> float | None:
    """Return a pause within bounds; ``None`` if it is no number, or not above 0."""
    if seconds is None or math.isnan(seconds) or seconds <= 0:
        return None
    return min(max(seconds, SHORTEST_PAUSE), _LONGEST_RETRY_AFTER)


def _result_of_rpc(error: Any) -> Result:
    code = getattr(error.code(), "name", "UNKNOWN")
    details = str(error.details() or "")
    if code == "RESOURCE_EXHAUSTED" and _TOO_LONG_FOR_GRPC in details:
        # Only an acceptance has a message. Our limit cut it off, but the collector has the batch.
        return Result(Answer.ACCEPTED)
    if code == "UNAVAILABLE" and "Failed parsing HTTP/2" in details:
        return Result(Answer.UNAVAILABLE, NOT_GRPC)
    # gRPC has no code of its own for a message beyond the receiver's limit.
    too_large = code == "RESOURCE_EXHAUSTED" and "larger than" in details
    refused = too_large or code == "INVALID_ARGUMENT"
    return Result(
        Answer.REFUSED if refused else Answer.UNAVAILABLE,
        f"gRPC {code}: {details}",
        retry_after=_rpc_retry_after(error),
        unknown=code in {"UNIMPLEMENTED", "NOT_FOUND"},
    )


def _rpc_retry_after(error: Any) -> float | None:
    """Return the seconds of the ``RetryInfo`` among the details of a status."""
    from google.rpc.error_details_pb2 import RetryInfo  # noqa: PLC0415  # part of gRPC's extras
    from google.rpc.status_pb2 import Status  # noqa: PLC0415

    info = RetryInfo()
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        try:
            details = Status.FromString(value).details
            if any(detail.Unpack(info) for detail in details):
                return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
        except Exception:  # noqa: BLE001  # a proxy may send anything
            return None
    return None


def accepted(response: Any) -> Result:
    """Return the result of an acceptance, which may leave out a part of the batch."""
    partial = response.partial_success
    fields = ("rejected_spans", "rejected_log_records", "rejected_data_points")
    rejected = sum(getattr(partial, field, 0) for field in fields)
    # The protocol's number is signed.
    return Result(Answer.ACCEPTED, str(partial.error_message), max(rejected, 0))
