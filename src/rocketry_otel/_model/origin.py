"""Where a run goes on: its host, process, program version, and the process of its scheduler.

In: a ``run`` event. Out: attributes for its record; and from them, whether a crash that Rocketry
logs here may be that of the run. Rocketry takes every run without an ending for crashed, also that
of a living process or of another host.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .signals import HOST_NAME, PROCESS_ID, SCHEDULER, SERVICE_VERSION, short_name
from .text import safe_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from .event import TaskEvent
    from .plain_values import AttributeValue

# An application may have put anything on a record.
_PROCESS_ID = re.compile(r"[0-9]{1,18}", re.ASCII)


def with_origin(
    began: TaskEvent, host: str, scheduler: str, version: str | None = None
) -> TaskEvent:
    """Return a ``run`` event with its origin.

    Args:
        began: The event.
        host: The name of this host.
        scheduler: The name of the process that has launched the run.
        version: The version of the application, if it has one.
    """
    pairs: tuple[tuple[str, AttributeValue], ...] = ((HOST_NAME, host),)
    if began.process is not None and _PROCESS_ID.fullmatch(began.process):
        pairs += ((PROCESS_ID, int(began.process)),)
    pairs += ((SCHEDULER, scheduler),)
    if version:
        pairs += ((SERVICE_VERSION, short_name(safe_text(version))),)
    # Sorted by key, as they are read again.
    return began._replace(attributes=pairs)


def is_from(began: TaskEvent, host: str, scheduler: str) -> bool:
    """Return whether a run was launched by this process of this host."""
    attributes = dict(began.attributes)
    return (attributes.get(HOST_NAME), attributes.get(SCHEDULER)) == (host, scheduler)


def may_have_crashed(began: TaskEvent, host: str, is_alive: Callable[[str], bool]) -> bool:
    """Return whether a crash that Rocketry logs on this host may be that of a run.

    Args:
        began: The event that began the run. One without an origin may be of any process.
        host: The name of this host.
        is_alive: Returns whether the scheduler's process of this name is alive, on this host.
    """
    attributes = dict(began.attributes)
    its_host, scheduler = attributes.get(HOST_NAME), attributes.get(SCHEDULER)
    if not isinstance(its_host, str) or not isinstance(scheduler, str):
        return True
    return its_host == host and not is_alive(scheduler)
