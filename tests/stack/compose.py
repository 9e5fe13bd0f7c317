"""What Docker Compose makes of Compose files, after anchors, variables and all files are put in."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.processes import clean_environment

from .programs import COMPOSE
from .servers import ROOT

SHIPPED = ROOT / "docker-compose.yml"
WITH_VICTORIA_LOGS = (SHIPPED, ROOT / "stack" / "compose-victoria-logs.yml")


def read(*files: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Have the files read and checked; its output is what they come to, as JSON."""
    options = [str(word) for file in files for word in ("--file", file)]
    return subprocess.run(
        [str(COMPOSE.directory / "docker-compose"), *options, "config", "--format=json"],
        env=clean_environment(env),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def services_of(*files: Path, **env: str) -> dict[str, Any]:
    """Return the services of files that are right."""
    done = read(*files, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]
