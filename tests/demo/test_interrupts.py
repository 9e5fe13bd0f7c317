"""Signals that end the demo early."""

import signal

import pytest

from rocketry_otel._demo.interrupts import interrupts
from tests.support.processes import run_python

# Not in the process of the tests: a copy of that would be a second one for a moment.
FORKS = """
import os, signal
from rocketry_otel._demo.interrupts import interrupts

with interrupts() as seen:
    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), seen.number)
"""
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
pytestmark = pytest.mark.usefixtures("_terminable")


@pytest.mark.parametrize("number", NUMBERS)
def test_first_signal_is_noted_and_the_second_raises(number):
    """Only while runs go on; the first one is the status, and the handlers are restored."""
    before = [signal.getsignal(one) for one in NUMBERS]

    with interrupts() as seen:
        with seen.noted():
            assert seen.number is None
            signal.raise_signal(number)
            assert (seen.number, seen.status) == (number, 128 + number)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert seen.status == 128 + number

    assert [signal.getsignal(one) for one in NUMBERS] == before


def test_signal_raises_while_no_run_goes_on():
    """Before the first run and after the last one."""
    with interrupts() as seen:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert seen.status == 143


def test_signal_that_is_ignored_stays_so():
    """As under ``nohup``; Ctrl-C always ends the demo."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts() as seen:
            signal.raise_signal(signal.SIGHUP)
        assert seen.number is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_forked_child_dies_of_sigterm_and_not_of_sigint(tmp_path):
    """Before its task has begun, a child has the handler of its parent."""
    done = run_python(FORKS, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{-signal.SIGTERM} None\n", "")


def test_handler_in_a_child_leaves_sigterm_at_its_default(monkeypatch):
    """Then the signal is raised once more; SIGINT is ignored."""
    raised = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    with interrupts() as seen:
        seen._process = 0  # another process made it
        seen.handle(signal.SIGINT, None)
        assert raised == []
        seen.handle(signal.SIGTERM, None)
        assert raised == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
