"""A PostgreSQL server for tests, real and alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

import pytest

from tests.support.server_process import ServerProcess, unprivileged

PASSWORD = "s3cret/w0rd"  # noqa: S105  # of a server that listens on a socket of this test


@dataclass(frozen=True)
class PostgreSQL:
    """A running server, which listens on a Unix socket alone.

    Attributes:
        directory: Where its socket lies.
        binaries: Where its programs lie.
        process: Its process.
    """

    directory: Path
    binaries: Path
    process: ServerProcess

    def url(self, database: str = "postgres", driver: str = "") -> str:
        """Return the URL of SQLAlchemy of a database."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        password = PASSWORD.replace("/", "%2F")
        return f"{scheme}://tester:{password}@/{database}?host={self.directory}"

    def psql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement, and return the values it gives, a line for each row."""
        done = subprocess.run(  # the server's own client
            [
                self.binaries / "psql",
                *("-h", self.directory, "-U", "tester", "-d", database),
                *("-v", "ON_ERROR_STOP=1", "-qAtX", "-c", statement),
            ],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def new_database(self, options: str = "") -> str:
        """Make an empty database and return its name."""
        name = f"test_{uuid4().hex}"
        self.psql(f"CREATE DATABASE {name} {options}")
        return name


def find_binaries() -> Path | None:
    """Return the directory of the newest server's programs, if there is one."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    if not found:
        return Path(on_path).resolve().parent if on_path else None
    return max(found, key=lambda path: [*map(int, re.findall(r"\d+", str(path)))]).parent


@contextmanager
def run_postgresql() -> Iterator[PostgreSQL]:
    """Run a server with a new, empty cluster, and remove it afterwards.

    Skips the test if no server is installed.
    """
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (on Debian: apt-get install postgresql)")
    # A socket's path has at most 107 characters: the directories of pytest are too long.
    directory = Path(mkdtemp(prefix="pg"))
    user = unprivileged("postgres", directory)
    password_file = directory / "password"
    password_file.write_text(PASSWORD, encoding="utf-8")
    password_file.chmod(0o644)
    data = directory / "data"
    process = ServerProcess(
        [
            binaries / "postgres",
            *("-D", data, "-k", directory, "-c", "listen_addresses="),
            *("-c", "fsync=off", "-c", "max_connections=50"),
        ],
        directory,
        lambda: _answers(binaries, directory),
        user,
        # PostgreSQL's fast shutdown: it ends every connection.
        signal.SIGINT,
    )
    try:
        _run(
            [
                binaries / "initdb",
                *("-D", data, "-U", "tester", "--auth=scram-sha-256", f"--pwfile={password_file}"),
                *("--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            user,
        )
        process.start()
        yield PostgreSQL(directory, binaries, process)
    finally:
        process.stop()
        shutil.rmtree(directory)


def _run(command: list[str | Path], user: str | None) -> None:
    subprocess.run(command, check=True, capture_output=True, user=user, cwd="/")


def _answers(binaries: Path, directory: Path) -> bool:
    return (
        subprocess.run([binaries / "pg_isready", "-q", "-h", directory], check=False).returncode
        == 0
    )
