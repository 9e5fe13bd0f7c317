"""A real application with quick tasks of every kind, to be killed and started again.

It takes orders as lines on its standard input and answers each with a line of JSON; it ends when
that input does. What it does is set by the environment:

- ``CONSERVATION_TASKS``: kinds of tasks by commas, of those in ``KINDS``
- ``CONSERVATION_PREFIX``: what stands before the name of each task
- ``CONSERVATION_PAUSED``: no task begins until the order ``go``
- ``CONSERVATION_HANDLER``: ``plain`` for Red Bird's own handler in place of ours
- ``CONSERVATION_PACE``: seconds between two cycles of the scheduler
- ``CONSERVATION_SLOW_DISK``: seconds that it takes to keep what is known of the delivery
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from redbird.logging import RepoHandler
from rocketry import Rocketry
from rocketry.args import TerminationFlag
from rocketry.conditions.api import after_success
from rocketry.core import BaseCondition, Parameters
from rocketry.exc import TaskInactionException

from rocketry_otel import current_run, instrument, open_repository
from tests.support.oddities import be_odd, causes_of, limit_files, most_memory, set_clock

SIGNALS = ("traces", "logs")
FACTS = ("delivered", "waiting", "refused", "oldest_waiting", "last_error")
ENDLESS = 3600


def delivery_of(handler: Any) -> dict[str, dict[str, Any]]:
    """Return the delivery status of a handler as plain values."""
    delivery = handler.delivery
    signals = {signal: getattr(delivery, signal) for signal in SIGNALS}
    return {name: {fact: getattr(one, fact) for fact in FACTS} for name, one in signals.items()}


class Forget(Parameters):
    """Return values of tasks, none of which is kept."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep nothing: two values of process tasks would be one too many for Rocketry."""


class Counting(logging.Handler):
    """Stands behind the handler that is tested, and counts the records that came so far."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record."""
        with self.changed:
            self.count += 1
            self.changed.notify_all()

    def await_more(self, number: int) -> bool:
        """Wait until so many more have come, and return whether they did."""
        with self.changed:
            wanted = self.count + number
            return self.changed.wait_for(lambda: self.count >= wanted, 60)


class EveryCycles(BaseCondition):
    """True in one of so many cycles of the scheduler, whatever the time."""

    going = threading.Event()
    cycle = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def get_state(self) -> bool:
        """Return whether this is the cycle."""
        return self.going.is_set() and self.cycle % self.number == 0


def add_what_is_kept() -> None:
    """Add to the run's span what a repository has to keep, too, to send it again."""
    run = current_run()
    if run:
        run.set_attribute("größe", 1.5)
        run.set_attribute("rows", 2**40)
        run.set_attribute("done", value=True)
        run.add_event("half", {"of": "it", "n": 1})


def succeed() -> None:
    """Succeed, having added something."""
    add_what_is_kept()


def fail() -> None:
    """Fail, with a chain of exceptions."""
    add_what_is_kept()
    try:
        raise KeyError("what was wanted")
    except KeyError as error:
        raise ValueError('boom "äöü",\nin two lines') from error


def do_nothing() -> None:
    """Say that there was nothing to do."""
    raise TaskInactionException("nothing today")


async def succeed_async() -> None:
    """Succeed after a moment."""
    await asyncio.sleep(0.02)
    add_what_is_kept()


async def fail_async() -> None:
    """Fail after a moment."""
    await asyncio.sleep(0.01)
    fail()


def work_in_thread() -> None:
    """Succeed after a moment."""
    threading.Event().wait(0.02)
    add_what_is_kept()


async def go_on_for_long() -> None:
    """Go on until cut off."""
    await asyncio.sleep(ENDLESS)


def go_on_in_thread(flag: threading.Event = TerminationFlag()) -> None:  # noqa: B008
    """Go on until cut off."""
    flag.wait(ENDLESS)


def go_on_in_process() -> None:
    """Go on until cut off, or for long if nobody does: a child outlives a killed parent."""
    time.sleep(ENDLESS)


# Of each kind: name, function, execution, in one of how many cycles it starts, time-out.
KINDS: dict[str, list[tuple[str, Callable[..., Any], str, int, float | None]]] = {
    "main": [
        ("main", succeed, "main", 2, None),
        ("main fails", fail, "main", 7, None),
        ("idle", do_nothing, "main", 5, None),
    ],
    "async": [
        ("async", succeed_async, "async", 2, None),
        ("async fails", fail_async, "async", 9, None),
        ("timed out", go_on_for_long, "async", 3, 0.2),
    ],
    "thread": [
        ("thread", work_in_thread, "thread", 3, None),
        ("thread fails", fail, "thread", 8, None),
    ],
    "long": [
        ("long async", go_on_for_long, "async", 1, None),
        ("long thread", go_on_in_thread, "thread", 1, None),
    ],
    "process": [
        ("process", succeed, "process", 1, None),
        ("process fails", fail, "process", 3, None),
    ],
    "orphan": [("orphan", go_on_in_process, "process", 1, None)],
    "poison": [("poison", succeed, "main", 4, None)],
    "busy": [(f"busy {number}", succeed, "main", 1, None) for number in range(10)],
}
USUAL = "main,async,thread,long"


class Application:
    """The application, its handler, and the orders that it takes."""

    def __init__(self) -> None:
        pace = float(os.environ.get("CONSERVATION_PACE", "0.02"))
        self.app = Rocketry(
            execution="main", cycle_sleep=pace, max_process_count=3, instant_shutdown=True
        )
        self.app.session.returns = Forget()
        kinds = os.environ.get("CONSERVATION_TASKS", USUAL).split(",")
        prefix = os.environ.get("CONSERVATION_PREFIX", "")
        for kind in kinds:
            for name, function, execution, number, timeout in KINDS[kind]:
                self.app.session.create_task(
                    func=function,
                    name=prefix + name,
                    execution=execution,
                    start_cond=EveryCycles(number),
                    timeout=timeout,
                )
        if "main" in kinds:
            condition = after_success(f"{prefix}main") & EveryCycles(1)
            self.app.session.create_task(
                func=succeed, name=f"{prefix}after", execution="main", start_cond=condition
            )
        self.handler = self.put_handler_in_place()
        self.counting = Counting()
        logging.getLogger("rocketry.task").addHandler(self.counting)
        if not os.environ.get("CONSERVATION_PAUSED"):
            EveryCycles.going.set()
        self.said_ready = False
        self.app.session.hooks.scheduler_cycle.append(self.begin_cycle)

    def put_handler_in_place(self) -> Any:
        """Instrument the application, or do what its user would do without us."""
        if os.environ.get("CONSERVATION_HANDLER") != "plain":
            return instrument(self.app)
        logger = logging.getLogger("rocketry.task")
        logger.handlers = [RepoHandler(open_repository(os.environ["ROCKETRY_OTEL_REPO"]))]
        logger.setLevel(logging.INFO)
        return logger.handlers[0]

    def begin_cycle(self) -> None:
        """Count the cycles, and say when the first has come: by then crashes are logged."""
        EveryCycles.cycle += 1
        if not self.said_ready:
            self.said_ready = True
            say({"ready": os.getpid()})

    def obey(self, order: str, value: float = 0) -> dict[str, Any]:
        """Follow an order; an answer that is none is the truth."""
        orders: dict[str, Callable[[], Any]] = {
            "go": EveryCycles.going.set,
            "pause": EveryCycles.going.clear,
            "stop": self.app.session.shut_down,
            "await": lambda: self.counting.await_more(int(value)),
            "flush": lambda: self.handler.flush(value),
            "delivery": lambda: delivery_of(self.handler),
            "memory": most_memory,
            "records": lambda: [record.dict() for record in self.handler.repo.filter_by().all()],
            "clock": lambda: set_clock(value),
            "file_size": lambda: limit_files(int(value)),
        }
        answer = orders[order]()
        return {order: True if answer is None else answer}

    def listen(self) -> None:
        """Follow the orders that come, and end for good when there will be no more."""
        try:
            # Not `sys.stdin`: a forked child closes that one, and would wait for its lock for ever.
            with os.fdopen(os.dup(0)) as orders:
                for line in orders:
                    order, _, value = line.partition(" ")
                    say(self.obey(order, float(value)))
        except BaseException:  # noqa: BLE001  # whoever gave the order is to see it at once
            traceback.print_exc()
        finally:
            os._exit(3)


def say(answer: dict[str, Any]) -> None:
    """Answer with one line."""
    os.write(1, json.dumps(answer, default=str).encode() + b"\n")


def main() -> None:
    """Run until it is asked to stop, or killed."""
    be_odd()
    application = Application()
    threading.Thread(target=application.listen, daemon=True).start()
    try:
        application.app.run()
    except Exception as error:
        say({"failed": [type(one).__name__ for one in causes_of(error)]})
        raise
    # What an application does after its scheduler: it leaves, and `logging` closes the handler.


if __name__ == "__main__":
    main()
