"""The handler of SIGTERM: where it is installed, and how its watcher ends the process."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from rocketry_otel._runtime import shutdown, sigterm
from rocketry_otel._runtime.sigterm import Termination

TERM = signal.SIGTERM


class Owner:
    """Something to send, which counts what it is asked to do."""

    def __init__(self, flush: Callable[[], object] = bool) -> None:
        self.asked: list[str] = []
        self._flush = flush

    def flush(self, timeout: float) -> bool:
        self.asked.append(f"flush {timeout}")
        return bool(self._flush())

    def flush_borrowed(self, deadline: float) -> Callable[[], object]:
        self.asked.append("flush borrowed")
        return lambda: self.asked.append("waited")


class Harmless(Termination):
    """A termination whose process does not die, nor loses its handler."""

    def __init__(self) -> None:
        super().__init__()
        self.set: list[tuple[int, int]] = []
        self.died = threading.Event()
        self._set_handler = lambda number, handler: self.set.append((number, handler))

    def _die(self) -> None:
        self.died.set()


@pytest.fixture
def termination(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harmless]:
    """A termination in a process that leaves the signal at its default."""
    handler, descriptor = signal.signal(TERM, signal.SIG_DFL), signal.set_wakeup_fd(-1)
    monkeypatch.setattr(shutdown, "close_all", lambda: None)
    termination = Harmless()
    yield termination
    signal.signal(TERM, handler)
    signal.set_wakeup_fd(descriptor)
    monkeypatch.undo()
    if termination._thread is not None and termination._sockets is not None:
        # A watcher that still waits ends as it does when the signal comes.
        monkeypatch.setattr(shutdown, "close_all", lambda: None)
        termination._sockets[1].send(sigterm._HANDLED)
        termination._thread.join()
    for its in termination._sockets or ():
        its.close()


def in_thread(work: Callable[[], None]) -> None:
    """Run work in another thread, to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_default_signal_gets_our_handler(termination: Harmless) -> None:
    """A handler of the application stays; the last owner that leaves removes ours."""
    owners = Owner(), Owner()
    for owner in owners:
        termination.install(owner, 1.0)
    assert termination.is_installed
    descriptor = signal.set_wakeup_fd(-1)
    assert descriptor >= 0
    signal.set_wakeup_fd(descriptor)
    termination.remove(owners[0])
    assert termination.is_installed
    in_thread(lambda: termination.remove(owners[1]))
    assert termination.is_installed
    termination.remove(owners[1])
    assert signal.getsignal(TERM) == signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1

    signal.signal(TERM, signal.SIG_IGN)
    termination.install(owners[0], 1.0)
    termination.remove(owners[0])
    assert signal.getsignal(TERM) == signal.SIG_IGN


def test_another_thread_installs_nothing(termination: Harmless) -> None:
    """Python allows it only in the main thread, and no watcher starts."""
    owner = Owner()
    in_thread(lambda: termination.install(owner, 1.0))
    termination.watch()
    assert not termination.is_installed
    assert termination._thread is None


def test_python_without_ctypes_installs_nothing(
    termination: Harmless, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose main thread is in C code could not be ended."""
    monkeypatch.setitem(sys.modules, "ctypes", None)
    bare = Termination()
    bare.install(Owner(), 1.0)
    assert not bare.is_installed


def test_scheduling_child_installs_the_handler(
    termination: Harmless, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker of a web server schedules; a child that runs a task does not."""
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    owner = Owner()
    termination.install(owner, 1.0)
    assert not termination.is_installed
    termination.install(owner, 1.0, serves=True)
    assert termination.is_installed
    termination.runs_a_task()
    assert not termination.is_installed
    termination.install(owner, 1.0, serves=True)
    assert not termination.is_installed


def test_descriptor_of_the_application_stays(termination: Harmless) -> None:
    """The application may set it before or after our handler."""
    ear, mouth = socket.socketpair()
    with ear, mouth:
        mouth.settimeout(0)
        signal.set_wakeup_fd(mouth.fileno())
        owner = Owner()
        termination.install(owner, 1.0)
        termination.remove(owner)
        assert signal.set_wakeup_fd(-1) == mouth.fileno()


def test_fork_restores_the_default_in_the_child(termination: Harmless) -> None:
    """The signal is blocked during the fork; the parent goes on as before."""
    termination.install(Owner(), 1.0)
    sockets = termination._sockets
    termination.before_fork()
    assert TERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    termination.after_fork_in_parent()
    assert TERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert termination.is_installed
    termination.before_fork()
    termination.after_fork_in_child()
    assert TERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.getsignal(TERM) == signal.SIG_DFL
    assert sockets is not None
    assert [its.fileno() for its in sockets] == [-1, -1]
    # Without a handler there is nothing to do.
    termination.before_fork()
    termination.after_fork_in_child()
    assert TERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_watcher_sends_and_ends_the_process(termination: Harmless) -> None:
    """The main thread is parked by then, and no run begins."""
    owner = Owner()
    termination.install(owner, 30.0)
    termination.watch()
    watcher = termination._thread
    termination.watch()
    assert termination._thread is watcher
    # This frame is no code that holds a lock of ours: the handler parks this very thread.
    termination._handle(TERM, None)
    assert termination.died.is_set()
    assert termination.is_ending
    assert owner.asked == ["flush borrowed", "waited"]
    assert (TERM, signal.SIG_DFL) in termination.set
    assert not termination._is_parked


def test_main_thread_is_called_until_it_is_parked(termination: Harmless) -> None:
    """It first leaves code that may hold a lock of ours."""
    frames: list[FrameType | None] = []
    handle = Harmless._handle

    def note(self: Harmless, number: int, frame: FrameType | None) -> None:
        frames.append(frame)
        handle(self, number, frame if len(frames) > 1 else inner_frame())

    def inner_frame() -> FrameType:
        return logging_frame(sys._getframe)

    type(termination)._handle = note  # type: ignore[method-assign]
    try:
        release = threading.Event()
        owner = Owner()
        owner.flush_borrowed = lambda _: lambda: release.wait(30)  # type: ignore[method-assign]
        termination.install(owner, 30.0)
        termination.watch()

        def let_go() -> None:
            while not termination._is_parked:
                release.wait(0.001)
            release.set()

        helper = threading.Thread(target=let_go)
        helper.start()
        signal.raise_signal(TERM)
        while not termination.died.wait(0.001):
            pass  # the main thread runs Python, and so its handler is called
        helper.join()
    finally:
        type(termination)._handle = handle  # type: ignore[method-assign]
    assert len(frames) > 1


def logging_frame(make: Callable[[], Any]) -> Any:
    """Return what is made below a frame of ``logging``."""

    class Filter(logging.Filter):
        made: Any = None

        def filter(self, record: logging.LogRecord) -> bool:
            self.made = make()
            return True

    logger, its_filter = logging.Logger("rocketry.other"), Filter()
    logger.addHandler(handler := logging.NullHandler())
    logger.addFilter(its_filter)
    logger.handle(logging.LogRecord("", 20, "", 0, "", (), None))
    handler.close()
    return its_filter.made


def test_code_that_may_hold_a_lock_is_known() -> None:
    """It is our code, OpenTelemetry's and that of ``logging``, and code called by these."""
    assert sigterm._may_hold_a_lock(logging_frame(sys._getframe))
    assert not sigterm._may_hold_a_lock(sys._getframe())
    assert not sigterm._may_hold_a_lock(None)


def test_process_without_watcher_dies_at_once(termination: Harmless) -> None:
    """The handler does not wait."""
    termination.install(Owner(), 30.0)
    signal.raise_signal(TERM)
    assert termination.died.is_set()
    assert not termination.is_ending


def test_watcher_sends_if_no_thread_starts(
    termination: Harmless, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter is ending."""
    owner = Owner()
    termination.install(owner, 30.0)
    termination.watch()
    monkeypatch.setattr(sigterm, "start_thread", lambda *_: None)
    termination._handle(TERM, None)
    assert termination.died.is_set()
    assert owner.asked == ["flush borrowed", "waited"]


def test_hanging_sender_ends_at_the_time_out(termination: Harmless) -> None:
    """The process dies at the deadline."""
    release = threading.Event()
    owner = Owner()
    owner.flush_borrowed = lambda _: lambda: release.wait(30)  # type: ignore[method-assign]
    termination.install(owner, 0.05)
    termination.watch()
    termination._handle(TERM, None)
    assert termination.died.is_set()
    release.set()


def test_first_process_of_a_container_goes_on(
    termination: Harmless, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends each time; an error of one owner costs the others nothing."""
    monkeypatch.setattr(sigterm, "_INIT", os.getpid())
    flushed = threading.Semaphore(0)
    good = Owner(flushed.release)

    def fail() -> None:
        raise RuntimeError("no")

    bad = Owner(fail)
    for owner in (bad, good):
        termination.install(owner, 30.0)
    termination.watch()
    assert termination._sockets is not None
    termination._sockets[1].send(bytes([signal.SIGINT]))  # another signal is not this one
    for _ in range(2):
        termination._handle(TERM, None)
        assert flushed.acquire(timeout=30)
    assert not termination.is_ending
    assert termination.set == []
    Termination._die(termination)
    assert bad.asked == good.asked == ["flush 30.0"] * 2


def test_ending_process_begins_no_run(
    termination: Harmless, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher waits for the end."""
    termination.hold()
    termination.is_ending = True

    def end(_: float) -> None:
        termination.is_ending = False

    monkeypatch.setattr(sigterm.time, "sleep", end)
    termination.hold()


def test_byte_of_another_process_is_ignored(termination: Harmless) -> None:
    """A child that is about to start another program shares the socket."""
    ear, mouth = sigterm._socket_pair()
    with ear, mouth:
        pid = os.fork()
        if pid == 0:
            mouth.send(b"\x0f")
            os._exit(0)
        os.waitpid(pid, 0)
        mouth.send(b"\x01")
        assert [sigterm._heard(ear), sigterm._heard(ear)] == [b"", b"\x01"]


def test_death_is_the_default_action(
    termination: Harmless, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal is sent again, to a process without a handler."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    Termination._die(termination)
    assert sent == [(os.getpid(), TERM)]
    assert termination.set == [(TERM, signal.SIG_DFL)]
    assert sigterm._setter_of_handlers() is not None
