"""Where the conservation tests keep their records, and what chance is made of in them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import committed
from tests.support.committed import Store
from tests.support.ferretdb import FerretDB, run_ferretdb
from tests.support.mariadb import MariaDB, run_mariadb
from tests.support.postgresql import PostgreSQL, run_postgresql

SEED = os.environ.get("CONSERVATION_SEED") or str(random.SystemRandom().randrange(10**9))

_SERVERS: dict[str, Callable[[Any], Store]] = {
    "postgresql": committed.postgresql,
    "mariadb": committed.mariadb,
    "ferretdb": committed.ferretdb,
}


@pytest.fixture
def seed() -> str:
    """The seed of all random choices: set ``CONSERVATION_SEED`` to repeat them."""
    return SEED


@pytest.fixture
def chance(seed: str, request: pytest.FixtureRequest) -> random.Random:
    """A random generator that depends on the seed and the test only."""
    return random.Random(f"{seed} {request.node.name}")  # noqa: S311  # nothing is secret here


@pytest.fixture(scope="session")
def _postgresql() -> Iterator[PostgreSQL]:
    with run_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def _mariadb() -> Iterator[MariaDB]:
    with run_mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def _ferretdb() -> Iterator[FerretDB]:
    with run_ferretdb() as server:
        yield server


@pytest.fixture
def make_store(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], Store]:
    """Return a function that makes an empty repository of a kind."""

    def make(kind: str) -> Store:
        if kind in _SERVERS:
            return _SERVERS[kind](request.getfixturevalue(f"_{kind}"))
        makers = {
            "sqlite": committed.sqlite,
            "csv": committed.csv_file,
            "json": committed.json_directory,
        }
        return makers[kind](tmp_path)

    return make
