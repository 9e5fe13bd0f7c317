import pytest

from rocketry_otel._export.endpoint import visible, without_secrets


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://localhost:4318/v1/traces", "http://localhost:4318/v1/traces"),
        ("https://user:pass@host/v1/traces?key=secret", "https://host/v1/traces"),
        ("https://host/v1/traces#secret", "https://host/v1/traces"),
        ("user:pass@host:4317", "host:4317"),
        ("127.0.0.1:4318", "127.0.0.1:4318"),
        ("http://[::1]:4318", "http://[::1]:4318"),
        # A mark of the address is inside the password, or seems to be.
        ("user:p@ss@host:4317", "***"),
        ("http://user:pa/ss@host", "http://***"),
        ("https://host/a@b", "https://***"),
        ("http://host:password", "http://***"),
    ],
)
def test_endpoint_shows_no_secret(endpoint: str, expected: str) -> None:
    """Only scheme, host, port and path are shown; host and path too are hidden if unclear."""
    assert visible(endpoint) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("ConnectTimeout: host timed out", "ConnectTimeout: host timed out"),
        ("InvalidURL: http://u:p%40ss@host", "InvalidURL: http://host"),
        ("InvalidURL: p@ss", "InvalidURL (the message quotes the endpoint, which holds a secret)"),
        ("no p%40ss", "error (the message quotes the endpoint, which holds a secret)"),
    ],
)
def test_message_quotes_no_secret(message: str, expected: str) -> None:
    """A secret is found in its written form and percent-decoded."""
    assert without_secrets(message, "http://u:p%40ss@host") == expected


def test_message_that_was_cut_quotes_no_part_of_a_secret() -> None:
    """The cut may lie within the secret."""
    message = "InvalidURL: Failed to parse: u:p%40ssw..."
    expected = "InvalidURL (the message quotes the endpoint, which holds a secret)"
    assert without_secrets(message, "http://u:p%40ssword@host") == expected


def test_message_about_a_plain_endpoint_stays() -> None:
    """There is no secret in it."""
    message = "ConnectionError: http://host/v1/traces"
    assert without_secrets(message, "http://host/v1/traces") == message
