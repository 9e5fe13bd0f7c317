"""A plugin for pytest that runs tests that are coroutines, each in an event loop of its own.

In: the tests of Rocketry's that are marked ``asyncio``. Out: the same tests, run. Rocketry's own
set-up has pytest-asyncio for them, which would take part in all of our tests too.
"""

from __future__ import annotations

import asyncio
import inspect

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
