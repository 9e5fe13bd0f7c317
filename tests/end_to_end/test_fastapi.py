"""Rocketry's recipe for FastAPI, beside pydantic 2, with imports in the order of a sorter."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.otlp_receiver import OTLPReceiver
from tests.support.processes import clean_environment
from tests.support.program import Program

pytest.importorskip("fastapi")

# As in Rocketry's cookbook: one process, one loop, and a server that shuts the scheduler down.
SERVER = '''
import asyncio

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, field_validator
from rocketry import Rocketry
{imports}

app = Rocketry(execution="async")
{instrument}
api = FastAPI()


class Task(BaseModel):
    """A model of pydantic 2."""

    name: str
    status: str | None

    @field_validator("name")
    @classmethod
    def shout(cls, value: str) -> str:
        return value.upper()


@app.task()
async def etl():
    print("ran", flush=True)


@api.get("/tasks")
async def tasks() -> list[Task]:
    return [Task(name=task.name, status=task.status) for task in app.session.tasks]


@api.post("/tasks/{{name}}/run")
async def run(name: str) -> None:
    app.session[name].run()


class Server(uvicorn.Server):
    def handle_exit(self, sig, frame):
        app.session.shut_down()
        return super().handle_exit(sig, frame)

    async def startup(self, sockets=None):
        await super().startup(sockets)
        print("port", self.servers[0].sockets[0].getsockname()[1], flush=True)


async def main():
    server = Server(uvicorn.Config(api, port=0, workers=1, loop="asyncio"))
    await asyncio.wait([asyncio.create_task(server.serve()), asyncio.create_task(app.serve())])


if __name__ == "__main__":
    asyncio.run(main())
'''


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """A collector."""
    with OTLPReceiver(grpc=False) as it:
        yield it


def request(port: str, path: str, method: str = "GET") -> object:
    """Ask the server; return its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
    with closing(connection):
        connection.request(method, path)
        return json.load(connection.getresponse())


@pytest.mark.parametrize("way", ["instrument", "opentelemetry-instrument"])
def test_cookbook_application_works(receiver: OTLPReceiver, tmp_path: Path, way: str) -> None:
    """API and scheduler run in one loop, and a task that the API starts is recorded."""
    is_code = way == "instrument"
    imports = "from rocketry_otel import instrument" if is_code else ""
    script = SERVER.format(imports=imports, instrument="instrument(app)" if is_code else "")
    (tmp_path / "server.py").write_text(script, encoding="utf-8")
    command = [sys.executable, "server.py"]
    if not is_code:
        command.insert(0, str(Path(sys.executable).with_name(way)))
    env = clean_environment(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
        }
    )
    with Program(command, tmp_path, env) as program:
        port = program.wait_for_line("port")
        assert request(port, "/tasks") == [{"name": "ETL", "status": None}]
        request(port, "/tasks/etl/run", "POST")
        program.wait_for_line("ran")
        program.terminate()
        program.wait()
    assert receiver.wait_for(names_of_runs)
    assert names_of_runs(receiver) == ["run etl"]


def names_of_runs(receiver: OTLPReceiver) -> list[str]:
    """Return the spans of tasks: FastAPI makes some of its own."""
    names = [it.span.name for it in receiver.spans]
    return [name for name in names if name.startswith("run ")]
