"""The pytest plugin: a fixture for tests of your own tasks.

In: an application. Out: its telemetry, captured in memory until the test ends.

pytest imports this module at its start, by the entry point ``rocketry-otel``. So it lies beside the
package, and imports nothing but pytest: a run of tests that does not use the fixture pays nothing,
and coverage is measured from the first line of ``rocketry_otel`` on.
``pytest -p no:rocketry-otel`` switches the plugin off.

PYTEST_DONT_REWRITE: there is no assertion here.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rocketry_otel.testing import CaptureRocketry

_PREFIXES = ("OTEL_", "ROCKETRY_OTEL_")
# An interpreter reads it at its start: a child that is spawned shall read the same.
_KEPT = "ROCKETRY_OTEL_PYDANTIC"


@pytest.fixture
def capture_rocketry(monkeypatch: pytest.MonkeyPatch) -> Iterator[CaptureRocketry]:
    """Capture the telemetry of a Rocketry application until the test ends.

    The fixture is a function: ``capture_rocketry(app)`` returns the capture, whose ``span("etl")``
    is the span of the run of the task ``etl``. It hides your ``OTEL_*`` and ``ROCKETRY_OTEL_*``
    variables, so that no test sends telemetry or writes to a real repository by accident.
    See ``rocketry_otel.testing``.
    """
    from rocketry_otel.testing import capture_telemetry  # noqa: PLC0415  # only if it is used

    for name in list(os.environ):
        if name.startswith(_PREFIXES) and name != _KEPT:
            monkeypatch.delenv(name)
    with ExitStack() as captures:
        yield lambda app=None, *, sampler=None: captures.enter_context(
            capture_telemetry(app, sampler=sampler)
        )
