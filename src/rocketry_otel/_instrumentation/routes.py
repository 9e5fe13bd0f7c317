"""The applications on one handler, each with its own providers and settings.

In: a log record. Out: the bridge of the application whose task logged it. Applications with equal
settings and providers share a bridge, and all share the repository.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rocketry_otel._delivery.pipeline import GivenProviders, Pipeline
from rocketry_otel._runtime.threads import start_thread

from .bridge import Bridge
from .tasks import TaskDirectory
from .user_hooks import UserHooks

if TYPE_CHECKING:
    import logging

    from redbird import BaseRepo

    from rocketry_otel._history.run_lookup import RunLookup
    from rocketry_otel._settings import Settings

    from .hooks import SchedulerHooks
    from .tasks import Session
    from .user_hooks import Enrich, NameSpan


class Route:
    """The bridge of one application, or of several with equal settings and providers.

    Attributes:
        settings: Our own settings.
        bridge: The bridge of its records.
        tasks: The tasks of its sessions.
    """

    def __init__(
        self, settings: Settings, given: GivenProviders, repo: BaseRepo, run_lookup: RunLookup
    ) -> None:
        self.settings = settings
        self.tasks = TaskDirectory()
        self._given = given
        self._hooks: list[SchedulerHooks] = []
        self._user_hooks: tuple[NameSpan | None, Enrich | None] = (None, None)
        self.bridge = self._bridge_to(repo, run_lookup)

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings, providers and hooks, as ``instrument`` takes them."""
        tracer_provider, logger_provider, meter_provider = self._given
        name_span, enrich = self._user_hooks
        return {
            "settings": self.settings,
            "tracer_provider": tracer_provider,
            "logger_provider": logger_provider,
            "meter_provider": meter_provider,
            "name_span": name_span,
            "enrich": enrich,
        }

    def _bridge_to(self, repo: BaseRepo, run_lookup: RunLookup) -> Bridge:
        make_pipeline = partial(Pipeline, self.settings, repo, run_lookup, self._given)
        return Bridge(self.settings, run_lookup, make_pipeline)

    def is_for(self, settings: Settings, given: GivenProviders) -> bool:
        """Return whether another application with these settings and providers can share it."""
        is_same = all(one is other for one, other in zip(self._given, given, strict=True))
        return is_same and self.settings == settings and not any(self._user_hooks)

    def add(self, session: Session, hooks: SchedulerHooks) -> None:
        """Add a session to this route."""
        self.tasks.add(session)
        self._hooks.append(hooks)

    def call(self, name_span: NameSpan | None, enrich: Enrich | None) -> None:
        """Call hooks of the user when a run has ended."""
        self._user_hooks = (name_span, enrich)
        self.bridge.call(UserHooks(name_span, enrich, self.tasks.find))

    def use_repository(self, repo: BaseRepo, run_lookup: RunLookup) -> None:
        """Go on with another repository; open runs keep their ids."""
        bridge = self._bridge_to(repo, run_lookup)
        bridge.replace(self.bridge)
        self.bridge = bridge
        for hooks in self._hooks:
            hooks.use(bridge)


class Routes:
    """The routes of a handler; records of unknown tasks take the first one."""

    def __init__(self, first: Route) -> None:
        self._routes = [first]

    @property
    def first(self) -> Route:
        """The route of the application that was instrumented first."""
        return self._routes[0]

    @property
    def pipelines(self) -> list[Pipeline]:
        """The pipelines of all applications."""
        return [route.bridge.pipeline for route in self._routes]

    def find_or_add(
        self, settings: Settings, given: GivenProviders, repo: BaseRepo, run_lookup: RunLookup
    ) -> Route:
        """Return the route of an application with these settings and providers."""
        self._drop_unused()
        for route in self._routes:
            if route.is_for(settings, given):
                return route
        route = Route(settings, given, repo, run_lookup)
        self._routes.append(route)
        return route

    def _drop_unused(self) -> None:
        """Close the routes of applications that are gone."""
        for route in self._routes[1:]:
            if not route.tasks:
                self._routes.remove(route)
                pipeline = route.bridge.pipeline
                start_thread(partial(pipeline.close, pipeline.shutdown_timeout), "close")

    def leave(self) -> None:
        """Show no other process that applications of this one have open runs."""
        for route in self._routes:
            route.bridge.left_runs.leave()

    def use_repository(self, repo: BaseRepo, run_lookup: RunLookup) -> None:
        """Go on with another repository."""
        for route in self._routes:
            route.use_repository(repo, run_lookup)

    def of_session(self, session: Session) -> Route:
        """Return the route of a session."""
        return next((route for route in self._routes if session in route.tasks), self.first)

    def of_record(self, record: logging.LogRecord) -> Route:
        """Return the route of the application whose task logged a record.

        If several have a task of that name, or none has it any more, the one that has launched the
        run is returned.
        """
        if len(self._routes) == 1:
            return self.first
        try:
            return self._find(record)
        except Exception:  # noqa: BLE001  # telemetry never hurts the task
            return self.first

    def _find(self, record: Any) -> Route:
        name, run_id = record.task_name, getattr(record, "run_id", None)
        found = [route for route in self._routes if route.tasks.find(name) is not None]
        if len(found) != 1:
            among = found or self._routes
            found = [route for route in among if route.bridge.knows(name, run_id)] or found
        return found[0] if found else self.first
