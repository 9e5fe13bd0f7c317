"""The stack's real programs, each as a process that can be stopped, killed and started again."""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import requests
from typing_extensions import Self

from tests.support.otlp_receiver import ReceivedSpan
from tests.support.ports import LOOPBACK, free_ports
from tests.support.processes import clean_environment

from .programs import COLLECTOR, JAEGER, PROMETHEUS, VICTORIA_LOGS
from .query_api import find_by_tags, from_json

ROOT = Path(__file__).parents[2]
START_TIMEOUT = 60
STOP_TIMEOUT = 30

T = TypeVar("T")


def eventually(
    probe: Callable[[], T], timeout: float = 30, what: str | Callable[[], str] = ""
) -> T:
    """Return the first true result of a probe: another process's state can only be looked at.

    Raises:
        AssertionError: If it is not true in time; the text has its last result.
    """
    deadline = time.monotonic() + timeout
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > deadline:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"{text or 'This'} did not happen: {result!r}")
        time.sleep(0.05)


class Server:
    """A program that listens.

    Args:
        command: The program and its arguments.
        env: Variables added to a clean environment.
        ready_url: Answers below 400 when it is ready.
        log_file: Its log, over all its starts.
    """

    start_timeout: float = START_TIMEOUT

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], ready_url: str, log_file: Path
    ) -> None:
        self.command = list(command)
        self.env = dict(env)
        self.log_file = log_file
        self._ready_url = ready_url
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=clean_environment(self.env),
                cwd=self.log_file.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually(self._is_ready, self.start_timeout, f"Start of {self.command[0]}")

    def stop(self) -> None:
        """End it as an operator does, and wait until it is gone; once more does nothing."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without any chance to do something first."""
        self._end(signal.SIGKILL)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it do nothing for a while, as a machine that is suspended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"It ended at once:\n{self.log[-3000:]}"
        return self._answers()

    def _answers(self) -> bool:
        try:
            return requests.get(self._ready_url, timeout=1).ok
        except requests.RequestException:
            return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


class Collector(Server):
    """The collector with the configuration that is shipped.

    Args:
        directory: For its queue and its log.
        jaeger: Address for traces, over gRPC.
        loki: Base URL for log records, over HTTP.
        files: Its configuration, each merged over those before.
        env: More variables.
    """

    def __init__(
        self,
        directory: Path,
        jaeger: str,
        loki: str,
        files: Sequence[Path] = (ROOT / "collector-config.yaml",),
        env: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        grpc, http, health, metrics, own = free_ports(5)
        self.http_endpoint = f"http://{LOOPBACK}:{http}"
        self.grpc_endpoint = f"http://{LOOPBACK}:{grpc}"
        self.metrics_address = f"{LOOPBACK}:{metrics}"
        self.own_metrics_address = f"{LOOPBACK}:{own}"
        super().__init__(
            [str(COLLECTOR.directory / "otelcol"), *(f"--config={file}" for file in files)],
            {
                "COLLECTOR_GRPC_ENDPOINT": f"{LOOPBACK}:{grpc}",
                "COLLECTOR_HTTP_ENDPOINT": f"{LOOPBACK}:{http}",
                "COLLECTOR_HEALTH_ENDPOINT": f"{LOOPBACK}:{health}",
                "COLLECTOR_METRICS_ENDPOINT": self.metrics_address,
                "COLLECTOR_OWN_METRICS_HOST": LOOPBACK,
                "COLLECTOR_OWN_METRICS_PORT": str(own),
                "COLLECTOR_QUEUE_DIRECTORY": str(directory / "queue"),
                "COLLECTOR_RETRY_INTERVAL": "1s",
                "COLLECTOR_SPAN_METRICS_INTERVAL": "1s",
                "JAEGER_ENDPOINT": jaeger,
                "LOKI_ENDPOINT": loki,
                **(env or {}),
            },
            f"http://{LOOPBACK}:{health}",
            directory / "collector.log",
        )

    def metrics(self) -> str:
        """Return the page that Prometheus fetches."""
        return requests.get(f"http://{self.metrics_address}/metrics", timeout=5).text

    def own_metrics(self) -> str:
        """Return the page of its own metrics."""
        return requests.get(f"http://{self.own_metrics_address}/metrics", timeout=5).text

    def queue_sizes(self) -> dict[str, int]:
        """Return how many items wait to be sent on, by exporter."""
        text = self.own_metrics()
        sizes = {}
        for line in text.splitlines():
            if line.startswith("otelcol_exporter_queue_size{"):
                labels, _, value = line.rpartition(" ")
                sizes[labels.partition('exporter="')[2].partition('"')[0]] = int(float(value))
        return sizes


class Jaeger(Server):
    """Jaeger with the configuration that is shipped."""

    def __init__(self, directory: Path, prometheus: str = "http://127.0.0.1:1") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        otlp, query, query_grpc, health = free_ports(4)
        self.otlp_endpoint = f"{LOOPBACK}:{otlp}"
        self.url = f"http://{LOOPBACK}:{query}"
        self._grpc_address = f"{LOOPBACK}:{query_grpc}"
        super().__init__(
            [str(JAEGER.directory / "jaeger"), f"--config={ROOT / 'stack' / 'jaeger.yaml'}"],
            {
                "JAEGER_OTLP_ENDPOINT": self.otlp_endpoint,
                "JAEGER_QUERY_ENDPOINT": f"{LOOPBACK}:{query}",
                "JAEGER_QUERY_GRPC_ENDPOINT": f"{LOOPBACK}:{query_grpc}",
                "JAEGER_HEALTH_ENDPOINT": f"{LOOPBACK}:{health}",
                "JAEGER_DATA_DIRECTORY": str(directory / "data"),
                "JAEGER_PROMETHEUS_URL": prometheus,
                "JAEGER_UI_CONFIG": str(ROOT / "stack" / "jaeger-ui.json"),
            },
            f"{self.url}/api/v3/services",
            directory / "jaeger.log",
        )

    def trace_ids(self, service: str, limit: int = 5000) -> set[str]:
        """Return the ids of the traces of a service, as a search finds them."""
        return set(self.traces(service, limit))

    def traces(self, service: str, limit: int = 5000) -> dict[str, list[ReceivedSpan]]:
        """Return the spans of the traces of a service, by trace id, as a search finds them."""
        begin, end = _an_hour_each_way()
        query = {
            "query.service_name": service,
            "query.start_time_min": begin.isoformat(),
            "query.start_time_max": end.isoformat(),
            # The name in the version of the tests, and in later ones.
            "query.num_traces": str(limit),
            "query.search_depth": str(limit),
        }
        return _by_trace(self._spans("/api/v3/traces", **query))

    def traces_with_tags(
        self, service: str, tags: Mapping[str, str], limit: int = 5000
    ) -> dict[str, list[ReceivedSpan]]:
        """Return the spans of the traces with a span that has these tags, by trace id."""
        times = _an_hour_each_way()
        return _by_trace(find_by_tags(self._grpc_address, service, tags, times, limit))

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """Return the spans of the trace with an id, none if there is no such trace."""
        return self._spans(f"/api/v3/traces/{trace_id}")

    def _spans(self, path: str, **query: str) -> list[ReceivedSpan]:
        answer = requests.get(f"{self.url}{path}", params=query, timeout=30)
        if answer.status_code == requests.codes.not_found:
            return []
        answer.raise_for_status()
        return from_json(answer.json())

    def get_json(self, path: str, **query: str) -> Any:
        """Return what its API answers."""
        answer = requests.get(f"{self.url}{path}", params=query, timeout=10)
        answer.raise_for_status()
        return answer.json()


def _an_hour_each_way() -> tuple[dt.datetime, dt.datetime]:
    now = dt.datetime.now(dt.timezone.utc)
    return now - dt.timedelta(hours=1), now + dt.timedelta(hours=1)


def _by_trace(spans: Iterable[ReceivedSpan]) -> dict[str, list[ReceivedSpan]]:
    traces: dict[str, list[ReceivedSpan]] = {}
    for span in spans:
        traces.setdefault(span.span.trace_id.hex(), []).append(span)
    return traces


class Prometheus(Server):
    """Prometheus with the configuration that is shipped, but for addresses and the pace.

    Args:
        directory: For its data and its log.
        rules: The rules; those that are shipped, or what was made of them.
        collector: What it fetches metrics from.
        pace: How often. A page that takes longer than that is not fetched at all.
        more: Other collectors that it fetches metrics from.
    """

    def __init__(
        self,
        directory: Path,
        collector: Collector,
        rules: str | None = None,
        pace: str = "250ms",
        more: Sequence[Collector] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        self.url = f"http://{LOOPBACK}:{port}"
        shipped = (ROOT / "stack" / "prometheus.yaml").read_text(encoding="utf-8")
        replaced = {
            '"collector:8889"': _quoted(it.metrics_address for it in (collector, *more)),
            '"collector:8888"': _quoted(it.own_metrics_address for it in (collector, *more)),
            "_interval: 15s": f"_interval: {pace}",
        }
        for old, new in replaced.items():
            assert old in shipped
            shipped = shipped.replace(old, new)
        (directory / "prometheus.yaml").write_text(shipped, encoding="utf-8")
        if rules is None:
            rules = (ROOT / "stack" / "prometheus-rules.yaml").read_text(encoding="utf-8")
        # The pace of the rule that looks for restarts is that of fetching.
        rules = rules.replace("interval: 15s", "interval: 1s")
        (directory / "prometheus-rules.yaml").write_text(rules, encoding="utf-8")
        super().__init__(
            [
                str(PROMETHEUS.directory / "prometheus"),
                f"--config.file={directory / 'prometheus.yaml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={LOOPBACK}:{port}",
                "--enable-feature=exemplar-storage",
            ],
            {},
            f"{self.url}/-/ready",
            directory / "prometheus.log",
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression has now: each with ``metric`` and ``value``."""
        return self.get("/api/v1/query", query=expression)["result"]

    def get(self, path: str, **query: str) -> Any:
        """Return what its API answers; an expression that is wrong is an error."""
        answer = requests.get(f"{self.url}{path}", params=query, timeout=30)
        content = json.loads(answer.text)
        assert content["status"] == "success", content
        return content["data"]


def _quoted(addresses: Iterable[str]) -> str:
    return ", ".join(f'"{address}"' for address in addresses)


class VictoriaLogs(Server):
    """VictoriaLogs, with the arguments of ``stack/compose-victoria-logs.yml``.

    Args:
        directory: For its data and its log.
        arguments: Its arguments there, but for the directory of its data.
    """

    def __init__(self, directory: Path, arguments: Sequence[str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        self.url = f"http://{LOOPBACK}:{port}"
        super().__init__(
            [
                str(VICTORIA_LOGS.directory / "victoria-logs"),
                *arguments,
                f"-storageDataPath={directory / 'data'}",
                f"-httpListenAddr={LOOPBACK}:{port}",
            ],
            {},
            f"{self.url}/health",
            directory / "victoria-logs.log",
        )

    def query(self, expression: str) -> list[dict[str, str]]:
        """Return the log lines that an expression finds, each with its fields."""
        answer = requests.get(
            f"{self.url}/select/logsql/query", params={"query": expression}, timeout=30
        )
        answer.raise_for_status()
        return [json.loads(line) for line in answer.content.split(b"\n") if line]
