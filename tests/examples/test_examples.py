"""Each example runs as it is, in processes of its own, against real parts."""

from __future__ import annotations

import http.client
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import make_certificates
from tests.support.otlp_receiver import OTLPReceiver, attributes_of
from tests.support.processes import run_command
from tests.support.program import Program

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 240  # seconds, on a machine that does much else
WAIT = 60  # seconds


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """A collector."""
    with OTLPReceiver(grpc=False) as it:
        yield it


def start(receiver: OTLPReceiver, *arguments: str, folder: Path = EXAMPLES, **env: str) -> Program:
    """Start an example, whose telemetry is sent at once."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_BLRP_SCHEDULE_DELAY": "50",
        "PYTHONDONTWRITEBYTECODE": "1",
        **env,
    }
    return Program([sys.executable, *arguments], folder, variables)


def spans_of(receiver: OTLPReceiver) -> dict[str, Any]:
    """Return the spans, by name."""
    return {it.span.name: it.span for it in receiver.spans}


def has_spans(*names: str) -> Callable[[OTLPReceiver], bool]:
    """Return the condition that spans of these names have come."""
    return lambda it: set(names) <= spans_of(it).keys()


def request(port: str, method: str, path: str) -> tuple[int, object]:
    """Ask a web server; return the status and the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=WAIT)
    with closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, json.load(response)


def test_web_server_runs_a_task_that_a_request_asks_for(receiver: OTLPReceiver) -> None:
    """The run links to the span of the request, and SIGTERM ends server and scheduler."""
    pytest.importorskip("fastapi")
    with start(receiver, "-m", "uvicorn", "web_server:api", "--port", "0") as program:
        line = ""
        while (found := re.search(r"running on http://127.0.0.1:(\d+)", line)) is None:
            line = program.wait_for_line("INFO:")
        port = found[1]
        assert request(port, "POST", "/tasks/nope") == (404, {"detail": "no task nope"})
        assert request(port, "POST", "/tasks/report") == (202, None)
        assert receiver.wait_for(has_spans("run report", "POST /tasks/report"), WAIT)
        run = spans_of(receiver)["run report"]
        status, records = request(port, "GET", "/tasks/report/runs")
        program.terminate()
        program.wait()
    assert status == 200
    trace_id = run.trace_id.hex()
    assert [(it["action"], it["trace_id"]) for it in records] == [
        ("run", trace_id),
        ("success", trace_id),
    ]
    (link,) = run.links
    assert link.span_id == spans_of(receiver)["POST /tasks/report"].span_id
    assert attributes_of(link.attributes)["rocketry.link"] == "request"
    assert spans_of(receiver)["collect figures"].parent_span_id == run.span_id


def test_processes_have_spans_within_their_runs(receiver: OTLPReceiver) -> None:
    """Spans, attributes and log lines of children are in the run's trace; the summary links."""
    imports = [f"run import-{region}" for region in ("north", "south", "west")]
    with start(receiver, "process_pool.py") as program:
        assert receiver.wait_for(has_spans(*imports, "run summary"), WAIT)
        program.terminate()
        program.wait()
    assert receiver.wait_for(lambda it: len(it.spans) == 3 * 3 + 1)
    spans = spans_of(receiver)
    runs = {spans[name].span_id: spans[name] for name in imports}
    for it in receiver.spans:
        if it.span.name in {"read", "write"}:
            run = runs[it.span.parent_span_id]
            assert it.span.trace_id == run.trace_id
            assert attributes_of(run.attributes)["rows"] == 100
            assert attributes_of(run.attributes)["rocketry.execution"] == "process"
    assert {link.span_id for link in spans["run summary"].links} == set(runs)
    assert attributes_of(spans["run summary"].attributes)["regions"] == 3
    bodies = {
        it.log_record.body.string_value: it.log_record.trace_id for it in receiver.log_records
    }
    for region in ("north", "south", "west"):
        trace_id = spans[f"run import-{region}"].trace_id
        assert bodies[f"2 rows of {region} have no price"] == trace_id


def test_two_workers_share_a_database(
    receiver: OTLPReceiver, make_url: Callable[[str], str], tmp_path: Path
) -> None:
    """One worker waits for a task of the other, and the history has the runs of both."""
    env = {"ROCKETRY_OTEL_REPO": make_url("postgresql"), "ROCKETRY_OTEL_STATE_DIR": str(tmp_path)}
    with (
        start(receiver, "two_workers.py", "reports", **env) as reports,
        start(receiver, "two_workers.py", "orders", **env) as orders,
    ):
        assert receiver.wait_for(has_spans("run load_orders", "run make_report"), WAIT)
        for worker in (reports, orders):
            worker.terminate()
        for worker in (reports, orders):
            worker.wait()
    done = run_command([sys.executable, "two_workers.py", "history"], env, LONGEST, EXAMPLES)
    assert (done.returncode, done.stderr) == (0, "")
    ids = {name: span.trace_id.hex() for name, span in spans_of(receiver).items()}
    assert done.stdout.splitlines() == [
        f"{task} {action} {ids[f'run {task}']}"
        for task in ("load_orders", "make_report")
        for action in ("run", "success")
    ]


def test_vendor_gets_telemetry_with_its_header(tmp_path: Path) -> None:
    """The file of variables, with the address of a server of ours, is enough."""
    certificates = make_certificates(tmp_path)
    header = ("api-key", "s3cret")
    with OTLPReceiver(tls=certificates.server, required_header=header) as vendor:
        endpoint = f"https://{vendor.grpc_endpoint.partition('//')[2]}"
        script = (
            f"set -a; . ./vendor.env; OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}; "
            f'exec "{sys.executable}" app.py'
        )
        env = {
            "VENDOR_API_KEY": header[1],
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificates.ca_file),
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        with Program(["/bin/sh", "-c", script], EXAMPLES / "vendor", env) as program:
            assert vendor.wait_for(has_spans("run send_invoices"), WAIT)
            program.terminate()
            program.wait()
        (arrival,) = vendor.spans
    assert attributes_of(arrival.resource.attributes)["service.name"] == "billing"
    (event,) = arrival.span.events
    assert attributes_of(event.attributes) == {
        "exception.type": "ConnectionError",
        "exception.message": "421 too many connections, try again later",
    }
    assert {request.protocol for request in vendor.requests} == {"grpc"}


def test_own_tests_pass() -> None:
    """The tests of the example are green: pytest finds the fixture that they use."""
    pytest_ = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    env = {"PYTEST_ADDOPTS": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = run_command([sys.executable, *pytest_], env, LONGEST, EXAMPLES / "own_tests")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 passed" in done.stdout


def test_every_example_is_in_the_list() -> None:
    """The table links to each example, and to nothing else."""
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    linked = {link.rstrip("/") for link in re.findall(r"\]\(([^)]+)\)", text)}
    there = {path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__"}
    assert linked == there - {"README.md"}
