"""SIGTERM: the queues are sent, then the process dies of the signal.

In: the signal, in a process that leaves it at its default. Out: everything is closed as at the
end of the program, within the shutdown time-out; then the default action, with its exit status.

A watcher does the work: a thread that exists before the signal comes. So the handler takes no
lock, and a main thread in C code or under one of our locks delays nothing. The watcher wakes when
a byte arrives on a socket. The interpreter writes the number of each signal to it at once
(``signal.set_wakeup_fd``). The handler writes another byte as soon as Python code runs.
"""

from __future__ import annotations

import _thread
import multiprocessing
import os
import signal
import socket
import struct
import sys
import threading
import time
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from . import shutdown
from .threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_SIGTERM = signal.SIGTERM
_HANDLED = b"\0"
_ARRIVED = bytes([_SIGTERM])
_INIT = 1

# While the main thread runs code of these packages it may hold a lock that sending needs.
_WITH_LOCKS = frozenset({"rocketry_otel", "opentelemetry", "logging"})
_SECONDS_BETWEEN_CALLS = 0.01

# The credentials of a sender are process, user and group. A child that is about to start another
# program still has the socket of its parent: its signals are not ours. Linux only.
_CREDENTIALS = struct.Struct("3i")
_PASS_CREDENTIALS = getattr(socket, "SO_PASSCRED", None)


class Owner(Protocol):
    """An object with telemetry to send when the process is terminated."""

    def flush(self, timeout: float) -> bool:
        """Send the queues, within ``timeout`` seconds, and go on."""
        ...

    def flush_borrowed(self, deadline: float) -> Callable[[], object]:
        """Begin to flush the providers of the application; return a function that waits."""
        ...


class Termination:
    """The handler of SIGTERM of this process, and its watcher.

    Only the main thread writes its fields, except ``is_ending``. It has no lock: a signal handler
    runs between any two steps of the main thread.

    Attributes:
        is_ending: Whether the process is about to die of SIGTERM.
    """

    def __init__(self) -> None:
        """Install nothing yet."""
        # Each owner with its shutdown time-out.
        self._owners: weakref.WeakKeyDictionary[Owner, float] = weakref.WeakKeyDictionary()
        self._runs_a_task = False
        self._set_handler = _setter_of_handlers()
        self._fork = threading.local()
        self._start_afresh()

    def _start_afresh(self) -> None:
        self.is_ending = False
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self._is_parked = False

    @property
    def is_installed(self) -> bool:
        """Whether SIGTERM comes to this handler."""
        return signal.getsignal(_SIGTERM) == self._handle

    def install(self, owner: Owner, timeout: float, *, serves: bool = False) -> None:
        """Handle SIGTERM for an owner, if this is possible and no other handler is set.

        Only the main thread can set a handler. A child of ``multiprocessing`` does not handle
        SIGTERM: it may run a task, and its parent terminates it by this signal. The worker of a
        web server is such a child too, but a scheduler starts in it.

        Args:
            owner: The object with telemetry to send.
            timeout: The most seconds that sending may take.
            serves: Whether a scheduler starts here.
        """
        self._owners[owner] = timeout
        if (
            self._runs_a_task
            or self._set_handler is None
            or threading.current_thread() is not threading.main_thread()
            or signal.getsignal(_SIGTERM) != signal.SIG_DFL
            or not (serves or multiprocessing.parent_process() is None)
        ):
            return
        with suppress(ValueError):  # the main thread of an interpreter that is not the main one
            signal.signal(_SIGTERM, self._handle)
            self._sockets = self._sockets or _socket_pair()
            before = signal.set_wakeup_fd(self._sockets[1].fileno(), warn_on_full_buffer=False)
            if before not in (-1, self._sockets[1].fileno()):
                # The application or asyncio uses it: the handler wakes the watcher.
                signal.set_wakeup_fd(before)

    def watch(self) -> None:
        """Start the watcher; called before the first telemetry."""
        if self._sockets is not None and self._thread is None:
            self._thread = start_thread(partial(self._watch, self._sockets[0]), "sigterm")

    def remove(self, owner: Owner) -> None:
        """Leave SIGTERM at its default again if no other owner is left."""
        self._owners.pop(owner, None)
        if not self._owners:
            self._remove()

    def runs_a_task(self) -> None:
        """Mark this process as a child that runs a task: SIGTERM ends it at once."""
        self._runs_a_task = True
        self._remove()

    def hold(self) -> None:
        """Block the launch of a run while the process is about to die."""
        while self.is_ending:
            time.sleep(1)

    # The signal. Nothing here takes a lock.

    def _handle(self, _signal: int, frame: FrameType | None) -> None:
        thread, sockets = self._thread, self._sockets
        if thread is None or sockets is None or sys.is_finalizing():
            self._die()
            return
        if os.getpid() != _INIT:
            self.is_ending = True
            self._set_default()
        with suppress(OSError):  # the socket is full of other signals, so the watcher is awake
            sockets[1].send(_HANDLED)
        if self.is_ending and not _may_hold_a_lock(frame):
            self._park(thread)

    def _park(self, thread: threading.Thread) -> None:
        """Keep the main thread here until the watcher ends the process."""
        self._is_parked = True
        try:
            while thread.is_alive():
                time.sleep(_SECONDS_BETWEEN_CALLS)
        finally:
            # Another signal may raise KeyboardInterrupt here.
            self._is_parked = False
        self._die()

    def _set_default(self) -> None:
        """Let the next SIGTERM end the process at once, from any thread."""
        if self._set_handler is not None:  # pragma: no branch  # else nothing is installed
            self._set_handler(_SIGTERM, signal.SIG_DFL)

    def _die(self) -> None:
        if os.getpid() != _INIT:
            self._set_default()
            os.kill(os.getpid(), _SIGTERM)

    # The watcher.

    def _watch(self, ear: socket.socket) -> None:
        while True:
            heard = _heard(ear)
            if heard == _HANDLED or (heard == _ARRIVED and self.is_installed):
                if os.getpid() != _INIT:
                    break
                self._send_and_go_on()
        self._end()

    def _send_and_go_on(self) -> None:
        # The kernel ignores the default action in the first process of a container.
        for owner, timeout in list(self._owners.items()):
            with suppress(Exception):  # the other owners are flushed all the same
                owner.flush(timeout)

    def _end(self) -> None:
        try:
            self.is_ending = True
            self._set_default()
            deadline = time.monotonic() + max(self._owners.values(), default=0.0)
            sender = start_thread(partial(self._send, deadline), "sigterm-send")
            if sender is None:
                self._send(deadline)  # the interpreter is ending: no thread can start
                return
            while sender.is_alive() and time.monotonic() < deadline:
                sender.join(_SECONDS_BETWEEN_CALLS)
                self._call_main_thread()
        finally:
            self._die()

    def _call_main_thread(self) -> None:
        """Let the handler park the main thread as soon as it holds none of our locks."""
        if not self._is_parked and self.is_installed:
            _thread.interrupt_main(_SIGTERM)

    def _send(self, deadline: float) -> None:
        waits = [owner.flush_borrowed(deadline) for owner in list(self._owners)]
        shutdown.close_all()
        for wait in waits:
            wait()

    # Forks.

    def before_fork(self) -> None:
        """Keep SIGTERM off this thread until the fork is over."""
        # A SIGTERM that reached the child before the reset would be lost in it.
        self._fork.mask = (
            signal.pthread_sigmask(signal.SIG_BLOCK, [_SIGTERM]) if self.is_installed else None
        )

    def after_fork_in_parent(self) -> None:
        """Let SIGTERM reach this thread again."""
        if self._fork.mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._fork.mask)

    def after_fork_in_child(self) -> None:
        """Leave SIGTERM at its default in a child, until a scheduler starts there."""
        self._remove()
        for its in self._sockets or ():
            its.close()
        self._start_afresh()
        self.after_fork_in_parent()

    def _remove(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if self.is_installed:
            signal.signal(_SIGTERM, signal.SIG_DFL)
        if self._sockets is not None:
            before = signal.set_wakeup_fd(-1)
            if before not in (-1, self._sockets[1].fileno()):
                signal.set_wakeup_fd(before)


def _setter_of_handlers() -> Callable[[int, int], object] | None:
    """Return a function that sets a handler of the operating system in any thread.

    ``signal.signal`` works only in the main thread, which may be in C code. The function needs
    ctypes; without it the result is ``None``.
    """
    try:
        import ctypes  # noqa: PLC0415  # some Pythons lack it
    except ImportError:
        return None
    prototype = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    return prototype(("PyOS_setsig", ctypes.pythonapi))


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return the socket of the watcher, and the one that wakes it."""
    ear, mouth = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    mouth.setblocking(False)  # noqa: FBT003  # the signature of sockets
    if _PASS_CREDENTIALS is not None:  # pragma: no branch  # not on macOS
        ear.setsockopt(socket.SOL_SOCKET, _PASS_CREDENTIALS, 1)
    return ear, mouth


def _heard(ear: socket.socket) -> bytes:
    """Wait for a byte; return nothing if another process sent it."""
    heard, ancillary, _, _ = ear.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
    senders = [_CREDENTIALS.unpack_from(data)[0] for _, _, data in ancillary]
    return heard if all(sender == os.getpid() for sender in senders) else b""


def _may_hold_a_lock(frame: FrameType | None) -> bool:
    """Return whether the main thread is in code that may hold a lock that sending needs."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _WITH_LOCKS:
            return True
        frame = frame.f_back
    return False


termination = Termination()
os.register_at_fork(
    before=termination.before_fork,
    after_in_parent=termination.after_fork_in_parent,
    after_in_child=termination.after_fork_in_child,
)
