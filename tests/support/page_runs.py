"""Runs the blocks of pages, as a reader would."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.pages import ROOT
from tests.support.processes import Finished, run_command, run_python

# The scheduler of a block that calls `app.run()` ends by itself, after a few cycles.
SHORT = """\
import rocketry
from rocketry.conditions import SchedulerCycles

def _run(app, _run=rocketry.Rocketry.run):
    app.session.config.shut_cond = SchedulerCycles() >= 3
    return _run(app)

rocketry.Rocketry.run = _run
"""
# What blocks go on from.
APP = """\
from rocketry import Rocketry
from rocketry_otel import instrument

app = Rocketry(execution="main")
"""
HANDLER = f"{APP}handler = instrument(app)\n"
NO_TELEMETRY = {"OTEL_SDK_DISABLED": "true"}


def run_block(
    code: str,
    folder: Path,
    *,
    before: str = "",
    after: str = "",
    env: Mapping[str, str] = NO_TELEMETRY,
) -> str:
    """Run code in a folder; return its output. A warning, or output of errors, is a failure.

    Args:
        code: The code of a page.
        folder: The working directory.
        before: What the page assumes.
        after: What shows that it worked.
        env: Variables.
    """
    script = f"{SHORT}{before}\n{code}\n{after}"
    # Older exporters of the SDK leave their connections to the end of the process.
    options = ["-W", "error", "-W", "ignore:unclosed <socket:ResourceWarning"]
    done = run_python(script, cwd=folder, env=env, options=options, timeout=240)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def run_tests(folder: Path) -> Finished:
    """Run pytest in a folder with this project's plugin, however the project is installed."""
    plugins = ["-p", "no:rocketry-otel", "-p", "_rocketry_otel_pytest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(folder), *plugins]
    path = {"PYTHONPATH": f"{ROOT / 'src'}:{folder}"}
    return run_command([*command, str(folder)], path, 240, folder)
