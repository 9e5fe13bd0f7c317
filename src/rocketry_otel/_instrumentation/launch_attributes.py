"""What is known of a run at its launch, as attributes of its ``run`` record and its span.

In: a launch. Out: plain attributes. Each source of attributes is a function of the launch; an
error in one of them costs nothing but its own attributes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING

from rocketry_otel._model.annotations import plain_attributes
from rocketry_otel._runtime.scope import NAME

from .attempts import attempt_attributes
from .code_location import code_attributes
from .launching import Launching
from .schedule_watch import schedule_attributes

if TYPE_CHECKING:
    from rocketry_otel._model.plain_values import AttributeValue


_logger = logging.getLogger(NAME)


Source = Callable[[Launching], Mapping[str, object]]

# The names of the attributes begin with ``rocketry.`` or ``code.``: no others come to the span.
SOURCES: tuple[Source, ...] = (
    code_attributes,
    # Before the trigger, whose conditions are looked up in the slots that this one finds.
    schedule_attributes,
    attrgetter("trigger"),
    attempt_attributes,
)


def launch_attributes(
    launching: Launching, sources: tuple[Source, ...] | None = None
) -> tuple[tuple[str, AttributeValue], ...]:
    """Return the attributes of a launch, plain and sorted by key.

    Args:
        launching: The launch.
        sources: Where they come from; without them all that there are.
    """
    found: dict[str, object] = {}
    for source in SOURCES if sources is None else sources:
        try:
            found |= source(launching)
        except Exception:  # noqa: PERF203  # telemetry never hurts the task
            _logger.debug("a part of a launch is not known", exc_info=True)
    return plain_attributes(found) if found else ()
