from __future__ import annotations

import threading

import pytest
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from rocketry_otel._runtime.suppression import suppressed
from rocketry_otel._runtime.threads import start_thread


def test_block_suppresses_instrumentation() -> None:
    """It is on again after the block, also after an error."""
    with suppressed():
        assert not is_instrumentation_enabled()
    with pytest.raises(ZeroDivisionError), suppressed():
        divmod(1, 0)
    assert is_instrumentation_enabled()


def test_decorator_suppresses_instrumentation() -> None:
    """The function may be called any number of times."""
    look = suppressed()(is_instrumentation_enabled)
    assert (look(), look()) == (False, False)
    assert is_instrumentation_enabled()


def test_decorated_function_calls_itself() -> None:
    """Each call has its own block, as calls on several threads have."""

    @suppressed()
    def look(depth: int) -> list[bool]:
        deeper = look(depth - 1) if depth else []
        return [*deeper, is_instrumentation_enabled()]

    assert look(2) == [False, False, False]
    assert is_instrumentation_enabled()


def test_our_threads_suppress_instrumentation() -> None:
    """Other threads are not affected."""
    seen: list[bool] = []
    thread = start_thread(lambda: seen.append(is_instrumentation_enabled()), "test")
    assert thread is not None
    thread.join()
    other = threading.Thread(target=lambda: seen.append(is_instrumentation_enabled()))
    other.start()
    other.join()
    assert seen == [False, True]
