"""A server for tests that speaks MongoDB's protocol: FerretDB, real and alone."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

import pytest

from tests.stack.programs import FERRETDB
from tests.support.ports import LOOPBACK, free_ports
from tests.support.server_process import ServerProcess


@dataclass(frozen=True)
class FerretDB:
    """A running server, which listens on a port of the loopback alone.

    Attributes:
        port: The port.
        process: Its process.
    """

    port: int
    process: ServerProcess

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"mongodb://{LOOPBACK}:{self.port}/{database}"

    def new_database(self) -> str:
        """Return the name of a database that does not exist; the first document creates it."""
        return f"test_{uuid4().hex}"


@contextmanager
def run_ferretdb() -> Iterator[FerretDB]:
    """Run a server with new, empty data, and remove it afterwards.

    Skips the test if it is not built, which fails it where all tests must run.
    """
    if not FERRETDB.is_built:
        reason = "FerretDB is not built: run `make stack`"
        if os.environ.get("REQUIRE_ALL_TESTS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    directory = Path(mkdtemp(prefix="ferret"))
    data = directory / "data"
    data.mkdir()
    (port,) = free_ports(1)
    process = ServerProcess(
        [FERRETDB.directory / "ferretdb", f"{LOOPBACK}:{port}", data],
        directory,
        lambda: _listens(port),
    )
    try:
        process.start()
        yield FerretDB(port, process)
    finally:
        process.stop()
        shutil.rmtree(directory)


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((LOOPBACK, port)) == 0
