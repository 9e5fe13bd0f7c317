"""The Compose file, by the library that Docker Compose reads it with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import clean_environment

from .programs import COMPOSE
from .servers import ROOT


def read(*files: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Have the files checked, and give what is made of them."""
    return subprocess.run(
        [COMPOSE.directory / "compose", *files],
        env=clean_environment(env),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_keeps_to_the_specification():
    """It has every service, after all anchors and variables have been put in."""
    done = read(ROOT / "docker-compose.yml")
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert set(services) >= {"collector", "jaeger", "loki", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("restart:", "restarts:", "restarts"),
        ("depends_on: [jaeger, loki]", "depends_on: [nobody]", "nobody"),
        ("- grafana:/var/lib/grafana", "- nothing:/var/lib/grafana", "nothing"),
    ],
)
def test_mistake_would_be_found(tmp_path, old, new, complaint):
    """An unknown key, an unknown service and an unknown volume are each an error."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "docker-compose.yml").write_text(text.replace(old, new), encoding="utf-8")
    done = read(tmp_path / "docker-compose.yml")
    assert done.returncode != 0
    assert complaint in done.stderr


def test_database_gets_the_users_password():
    """There is none in the file, and without one of the user's the image does not start."""
    model = json.loads(read(ROOT / "docker-compose.yml", COMPOSE_PROFILES="postgresql").stdout)
    assert model["services"]["postgresql"]["environment"]["POSTGRES_PASSWORD"] == ""
    env = {"COMPOSE_PROFILES": "postgresql", "POSTGRES_PASSWORD": "mine"}
    model = json.loads(read(ROOT / "docker-compose.yml", **env).stdout)
    assert "mine" in model["services"]["postgresql"]["environment"].values()
