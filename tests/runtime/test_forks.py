from __future__ import annotations

import gc
import os
import threading
import time
import weakref

import pytest

from rocketry_otel._runtime import forks
from rocketry_otel._runtime.forks import after_fork_in_child, calls, no_fork


class Thing:
    def __init__(self, said: list[str], name: str) -> None:
        self.said = said
        self.name = name
        after_fork_in_child(self.start_afresh)

    def start_afresh(self) -> None:
        self.said.append(self.name)


def in_child(said: list[str]) -> str:
    """Fork, and return the child's output."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, ",".join(said).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()


def test_methods_run_in_the_child_in_order() -> None:
    """The order is that of registration; in the parent nothing is called."""
    said: list[str] = []
    things = [Thing(said, "first"), Thing(said, "second")]
    assert in_child(said) == "first,second"
    assert said == []
    assert len(things) == 2


def test_deleted_object_leaves_no_registration() -> None:
    """Neither objects nor registrations pile up."""
    said: list[str] = []
    gc.collect()
    before = set(forks._methods)
    gone = []
    for _ in range(1000):
        thing = Thing(said, "gone")
        gone.append(weakref.ref(thing))
    del thing
    gc.collect()
    assert [ref() for ref in gone if ref()] == []
    assert set(forks._methods) - before == set()
    assert in_child(said) == ""


def test_object_deleted_during_reset_is_skipped() -> None:
    """An object that ends another one in the child causes no error."""
    said: list[str] = []
    things = {"victim": Thing(said, "victim")}

    class Ender:
        def end(self) -> None:
            said.append("ender")
            things.clear()

    ender = Ender()
    after_fork_in_child(ender.end)
    # Registered second, but called first.
    victim = things["victim"]
    things["victim"] = Thing(said, "late victim")
    del victim
    assert in_child(said) == "ender"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_waits_for_guarded_code() -> None:
    """If another thread imports, the child finds the import done."""
    inside = threading.Event()
    done: list[str] = []

    def work() -> None:
        with no_fork:
            inside.set()
            time.sleep(0.1)  # The fork waits by then: that is the subject of this test.
            done.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    assert in_child(done) == "done"
    thread.join()
    with no_fork:
        assert in_child(done) == "done"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_wait_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few seconds the fork goes on, and the parent works as before."""
    monkeypatch.setattr(forks, "_LONGEST_WAIT", 0.01)
    inside, let_go = threading.Event(), threading.Event()

    def work() -> None:
        with no_fork:
            inside.set()
            let_go.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    assert in_child(["forked"]) == "forked"
    let_go.set()
    thread.join()
    with no_fork:
        assert in_child(["forked"]) == "forked"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_waits_for_calls() -> None:
    """No call begins meanwhile, so a child is not made during one."""
    over = threading.Event()
    begun = threading.Barrier(4)

    def work() -> None:
        begun.wait(10)
        while not over.is_set():
            with calls:
                time.sleep(0.001)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    cut = [child_was_cut() for _ in range(10)]
    over.set()
    for thread in threads:
        thread.join()
    assert cut == [False] * 10
    assert calls._count == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_hanging_call_delays_no_fork() -> None:
    """The child and its own children know of it, and make no call."""
    inside, let_go = threading.Event(), threading.Event()

    def work() -> None:
        with calls:
            inside.set()
            let_go.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)
    assert child_was_cut(and_its_own=True) is True
    assert thread.is_alive()
    let_go.set()
    thread.join()
    assert calls.were_cut is False
    assert child_was_cut() is False


def child_was_cut(*, and_its_own: bool = False) -> bool:
    """Fork, and return whether the child was cut, or the output of the child's child."""
    pid = os.fork()
    if pid == 0:
        with calls:
            cut = calls.were_cut
        os._exit(child_was_cut() if and_its_own else cut)
    _, status = os.waitpid(pid, 0)
    return bool(os.waitstatus_to_exitcode(status))
