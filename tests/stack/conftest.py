"""What the tests of the stack share: its programs, running and connected as in Compose."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.otlp_receiver import OTLPReceiver
from tests.support.processes import run_command

from .programs import PROGRAMS, cache
from .servers import Collector, Jaeger, Prometheus, eventually

APP = Path(__file__).with_name("app.py")
NUMBERS_APP = Path(__file__).with_name("numbers_app.py")
LATE_APP = Path(__file__).with_name("late_app.py")


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    """Fail at once, and say what to do, where the programs are not built."""
    missing = [program.key for program in PROGRAMS if not program.is_built]
    if missing:
        pytest.exit(f"Not in {cache()}: {', '.join(missing)}. Run `make stack`.", returncode=2)


@dataclass(frozen=True)
class Stack:
    """The whole of it."""

    collector: Collector
    jaeger: Jaeger
    prometheus: Prometheus
    loki: OTLPReceiver


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack as it is shipped; an OTLP receiver stands in for Loki."""
    directory = tmp_path_factory.mktemp("stack")
    with OTLPReceiver(grpc=False) as loki:
        # Each of the two others has the address of the next, and Jaeger that of the last.
        jaeger = Jaeger(directory / "jaeger")
        collector = Collector(directory / "collector", jaeger.otlp_endpoint, loki.http_endpoint)
        prometheus = Prometheus(directory / "prometheus", collector)
        jaeger.env["JAEGER_PROMETHEUS_URL"] = prometheus.url
        with jaeger, collector, prometheus:
            yield Stack(collector, jaeger, prometheus, loki)


@dataclass(frozen=True)
class Ran:
    """What an application did.

    Attributes:
        service: Its name.
        records: The records of its repository, in order.
        flushed: Whether it delivered everything before it ended.
        stderr: What it wrote there.
    """

    service: str
    records: list[dict[str, Any]]
    flushed: bool
    stderr: str

    def endings(self, task_name: str) -> list[dict[str, Any]]:
        """Return the records that ended runs of a task."""
        return [
            record
            for record in self.records
            if record["task_name"] == task_name and record["action"] != "run"
        ]

    @property
    def trace_ids(self) -> set[str]:
        """The trace ids of all runs that ended."""
        return {record["trace_id"] for record in self.records if record["action"] != "run"}


RunApp = Callable[..., Ran]


@pytest.fixture(scope="session")
def run_app(tmp_path_factory: pytest.TempPathFactory) -> RunApp:
    """Run an application to its end, with these variables: ``app.py``, or another."""

    def run(
        service: str,
        env: dict[str, str],
        seconds: float = 3,
        *,
        app: Path = APP,
        args: Sequence[str] = (),
        repository: str | None = None,
    ) -> Ran:
        if repository is None:
            repository = f"sqlite:///{tmp_path_factory.mktemp('app')}/tasks.db"
        words = args or [str(seconds)]
        done = run_command(
            [sys.executable, "-W", "error", str(app), *words, repository],
            {"OTEL_METRIC_EXPORT_INTERVAL": "250", "OTEL_SERVICE_NAME": service, **env},
            timeout=120,
            cwd=APP.parents[2],
        )
        assert done.returncode == 0, done.stderr
        printed = json.loads(done.stdout)
        return Ran(service, printed["records"], printed["flushed"], done.stderr)

    return run


@pytest.fixture(scope="session")
def shop(stack: Stack, run_app: RunApp) -> Ran:
    """An application that ran beside the stack, and whose traces have arrived."""
    ran = run_app("shop", {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.collector.http_endpoint}, 6)
    arrive(stack.jaeger, ran)
    return ran


def arrive(jaeger: Jaeger, ran: Ran, timeout: float = 60) -> None:
    """Wait until Jaeger has the trace of every run, and no other of that service."""

    def all_there() -> bool:
        return jaeger.trace_ids(ran.service) == ran.trace_ids

    eventually(all_there, timeout, f"Arrival of all {len(ran.trace_ids)} traces of {ran.service}")
