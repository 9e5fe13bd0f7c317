"""The documentation is true."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rocketry_otel import Settings, open_repository
from rocketry_otel._cli.main import main
from rocketry_otel._telemetry import metrics
from rocketry_otel.testing import TelemetryCapture
from tests.support.otlp_receiver import OTLPReceiver
from tests.support.pages import all_blocks, blocks
from tests.support.processes import run_python

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TELEMETRY = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")


def test_every_setting_is_in_the_readme() -> None:
    """The table has all settings, and no others."""
    variables = {f"ROCKETRY_OTEL_{name.upper()}" for name in Settings.__fields__}
    table = set(re.findall(r"^\| `(ROCKETRY_OTEL_\w+)`", README, re.MULTILINE))
    assert table == variables


def test_every_metric_is_documented(telemetry: TelemetryCapture) -> None:
    """The table has the names and no others."""
    modules = Path(metrics.__file__).parent.glob("*.py")
    source = "".join(module.read_text(encoding="utf-8") for module in modules)
    names = set(re.findall(r'"(rocketry\.(?:task|scheduler)\.[\w.]+)"', source))
    names |= {f"rocketry.bridge.{name}" for name in metrics.BRIDGE_COUNTERS}
    names |= {
        "rocketry.bridge.waiting",
        "rocketry.bridge.waiting_time",
        "rocketry.bridge.hook_errors",
    }
    row = r"^\| `(rocketry\.(?:task|scheduler|bridge)\.[\w.]+)` \| \w"
    assert set(re.findall(row, TELEMETRY, re.MULTILINE)) == names


(plain, recipe) = blocks("docs/replay.md", "python")

# The others need a server.
LOCAL = [
    url for url in re.findall(r"^\| `(\w+://[^`]*)` \|", README, re.MULTILINE) if "host" not in url
]


@pytest.mark.parametrize("url", LOCAL)
def test_every_local_repository_url_of_the_readme_opens(url: str, tmp_path: Path) -> None:
    """Each is an empty repository, at its path."""
    assert "/var/lib/app" in url or url == "memory://"
    url = url.replace("/var/lib/app", str(tmp_path))
    repo = open_repository(url)
    repo.add({"task_name": "etl", "action": "run", "created": 1.0})
    assert [record.task_name for record in repo.filter_by().all()] == ["etl"]
    assert bool(list(tmp_path.iterdir())) == (url != "memory://")


def test_recipe_of_a_replay_works(tmp_path: Path) -> None:
    """The code of the page runs unchanged, on records of a plain application."""
    run = """
from rocketry.conditions import SchedulerCycles
app.session.create_task(func=lambda: None, name="etl-daily", execution="main").run()
app.session.config.shut_cond = SchedulerCycles() >= 1
app.run()
"""
    done = run_python(plain + run, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    with OTLPReceiver(grpc=False) as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
        done = run_python(recipe, cwd=tmp_path, env=env, options=["-W", "error"])
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "1 runs: 1 spans and 2 log records accepted\n"
        assert [it.span.name for it in receiver.spans] == ["run etl-daily"]


def test_every_option_of_a_replay_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """The table has the options and no others."""
    with pytest.raises(SystemExit):
        main(["replay", "--help"])
    options = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    text = (ROOT / "docs" / "replay.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(--[a-z-]+)", text, re.MULTILINE)) == options


# The blocks of these pages stand for themselves.
TYPED = (
    "README.md",
    *(f"docs/{name}.md" for name in ("getting-started", "inside-the-run", "settings", "testing")),
)
# For blocks that go on from an earlier one.
_BEFORE = """\
from rocketry import Rocketry
from rocketry_otel import instrument

app = Rocketry()
"""
# Neither Rocketry nor Red Bird has types, which makes decorators of Rocketry untyped. requests has
# them in another package.
_MYPY = """\
[mypy]
strict = true
disallow_untyped_decorators = false
follow_imports = silent
[mypy-rocketry.*,redbird.*,requests.*]
ignore_missing_imports = true
"""


def test_strict_type_checker_accepts_each_block_of_python(tmp_path: Path) -> None:
    """The code of these pages and examples needs no change in a strictly typed application."""
    pytest.importorskip("mypy")
    (tmp_path / "mypy.ini").write_text(_MYPY, encoding="utf-8")
    found = [
        block.code for page in TYPED for block in all_blocks(page) if block.language == "python"
    ]
    assert len(found) >= 12
    for number, code in enumerate(found):
        has_app = re.search(r"Rocketry\(|import app$", code, re.MULTILINE)
        before = "" if has_app else _BEFORE
        (tmp_path / f"block_{number}.py").write_text(before + code, encoding="utf-8")
    (tmp_path / "application.py").write_text(_BEFORE, encoding="utf-8")
    for example in (ROOT / "examples").rglob("*.py"):
        # It needs pydantic 2, which is not there with the type checker.
        if example.name != "web_server.py":
            shutil.copy(example, tmp_path)
    env = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    mypy = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "."]
    done = subprocess.run(
        mypy, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
