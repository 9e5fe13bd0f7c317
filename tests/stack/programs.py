"""The real programs that the stack is tested with: built once, and kept outside the repository.

``make stack`` runs this file. Each program lies in a directory of the cache whose name has its
version, or a hash of what it is made from: what changes is built anew, and nothing else is.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

MANIFEST = Path(__file__).with_name("collector-builder.yaml")
STANDIN_SOURCE = Path(__file__).with_name("standin.go")
FERRETDB_SOURCE = Path(__file__).with_name("ferretdb.go")
GRAFANA_SOURCE = Path(__file__).with_name("grafana.go")
LEFT_OUT_FOLDER = Path(__file__).with_name("left_out")
LOGQL_FOLDER = Path(__file__).with_name("logql")
KAFKA_SOURCE = Path(__file__).with_name("kafka.xml")
_LINES_OF_A_FAILURE = 15
_COPIES = "copies"
_COPY_DEPENDENCIES = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"


class BuildError(Exception):
    """A program cannot be built; the text has the reason."""


@dataclass(frozen=True)
class Program:
    """A program.

    Attributes:
        key: The name of its directory in the cache.
        binaries: The files there.
    """

    tools: ClassVar[Sequence[str]]
    """The commands that it is made with."""

    key: str
    binaries: Sequence[str]

    @property
    def directory(self) -> Path:
        """Where it is, or will be."""
        return cache() / self.key

    @property
    def is_built(self) -> bool:
        """Whether it is there."""
        return all((self.directory / name).is_file() for name in self.binaries)

    @property
    def missing_tools(self) -> list[str]:
        """The commands that are not there to make it with."""
        return [tool for tool in self.tools if shutil.which(tool) is None]

    def build(self, directory: Path) -> None:
        """Build it into an empty directory."""
        raise NotImplementedError


@dataclass(frozen=True)
class _LeftOut:
    """A package that no test needs and that takes long to build, because of its dependencies.

    Attributes:
        module: Its module.
        folder: Its folder there.
        source: The file that is built in its place.
    """

    module: str
    folder: str
    source: Path

    def replace(self, directory: Path) -> None:
        """Replace the module of a build by a copy without the package."""
        _run(directory, "go", "mod", "download", self.module)
        listed = _run(directory, "go", "list", "-mod=mod", "-m", "-f={{.Dir}}", self.module)
        found = Path(listed.splitlines()[-1])
        copy = directory / _COPIES / found.name
        tests = shutil.ignore_patterns("*_test.go")
        shutil.copytree(found, copy, ignore=tests, copy_function=shutil.copyfile)
        # Nobody may write to the folders of Go's cache, nor to their copies.
        for folder in (copy, *(it for it in copy.rglob("*") if it.is_dir())):
            folder.chmod(0o755)
        for file in (copy / self.folder).glob("*.go"):
            file.unlink()
        shutil.copy(self.source, copy / self.folder)
        _run(directory, "go", "mod", "edit", f"-replace={self.module}=./{_COPIES}/{found.name}")


@dataclass(frozen=True)
class _GoProgram(Program):
    """A Go program.

    Attributes:
        module: The module that it is in, and its version.
        packages: Its packages; the binaries have the names of their last parts.
        tags: Build tags.
        left_out: A package that is left out.
    """

    tools = ("go",)

    module: tuple[str, str]
    packages: Sequence[str]
    tags: str = ""
    left_out: _LeftOut | None = None

    def build(self, directory: Path) -> None:
        """Build it into an empty directory."""
        # A package at the root of the module is built into a file with the module's last name.
        # Not `go install package@version`: it refuses modules that replace others, and asks for
        # modules that there are not.
        _run(directory, "go", "mod", "init", f"stack.test/{self.binaries[0]}")
        _run(directory, "go", "get", "@".join(self.module))
        if self.left_out is not None:
            self.left_out.replace(directory)
        options = ["-mod=mod", f"-tags={self.tags}", "-trimpath", "-ldflags=-s -w"]
        _run(directory, "go", "build", *options, f"-o={directory}/", *self.packages)
        shutil.rmtree(directory / _COPIES, ignore_errors=True)


class _Collector(_GoProgram):
    """Built by the collector's own builder, from the manifest beside this file."""

    def build(self, directory: Path) -> None:
        """Build it into an empty directory."""
        super().build(directory)
        shutil.copy(MANIFEST, directory / "manifest.yaml")
        _run(directory, "./builder", "--config=manifest.yaml", "--ldflags=-s -w")
        shutil.move(directory / "sources" / "otelcol", directory / "otelcol")
        shutil.rmtree(directory / "sources")
        (directory / "builder").unlink()


class _Compose(_GoProgram):
    """Docker Compose, as a command of its own."""

    def build(self, directory: Path) -> None:
        """Build it into an empty directory."""
        super().build(directory)
        (directory / "cmd").rename(directory / "docker-compose")


class _Standin(Program):
    """A program of ours, without any module."""

    tools = ("go",)

    def build(self, directory: Path) -> None:
        """Build it into an empty directory."""
        shutil.copy(STANDIN_SOURCE, directory / "main.go")
        _run(directory, "go", "mod", "init", "stack.test/standin")
        _run(directory, "go", "build", "-trimpath", "-ldflags=-s -w", "-o=standin", ".")


@dataclass(frozen=True)
class _OurLines(_GoProgram):
    """A few lines of ours around a library.

    Attributes:
        source: The file with them.
    """

    source: Path = FERRETDB_SOURCE

    def build(self, directory: Path) -> None:
        """Build it into an empty directory."""
        shutil.copy(self.source, directory / "main.go")
        super().build(directory)


class _Kafka(Program):
    """A broker, whose parts the file beside this one names."""

    tools = ("mvn", "java")

    def build(self, directory: Path) -> None:
        """Fetch it into an empty directory."""
        shutil.copy(KAFKA_SOURCE, directory / "pom.xml")
        _run(directory, "mvn", "-B", "-q", _COPY_DEPENDENCIES, "-DoutputDirectory=lib")


class _LogQL(Program):
    """The parser that Grafana's editor has; the lock file has the hashes of its parts."""

    tools = ("npm", "node")

    def build(self, directory: Path) -> None:
        """Fetch it into an empty directory."""
        shutil.copytree(LOGQL_FOLDER, directory, dirs_exist_ok=True)
        _run(directory, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")


def _key(name: str, source: Path, module: tuple[str, str] | None = None) -> str:
    """Return a name that changes with what the program is made from."""
    digest = hashlib.sha256(source.read_bytes() + (repr(module) if module else "").encode())
    return f"{name}-{digest.hexdigest()[:12]}"


_BUILDER = ("go.opentelemetry.io/collector/cmd/builder", "v0.159.0")
COLLECTOR = _Collector(_key("collector", MANIFEST, _BUILDER), ["otelcol"], _BUILDER, [_BUILDER[0]])
# Jaeger's tags v2.* do not fit its module's path, and the module proxy does not serve the commit
# of 2.20.0 that docker-compose.yml runs. This is 2.13.0, which was tagged together with 1.76.0.
JAEGER = _GoProgram(
    "jaeger-v1.76.0-static",
    ["jaeger"],
    ("github.com/jaegertracing/jaeger", "v1.76.0"),
    ["github.com/jaegertracing/jaeger/cmd/jaeger"],
)
# 3.14.0, as in docker-compose.yml; without what finds targets in clouds, which takes long to build.
_PROMETHEUS = ("github.com/prometheus/prometheus", "v0.314.0")
_PROMETHEUS_LEFT_OUT = _LeftOut(
    _PROMETHEUS[0], "discovery/kubernetes", LEFT_OUT_FOLDER / "prometheus.go"
)
PROMETHEUS = _GoProgram(
    _key("prometheus", _PROMETHEUS_LEFT_OUT.source, _PROMETHEUS),
    ["prometheus", "promtool"],
    _PROMETHEUS,
    [
        "github.com/prometheus/prometheus/cmd/prometheus",
        "github.com/prometheus/prometheus/cmd/promtool",
    ],
    tags="remove_all_sd",
    left_out=_PROMETHEUS_LEFT_OUT,
)
# A log store under a free licence that takes OTLP, as docs/stack.md offers it.
VICTORIA_LOGS = _GoProgram(
    "victoria-logs-v1.52.1-static",
    ["victoria-logs"],
    ("github.com/VictoriaMetrics/VictoriaLogs", "v1.52.1"),
    ["github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs"],
)
_COMPOSE = ("github.com/docker/compose/v2", "v2.40.3")
_COMPOSE_LEFT_OUT = _LeftOut(
    "github.com/docker/buildx", "driver/kubernetes", LEFT_OUT_FOLDER / "buildx.go"
)
COMPOSE = _Compose(
    _key("docker-compose", _COMPOSE_LEFT_OUT.source, _COMPOSE),
    ["docker-compose"],
    _COMPOSE,
    [f"{_COMPOSE[0]}/cmd"],
    left_out=_COMPOSE_LEFT_OUT,
)
STANDIN = _Standin(_key("standin", STANDIN_SOURCE), ["standin"])
# A server that speaks the protocol of MongoDB, under a free licence. 1.24 is the last version whose
# backend needs no further server.
_FERRETDB = ("github.com/FerretDB/FerretDB", "v1.24.2")
FERRETDB = _OurLines(
    _key("ferretdb", FERRETDB_SOURCE, _FERRETDB),
    ["ferretdb"],
    _FERRETDB,
    ["."],
    tags="ferretdb_no_postgresql",
)
# Some 43 MB, which need a Java of 17 or later to run.
KAFKA = _Kafka(_key("kafka", KAFKA_SOURCE), ["lib/kafka_2.13-4.1.1.jar"])
_GRAFANA = ("github.com/grafana/grafana-foundation-sdk/go", "v0.0.22")
GRAFANA_SCHEMA = _OurLines(
    _key("grafana", GRAFANA_SOURCE, _GRAFANA),
    ["grafana"],
    _GRAFANA,
    ["."],
    source=GRAFANA_SOURCE,
)
LOGQL = _LogQL(
    _key("logql", LOGQL_FOLDER / "package-lock.json", ((LOGQL_FOLDER / "main.js").read_text(), "")),
    ["main.js", "node_modules/@grafana/lezer-logql/index.es.js"],
)
PROGRAMS = (FERRETDB, COLLECTOR, JAEGER, PROMETHEUS, VICTORIA_LOGS, COMPOSE, STANDIN)
# Their tests are skipped without them, unless all tests are required.
OPTIONAL = (KAFKA, GRAFANA_SCHEMA, LOGQL)


def cache() -> Path:
    """Return the directory of all programs: ``STACK_CACHE``, else in the user's cache."""
    chosen = os.environ.get("STACK_CACHE")
    if chosen:
        return Path(chosen).absolute()
    users = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(users) / "rocketry-otel" / "stack"


def build_what_is_missing() -> None:
    """Build the programs that are not there.

    Raises:
        BuildError: If one cannot be built.
    """
    missing = [program for program in (*PROGRAMS, *OPTIONAL) if not program.is_built]
    impossible = [program for program in missing if program.missing_tools]
    for program in impossible:
        reason = f"{program.key} needs what is not here: {', '.join(program.missing_tools)}"
        if program not in OPTIONAL or os.environ.get("REQUIRE_ALL_TESTS") == "1":
            raise BuildError(reason)
        _say(f"Left out: {reason}")
        missing.remove(program)
    for program in missing:
        began = time.monotonic()
        _say(f"Building {program.key}")
        cache().mkdir(parents=True, exist_ok=True)
        # On the same file system, so that it comes into its place at once and whole.
        with tempfile.TemporaryDirectory(dir=cache(), prefix="building-") as name:
            directory = Path(name)
            program.build(directory)
            shutil.rmtree(program.directory, ignore_errors=True)
            directory.rename(program.directory)
            directory.mkdir()  # for the context manager to remove
        _say(f"Built {program.key} in {time.monotonic() - began:.0f} s")
    _say(f"The stack's programs are in {cache()}")


def _run(directory: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        # Static programs run in images that have nothing else.
        env={**os.environ, "GOWORK": "off", "CGO_ENABLED": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = _without_hosts(done.stdout).strip().splitlines()
        last = "\n  ".join(said[-_LINES_OF_A_FAILURE:])
        raise BuildError(f"{' '.join(command)} failed with {done.returncode}:\n  {last}")
    return done.stdout


def _without_hosts(text: str) -> str:
    """Leave out which proxy was asked: that is the user's own affair."""
    return re.sub(r"https?://[^/\s]+/", "", text)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        build_what_is_missing()
    except BuildError as error:
        sys.exit(str(error))
