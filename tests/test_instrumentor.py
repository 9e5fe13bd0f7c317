"""`opentelemetry-instrument` records Rocketry applications that know nothing of it.

The processes are real ones, with OpenTelemetry's own distribution where that is said.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from packaging.version import Version

from rocketry_otel import instrument, uninstrument
from rocketry_otel._instrumentation.handler import handler_of
from rocketry_otel.instrumentor import RocketryInstrumentor
from rocketry_otel.testing import TelemetryCapture
from tests.support import apps
from tests.support.apps import make_app, run_tasks
from tests.support.otlp_receiver import OTLPReceiver, attributes_of
from tests.support.processes import Finished, run_command
from tests.support.program import Program

LOGGER = logging.getLogger("rocketry.task")
HTTP = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
NO_METRICS = {"OTEL_METRICS_EXPORTER": "none", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "logging"}
PLAIN = """
from rocketry import Rocketry
from rocketry.conditions import SchedulerCycles

app = Rocketry(execution="main")

@app.task()
def etl():
    print("the body runs")

app.session["etl"].run()
app.session.config.shut_cond = SchedulerCycles() >= 1
"""
RUN = "app.run()\n"
LONGEST = 240  # seconds, on a machine that does much else


def run(folder: Path, script: str, endpoint: str, **env: str) -> Finished:
    """Run a script by the command, and wait for its end."""
    file = folder / "app.py"
    file.write_text(script, encoding="utf-8")
    command = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **NO_METRICS, **env}
    return run_command([command, sys.executable, str(file)], variables, LONGEST, folder)


@pytest.fixture
def receiver():
    """A collector."""
    with OTLPReceiver() as it:
        yield it


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(PLAIN + RUN, id="run"),
        pytest.param(PLAIN + "import asyncio\nasyncio.run(app.serve())\n", id="serve"),
        pytest.param(PLAIN + "app.session.start()\n", id="session"),
        pytest.param(
            PLAIN + "import rocketry_otel\nrocketry_otel.instrument(app)\n" + RUN, id="instrument"
        ),
        pytest.param(
            "import multiprocessing\nmultiprocessing.set_start_method('spawn')\n" + PLAIN + RUN,
            id="start method",
        ),
    ],
)
def test_application_is_recorded_once(receiver, tmp_path: Path, script: str) -> None:
    """However it starts; also if it calls `instrument` itself, or sets a start method first."""
    done = run(tmp_path, script, receiver.http_endpoint, **HTTP)
    assert (done.returncode, done.stdout) == (0, "the body runs\n"), done.stderr
    assert [it.span.name for it in receiver.spans] == ["run etl"]
    names = [it.log_record.event_name for it in receiver.log_records]
    of_tasks = [name for name in names if name.startswith("rocketry.task.")]
    assert of_tasks == ["rocketry.task.run", "rocketry.task.success"]


def test_two_applications_are_recorded(receiver, tmp_path: Path) -> None:
    """Each from its own start."""
    second = PLAIN.replace("etl", "report") + RUN
    done = run(tmp_path, PLAIN + RUN + second, receiver.http_endpoint, **HTTP)
    assert done.returncode == 0, done.stderr
    assert [it.span.name for it in receiver.spans] == ["run etl", "run report"]


@pytest.mark.skipif(
    Version(version("opentelemetry-instrumentation")) < Version("0.66b0"),
    reason="this version hides itself from the new process",
)
def test_application_is_recorded_after_a_restart(receiver, tmp_path: Path) -> None:
    """Rocketry replaces the process by a new one of the same command."""
    restarts = """
import os
if "AGAIN" not in os.environ:
    os.environ["AGAIN"] = "1"
    app.session.config.shut_cond = None
    app.session["etl"].func = app.session.restart
"""
    done = run(tmp_path, PLAIN + restarts + RUN, receiver.http_endpoint, **HTTP)
    assert (done.returncode, done.stdout) == (0, "the body runs\n"), done.stderr
    assert [it.span.name for it in receiver.spans] == ["run etl", "run etl"]


def test_gRPC_of_the_distribution_is_used(receiver, tmp_path: Path) -> None:  # noqa: N802
    """It is the distribution's default."""
    pytest.importorskip("opentelemetry.distro")
    done = run(tmp_path, PLAIN + RUN, receiver.grpc_endpoint)
    assert done.returncode == 0, done.stderr
    assert [it.span.name for it in receiver.spans] == ["run etl"]


def test_gRPC_to_a_port_of_HTTP_is_warned_of(receiver, tmp_path: Path) -> None:  # noqa: N802
    """Once, with the cure."""
    pytest.importorskip("opentelemetry.distro")
    waits = """
import threading
for thread in threading.enumerate():
    if thread.name == "rocketry-otel-wrong-protocol":
        thread.join(30)
"""
    done = run(
        tmp_path,
        PLAIN + RUN + waits,
        receiver.http_endpoint,
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
        OTEL_LOGS_EXPORTER="none",
    )
    assert done.stdout == "the body runs\n"
    assert done.stderr.count("the port does not speak gRPC, and may be one for HTTP") == 1
    assert f"No telemetry reaches {receiver.http_endpoint}: " in done.stderr


def test_disabled_instrumentation_does_nothing(receiver, tmp_path: Path) -> None:
    """By the standard variable, and the name of the entry point."""
    script = PLAIN + RUN + "import sys; print('rocketry_otel' in sys.modules)\n"
    env = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "logging, rocketry"}
    done = run(tmp_path, script, receiver.http_endpoint, **{**HTTP, **env})
    assert done.stdout == "the body runs\nFalse\n", done.stderr
    assert receiver.spans == []


def test_application_that_cannot_be_recorded_runs(receiver, tmp_path: Path) -> None:
    """One line in the log has the reason."""
    env = {"ROCKETRY_OTEL_REPO": "nosuch://place"}
    done = run(tmp_path, PLAIN + RUN, receiver.http_endpoint, **{**HTTP, **env})
    assert (done.returncode, done.stdout) == (0, "the body runs\n"), done.stderr
    assert len(re.findall("The application is not recorded: ROCKETRY_OTEL_REPO", done.stderr)) == 1


def test_program_without_rocketry_does_not_import_it(receiver, tmp_path: Path) -> None:
    """Importing it takes long, and has effects."""
    script = "import sys; print('rocketry' in sys.modules, 'rocketry_otel' in sys.modules)\n"
    done = run(tmp_path, script, receiver.http_endpoint, **HTTP)
    assert (done.returncode, done.stdout) == (0, "False True\n"), done.stderr


@pytest.fixture
def instrumentor():
    """The one of this process, off at the end."""
    it = RocketryInstrumentor()
    yield it
    if it.is_instrumented_by_opentelemetry:
        it.uninstrument()


def test_code_can_switch_it_on_and_off(instrumentor, telemetry: TelemetryCapture) -> None:
    """With providers of its own; a second switching on adds nothing."""
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    instrumentor.instrument(**telemetry.providers, unknown="is not used")
    run_tasks(app, "etl")
    run_tasks(app, "etl")
    assert [span.name for span in telemetry.spans] == ["run etl", "run etl"]
    instrumentor.uninstrument()
    assert handler_of(app.session) is None
    run_tasks(app, "etl")
    assert len(telemetry.spans) == 2
    instrumentor.instrument(**telemetry.providers)
    run_tasks(app, "etl")
    assert len(telemetry.spans) == 3


def test_port_is_looked_at_once(
    instrumentor, telemetry: TelemetryCapture, receiver, monkeypatch, caplog
) -> None:
    """When the first scheduler starts beside the global provider of a distribution."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(shutdown_on_exit=False))
    monkeypatch.setattr(instrumentor, "_has_looked", False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
    instrumentor.instrument(**telemetry.providers)
    for _ in range(2):
        app = make_app()
        run_tasks(app)
        uninstrument(app)
    for thread in threading.enumerate():
        if thread.name == "rocketry-otel-wrong-protocol":
            thread.join()
    assert [
        it.getMessage().partition(":")[0] for it in caplog.records if it.levelname == "WARNING"
    ] == ["No telemetry reaches http"]


def test_application_of_ones_own_stays_instrumented(
    instrumentor, telemetry: TelemetryCapture
) -> None:
    """What `instrument` has done, only `uninstrument` undoes."""
    app = make_app()
    handler = instrument(app, **telemetry.providers)
    app.session.create_task(func=apps.succeed, name="etl")
    instrumentor.instrument()
    run_tasks(app, "etl")
    instrumentor.uninstrument()
    assert handler_of(app.session) is handler
    assert [span.name for span in telemetry.spans] == ["run etl"]
    uninstrument(app)


def test_reason_is_logged_if_an_application_cannot_be_recorded(
    instrumentor, caplog, monkeypatch
) -> None:
    """The scheduler runs as it would without it."""
    monkeypatch.setenv("ROCKETRY_OTEL_SPAN_KIND", "odd")
    app = make_app()
    app.session.create_task(func=apps.succeed, name="etl")
    instrumentor.instrument()
    run_tasks(app, "etl")
    lines = [it.getMessage() for it in caplog.records if it.name == "rocketry_otel"]
    reason = "ROCKETRY_OTEL_SPAN_KIND is 'odd'; allowed is internal, consumer or server."
    assert lines == [f"The application is not recorded: {reason}"]
    assert [it.action for it in app.session["etl"].logger.filter_by()] == ["run", "success"]


def test_fork_of_rocketry_is_instrumented(monkeypatch, tmp_path: Path) -> None:
    """The requirement names the distribution that is installed."""
    instrumentor = RocketryInstrumentor()
    assert instrumentor.instrumentation_dependencies() == ("rocketry>=2.5.1,<2.6",)
    folder = tmp_path / "rocketry_fix-2.5.1.2.dev0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: rocketry-fix\nVersion: 2.5.1.2.dev0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert instrumentor.instrumentation_dependencies() == ("rocketry-fix>=2.5.1.dev0,<2.6",)
    assert instrumentor._check_dependency_conflicts() is None


FILE = """
file_format: "1.0"
disabled: {disabled}
resource:
  attributes:
    - name: service.name
      value: from the file
tracer_provider:
  processors:
    - simple:
        exporter:
          otlp_http:
            endpoint: ${{COLLECTOR}}/v1/traces
{more}
"""
LOGS_TOO = """
logger_provider:
  processors:
    - simple:
        exporter:
          otlp_http:
            endpoint: ${COLLECTOR}/v1/logs
"""


@pytest.mark.parametrize(
    ("disabled", "more", "spans", "events", "line"),
    [
        pytest.param(
            "false",
            LOGS_TOO,
            ["run etl"],
            ["rocketry.task.run", "rocketry.task.success"],
            "Traces and logs go to the provider of the application; metrics are not sent. "
            "OTEL_CONFIG_FILE configures this: what cannot be sent is not sent again",
            id="traces and logs",
        ),
        pytest.param(
            "false",
            "",
            ["run etl"],
            [],
            "Traces go to the provider of the application; logs and metrics are not sent. "
            "OTEL_CONFIG_FILE configures this: what cannot be sent is not sent again",
            id="traces",
        ),
        pytest.param(
            "true",
            LOGS_TOO,
            [],
            [],
            "OTEL_CONFIG_FILE configures this: it has no provider, or is disabled.",
            id="disabled",
        ),
    ],
)
def test_file_of_configuration_is_followed(
    disabled: str, more: str, spans: list[str], events: list[str], line: str, receiver, tmp_path
) -> None:
    """The file chooses all that is sent, and one line of the log has that."""
    # Not imported: that would count as having read a file.
    if find_spec("opentelemetry.configuration") is None:
        pytest.skip("opentelemetry-configuration is not installed")
    file = tmp_path / "otel.yaml"
    file.write_text(FILE.format(disabled=disabled, more=more), encoding="utf-8")
    script = "import logging\nlogging.basicConfig(level=logging.INFO)\n" + PLAIN + RUN
    endpoint = receiver.http_endpoint
    variables = {"OTEL_CONFIG_FILE": str(file), "COLLECTOR": endpoint, **HTTP}
    done = run(tmp_path, script, endpoint, **variables)
    assert (done.returncode, done.stdout.strip()) == (0, "the body runs"), done.stderr
    assert [it.span.name for it in receiver.spans] == spans
    for it in receiver.spans:
        assert attributes_of(it.resource.attributes)["service.name"] == "from the file"
    names = [it.log_record.event_name for it in receiver.log_records]
    assert [name for name in names if name.startswith("rocketry.task.")] == events
    assert bool(names) == bool(events)
    (found,) = [it for it in done.stderr.splitlines() if "OTEL_CONFIG_FILE configures" in it]
    assert line in found


SERVER = """
from rocketry import Rocketry

app = Rocketry(execution="thread")

@app.task("every 1 hour")
def etl():
    print("the body runs", flush=True)

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b""]
"""
# As Rocketry's users do it: the scheduler runs in a thread of the worker.
GUNICORN = """
import threading

def post_worker_init(worker):
    import server
    threading.Thread(target=server.app.run, daemon=True).start()
"""


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_worker_of_gunicorn_is_recorded(
    receiver: OTLPReceiver, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Also if the application was imported, and the providers made, before the fork."""
    (tmp_path / "server.py").write_text(SERVER, encoding="utf-8")
    (tmp_path / "gunicorn.conf.py").write_text(GUNICORN, encoding="utf-8")
    command = [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable]
    command += ["-m", "gunicorn", "server:wsgi", "--no-control-socket", "--bind", "127.0.0.1:0"]
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_BLRP_SCHEDULE_DELAY": "50",
        **HTTP,
        **NO_METRICS,
    }
    with Program([*command, *options], tmp_path, env) as program:
        program.wait_for_line("the body runs")
        assert receiver.wait_for(lambda it: it.spans, 60)
        program.terminate()
        assert program.wait() == 0
    assert [it.span.name for it in receiver.spans] == ["run etl"]
    names = [it.log_record.event_name for it in receiver.log_records]
    of_tasks = [name for name in names if name.startswith("rocketry.task.")]
    assert of_tasks == ["rocketry.task.run", "rocketry.task.success"]
