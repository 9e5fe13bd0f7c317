"""The demo's tasks and its application."""

import asyncio
import logging
import signal
import time
from types import SimpleNamespace

import pytest
from rocketry.exc import TaskInactionException

from rocketry_otel._demo import shop, tasks
from tests.support.program import Program


@pytest.fixture
def slept(monkeypatch):
    """The seconds that tasks would have slept, and no signal handler that they set stays."""
    seconds = []
    set_handlers = {}

    async def sleep(duration):
        seconds.append(duration)

    monkeypatch.setattr(time, "sleep", seconds.append)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(tasks.signal, "signal", set_handlers.__setitem__)
    monkeypatch.setattr(tasks.signal, "alarm", lambda _: None)
    return SimpleNamespace(seconds=seconds, handlers=set_handlers)


def test_async_task_succeeds(slept):
    """The task for the event loop succeeds."""
    coroutine = tasks.poll_prices()
    with pytest.raises(StopIteration):
        coroutine.send(None)

    assert len(slept.seconds) == 1


def test_extract_gets_the_prices(caplog):
    """The server has the prices, one of which is missing."""
    caplog.set_level(logging.INFO, "shop")
    with shop.open_shop() as address:
        asyncio.run(tasks.extract(address))
        assert tasks._get_prices(address) == {"apples": 1.2, "pears": 2.5, "plums": None}

    assert caplog.messages == ["3 prices have come"]
    with pytest.raises(ConnectionRefusedError):
        tasks._get_prices(address)


def test_load_stores_the_prices(caplog):
    """The task counts what it has stored."""
    caplog.set_level(logging.INFO, "shop")
    tasks.load()

    assert caplog.messages == ["2 prices are stored"]


@pytest.mark.parametrize("task", [tasks.transform, tasks.heartbeat, tasks.import_feed])
def test_other_tasks_succeed(task, slept):
    """Other tasks succeed, unless they are terminated."""
    assert task() is None
    assert len(slept.seconds) == 1


def test_failing_task_fails(slept):
    """The task that is to fail raises."""
    with pytest.raises(tasks.MailServerError, match=r"^421 too many connections"):
        tasks.send_invoices()


def test_idle_task_does_nothing(slept):
    """The idle task raises Rocketry's exception for that."""
    with pytest.raises(TaskInactionException, match=r"^nothing is older than a week$"):
        tasks.clean_up()


def test_tasks_in_processes_leave_in_order(slept):
    """A child ignores Ctrl-C, which is its parent's, and leaves when it is terminated."""
    tasks.import_feed()

    assert slept.handlers[signal.SIGINT] is signal.SIG_IGN
    with pytest.raises(SystemExit, match=r"^$"):
        slept.handlers[signal.SIGTERM]()
    assert slept.handlers[signal.SIGTERM] is signal.SIG_IGN


def test_return_values_are_not_kept():
    """The application keeps no return values, which would stop it where children are spawned."""
    values = tasks.NoReturnValues()
    values["task"] = 1

    assert dict(values) == {}


def test_child_that_cannot_leave_is_killed(tmp_path):
    """A thread that waits for the lock of a killed child would keep it for good."""
    script = """
        import threading
        from rocketry_otel._demo import shop, tasks

        threading.Thread(target=threading.Event().wait).start()
        tasks._be_a_good_child()
        print("ready")
        threading.Event().wait()
    """
    with Program.of_script(script, tmp_path, {}) as child:
        child.wait_for_line("ready")
        child.terminate()
        assert child.wait() == -signal.SIGALRM
