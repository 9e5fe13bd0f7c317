from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from opentelemetry._logs import SeverityNumber

from rocketry_otel._model.progress import Progress, progress_of, progress_signal
from rocketry_otel._model.signals import LogSignal


@pytest.mark.parametrize(
    ("done", "total", "ratio"),
    [(25, 100, 0.25), (0.5, 1.0, 0.5), (120, 100, 1.0), (-1, 100, 0.0), (0, 0, 1.0)],
)
def test_ratio_is_between_zero_and_one(done: Any, total: Any, ratio: float) -> None:
    """More than all is all; a job without any part is done."""
    progress = progress_of(done, total)
    assert progress == Progress(done, total)
    assert progress is not None
    assert progress.ratio == ratio
    assert type(progress.ratio) is float


def test_numbers_of_other_libraries_are_numbers() -> None:
    """A decimal is a float."""
    assert progress_of(Decimal("1.5"), 3) == Progress(1.5, 3)


@pytest.mark.parametrize(
    ("done", "total"),
    [("1", 2), (1, None), (float("nan"), 1), (1, float("inf")), (True, 1), ([1], 2), (1, -1)],
)
def test_value_that_is_no_number_is_no_progress(done: Any, total: Any) -> None:
    """Texts, truth values, lists, infinite numbers and negative totals are ignored."""
    assert progress_of(done, total) is None


@pytest.mark.parametrize(("run_id", "more"), [("r1", {"rocketry.run_id": "r1"}), (None, {})])
def test_log_record_has_the_numbers_as_they_were_reported(
    run_id: str | None, more: dict[str, Any]
) -> None:
    """Names, types and values of the event are those of the contract."""
    assert progress_signal(Progress(30, 120), "etl", run_id, 7) == LogSignal(
        7,
        SeverityNumber.INFO,
        "INFO",
        "Task 'etl' progress: 30 of 120",
        {
            "task_name": "etl",
            **more,
            "rocketry.progress.done": 30,
            "rocketry.progress.total": 120,
            "rocketry.progress.ratio": 0.25,
        },
        "rocketry.task.progress",
    )
