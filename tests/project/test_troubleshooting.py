"""The messages of the troubleshooting page are those of real runs, word for word."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Mapping
from pathlib import Path

import pydantic
import pytest

from tests.support.otlp_receiver import Hang, Ok, OTLPReceiver
from tests.support.page_runs import APP, NO_TELEMETRY, SHORT
from tests.support.pages import blocks
from tests.support.ports import free_ports
from tests.support.processes import Finished, run_python
from tests.support.program import Program

pytestmark = pytest.mark.slow

PAGE = "docs/troubleshooting.md"
(logging_set_up,) = blocks(PAGE, "python")
messages = [text.rstrip("\n") for text in blocks(PAGE, "text")]
(start, refused, no_path, not_http, not_grpc, two_handlers, unreadable) = messages[:7]
(not_first, locked, failed, const) = messages[7:]

ETL = """
@app.task("every 1 hour")
def etl(): ...
"""
RUN = "\napp.run()\n"
TRACES = {"OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}


def run(change: str, folder: Path, env: Mapping[str, str]) -> Finished:
    """Run an application with one task, with the logging of the page."""
    script = SHORT + logging_set_up + APP + ETL + change + RUN
    return run_python(script, cwd=folder, env=env, timeout=240)


def with_ports_of_the_page(text: str, port: int, shown: int) -> str:
    """Return a text with the page's port in the place of the real one."""
    return text.replace("127.0.0.1", "localhost").replace(str(port), str(shown))


def test_start_line_is_that_of_the_page(tmp_path: Path) -> None:
    """It comes when the scheduler starts."""
    with OTLPReceiver(grpc=False) as receiver:
        port = int(receiver.http_endpoint.rpartition(":")[2])
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
        done = run("instrument(app)", tmp_path, env)
    lines = with_ports_of_the_page(done.stderr, port, 4318).splitlines()
    assert [line for line in lines if ":rocketry_otel:" in line] == [start]


def test_line_of_a_collector_that_is_away_is_that_of_the_page(tmp_path: Path) -> None:
    """The words in the middle are those of urllib3, which differ from version to version."""
    (port,) = free_ports(1)
    env = {**TRACES, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://localhost:{port}"}
    done = run("instrument(app)", tmp_path, env)
    reason = r"NewConnectionError: .*Connection refused"
    pattern = re.sub(r"NewConnectionError: .*Connection refused", "REASON", refused)
    pattern = re.escape(pattern).replace("REASON", reason)
    assert re.search(f"^{pattern}$", with_ports_of_the_page(done.stderr, port, 4318), re.MULTILINE)


class _TracesAlone(http.server.BaseHTTPRequestHandler):
    """As Jaeger: it has no path for logs and metrics."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_line_of_a_signal_without_a_path_is_that_of_the_page(tmp_path: Path) -> None:
    """The destination takes traces alone."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _TracesAlone) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_METRICS_EXPORTER": "none",
        }
        done = run("instrument(app)", tmp_path, env)
        server.shutdown()
    assert no_path in with_ports_of_the_page(done.stderr, port, 4318).splitlines()


def test_lines_of_a_wrong_port_are_those_of_the_page(tmp_path: Path) -> None:
    """HTTP to a port for gRPC, and gRPC to a port for HTTP."""
    with OTLPReceiver() as receiver:
        grpc_port, http_port = (
            int(endpoint.rpartition(":")[2])
            for endpoint in (receiver.grpc_endpoint, receiver.http_endpoint)
        )
        env = {**TRACES, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint}
        done = run("instrument(app)", tmp_path, env)
        assert not_http in with_ports_of_the_page(done.stderr, grpc_port, 4317).splitlines()
        env = {
            **TRACES,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }
        done = run("instrument(app)", tmp_path, env)
        assert not_grpc in with_ports_of_the_page(done.stderr, http_port, 4318).splitlines()


def test_second_handler_sends_everything_twice(tmp_path: Path) -> None:
    """Its line is that of the page."""
    second = """
from redbird.repos import MemoryRepo
from rocketry_otel import OTelRepoHandler, TaskEventRecord
instrument(app)
second = OTelRepoHandler(MemoryRepo(model=TaskEventRecord))
logging.getLogger("rocketry.task").addHandler(second)
"""
    with OTLPReceiver(grpc=False) as receiver:
        env = {**TRACES, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
        done = run(second, tmp_path, env)
    assert two_handlers in done.stderr.splitlines()
    assert len(receiver.spans) == 2
    assert len({(it.span.trace_id, it.span.span_id) for it in receiver.spans}) == 1


def test_handler_that_is_not_the_first_has_the_line_of_the_page(tmp_path: Path) -> None:
    """As the handbook of Rocketry adds it."""
    added = """
from redbird.repos import CSVFileRepo
from rocketry_otel import OTelRepoHandler, TaskEventRecord
handler = OTelRepoHandler(CSVFileRepo(filename="tasks.csv", model=TaskEventRecord))
logging.getLogger("rocketry.task").addHandler(handler)
"""
    done = run(added, tmp_path, NO_TELEMETRY)
    assert not_first in done.stderr.splitlines()


def test_warning_of_an_unreadable_logger_is_that_of_the_page(tmp_path: Path) -> None:
    """Rocketry's own, without this project; with it, the warning does not come."""
    session = """
import logging
from rocketry import Session
from rocketry.conditions import SchedulerCycles
logging.getLogger("rocketry.task").addHandler(logging.NullHandler())
session = Session()
session.config.shut_cond = SchedulerCycles() >= 1
session.start()
"""
    plain = run_python(session, cwd=tmp_path, env=NO_TELEMETRY, timeout=240)
    assert any(line.endswith(unreadable) for line in plain.stderr.splitlines())
    with_us = session.replace(
        "session.start", "from rocketry_otel import instrument; instrument(session); session.start"
    )
    done = run_python(with_us, cwd=tmp_path, env=NO_TELEMETRY, timeout=240)
    assert (done.returncode, "cannot be read" in done.stderr) == (0, False)


def test_exit_with_the_cure_of_the_page_waits_for_no_collector(tmp_path: Path) -> None:
    """The collector hangs: with the cure the program ends, and without it another still waits."""
    shown = [line.split()[0] for line in blocks(PAGE, "console") if " python app.py" in line]
    assert shown == ["ROCKETRY_OTEL_SHUTDOWN_TIMEOUT=0"]
    cure = {"ROCKETRY_OTEL_SHUTDOWN_TIMEOUT": "0"}
    script = f"{SHORT}{APP}{ETL}instrument(app){RUN}print('ended')"
    with OTLPReceiver(grpc=False) as receiver:
        receiver.behave(Hang())
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
        slow = {**env, "ROCKETRY_OTEL_SHUTDOWN_TIMEOUT": "600"}
        with Program.of_script(script, tmp_path, slow) as waiting:
            assert receiver.wait_for(lambda it: it.requests, 240)
            done = run_python(script, cwd=tmp_path, env={**env, **cure}, timeout=240)
            assert (done.returncode, done.stdout) == (0, "ended\n")
            assert waiting.process.poll() is None
            receiver.behave(Ok())
            receiver.release()
            waiting.wait_for_line("ended")
            assert waiting.wait() == 0
        assert {it.span.name for it in receiver.spans} == {"run etl"}


def test_errors_of_a_locked_database_are_those_of_the_page(tmp_path: Path) -> None:
    """Another connection has a transaction that it does not end."""
    lock = """
import sqlite3
instrument(app, repo="sqlite:///tasks.db")
connection = sqlite3.connect("tasks.db", isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
"""
    done = run(lock, tmp_path, NO_TELEMETRY)
    lines = done.stderr.splitlines()
    assert locked in lines
    assert failed in lines


@pytest.mark.skipif(pydantic.VERSION.startswith("1."), reason="pydantic 1 is installed")
def test_error_of_rocketry_beside_pydantic_2_is_that_of_the_page(tmp_path: Path) -> None:
    """With our support for pydantic 2 switched off."""
    env = {"ROCKETRY_OTEL_PYDANTIC": "off"}
    done = run_python("import rocketry", cwd=tmp_path, env=env)
    assert (done.returncode, const in done.stderr.splitlines()) == (1, True)
