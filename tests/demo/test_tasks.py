"""The demo's tasks and its application."""

import asyncio
import signal
import time
from types import SimpleNamespace

import pytest
from rocketry.exc import TaskInactionException

from rocketry_otel._demo import tasks
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


@pytest.mark.parametrize("task", [tasks.extract, tasks.poll_prices])
def test_async_tasks_succeed(task, slept):
    """Tasks for the event loop succeed."""
    coroutine = task()
    with pytest.raises(StopIteration):
        coroutine.send(None)

    assert len(slept.seconds) == 1


@pytest.mark.parametrize("task", [tasks.transform, tasks.load, tasks.heartbeat, tasks.import_feed])
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
        from rocketry_otel._demo import tasks

        threading.Thread(target=threading.Event().wait).start()
        tasks._be_a_good_child()
        print("ready")
        threading.Event().wait()
    """
    with Program.of_script(script, tmp_path, {}) as child:
        child.wait_for_line("ready")
        child.terminate()
        assert child.wait() == -signal.SIGALRM
