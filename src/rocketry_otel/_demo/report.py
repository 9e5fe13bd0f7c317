"""The output of the demo: pure functions.

In: runs, records, and how much was delivered. Out: lines of text.
"""

from __future__ import annotations

import textwrap
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from rocketry_otel._model.signals import error_type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rocketry_otel._model.event import TaskEvent
    from rocketry_otel._model.runs import Run

    from .delivery import Delivery

    Paint = Callable[[str, str], str]

_LONGEST_TABLE = 40
_SHORTEST_CHAIN = 2
_SECOND = 1_000_000_000
# The addresses in docker-compose.yml.
_GRAFANA, _JAEGER = "http://localhost:3000", "http://localhost:16686"
# From this width on, there is room for the exception of a run.
_WIDE = 100

_COLOURS = {
    "success": "green",
    "inaction": "dim",
    "running": "dim",
    "fail": "red",
    "crash": "red",
    "timeout": "yellow",
    "terminate": "yellow",
}


class _Columns(NamedTuple):
    """Widths of the columns that depend on their content, or on the terminal."""

    start: int
    task: int
    ended: int


def table(runs: Sequence[Run], width: int, paint: Paint) -> list[str]:
    """Return the table of the runs; of very many, only the last are shown."""
    shown = runs[-_LONGEST_TABLE:]
    columns = _columns(shown, width)
    header = _row(columns, "start", "task", "duration", "ended".ljust(columns.ended), "trace id")
    lines = [paint(header, "bold")]
    if len(shown) < len(runs):
        lines.append(f"... {_counted(len(runs) - len(shown), 'earlier run')} ...")
    for run in shown:
        start = datetime.fromtimestamp(_first(run).created / _SECOND).astimezone()
        ended = cut(_how_ended(run, width), columns.ended).ljust(columns.ended)
        lines.append(
            _row(
                columns,
                start.time().isoformat("milliseconds")[: columns.start],
                cut(_task_name(run), columns.task),
                _duration(run),
                paint(ended, _COLOURS.get(_ending(run), "bold")),
                paint(run.ids.trace_hex, "dim"),
            )
        )
    return lines


def query(expression: str, records: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Return an expression and its result, as an interactive Python shows them.

    Of several records the newest is shown, without fields that are ``None``.
    """
    lines = [f">>> {expression}"]
    if not records:
        return [*lines, "[]"]
    opening = "["
    if len(records) > 1:
        lines.append(f"[... {_counted(len(records) - 1, 'earlier record')} ...")
        opening = " "
    lines.append(f"{opening}TaskEventRecord(")
    for name, value in records[-1].items():
        if value is not None:
            lines.append(cut(f"    {name}={value!r}", width - 1) + ",")
    return [*lines, " )]", *_traceback(records[-1].get("exc_text"), width)]


def _traceback(text: str | None, width: int) -> list[str]:
    if not text:
        return []
    return [">>> print(_[-1].exc_text)", *(cut(line, width) for line in text.splitlines())]


def links(runs: Sequence[Run], paint: Paint) -> list[str]:
    """Return the longest chain of runs, each of which waited for the one below it.

    Args:
        runs: The runs; of several chains of that length, the last is shown.
        paint: Colours a text.
    """
    by_trace = {run.ids.trace_id: run for run in runs}
    chains = [_chain(run, by_trace) for run in reversed(runs)]
    chain = max(chains, key=len, default=[])
    if len(chain) < _SHORTEST_CHAIN:
        return []
    widest = max(len(_task_name(run)) for run in chain)
    return [
        "Each run of the pipeline has a link to the run that it waited for:",
        *(
            f"  {_task_name(run):<{widest}}  {paint(run.ids.trace_hex, 'dim')}"
            f"{'' if run is chain[-1] else '  waited for'}"
            for run in chain
        ),
    ]


def _chain(run: Run, by_trace: Mapping[int, Run]) -> list[Run]:
    chain = [run]
    # A run waits for earlier ones alone, so this ends.
    while (linked := _waited_for(chain[-1], by_trace)) is not None:
        chain.append(linked)
    return chain


def _waited_for(run: Run, by_trace: Mapping[int, Run]) -> Run | None:
    found = (by_trace.get(link.trace_id) for link in _first(run).links)
    return next((one for one in found if one is not None and one is not run), None)


def telemetry(delivery: Delivery, warned: Iterable[str], width: int, paint: Paint) -> list[str]:
    """Return where the telemetry went."""
    where = " and ".join(delivery.endpoints)
    amount = (
        f"{_counted(delivery.spans, 'span')} and {_counted(delivery.log_records, 'log record')}"
    )
    if not delivery.endpoints:
        lines = ["None was sent: OTEL_* variables turn it off, or the settings exclude the runs."]
    elif not (delivery.spans or delivery.log_records):
        lines = [paint(f"Not delivered: no collector accepts it at {where}.", "yellow")]
    elif delivery.complete:
        lines = [
            paint(f"Delivered to {where}: {amount}, and the metrics.", "green"),
            "Child processes send the spans and log lines of their bodies themselves.",
        ]
    else:
        lines = [paint(f"Delivered to {where}: {amount}, but not all of it.", "yellow")]
    for text in warned:
        lines += textwrap.wrap(
            text,
            width,
            initial_indent="  ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def advice(delivery: Delivery, python: str) -> list[str]:
    """Return the next steps, with commands to copy."""
    if delivery.spans:
        return [
            "Look at a run: copy its trace id from the table, and open",
            f"  {_GRAFANA}   Grafana: the dashboard; the id goes into a field there",
            f"  {_JAEGER}  Jaeger: the trace; the id goes into the search box",
            "Inside the run of extract is a request over HTTP, and inside that of load are",
            "SQL queries. The log lines of their bodies are in the same traces.",
        ]
    where = " and ".join(delivery.endpoints) or "http://localhost:4318"
    again = f"{python} -m rocketry_otel demo"
    return [
        "To see the runs, start the programs that show them; the first command needs",
        "rocketry-otel[cli]:",
        f"  {python} -m rocketry_otel stack init",
        "  docker compose -f rocketry-stack/docker-compose.yml up -d",
        f"  {again}",
        "and open",
        f"  {_GRAFANA}   Grafana: the dashboard, log lines, alerts",
        f"  {_JAEGER}  Jaeger: the traces",
        "Without them, Jaeger shows the traces alone:",
        "  docker run --rm -p 16686:16686 -p 4318:4318 jaegertracing/jaeger:2.20.0",
        f"  OTEL_LOGS_EXPORTER=none OTEL_METRICS_EXPORTER=none {again}",
        "Any other OpenTelemetry Collector works as well, if it listens at",
        f"{where}; or one elsewhere:",
        f"  OTEL_EXPORTER_OTLP_ENDPOINT=http://host:4318 {again}",
    ]


def repository(url: str, python: str, *, removed: bool = False) -> list[str]:
    """Return where the repository is, and how to read it again."""
    if url.startswith("memory:"):
        return [f"{url}, which ends with this process."]
    if removed:
        return ["It was temporary, and is removed. --keep leaves it, --repo chooses another."]
    return [
        url,
        "To read it again:",
        f'  {python} -c "from rocketry_otel import open_repository as open; \\',
        f"  print(*open({url!r}).filter_by(action='fail'), sep='\\n')\"",
    ]


def cut(text: str, width: int) -> str:
    """Return a text in at most ``width`` columns."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _row(columns: _Columns, start: str, task: str, duration: str, ended: str, trace_id: str) -> str:
    return f"{start:<{columns.start}}  {task:<{columns.task}}  {duration:>8}  {ended}  {trace_id}"


def _columns(runs: Sequence[Run], width: int) -> _Columns:
    start = len("00:00:00.000" if width >= _WIDE else "00:00:00")
    left = width - start - len("duration") - len("0" * 32) - 4 * len("  ")
    longest_task = max((len(_task_name(run)) for run in runs), default=0)
    longest_end = max((len(_how_ended(run, width)) for run in runs), default=0)
    task = min(max(longest_task, len("task")), left - len("terminate"))
    ended = min(max(longest_end, len("ended")), left - task)
    return _Columns(start, task, ended)


def _first(run: Run) -> TaskEvent:
    return run.began or run.ended  # type: ignore[return-value]  # a run has at least one


def _task_name(run: Run) -> str:
    return _first(run).task_name or ""


def _duration(run: Run) -> str:
    if run.began is None or run.ended is None:
        return ""
    return f"{(run.ended.created - run.began.created) / _SECOND:.2f} s"


def _ending(run: Run) -> str:
    if run.ended is None:
        return "running"
    is_timeout = error_type_of(run.ended) == "timeout"
    return "timeout" if is_timeout else run.ended.action or ""


def _how_ended(run: Run, width: int) -> str:
    """Return the ending and, on a wide terminal, the exception in one line."""
    ending = _ending(run)
    exception = None if run.ended is None else run.ended.exception
    if width < _WIDE or exception is None:
        return ending
    kind = (exception.type or "").rpartition(".")[2]
    message = " ".join((exception.message or "").split())
    return ": ".join(part for part in (ending, kind, message) if part)


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
