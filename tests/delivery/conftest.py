"""The fixture of the tests that catch up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel import TaskEventRecord
from tests.support.catch_up_bench import Bench


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Return a function that makes a bench, whose channels are closed at the end."""
    with ExitStack() as stack:

        def make(
            *,
            model: Any = TaskEventRecord,
            durable: bool = True,
            folder: Path = tmp_path,
            **limits: Any,
        ) -> Bench:
            return Bench(stack, folder if durable else None, model, **limits)

        yield make
