"""The ending of a run that nobody has logged: its process or thread is gone.

In: a run without an ending, and the exit of its child process. Out: the fields of a ``crash``
record, as Rocketry would have logged it. It is kept beside the repository, and read by the same
code as stored records.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from .annotations import attributes_as_text
from .event import CRASH
from .signals import CRASH_SIGNAL, EXIT_CODE

if TYPE_CHECKING:
    from .event import TaskEvent
    from .ids import RunIds
    from .plain_values import AttributeValue


def crash_fields(
    began: TaskEvent, ids: RunIds, created: float, exit_code: int | None = None
) -> dict[str, Any]:
    """Return the fields of the crash record of a run.

    Args:
        began: The event that began the run.
        ids: The ids of the run.
        created: When its end was noticed, in seconds since the epoch.
        exit_code: The exit code of its child process, negative after a signal; ``None`` if it had
            no child or the code is not known.
    """
    return {
        "task_name": began.task_name,
        "action": CRASH,
        "created": created,
        "run_id": began.run_id,
        "execution": began.execution,
        "attributes": attributes_as_text(_exit_attributes(exit_code)),
        "trace_id": ids.trace_hex,
        "span_id": ids.span_hex,
    }


def _exit_attributes(exit_code: int | None) -> tuple[tuple[str, AttributeValue], ...]:
    if exit_code is None:
        return ()
    if exit_code >= 0:
        return ((EXIT_CODE, exit_code),)
    return ((CRASH_SIGNAL, _signal_name(-exit_code)),)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
