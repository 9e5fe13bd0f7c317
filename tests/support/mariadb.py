"""A MariaDB server for tests, real and alone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.support.server_process import ServerProcess, unprivileged

PASSWORD = "s3cret/w0rd"  # noqa: S105  # of a server that listens on a socket of this test


@dataclass(frozen=True)
class MariaDB:
    """A running server, which listens on a Unix socket alone.

    Attributes:
        directory: Where its socket lies.
        process: Its process.
    """

    directory: Path
    process: ServerProcess

    def url(self, database: str, scheme: str = "mysql+pymysql") -> str:
        """Return the URL of SQLAlchemy of a database."""
        address = f"{scheme}://tester:{quote(PASSWORD, safe='')}@localhost/{database}"
        return f"{address}?unix_socket={_socket(self.directory)}"

    def sql(self, statement: str, database: str = "mysql") -> str:
        """Run statements, and return the values they give, a line for each row."""
        done = subprocess.run(  # the server's own client
            [
                *("mariadb", "--no-defaults", f"--socket={_socket(self.directory)}", "--user=root"),
                *("--batch", "--skip-column-names", "--raw", f"--database={database}"),
                f"--execute={statement}",
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip("\n")

    def new_database(self, options: str = "") -> str:
        """Make an empty database and return its name."""
        name = f"test_{uuid4().hex}"
        self.sql(f"CREATE DATABASE {name} {options}")
        return name


@contextmanager
def run_mariadb() -> Iterator[MariaDB]:
    """Run a server with new, empty data, and remove it afterwards.

    Skips the test if no server, or no driver, is installed.
    """
    pytest.importorskip("pymysql")
    server = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
    install = shutil.which("mariadb-install-db")
    if server is None or install is None:
        pytest.skip("no MariaDB server is installed (on Debian: apt-get install mariadb-server)")
    # A socket's path has at most 107 characters: the directories of pytest are too long.
    directory = Path(mkdtemp(prefix="maria"))
    user = unprivileged("mysql", directory)
    data = f"--datadir={directory / 'data'}"
    # A committed transaction survives the end of the process, though not that of the machine.
    small = (
        *("--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=2"),
        *("--innodb-flush-method=nosync", "--skip-innodb-file-per-table", "--skip-sync-frm"),
    )
    process = ServerProcess(
        [
            *(server, "--no-defaults", data, f"--socket={_socket(directory)}"),
            *(
                f"--pid-file={directory / 'pid'}",
                "--skip-networking",
                "--innodb-buffer-pool-size=16M",
            ),
            *small,
        ],
        directory,
        lambda: _answers(directory),
        user,
    )
    try:
        subprocess.run(
            [
                *(install, "--no-defaults", data, "--skip-test-db", *small),
                # The client of these tests has the name of the user who runs them, or root's.
                "--auth-root-authentication-method=normal",
            ],
            check=True,
            capture_output=True,
            user=user,
            cwd="/",
        )
        process.start()
        one = MariaDB(directory, process)
        one.sql(
            f"CREATE USER tester@localhost IDENTIFIED BY '{PASSWORD}'; "
            "GRANT ALL ON *.* TO tester@localhost"
        )
        yield one
    finally:
        process.stop()
        shutil.rmtree(directory)


def _socket(directory: Path) -> Path:
    return directory / "socket"


def _answers(directory: Path) -> bool:
    command = ["mariadb-admin", "--no-defaults", f"--socket={_socket(directory)}", "ping"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
