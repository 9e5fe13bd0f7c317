"""Docker Compose with Podman as its engine, and images of the programs that `make stack` builds.

The images have the names that the Compose file asks for, and so nothing is fetched. Stand-ins are
in the places of Loki and Grafana, which are not built.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Self

from tests.support.processes import clean_environment

from .compose import SHIPPED, WITH_VICTORIA_LOGS, services_of
from .programs import COLLECTOR, COMPOSE, JAEGER, PROMETHEUS, STANDIN, VICTORIA_LOGS
from .servers import ROOT, eventually

NETAVARK = Path("/usr/lib/podman/netavark")
# The limits of this machine may be lower than those that Podman would set.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "{directory}/networks"
"""
STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{directory}/graph"
runroot = "{directory}/run"
"""


@dataclass(frozen=True)
class Image:
    """What an image of one static program is made from.

    Attributes:
        binary: The program.
        entry_point: Its path in the image.
        user: Who runs it, where the Compose file names nobody.
        directories: Directories, each with its owner.
        env: Variables.
    """

    binary: Path
    entry_point: str
    user: int = 0
    directories: Mapping[str, int] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Write its files as an archive."""
        with tarfile.open(file, "w") as archive:
            archive.add(self.binary, self.entry_point.lstrip("/"))
            for name, owner in self.directories.items():
                entry = tarfile.TarInfo(name.lstrip("/"))
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                entry.uid = entry.gid = owner
                archive.addfile(entry)
            users = b"root:x:0:0::/:\nnobody:x:65534:65534::/:\n"
            entry = tarfile.TarInfo("etc/passwd")
            entry.size = len(users)
            archive.addfile(entry, io.BytesIO(users))

    @property
    def changes(self) -> list[str]:
        """Its settings, as instructions of a Dockerfile."""
        return [
            f"ENTRYPOINT {json.dumps([self.entry_point])}",
            f"USER {self.user}",
            *(f"ENV {name}={value}" for name, value in self.env.items()),
        ]


_STANDIN = STANDIN.directory / "standin"
# By service. Directories and users are those of the official images.
IMAGES = {
    "collector": Image(COLLECTOR.directory / "otelcol", "/otelcol-contrib", user=10_001),
    "jaeger": Image(JAEGER.directory / "jaeger", "/cmd/jaeger/jaeger-linux", user=10_001),
    "prometheus": Image(
        PROMETHEUS.directory / "prometheus",
        "/bin/prometheus",
        user=65_534,
        directories={"/prometheus": 65_534},
    ),
    "victoria-logs": Image(VICTORIA_LOGS.directory / "victoria-logs", "/victoria-logs-prod"),
    "loki": Image(
        _STANDIN,
        "/usr/bin/loki",
        user=10_001,
        directories={"/loki": 10_001},
        env={"STANDIN_ADDRESS": ":3100", "STANDIN_DIRECTORY": "/loki"},
    ),
    "grafana": Image(
        _STANDIN,
        "/run.sh",
        user=472,
        directories={"/var/lib/grafana": 472},
        env={"STANDIN_ADDRESS": ":3000", "STANDIN_DIRECTORY": "/var/lib/grafana"},
    ),
}


def missing_for_containers() -> list[str]:
    """Return what is not here, of what containers need."""
    missing = [] if os.geteuid() == 0 else ["the rights of root"]
    missing += [name for name in ("podman", "iptables", "runc") if shutil.which(name) is None]
    return missing + ([] if NETAVARK.exists() else ["netavark"])


class Engine:
    """Podman, which serves Docker's API to Docker Compose.

    Args:
        directory: For its images, containers and volumes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._podman = shutil.which("podman") or "podman"
        self._socket = directory / "podman.sock"
        (directory / "networks").mkdir()
        settings = {"containers.conf": CONTAINERS_CONF, "storage.conf": STORAGE_CONF}
        for name, text in settings.items():
            (directory / name).write_text(text.format(directory=directory), encoding="utf-8")
        self._env = clean_environment(
            {
                "CONTAINERS_CONF": str(directory / "containers.conf"),
                "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
                "DOCKER_HOST": f"unix://{self._socket}",
            }
        )
        self._service: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self._directory / "podman.log").open("wb") as log:
            self._service = subprocess.Popen(
                [self._podman, "system", "service", "--time=0", f"unix://{self._socket}"],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually(self._socket.exists, 30, "Podman's socket")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._service is not None
        self.podman("rm", "--all", "--force", "--time=0")
        self._service.terminate()
        self._service.wait(30)
        # Hundreds of megabytes.
        shutil.rmtree(self._directory / "graph")

    def podman(self, *arguments: str) -> str:
        """Run a command of Podman's, and return its output."""
        return self._run([self._podman, *arguments])

    def compose(self, *arguments: str, files: Sequence[Path] = (SHIPPED,)) -> str:
        """Run a command of Docker Compose, as an operator does, and return its output."""
        options = [word for file in files for word in ("--file", str(file))]
        return self._run([str(COMPOSE.directory / "docker-compose"), *options, *arguments])

    def make_images(self) -> None:
        """Make an image for each service, with the name that it has in the Compose files."""
        services = {**services_of(*WITH_VICTORIA_LOGS), **services_of(SHIPPED)}
        assert set(services) == set(IMAGES)
        for service, image in IMAGES.items():
            archive = self._directory / "image.tar"
            image.write(archive)
            changes = [word for change in image.changes for word in ("--change", change)]
            name = f"docker.io/{services[service]['image']}"
            self.podman("import", "--quiet", *changes, str(archive), name)
            archive.unlink()

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what the engine knows of a container."""
        (found,) = json.loads(self.podman("container", "inspect", container))
        return found

    def volume(self, name: str) -> Path:
        """Return where the files of a volume are."""
        (found,) = json.loads(self.podman("volume", "inspect", name))
        return Path(found["Mountpoint"])

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            env=self._env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}\n{done.stdout}"
        return done.stdout
