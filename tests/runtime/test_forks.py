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
    """Fork, and return what was said in the child."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, ",".join(said).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()


def test_methods_are_called_in_the_child_alone_in_their_order() -> None:
    """What was registered first starts afresh first, and in the parent nothing happens."""
    said: list[str] = []
    things = [Thing(said, "first"), Thing(said, "second")]
    assert in_child(said) == "first,second"
    assert said == []
    assert len(things) == 2


def test_an_object_that_is_gone_leaves_nothing_behind() -> None:
    """However many objects come and go, neither they nor their registrations stay."""
    said: list[str] = []
    gc.collect()
    before = len(forks._methods)
    gone = []
    for _ in range(1000):
        thing = Thing(said, "gone")
        gone.append(weakref.ref(thing))
    del thing
    gc.collect()
    assert [ref() for ref in gone if ref()] == []
    assert len(forks._methods) == before
    assert in_child(said) == ""


def test_an_object_that_goes_while_the_others_start_afresh_is_left_out() -> None:
    """An object that ends another one in the child does not make that one's method fail."""
    said: list[str] = []
    things = {"victim": Thing(said, "victim")}

    class Ender:
        def end(self) -> None:
            said.append("ender")
            things.clear()

    ender = Ender()
    after_fork_in_child(ender.end)
    # The ender comes second: let it come first.
    victim = things["victim"]
    things["victim"] = Thing(said, "late victim")
    del victim
    assert in_child(said) == "ender"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_what_must_not_be_cut_in_two() -> None:
    """A child made while another thread imports finds the import done, not begun."""
    inside = threading.Event()
    done: list[str] = []

    def work() -> None:
        with no_fork:
            inside.set()
            time.sleep(0.1)  # The fork is waiting by then; that it does is what this is about.
            done.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    assert in_child(done) == "done"
    thread.join()
    with no_fork:
        assert in_child(done) == "done"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few seconds a fork goes on, and what follows it in the parent is in order."""
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
def test_a_fork_waits_for_calls_and_none_begins_meanwhile() -> None:
    """However busy other threads are with calls, a child is not made in the midst of one."""
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
def test_a_fork_does_not_wait_long_for_a_call_and_the_child_knows() -> None:
    """A call that hangs keeps no fork waiting; in the child, and in its own, nothing calls."""
    inside, let_go = threading.Event(), threading.Event()

    def work() -> None:
        with calls:
            inside.set()
            let_go.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    began = time.monotonic()
    assert child_was_cut(and_its_own=True) is True
    assert time.monotonic() - began < 5
    let_go.set()
    thread.join()
    assert calls.were_cut is False
    assert child_was_cut() is False


def child_was_cut(*, and_its_own: bool = False) -> bool:
    """Fork, and return what the child knows; or what a child of the child does."""
    pid = os.fork()
    if pid == 0:
        with calls:
            cut = calls.were_cut
        os._exit(child_was_cut() if and_its_own else cut)
    _, status = os.waitpid(pid, 0)
    return bool(os.waitstatus_to_exitcode(status))
