"""Starting afresh in a forked child."""

from __future__ import annotations

# What is registered last is called first before a fork. Executors hold a lock of theirs from then
# on, and the SDK needs an executor to describe the resource: we must not wait for it with that.
import concurrent.futures.thread  # noqa: F401
import os
import threading
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable

_numbers = count()
# In the order in which they came. Python can register a function with a fork but never remove
# it: so one function is registered, once, and what it calls comes and goes with its object.
_methods: dict[int, tuple[ref[Any], Callable[[Any], Any]]] = {}


# How long a fork waits at most for what must not be cut in two.
_LONGEST_WAIT = 5.0
# And how long for calls, which may hang.
_LONGEST_WAIT_FOR_CALLS = 0.2


class _Guard:
    """Entered while something goes on that no child must be left in the midst of.

    Any number of threads may be in it, each several times. A fork waits until they have left, if
    they do so soon, and none enters meanwhile.

    Args:
        longest: How many seconds a fork waits at most.

    Attributes:
        were_cut: Whether this process was forked in the midst of something all the same.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self.were_cut = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._count = 0
        self._forking = False
        self._here = threading.local()

    def __enter__(self) -> None:
        depth = getattr(self._here, "depth", 0)
        if not depth:
            with self._changed:
                self._changed.wait_for(lambda: not self._forking)
                self._count += 1
        self._here.depth = depth + 1

    def __exit__(self, *_: object) -> None:
        # A child that was forked in here has never entered.
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


# An import above all: a child that was forked while another thread of its parent's was importing a
# module waits for that module forever.
no_fork = _Guard(_LONGEST_WAIT)
# Of gRPC: a child that was forked in the midst of one hangs, or is aborted, at its own first call
# (measured: 3 of 240).
calls = _Guard(_LONGEST_WAIT_FOR_CALLS)


def after_fork_in_child(method: Callable[[], Any]) -> None:
    """Call a bound method in each forked child, as long as its object lives.

    Locks that another thread held at the moment of the fork stay locked in the child, threads
    are not there, and connections are shared with the parent: what has one of these starts
    afresh.

    Args:
        method: The bound method; no reference to its object is kept.
    """
    number = next(_numbers)
    forget = _methods.pop
    # Not a WeakMethod: it complains on stderr when it outlives the modules at the very end.
    owner = ref(method.__self__, lambda _: forget(number, None))  # type: ignore[attr-defined]
    _methods[number] = (owner, method.__func__)  # type: ignore[attr-defined]


def _before() -> None:
    no_fork.before_fork()
    calls.before_fork()


def _after_in_parent() -> None:
    calls.after_fork_in_parent()
    no_fork.after_fork_in_parent()


def _after_in_child() -> None:
    calls.after_fork_in_child()
    no_fork.after_fork_in_child()
    for weak, function in list(_methods.values()):
        owner = weak()
        if owner is not None:
            function(owner)


if hasattr(os, "register_at_fork"):  # pragma: no branch  # Windows has no fork
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
