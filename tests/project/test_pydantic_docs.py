"""The pages about pydantic 2 and `opentelemetry-instrument` are true."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest

import _rocketry_otel_pydantic
from tests.support.pages import blocks
from tests.support.processes import run_python

ROOT = Path(__file__).parents[2]
PYDANTIC = (ROOT / "docs" / "pydantic.md").read_text(encoding="utf-8")
(BOTH, OWN_MODEL) = blocks("docs/pydantic.md", "python")
(INSTRUMENTOR,) = blocks("docs/zero-code.md", "python")


def run(script: str, tmp_path: Path) -> str:
    """Run a script without telemetry; return its output."""
    env = {"OTEL_SDK_DISABLED": "true"}
    done = run_python(script, cwd=tmp_path, env=env, options=["-W", "error"], timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_application_beside_fastapi_works(tmp_path: Path) -> None:
    """The code of the page runs unchanged."""
    pytest.importorskip("fastapi")
    ask = """
import asyncio
@app.task()
def etl(): ...
print(asyncio.run(jobs()))
"""
    assert run(BOTH + ask, tmp_path) == "[Job(name='etl', status=None)]\n"


def test_model_of_ones_own_works(tmp_path: Path) -> None:
    """In both worlds."""
    use = """
from rocketry import Rocketry
from rocketry.conditions import SchedulerCycles
from rocketry_otel import instrument
app = Rocketry(execution="main")
handler = instrument(app, repo=repo)
app.session.create_task(func=lambda: None, name="etl").run()
app.session.config.shut_cond = SchedulerCycles() >= 1
app.run()
print([it.action for it in repo.filter_by().all()])
"""
    assert run(OWN_MODEL + use, tmp_path) == "['run', 'success']\n"


@pytest.mark.skipif(pydantic.VERSION.startswith("1."), reason="pydantic 1 is installed")
def test_refusal_is_word_for_word(tmp_path: Path) -> None:
    """As the page shows it."""
    use = """
from rocketry_otel import OTelRepoHandler
try:
    OTelRepoHandler(repo)
except TypeError as error:
    print(f"TypeError: {error}")
"""
    script = OWN_MODEL.replace("pydantic.v1", "pydantic") + use
    assert run(script, tmp_path) in PYDANTIC


def test_instrumentor_of_the_page_works(tmp_path: Path) -> None:
    """The code of the page runs unchanged."""
    show = "print(RocketryInstrumentor().is_instrumented_by_opentelemetry)\n"
    assert run(INSTRUMENTOR + show, tmp_path) == "True\n"


def test_switch_is_documented() -> None:
    """By the name that the code reads."""
    assert f"`{_rocketry_otel_pydantic.VARIABLE}=off`" in PYDANTIC
    assert "off" in _rocketry_otel_pydantic.OFF
