"""The pytest plugin, in processes of pytest that find it by its entry point."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from tests.support.processes import Finished, run_command

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
LONGEST = 240  # seconds, on a machine that does much else

APPLICATION = """
from rocketry import Rocketry
from rocketry.conditions import SchedulerCycles
from rocketry_otel import instrument

app = Rocketry(execution="main")
app.session.config.shut_cond = SchedulerCycles() >= 1
instrument(app, repo="memory://", enrich=lambda task, fields, outcome: {"team": "data"})

@app.task()
def etl():
    raise ValueError("an empty file")
"""
TESTS = """
import os, sys
# The first of the files.
assert "rocketry_otel" not in sys.modules

def run_etl(app):
    app.session["etl"].run()
    app.run()

def test_fixture_captures_the_telemetry(capture_rocketry):
    from application import app
    from rocketry_otel.testing import TelemetryCapture
    assert [name for name in os.environ if name.startswith(("OTEL_", "ROCKETRY_OTEL_"))] == []
    telemetry = capture_rocketry(app)
    assert type(telemetry) is TelemetryCapture
    run_etl(app)
    attributes = telemetry.span("etl").attributes
    assert (attributes["error.type"], attributes["team"]) == ("ValueError", "data")

def test_each_test_has_a_capture_of_its_own(capture_rocketry):
    from application import app
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
    telemetry = capture_rocketry(app, sampler=ALWAYS_OFF)
    run_etl(app)
    assert telemetry.spans == []
    assert [record.event_name for record in telemetry.log_records][-2:] == [
        "rocketry.task.run", "rocketry.task.fail"
    ]

def test_variables_are_back():
    assert os.environ["OTEL_SDK_DISABLED"] == "true"
"""
# Coverage of a module that was imported before it started would be a warning.
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
# With a disabled SDK nothing would be captured.
ENVIRONMENT = {"OTEL_SDK_DISABLED": "true"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs, the names of its files included."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=LONGEST)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def run_pytest(folder: Path, wheel: Path, *options: str) -> Finished:
    """Run pytest in a folder, in an interpreter that has the wheel."""
    env = {**ENVIRONMENT, "PYTHONPATH": str(wheel), "PYTEST_ADDOPTS": ""}
    return run_command([*PYTEST, *options], env, LONGEST, folder)


def test_fixture_captures_telemetry_and_costs_no_import_before(
    pytester: pytest.Pytester, wheel: Path
) -> None:
    """An instrumented application is captured, and coverage counts our first line."""
    pytester.makepyfile(application=APPLICATION)
    pytester.makepyfile(test_0=TESTS)
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page, re.DOTALL)):
        is_test = "def test_" in block
        pytester.makepyfile(**{f"test_page_{number}": block if is_test else _in_a_test(block)})
    done = run_pytest(
        pytester.path, wheel, "--cov=rocketry_otel", "--cov-report=json", "--cov-report="
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "6 passed" in done.stdout
    assert "warning" not in done.stdout
    (file,) = pytester.path.glob("coverage.json")
    files = json.loads(file.read_text())["files"]
    (missing,) = [
        of["missing_lines"] for name, of in files.items() if name.endswith("otel/__init__.py")
    ]
    assert missing == []


def _in_a_test(block: str) -> str:
    """Return a block of the page as a test, with the application and without the variables."""
    code = textwrap.indent(f"from application import app\n{block}", "    ")
    return f"def test_block(monkeypatch):\n    monkeypatch.delenv('OTEL_SDK_DISABLED')\n{code}"


def test_plugin_is_silent_where_it_is_not_used(pytester: pytest.Pytester, wheel: Path) -> None:
    """Tests that do not use the fixture import nothing of ours, and `-p no:` switches it off."""
    pytester.makepyfile("""
        import sys
        from importlib.metadata import entry_points
        def test_nothing_is_imported(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("rocketry-otel")
            (point,) = entry_points(group="pytest11", name="rocketry-otel")
            assert point.value == "_rocketry_otel_pytest" in sys.modules
            ours = {"rocketry_otel", "rocketry", "redbird", "opentelemetry", "pydantic"}
            assert ours.isdisjoint(sys.modules)
        """)
    done = run_pytest(pytester.path, wheel)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    off = run_pytest(pytester.path, wheel, "-p", "no:rocketry-otel", "--fixtures")
    assert "capture_rocketry" not in off.stdout
    on = run_pytest(pytester.path, wheel, "--fixtures")
    assert "capture_rocketry -- " in on.stdout
