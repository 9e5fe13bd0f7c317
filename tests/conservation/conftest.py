"""Where the conservation tests keep their records, and what chance is made of in them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import committed
from tests.support.committed import Store
from tests.support.postgresql import PostgreSQL, run_postgresql

SEED = os.environ.get("CONSERVATION_SEED") or str(random.SystemRandom().randrange(10**9))


@pytest.fixture
def seed() -> str:
    """The seed of all random choices: set ``CONSERVATION_SEED`` to repeat them."""
    return SEED


@pytest.fixture
def chance(seed: str, request: pytest.FixtureRequest) -> random.Random:
    """A random generator that depends on the seed and the test only."""
    return random.Random(f"{seed} {request.node.name}")  # noqa: S311  # nothing is secret here


@pytest.fixture(scope="session")
def _server() -> Iterator[PostgreSQL]:
    with run_postgresql() as server:
        yield server


@pytest.fixture
def make_store(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], Store]:
    """Return a function that makes an empty repository of a kind."""

    def make(kind: str) -> Store:
        if kind == "postgresql":
            return committed.postgresql(request.getfixturevalue("_server"))
        makers = {
            "sqlite": committed.sqlite,
            "csv": committed.csv_file,
            "json": committed.json_directory,
        }
        return makers[kind](tmp_path)

    return make
