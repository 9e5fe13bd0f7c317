"""Starts Rotel, a real OpenTelemetry collector, between a test and an ``OTLPReceiver``."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from .otlp_receiver import LOOPBACK, OTLPReceiver
from .ports import free_ports

START_TIMEOUT = 20
STOP_TIMEOUT = 20


@dataclass(frozen=True)
class Rotel:
    """A running collector.

    Attributes:
        http_endpoint: Base address for OTLP/HTTP, without ``/v1/traces``.
        grpc_endpoint: Address for OTLP/gRPC.
        log_file: The log of the collector.
    """

    http_endpoint: str
    grpc_endpoint: str
    log_file: Path


@contextmanager
def rotel_before(receiver: OTLPReceiver, directory: Path, *options: str) -> Iterator[Rotel]:
    """Run a collector that sends on to the receiver, or skip the test if it is missing.

    It answers 200 before it sends on, in batches of its own making, so that a test must wait
    for the receiver, not for the exporter. When this ends, it has sent on what it had.

    Args:
        receiver: Where it sends to, over HTTP.
        directory: For its files.
        options: More options of ``rotel-agent start``.
    """
    agent = _find_agent()
    http_port, grpc_port = free_ports(2)
    log_file = directory / "rotel.log"
    command = [
        *(str(agent), "start"),
        *("--otlp-http-endpoint", f"{LOOPBACK}:{http_port}"),
        *("--otlp-grpc-endpoint", f"{LOOPBACK}:{grpc_port}"),
        *("--pid-file", str(directory / "rotel.pid")),
        *("--exporter", "otlp"),
        *("--otlp-exporter-protocol", "http"),
        *("--otlp-exporter-endpoint", receiver.http_endpoint),
        *options,
    ]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        for port in (http_port, grpc_port):
            _wait_until_accepting(port, process, log_file)
        yield Rotel(f"http://{LOOPBACK}:{http_port}", f"http://{LOOPBACK}:{grpc_port}", log_file)
    finally:
        _stop(process)


def _find_agent() -> Path:
    package = find_spec("rotel")
    if package is None or package.origin is None:
        _miss("rotel is not installed: it is built for CPython 3.11 on x86-64 Linux alone")
    agent = Path(package.origin).with_name("rotel-agent")
    # The loader decides whether it can run here, not the file's presence.
    tried = subprocess.run(
        [agent, "--version"], env=_environment(), capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        _miss(f"rotel-agent does not run here: {tried.stderr.strip()}")
    return agent


def _miss(reason: str) -> NoReturn:
    """Skip the test, or fail it where all must be there and Rotel can be."""
    built_for_this = (
        sys.implementation.name == "cpython"
        and sys.version_info[:2] == (3, 11)
        and sys.platform == "linux"
        and platform.machine() == "x86_64"
    )
    if built_for_this and os.environ.get("REQUIRE_ALL_TESTS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _environment() -> dict[str, str]:
    """Give an environment without settings for collectors, and with the path of libpython."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ROTEL_", "OTEL_"))
    }
    libraries = [kept.get("LD_LIBRARY_PATH"), sysconfig.get_config_var("LIBDIR")]
    kept["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in libraries if path)
    return kept


def _wait_until_accepting(port: int, process: subprocess.Popen[bytes], log_file: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not _accepts(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Rotel does not listen:\n{log_file.read_text()}")
        time.sleep(0.01)  # Another process's port is no event: it can only be tried.


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
