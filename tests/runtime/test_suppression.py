from __future__ import annotations

import threading

import pytest
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from rocketry_otel._runtime.suppression import suppressed
from rocketry_otel._runtime.threads import start_thread


def test_instrumentation_is_suppressed_within_a_block() -> None:
    """It is on again after the block, also after an error."""
    with suppressed():
        assert not is_instrumentation_enabled()
    with pytest.raises(ZeroDivisionError), suppressed():
        divmod(1, 0)
    assert is_instrumentation_enabled()


def test_instrumentation_is_suppressed_within_a_decorated_function() -> None:
    """The function may be called any number of times."""
    look = suppressed()(is_instrumentation_enabled)
    assert (look(), look()) == (False, False)
    assert is_instrumentation_enabled()


def test_instrumentation_is_suppressed_on_our_threads() -> None:
    """Other threads are left alone."""
    seen: list[bool] = []
    thread = start_thread(lambda: seen.append(is_instrumentation_enabled()), "test")
    assert thread is not None
    thread.join()
    other = threading.Thread(target=lambda: seen.append(is_instrumentation_enabled()))
    other.start()
    other.join()
    assert seen == [False, True]
