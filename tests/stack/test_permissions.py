"""The programs start with files that only their owner may read, as the Compose file runs them.

A key as openssl makes it has mode 0600, and so have all files of a checkout with umask 077.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.certificates import make_certificates

from .compose import SHIPPED, services_of
from .servers import ROOT, Collector, Jaeger, Prometheus, Server

# Nobody here.
OWNER = 12_345
# The user of Prometheus's image, to which a new volume belongs.
NOBODY = 65_534


@pytest.fixture(scope="module", autouse=True)
def _as_root() -> None:
    """Skip where rights cannot be taken away, for there are none; that fails where all must run."""
    missing = [] if os.geteuid() == 0 else ["the rights of root"]
    missing += [] if shutil.which("setpriv") else ["setpriv, of util-linux"]
    if not missing:
        return
    reason = f"needs {' and '.join(missing)}"
    if os.environ.get("REQUIRE_ALL_TESTS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def rights_of(service: str) -> list[str]:
    """Return a command that runs another with the rights that a service has in Compose."""
    found = services_of(SHIPPED)[service]
    assert (found["user"], found["cap_drop"]) == ("0:0", ["ALL"])
    return limited_to(*found["cap_add"])


def limited_to(*capabilities: str) -> list[str]:
    """Return a command that runs another as root with these capabilities alone."""
    names = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
    return ["setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={names}"]


def only_for_its_owner(path: Path, owner: int = OWNER) -> Path:
    """Give a file or a directory, with all that is in it, to another user alone."""
    for each in [path, *path.rglob("*")]:
        each.chmod(0o700 if each.is_dir() else 0o600)
        os.chown(each, owner, owner)
    return path


def make_collector(directory: Path, rights: list[str]) -> Collector:
    """Return a collector with TLS, whose files all belong to another user."""
    private = directory / "private"
    private.mkdir()
    certificates = make_certificates(private)
    files = []
    for name in ("collector-config.yaml", "stack/collector/tls.yaml"):
        files.append(private / Path(name).name)
        shutil.copy(ROOT / name, files[-1])
    only_for_its_owner(private)
    env = {
        "COLLECTOR_TLS_CERT_FILE": str(certificates.server.certificate_file),
        "COLLECTOR_TLS_KEY_FILE": str(certificates.server.key_file),
        "COLLECTOR_TLS_CLIENT_CA_FILE": str(certificates.ca_file),
    }
    collector = Collector(directory, "127.0.0.1:1", "http://127.0.0.1:1", files, env)
    collector.command[:0] = rights
    return collector


def test_collector_with_tls(tmp_path):
    """It reads its configuration and its key, and keeps its queue."""
    with make_collector(tmp_path, rights_of("collector")) as collector:
        assert "Everything is ready" in collector.log
    assert list((tmp_path / "queue").iterdir())


def test_without_that_right_it_would_not_start(tmp_path):
    """So the test above shows something: root alone may not read these files."""
    collector = make_collector(tmp_path, limited_to())
    with pytest.raises(AssertionError, match="It ended at once"):
        collector.start()
    assert "permission denied" in collector.log


def start_and_stop(server: Server, rights: list[str]) -> None:
    """See that a program starts with these rights."""
    server.command[:0] = rights
    with server:
        pass


def test_jaeger(tmp_path):
    """It reads its configuration and that of its pages, and keeps its data."""
    jaeger = Jaeger(tmp_path)
    private = tmp_path / "private"
    private.mkdir()
    for name in ("jaeger.yaml", "jaeger-ui.json"):
        shutil.copy(ROOT / "stack" / name, private)
    only_for_its_owner(private)
    jaeger.command[1:] = [f"--config={private / 'jaeger.yaml'}"]
    jaeger.env["JAEGER_UI_CONFIG"] = str(private / "jaeger-ui.json")
    start_and_stop(jaeger, rights_of("jaeger"))
    assert list((tmp_path / "data" / "keys").iterdir())


def test_prometheus(tmp_path):
    """It reads its configuration and its rules, and writes into a volume of its image's user."""
    collector = Collector(tmp_path / "collector", "127.0.0.1:1", "http://127.0.0.1:1")
    prometheus = Prometheus(tmp_path / "prometheus", collector)
    only_for_its_owner(tmp_path / "prometheus")
    data = tmp_path / "prometheus" / "data"
    data.mkdir()
    only_for_its_owner(data, NOBODY)
    start_and_stop(prometheus, rights_of("prometheus"))
    assert list(data.iterdir())
