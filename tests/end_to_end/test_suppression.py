"""Instrumented libraries make no spans of what is ours, and those of the application as before."""

from __future__ import annotations

import socket
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import bson
import pytest
import requests
import urllib3
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rocketry_otel import OTelRepoHandler, open_repository, replay
from tests.support.otlp_receiver import OTLPReceiver
from tests.support.postgresql import PostgreSQL
from tests.support.records import task_record

LONG = 20.0
INSTRUMENTORS = {
    "sqlalchemy": "SQLAlchemyInstrumentor",
    "sqlite3": "SQLite3Instrumentor",
    "psycopg": "PsycopgInstrumentor",
    "pymongo": "PymongoInstrumentor",
    "requests": "RequestsInstrumentor",
    "urllib3": "URLLib3Instrumentor",
}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OTLPReceiver]:
    """A collector that the environment names."""
    monkeypatch.setenv("ROCKETRY_OTEL_STATE_DIR", str(tmp_path / "state"))
    with OTLPReceiver(grpc=False) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        yield receiver


@contextmanager
def instrumented(*libraries: str) -> Iterator[InMemorySpanExporter]:
    """Instrument libraries as an application does; gives the spans that they make."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    modules = {
        name: pytest.importorskip(f"opentelemetry.instrumentation.{name}") for name in libraries
    }
    instrumentors = [getattr(module, INSTRUMENTORS[name])() for name, module in modules.items()]
    for instrumentor in instrumentors:
        # Its check of versions lags behind SQLAlchemy.
        instrumentor.instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        yield exporter
    finally:
        for instrumentor in instrumentors:
            instrumentor.uninstrument()


def work_with(url: str, receiver: OTLPReceiver) -> OTelRepoHandler:
    """Do all that is ours: open, write, look up, deliver, catch up, prune and replay."""
    handler = OTelRepoHandler(open_repository(url))
    for run_id in ("a", "b"):
        for action in ("run", "success"):
            handler.handle(task_record(action, run_id=run_id))
    handler.handle(task_record("crash", task_name="unknown", run_id=None))
    assert handler.flush(LONG)
    assert len(receiver.spans) == 3
    handler._bridge.start(["etl"])
    handler.close()
    replay(handler.repo)
    return handler


def names(spans: InMemorySpanExporter) -> list[str]:
    """Return the names of the spans so far."""
    return [span.name for span in spans.get_finished_spans()]


@pytest.mark.parametrize("libraries", [("sqlite3",), ("sqlalchemy",), ("requests", "urllib3")])
def test_sqlite_and_http_of_ours_make_no_spans(
    receiver: OTLPReceiver, tmp_path: Path, libraries: tuple[str, ...]
) -> None:
    """The repository, the state of delivery and the exporters are ours, on every thread."""
    with instrumented(*libraries) as spans:
        handler = work_with(f"sqlite:///{tmp_path}/tasks.db", receiver)
        assert names(spans) == []
        reads: dict[str, Callable[[], Any]] = {
            # The application's own use. Its queries of the repository have a connection already.
            "sqlalchemy": lambda: handler.repo.engine.connect().close(),
            "requests": lambda: requests.get(receiver.http_endpoint, timeout=5),
            "urllib3": lambda: urllib3.PoolManager().request("GET", receiver.http_endpoint),
            "sqlite3": lambda: _read(tmp_path / "tasks.db"),
        }
        for library in libraries:
            reads[library]()
            assert names(spans)
            spans.clear()


def _read(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.cursor().execute("SELECT 1")


def test_psycopg_of_ours_makes_no_spans(receiver: OTLPReceiver, postgresql: PostgreSQL) -> None:
    """The same holds for a database server; the application's own reads are traced."""
    database = postgresql.new_database()
    with instrumented("psycopg", "sqlalchemy") as spans:
        handler = work_with(postgresql.url(database, driver="psycopg"), receiver)
        assert names(spans) == []
        handler.repo.filter_by(task_name="etl").all()
        assert {"SELECT"} <= {name.split()[0] for name in names(spans)}


def test_pymongo_of_ours_makes_no_spans(receiver: OTLPReceiver) -> None:
    """Commands to MongoDB are ours in a handler, and the application's in its own reads."""
    with mongo_server() as port, instrumented("pymongo") as spans:
        handler = OTelRepoHandler(open_repository(f"mongodb://127.0.0.1:{port}/tasks"))
        for action in ("run", "success"):
            handler.handle(task_record(action))
        assert handler.flush(LONG)
        handler.close()
        assert names(spans) == []
        assert len(receiver.spans) == 1
        list(handler.repo.filter_by(task_name="etl").query())
        assert [name.split(".")[-1] for name in names(spans)] == ["find"]
        handler.repo.session.client.close()


@contextmanager
def mongo_server() -> Iterator[int]:
    """A server that takes every command of MongoDB's protocol, and has no documents."""
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while head := connection.recv(16, socket.MSG_WAITALL):
                length, number, _, code = struct.unpack("<4i", head)
                body = connection.recv(length - 16, socket.MSG_WAITALL)
                cursor = {"id": bson.Int64(0), "ns": "tasks.tasks", "firstBatch": []}
                document = bson.encode(
                    {"ok": 1, "isWritablePrimary": True, "ismaster": True, "maxWireVersion": 21}
                    | {"minWireVersion": 0, "n": 1, "cursor": cursor}
                )
                is_legacy = code == 2004  # OP_QUERY, of the first greeting
                prefix = struct.pack("<iqii", 8, 0, 0, 1) if is_legacy else struct.pack("<ib", 0, 0)
                size = 16 + len(prefix) + len(document)
                head = struct.pack("<4i", size, 0, number, 1 if is_legacy else 2013)
                del body
                connection.sendall(head + prefix + document)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                connections.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        acceptor.join()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
