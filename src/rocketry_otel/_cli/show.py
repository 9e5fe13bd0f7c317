"""The command that shows a run whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click
from redbird.repos import MongoRepo, SQLRepo

from rocketry_otel._history.run_lookup import RunLookup
from rocketry_otel._model.signals import span_signal
from rocketry_otel._model.text import one_line
from rocketry_otel._runtime.suppression import suppressed
from rocketry_otel._settings import Settings

from .options import json_option, opened, repo_option, url_of
from .run_rows import History, RunRow, iso, local, row_of
from .screen import Screen, duration

if TYPE_CHECKING:
    from redbird.base import BaseRepo

    from rocketry_otel._delivery.stored_state import ChannelState, Refused
    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.ids import RunIds
    from rocketry_otel._model.runs import Run

_FOUND_NOTHING = 1
_SHORTEST = 4
_MOST_NAMES = 10


@click.command("show")
@click.argument("run", metavar="RUN_OR_TRACE_ID")
@repo_option
@json_option
def command(*, run: str, repo: str | None, as_json: bool) -> int:
    """Show one run whole: its records, exception, attributes, links and delivery.

    RUN_OR_TRACE_ID is the id of the run or of its trace, or the first characters of one of the
    two, four or more. If several runs have the same id, all of them are shown.
    """
    settings = Settings()
    screen = Screen()
    with opened(url_of(repo, settings)) as repository:
        history = _history_with(repository, settings, run)
        found = _find(history, run)
        exact = [one for one in found if run in {one.row.trace_id, one.row.run_id}]
        found = exact or found
        if not found:
            screen.note(f"no run and no trace has the id {run!r}")
            return _FOUND_NOTHING
        if len(found) > 1 and not exact:
            ids = [one_line(f"{one.row.trace_id} ({one.row.task})") for one in found]
            more = [f"and {len(ids) - _MOST_NAMES} more"] if len(ids) > _MOST_NAMES else []
            screen.note(f"{run!r} is not one run: {', '.join(ids[:_MOST_NAMES] + more)}")
            return _FOUND_NOTHING
        channels, refused = history.state.channels(), history.state.refused()
    for number, one in enumerate(found):
        one.deliver(channels, refused)
        if as_json:
            screen.json(one.as_json(settings.trace_url))
            continue
        if number:
            screen.line()
        _write(screen, one, settings.trace_url)
    return 0


@dataclass
class _Found:
    """A run that was found.

    Attributes:
        run: The run.
        events: The events of its records, in their order.
        delivery: For each event: how it fared, by channel.
    """

    run: Run
    events: list[TaskEvent] = field(default_factory=list)
    delivery: list[dict[str, str]] = field(default_factory=list)

    @property
    def row(self) -> RunRow:
        """The run in one line."""
        return row_of(self.run)

    @property
    def ending(self) -> TaskEvent:
        """The event that ended it, or that began it if it has no ending."""
        event = self.run.ended or self.run.began
        assert event is not None  # noqa: S101  # a run has one of the two
        return event

    def deliver(self, channels: list[ChannelState], refused: list[Refused]) -> None:
        """Find how each record has fared."""
        reasons = {(it.channel, it.created, it.task_name, it.action): it.reason for it in refused}
        for event in self.events:
            found = {}
            for channel in channels:
                reason = reasons.get(
                    (channel.name, event.created, event.task_name or "", event.action or "")
                )
                if reason is not None:
                    found[channel.name] = f"refused: {one_line(reason)}"
                elif channel.waiting and channel.since is not None:
                    is_late = event.created >= channel.since
                    found[channel.name] = "may wait" if is_late else "delivered"
                else:
                    found[channel.name] = "delivered"
            self.delivery.append(found)

    def as_json(self, trace_url: str | None) -> dict[str, Any]:
        """Return it as an object of JSON."""
        signal = span_signal(self.run, self.ending, "full")
        records = [
            {
                "time": iso(event.created),
                "action": event.action,
                "message": event.message,
                "delivery": delivery,
            }
            for event, delivery in zip(self.events, self.delivery, strict=True)
        ]
        return {
            **self.row.as_json(trace_url),
            "span_id": self.run.ids.span_hex,
            "attributes": signal.attributes,
            "exception": signal.exception,
            "events": [
                {"name": it.name, "time": iso(it.time), "attributes": dict(it.attributes)}
                for it in signal.events
            ],
            "links": [
                {
                    "kind": it.kind,
                    "trace_id": f"{it.trace_id:032x}",
                    "span_id": f"{it.span_id:016x}",
                }
                for it in signal.links
            ],
            "records": records,
        }


def _history_with(repository: BaseRepo, settings: Settings, wanted: str) -> History:
    """Return the history in which the runs with an id are: of their time, if a database has it."""
    history = History(repository, settings)
    if not isinstance(repository, SQLRepo | MongoRepo):
        return history  # a query reads the whole as well
    try:
        with suppressed():
            span = RunLookup(repository).span_of(wanted, history.state.all())
    except Exception:  # noqa: BLE001  # the reading of the history reports it
        return history
    return history if span is None else History(repository, settings, *span)


def _find(history: History, wanted: str) -> list[_Found]:
    """Return the runs with an id that begins like this, in the order of their first records."""
    # Several runs can be in the trace of one request.
    found: dict[RunIds, _Found] = {}
    for one in history.records():
        run = one.step.run
        if run is None:
            continue
        known = found.get(run.ids)
        if known is None:
            run_ids = {it.run_id for it in (run.began, one.event) if it is not None}
            if not any(_begins(it, wanted) for it in (run.ids.trace_hex, *run_ids)):
                continue
            # A run whose beginning was not met, as after a retention, has it all the same.
            known = found[run.ids] = _Found(run)
        known.events.append(one.event)
        if one.step.change == "ended":
            known.run = run
    return list(found.values())


def _begins(id_: str | None, wanted: str) -> bool:
    return id_ == wanted or (
        id_ is not None and len(wanted) >= _SHORTEST and id_.startswith(wanted)
    )


def _write(screen: Screen, one: _Found, trace_url: str | None) -> None:
    row = one.row
    data = one.as_json(trace_url)
    screen.heading(f"{one_line(row.task)}: {row.outcome}")
    pairs = [
        ("began", f"{local(row.began).isoformat(sep=' ')}"),
        ("took", duration(row.seconds)),
        ("run id", one_line(row.run_id or "-")),
        ("trace id", row.trace_id),
        ("span id", data["span_id"]),
    ]
    if trace_url is not None:
        pairs.append(("page", data["trace_url"]))
    screen.pairs(pairs)
    if row.error is not None:
        screen.heading("Error")
        screen.line(f"  {row.error}", "red")
    exception = data["exception"] or {}
    screen.text(str(exception.get("exception.stacktrace", "")), "  ")
    screen.heading("Attributes")
    screen.pairs((one_line(key), one_line(str(value))) for key, value in data["attributes"].items())
    _write_events(screen, data)
    screen.heading("Records")
    for record, event in zip(data["records"], one.events, strict=True):
        time = local(event.created)
        message = one_line(event.message.partition("\n")[0])
        screen.line(f"  {time:%H:%M:%S.%f}  {record['action']}  {message}")
    screen.heading("Delivery")
    if not any(one.delivery):
        screen.line("  not known: there is no delivery state")
    for event, delivery in zip(one.events, one.delivery, strict=True):
        for channel, words in delivery.items():
            screen.line(f"  {event.action}  {one_line(channel)}  {words}")


def _write_events(screen: Screen, data: dict[str, Any]) -> None:
    if data["events"]:
        screen.heading("Events")
        screen.pairs(
            (one_line(it["name"]), one_line(f"{it['time']} {it['attributes'] or ''}"))
            for it in data["events"]
        )
    if data["links"]:
        screen.heading("Links")
        screen.pairs((it["kind"], it["trace_id"]) for it in data["links"])
