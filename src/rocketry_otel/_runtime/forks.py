"""Resets our objects in a forked child, and delays a fork while code must not be interrupted.

In: methods to call in each forked child; guarded code. Out: children without locks, threads and
connections of their parent.

Lock order: guarded code enters `no_fork` before `calls`, and a fork locks them in that order.
"""

from __future__ import annotations

# The function that is registered last is called first before a fork. Executors lock themselves
# before a fork. This import registers them first, so that our wait comes before their lock: the SDK
# needs an executor to describe the resource.
import concurrent.futures.thread  # noqa: F401
import os
import threading
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable

_numbers = count()
# In the order of registration. Python cannot remove a function that is registered with a fork. So
# one function is registered once, and calls the methods of the objects that still live.
_methods: dict[int, tuple[ref[Any], Callable[[Any], Any]]] = {}
_methods_before: dict[int, tuple[ref[Any], Callable[[Any], Any]]] = {}


# The most seconds that a fork waits for guarded code.
_LONGEST_WAIT = 5.0
# The most seconds that a fork waits for calls of gRPC, which may hang.
_LONGEST_WAIT_FOR_CALLS = 0.2


class _Guard:
    """A context for code that a fork must not interrupt.

    Any number of threads may enter, each several times. A fork waits until they have left, up to
    a limit, and no thread enters meanwhile.

    Args:
        longest: The most seconds that a fork waits.

    Attributes:
        were_cut: Whether this process was forked while a thread of its parent was inside.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self.were_cut = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        # It guards `_count` and `_forking`. Threads hold it only to change these; a fork holds it
        # until the fork is over.
        self._changed = threading.Condition(threading.RLock())
        self._count = 0
        self._forking = False
        self._here = threading.local()

    def __enter__(self) -> None:
        depth = getattr(self._here, "depth", 0)
        if not depth:
            with self._changed:
                if self._forking:
                    self._changed.wait_for(lambda: not self._forking)
                self._count += 1
        self._here.depth = depth + 1

    def __exit__(self, *_: object) -> None:
        # In a child that was forked inside, the count begins at 0: it has never entered.
        depth = getattr(self._here, "depth", 0) - 1
        self._here.depth = max(depth, 0)
        if depth == 0:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def before_fork(self) -> None:
        own = min(getattr(self._here, "depth", 0), 1)
        self._changed.acquire()
        self._forking = True
        self._changed.wait_for(lambda: self._count == own, self._longest)

    def after_fork_in_parent(self) -> None:
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def after_fork_in_child(self) -> None:
        self.were_cut = self.were_cut or self._count > 0
        self._start_afresh()


# Above all for imports: if another thread imports a module during the fork, the child waits for
# that module forever.
no_fork = _Guard(_LONGEST_WAIT)
# For calls of gRPC: a child that was forked during one hangs, or is aborted, at its own first call
# (measured: 3 of 240).
calls = _Guard(_LONGEST_WAIT_FOR_CALLS)


def after_fork_in_child(method: Callable[[], Any]) -> None:
    """Call a bound method in each forked child, as long as its object lives.

    In a child, locks that another thread held stay locked, threads are missing, and connections
    are shared with the parent. Each object with one of these resets itself.

    Args:
        method: The bound method; its object is not kept alive.
    """
    _register(_methods, method)


def before_fork(method: Callable[[], Any]) -> None:
    """Call a bound method in the parent before each fork, as long as its object lives.

    No other thread is in guarded code then, unless it has stayed there for too long. The method
    must wait for no lock.

    Args:
        method: The bound method; its object is not kept alive.
    """
    _register(_methods_before, method)


def _register(
    methods: dict[int, tuple[ref[Any], Callable[[Any], Any]]], method: Callable[[], Any]
) -> None:
    number = next(_numbers)
    forget = methods.pop
    # Not a WeakMethod: it writes an error to stderr if it outlives the modules at the end.
    owner = ref(method.__self__, lambda _: forget(number, None))  # type: ignore[attr-defined]
    methods[number] = (owner, method.__func__)  # type: ignore[attr-defined]


def _call(methods: dict[int, tuple[ref[Any], Callable[[Any], Any]]]) -> None:
    for weak, function in list(methods.values()):
        owner = weak()
        if owner is not None:
            function(owner)


def _before() -> None:
    no_fork.before_fork()
    calls.before_fork()
    _call(_methods_before)


def _after_in_parent() -> None:
    calls.after_fork_in_parent()
    no_fork.after_fork_in_parent()


def _after_in_child() -> None:
    calls.after_fork_in_child()
    no_fork.after_fork_in_child()
    _call(_methods)


if hasattr(os, "register_at_fork"):  # pragma: no branch  # Windows has no fork
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
