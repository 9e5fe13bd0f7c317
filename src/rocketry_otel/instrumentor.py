"""For ``opentelemetry-instrument``: every Rocketry application is recorded, unchanged.

In: the start of a scheduler. Out: ``instrument`` called for its session. It needs the package
``opentelemetry-instrumentation``, which the extra ``auto`` installs.
"""

from __future__ import annotations

import functools
import logging
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

import wrapt
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined, unused-ignore]
    BaseInstrumentor,
)
from opentelemetry.trace import get_tracer_provider

from ._export.providers import is_placeholder
from ._export.wrong_protocol import warn_if_wrong
from ._instrumentation.handler import handler_of
from ._instrumentation.instrument import instrument, uninstrument
from ._runtime.scope import NAME
from ._runtime.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import ModuleType

    from ._instrumentation.tasks import Session

__all__ = ["RocketryInstrumentor"]

_logger = logging.getLogger(NAME)

_SCHEDULER = "rocketry.core.schedule"
_ROCKETRY = "rocketry>=2.5.1,<2.6"
_FORK = "rocketry-fix>=2.5.1.dev0,<2.6"


class RocketryInstrumentor(BaseInstrumentor):  # type: ignore[misc, unused-ignore]
    """Records every Rocketry application of the process, from the start of its scheduler.

    ``opentelemetry-instrument`` uses it by its entry point, whose name is ``rocketry``. Code may
    use it as well: ``RocketryInstrumentor().instrument()``. The keyword arguments are those of
    ``rocketry_otel.instrument``, and hold for every application. Rocketry is not imported before
    the application imports it. An application that calls ``rocketry_otel.instrument`` itself is
    recorded once, in its own way. If an application cannot be recorded, one warning has the
    reason, and it runs as it would without this.
    """

    _arguments: dict[str, Any]
    _is_on = False
    _has_looked = False
    # One instance for the process, as with every instrumentor.
    _sessions: ClassVar[WeakSet[Session]] = WeakSet()

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return what is instrumented, as a requirement: Rocketry, or its fork if it is there."""
        try:
            distribution("rocketry-fix")
        except PackageNotFoundError:
            return (_ROCKETRY,)
        return (_FORK,)

    def _instrument(self, **kwargs: Any) -> None:
        self._arguments = {name: kwargs[name] for name in kwargs if name in _ARGUMENTS}
        self._is_on = True
        wrapt.register_post_import_hook(self._watch, _SCHEDULER)

    def _uninstrument(self, **kwargs: Any) -> None:
        del kwargs
        self._is_on = False
        for session in tuple(self._sessions):
            uninstrument(session)
        self._sessions.clear()

    def _watch(self, module: ModuleType) -> None:
        """Watch the starts of schedulers, of whatever application; once for the process."""
        serve = module.Scheduler.serve
        if hasattr(serve, "_rocketry_otel"):
            return

        @functools.wraps(serve)
        async def watched(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            self._begin(scheduler.session)
            return await serve(scheduler, *args, **kwargs)

        watched._rocketry_otel = True  # type: ignore[attr-defined]  # noqa: SLF001
        module.Scheduler.serve = watched

    def _begin(self, session: Session) -> None:
        if not self._is_on or handler_of(session) is not None:
            return
        is_configured = not is_placeholder(get_tracer_provider())
        try:
            instrument(session, **self._arguments)
            self._sessions.add(session)
            if is_configured and not self._has_looked:
                self._has_looked = True
                start_thread(warn_if_wrong, "wrong-protocol")
        except Exception as error:  # telemetry never hurts the task
            _logger.warning("The application is not recorded: %s", error)
            _logger.debug("the application could not be instrumented", exc_info=True)


_ARGUMENTS = frozenset(instrument.__kwdefaults__ or ())
