from __future__ import annotations

import pytest
import requests

from rocketry_otel._export.bounded_http import BoundedAdapter, limit
from tests.support.otlp_receiver import OTLPReceiver, Raw


def test_late_request_is_not_sent() -> None:
    """A request past its deadline ends before it has a connection."""
    with OTLPReceiver(grpc=False) as receiver, requests.Session() as session:
        session.mount("http://", BoundedAdapter())
        with limit(0.0, 1000), pytest.raises(requests.RequestException, match="timed out"):
            session.post(receiver.http_endpoint)
        assert receiver.requests == []


def test_thread_without_limit_reads_all() -> None:
    """A limit ends with its block."""
    with OTLPReceiver(grpc=False) as receiver, requests.Session() as session:
        session.mount("http://", BoundedAdapter())
        receiver.behave(Raw(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1000, 1000))
        url = f"{receiver.http_endpoint}/v1/traces"
        headers = {"Content-Type": "application/x-protobuf"}
        with limit(None, 10_000), pytest.raises(requests.RequestException, match="too long"):
            session.post(url, headers=headers)
        assert len(session.post(url, headers=headers).content) == 1_000_000
