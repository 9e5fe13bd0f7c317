from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from rocketry_otel._export import otel_env as environment


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Any:
    """Return a function that returns the warnings so far."""

    def messages() -> list[str]:
        assert {record.name for record in caplog.records} <= {"rocketry_otel"}
        return [record.getMessage() for record in caplog.records]

    return messages


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"OTEL_A": "", "OTEL_B": "  "}, None),
        ({"OTEL_A": " a "}, "a"),
        ({"OTEL_A": "", "OTEL_B": "b"}, "b"),
        ({"OTEL_A": "a", "OTEL_B": "b"}, "a"),
    ],
)
def test_first_set_variable_counts(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None
) -> None:
    """By the specification, an empty variable counts as not set."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment.text("OTEL_A", "OTEL_B") == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), (" TRUE ", True), ("1", False), ("", False)]
)
def test_only_true_disables_the_sdk(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: object
) -> None:
    """By the specification, every other value counts as false."""
    assert environment.sdk_is_disabled() is False
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    assert environment.sdk_is_disabled() is expected


@pytest.mark.parametrize(("value", "expected"), [("5", 5), (" 7 ", 7), ("1", 1), ("", 3)])
def test_whole_numbers_are_read(
    monkeypatch: pytest.MonkeyPatch, warned: Any, value: str, expected: int
) -> None:
    """A good number is used, else the default, without a warning."""
    monkeypatch.setenv("OTEL_N", value)
    assert environment.whole_number("OTEL_N", 3, least=1) == expected
    assert warned() == []


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "0x10"])
def test_bad_whole_number_is_ignored(
    monkeypatch: pytest.MonkeyPatch, warned: Any, value: str
) -> None:
    """The default is used, with one warning."""
    monkeypatch.setenv("OTEL_N", value)
    assert environment.whole_number("OTEL_N", 3, least=1) == 3
    assert warned() == [
        (
            f"OTEL_N is {value!r}, which is not a whole number of 1 or more: it is ignored, and 3 "
            "is used."
        )
    ]


def test_bad_limit_means_no_limit(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    """The warning has words for a default that is no number."""
    monkeypatch.setenv("OTEL_N", "short")
    assert environment.whole_number("OTEL_N", None) is None
    assert warned() == [
        (
            "OTEL_N is 'short', which is not a whole number of 0 or more: it is ignored, and no "
            "limit is used."
        )
    ]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 10.0),
        ({"OTEL_B": "0.5"}, 0.5),
        ({"OTEL_A": "3", "OTEL_B": "4"}, 3.0),
        ({"OTEL_A": ""}, 10.0),
    ],
)
def test_seconds_are_read(
    monkeypatch: pytest.MonkeyPatch, warned: Any, variables: dict[str, str], expected: float
) -> None:
    """The first variable that is set gives the seconds, with fractions."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment.seconds("OTEL_A", "OTEL_B", default=10.0) == expected
    assert warned() == []


@pytest.mark.parametrize("value", ["0", "-3", "soon", "inf", "nan"])
def test_bad_seconds_are_ignored(monkeypatch: pytest.MonkeyPatch, warned: Any, value: str) -> None:
    """The default is used, with one warning."""
    monkeypatch.setenv("OTEL_A", value)
    monkeypatch.setenv("OTEL_B", "4")
    assert environment.seconds("OTEL_A", "OTEL_B", default=10.0) == 10.0
    assert warned() == [
        (
            f"OTEL_A is {value!r}, which is not a number of seconds above 0: it is ignored, and "
            "10.0 is used."
        )
    ]


@pytest.mark.parametrize(
    ("value", "seen_inside"),
    [("3", "3"), ("0.5", "0.5"), ("soon", None), ("-1", None), ("", None), (None, None)],
)
def test_bad_number_is_hidden_for_a_while(
    monkeypatch: pytest.MonkeyPatch, value: str | None, seen_inside: str | None
) -> None:
    """Code that would raise does not see it, and afterwards the variable is back."""
    if value is not None:
        monkeypatch.setenv("OTEL_N", value)
    with environment.without_bad_number("OTEL_N"):
        assert os.environ.get("OTEL_N") == seen_inside
    assert os.environ.get("OTEL_N") == value
    with environment.without_bad_number("OTEL_N", most=1.0):
        assert os.environ.get("OTEL_N") == (None if value == "3" else seen_inside)
    with pytest.raises(KeyError), environment.without_bad_number("OTEL_N"):
        raise KeyError
    assert os.environ.get("OTEL_N") == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ["otlp"]),
        ("", ["otlp"]),
        ("none", []),
        (" OTLP , console,otlp,", ["otlp", "console"]),
        ("console,none", ["console"]),
    ],
)
def test_exporter_names_are_split_by_comma(
    monkeypatch: pytest.MonkeyPatch, value: str | None, expected: list[str]
) -> None:
    """Each name comes once, in order and lower case, without ``none``."""
    if value is not None:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", value)
    assert environment.exporter_names("traces") == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "GRPC"}, "grpc"),
        (
            {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf",
            },
            "http/protobuf",
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "http/protobuf"),
    ],
)
def test_protocol_of_a_signal_wins(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    """Without a variable, the specification's default is used."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment.protocol("logs") == expected


def test_unknown_protocol_is_ignored(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    """The default is used, with one warning."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    assert environment.protocol("logs") == "http/protobuf"
    assert warned() == [
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json', which is not http/protobuf or grpc: it is "
            "ignored, and http/protobuf is used."
        )
    ]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "none"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "Gzip"}, "gzip"),
        (
            {
                "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
                "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "none",
            },
            "none",
        ),
    ],
)
def test_compression_of_a_signal_wins(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    """Without a variable, nothing is compressed."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment.compression("metrics", ("gzip",)) == expected


def test_bad_compression_is_ignored(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    """Requests are not compressed, with one warning."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")
    assert environment.compression("metrics", ("gzip", "deflate")) == "none"
    assert warned() == [
        (
            "OTEL_EXPORTER_OTLP_COMPRESSION is 'zstd', which is not gzip, deflate or none: it "
            "is ignored, and none is used."
        )
    ]


@pytest.mark.parametrize(
    ("value", "expected"), [("", "trace_based"), ("Always_On", "always_on"), ("x", "trace_based")]
)
def test_unknown_exemplar_filter_is_ignored(
    monkeypatch: pytest.MonkeyPatch, warned: Any, value: str, expected: str
) -> None:
    """The default is used, with one warning."""
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", value)
    assert environment.exemplar_filter() == expected
    assert warned() == (
        []
        if value != "x"
        else [
            (
                "OTEL_METRICS_EXEMPLAR_FILTER is 'x', which is not trace_based, always_on or "
                "always_off: it is ignored, and trace_based is used."
            )
        ]
    )


@pytest.mark.parametrize("before", ["user's", None])
def test_threads_change_the_environment_in_turn(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    """Else each would restore what the other has set, and the user's value would be lost."""
    monkeypatch.delenv("OTEL_X", raising=False)
    if before is not None:
        monkeypatch.setenv("OTEL_X", before)
    inside, go_on = threading.Event(), threading.Event()
    seen: list[str | None] = []

    def first() -> None:
        with environment.replaced("OTEL_X", "first"):
            inside.set()
            go_on.wait(20)
            seen.append(os.environ.get("OTEL_X"))

    def second() -> None:
        with environment.replaced("OTEL_X", "second"), environment.without(["OTEL_X"]):
            seen.append(os.environ.get("OTEL_X"))

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert seen == ["first", None]
    assert os.environ.get("OTEL_X") == before


def test_forked_child_waits_for_no_turn() -> None:
    """The thread whose turn it was is not there."""
    before = environment._turn.lock
    with before:
        environment._turn._start_afresh()  # the same call as in a child, without a fork
    assert environment._turn.lock is not before


def test_unknown_place_for_exceptions_is_ignored(
    monkeypatch: pytest.MonkeyPatch, warned: Any
) -> None:
    """Both places are the default, and a warning names the values."""
    monkeypatch.setenv("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "spans")
    assert environment.sends_exception_events() is True
    (message,) = warned()
    assert message == (
        "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN is 'spans', which is not logs or logs/dup: it is "
        "ignored, and logs/dup is used."
    )
