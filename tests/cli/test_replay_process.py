"""The command ``rocketry-otel replay`` in a separate process: signals, terminals and pipes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from tests.support.otlp_receiver import Hang, OTLPReceiver
from tests.support.processes import clean_environment, run_command

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-W", "error", "-m", "rocketry_otel", "replay"]


@pytest.mark.usefixtures("_interruptible")
def test_interrupt_in_the_midst(url: str, receiver: OTLPReceiver) -> None:
    """Status 130 and the summary so far, within moments, though the collector hangs."""
    receiver.behave(Hang())
    running = subprocess.Popen(
        [*COMMAND, "--repo", url],
        env=clean_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert receiver.wait_for(lambda it: len(it.requests) >= 2, 30)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, "")
    assert out.startswith(f"{url}: 4 records with the ends of 2 runs, in ")
    assert "Not accepted when it ended: 6 items.\n" in out


def on_terminal(url: str, receiver: OTLPReceiver, **variables: str) -> str:
    """Return the output of the command on a terminal."""
    terminal, end = pty.openpty()
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, **variables}
    done = subprocess.run(
        [*COMMAND, "--repo", url],
        env=clean_environment({"TERM": "xterm", **variables}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=end,
        check=False,
        timeout=60,
    )
    os.write(end, b"!")
    os.close(end)
    written = b""
    while not written.endswith(b"!"):
        written += os.read(terminal, 100_000)
    os.close(terminal)
    assert done.returncode == 0
    return written.removesuffix(b"!").decode()


def test_bar_on_a_terminal(url: str, receiver: OTLPReceiver) -> None:
    """It is as wide as the terminal at the most, and gone in the end."""
    written = on_terminal(url, receiver, COLUMNS="70")
    lines = written.split("\r\x1b[K")
    assert lines[0] == lines[-1] == ""
    assert lines[-2].startswith("[########################] 100%  4 records, ")
    assert all(len(line) < 70 for line in lines)
    assert on_terminal(url, receiver, TERM="dumb") == ""


def test_two_destinations(url: str, receiver: OTLPReceiver) -> None:
    """Each gets everything; acceptances are counted at both."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
        "OTEL_TRACES_EXPORTER": "otlp,console",
    }
    done = run_command([*COMMAND, "--repo", url], variables)
    place = receiver.http_endpoint
    assert (done.returncode, done.stderr) == (0, "")
    assert [done.stdout.count(f'"name": "run {name}"') for name in ("etl", "report")] == [1, 1]
    assert done.stdout.endswith(
        f"Accepted: 4 spans and 4 log records, by {place}/v1/traces and console and "
        f"{place}/v1/logs.\n"
    )
    assert len(receiver.spans) == 2


def test_nobody_reads(url: str, receiver: OTLPReceiver) -> None:
    """Status 1 with a pipe that is closed, and no complaint; without any stdout all is well."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
    command = " ".join([*COMMAND, "--repo", url])
    # The command takes a second to start, and the reader has gone by then.
    done = run_command(["bash", "-o", "pipefail", "-c", f"{command} | exec true"], env)
    assert (done.returncode, done.stderr) == (1, "")
    done = run_command(["bash", "-c", f"{command} >&- 2>&-"], env)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(receiver.spans) == 4
