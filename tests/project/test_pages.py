"""The blocks of the general pages work, unchanged."""

from __future__ import annotations

import http.server
import re
import sys
import threading
from pathlib import Path

import pytest

from tests.support.otlp_receiver import OTLPReceiver
from tests.support.page_runs import APP, HANDLER, NO_TELEMETRY, run_block, run_tests
from tests.support.pages import blocks, section
from tests.support.processes import run_command

(quick_start, query, by_hand, inside, delivery, own_test) = blocks("README.md", "python")
(start_page,) = blocks("docs/index.md", "python")
(application, first_query) = blocks("docs/getting-started.md", "python")
(status,) = blocks("docs/guarantees.md", "python")
(lines, attributes, current_span, hooks) = blocks("docs/inside-the-run.md", "python")
(given_settings,) = blocks("docs/settings.md", "python")
(sampler,) = blocks("docs/sampling.md", "python")
(with_fixture, with_block, with_clock) = blocks("docs/testing.md", "python")

pytestmark = pytest.mark.slow

ETL_FAILS = """\
@app.task("every 1 hour")
def etl():
    raise ValueError("no rows")
"""
ROW = r"\d+\.\d+ ValueError [0-9a-f]{32}\n"


def test_quick_start_works(tmp_path: Path) -> None:
    """The handler is in front when the scheduler has run."""
    assert start_page == quick_start
    after = "print([type(it).__name__ for it in logging.getLogger('rocketry.task').handlers])"
    shown = run_block(quick_start, tmp_path, before="import logging", after=after)
    assert shown == "['OTelRepoHandler']\n"


def test_query_of_the_readme_finds_failures(tmp_path: Path) -> None:
    """In the repository that an application has written."""
    env = {**NO_TELEMETRY, "ROCKETRY_OTEL_REPO": "sqlite:///tasks.db"}
    run_block(ETL_FAILS, tmp_path, before=HANDLER, after="app.run()", env=env)
    assert re.fullmatch(ROW, run_block(query, tmp_path))


def test_recipe_by_hand_works(tmp_path: Path) -> None:
    """A record that comes to the logger is in the file."""
    log = """
record = logging.LogRecord("rocketry.task", 20, "x", 1, "m", None, None)
record.action, record.task_name = "fail", "etl"
logging.getLogger("rocketry.task").handle(record)
print(len(handler.repo.filter_by(task_name="etl", action="fail").all()))
"""
    assert run_block(by_hand, tmp_path, after=log) == "1\n"


class _Rows(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[1, 2, 3]")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_spans_of_a_body_belong_to_its_run(tmp_path: Path) -> None:
    """With a real request, to a server of this test."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Rows) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = inside.replace("https://api.example.com", f"http://127.0.0.1:{server.server_port}")
        with OTLPReceiver(grpc=False) as receiver:
            env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
            run_block(code, tmp_path, before=HANDLER, after="app.run()", env=env)
        server.shutdown()
    spans = {it.span.name: it.span for it in receiver.spans}
    assert set(spans) == {"run etl", "GET"}
    assert spans["GET"].parent_span_id == spans["run etl"].span_id
    rows = [it.value.int_value for it in spans["run etl"].attributes if it.key == "rows"]
    assert rows == [3]


def test_status_of_delivery_is_shown(tmp_path: Path) -> None:
    """As on both pages: nothing waits, and nothing has failed."""
    shown = run_block(delivery + status, tmp_path, before=APP)
    assert shown == "0 None\n0 None None\n0 0 0\n"


def test_test_of_the_readme_passes(tmp_path: Path) -> None:
    """In a real pytest, with the fixture of the plugin."""
    (tmp_path / "test_etl.py").write_text(APP + ETL_FAILS + own_test, encoding="utf-8")
    done = run_tests(tmp_path)
    assert (done.returncode, done.stdout.split(" in ")[0].split("\n")[-1]) == (0, "1 passed")


def test_tests_of_ones_own_work(tmp_path: Path) -> None:
    """With the fixture, with a block, and with a clock."""
    (tmp_path / "application.py").write_text(APP + ETL_FAILS, encoding="utf-8")
    (tmp_path / "test_etl.py").write_text(with_fixture, encoding="utf-8")
    done = run_tests(tmp_path)
    assert (done.returncode, done.stdout.split(" in ")[0].split("\n")[-1]) == (0, "1 passed")
    shown = run_block(with_block, tmp_path, before=APP + ETL_FAILS, env={})
    assert re.fullmatch(r"<opentelemetry\.trace\.status\.Status object at 0x\w+>\n", shown)
    assert run_block(with_clock, tmp_path, env={}) == ""


def test_first_five_minutes_work(tmp_path: Path) -> None:
    """The application, its telemetry, the query and the commands of the page."""
    (tmp_path / "app.py").write_text(application, encoding="utf-8")
    repo = {"ROCKETRY_OTEL_REPO": "sqlite:///tasks.db"}
    with OTLPReceiver(grpc=False) as receiver:
        env = {**repo, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
        run_block("from app import app\napp.run()", tmp_path, env={**env, "PYTHONPATH": "."})
        assert {it.span.name for it in receiver.spans} == {"run heartbeat", "run report"}
    assert re.fullmatch(ROW, run_block(first_query, tmp_path))
    for command in ("runs", "stats"):
        assert f"rocketry-otel {command}\n" in section("docs/getting-started.md", "5. Look")
        done = run_command([sys.executable, "-m", "rocketry_otel", command], repo, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert {"heartbeat", "report"} <= set(re.findall(r"\w+", done.stdout))


def test_body_of_a_task_adds_to_its_run(tmp_path: Path) -> None:
    """Log lines, attributes, the current span and hooks, each as the page shows it."""
    bodies = lines.replace("def etl", "def lines"), attributes, current_span
    tasks = "".join(
        f"{code}app.task('every 1 hour')({name})\n"
        for code, name in zip(bodies, ("lines", "etl", "load"), strict=True)
    )
    with OTLPReceiver(grpc=False) as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
        before = f"{APP}import logging\nlogging.lastResort = logging.NullHandler()\n"
        shown = run_block(tasks + hooks, tmp_path, before=before, after="app.run()", env=env)
    spans = {it.span.name: it.span for it in receiver.spans}
    assert set(spans) == {"lines (success)", "etl (success)", "load (success)"}
    assert re.fullmatch(rf"etl [0-9a-f-]+ {spans['etl (success)'].trace_id.hex()}\n", shown)
    assert [it.name for it in spans["etl (success)"].events] == ["downloaded"]
    assert spans["load (success)"].status.message == "3 rows were skipped"
    found = [it.log_record for it in receiver.log_records if it.scope.name == "shop.etl"]
    assert [it.body.string_value for it in found] == ["3 rows are empty"]
    assert [it.trace_id for it in found] == [spans["lines (success)"].trace_id]


def test_settings_in_code_work(tmp_path: Path) -> None:
    """Those of the page are in force."""
    after = """
import logging
settings = logging.getLogger("rocketry.task").handlers[0].settings
print(settings.exceptions, settings.exclude)
"""
    shown = run_block(given_settings, tmp_path, after=after)
    assert shown == "type ('heartbeat', 'poll-*')\n"


def test_sampler_of_ones_own_decides(tmp_path: Path) -> None:
    """It records no run."""
    run = """
@app.task("every 1 hour", execution="main")
def etl():
    from opentelemetry import trace
    print(trace.get_current_span().get_span_context().trace_flags.sampled)

app.run()
"""
    none = {"OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    assert run_block(sampler, tmp_path, after=run, env=none) == "False\n"
