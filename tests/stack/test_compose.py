"""The Compose file, as Docker Compose reads it."""

from __future__ import annotations

import pytest

from .compose import SHIPPED, read, services_of


def test_it_keeps_to_the_specification():
    """It has every service, after all anchors and variables have been put in."""
    services = services_of(SHIPPED)
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
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "docker-compose.yml").write_text(text.replace(old, new), encoding="utf-8")
    done = read(tmp_path / "docker-compose.yml")
    assert done.returncode != 0
    assert complaint in done.stderr


def test_database_gets_the_users_password():
    """There is none in the file, and without one of the user's the image does not start."""
    services = services_of(SHIPPED, COMPOSE_PROFILES="postgresql")
    assert services["postgresql"]["environment"]["POSTGRES_PASSWORD"] == ""
    env = {"COMPOSE_PROFILES": "postgresql", "POSTGRES_PASSWORD": "mine"}
    services = services_of(SHIPPED, **env)
    assert "mine" in services["postgresql"]["environment"].values()
