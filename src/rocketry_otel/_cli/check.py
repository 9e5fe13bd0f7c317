"""The command that sees whether everything is set up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rocketry_otel._export import otel_env
from rocketry_otel._export.probe import SERVICE, probe_signal
from rocketry_otel._settings import Settings

from .check_repository import repository_data
from .check_settings import settings_in_force, version_problems, versions
from .options import json_option, repo_option
from .screen import Column, Screen
from .status import write_state

if TYPE_CHECKING:
    from rocketry_otel._export.probe import Probe

_PROBLEM = 1
_SIGNALS = ("traces", "logs", "metrics")


@click.command("check")
@repo_option
@click.option("--no-send", is_flag=True, help="Send nothing.")
@json_option
def command(*, repo: str | None, no_send: bool, as_json: bool) -> int:
    """See whether everything is set up, and say what to do if not.

    Shows the settings in force and where each comes from, without secrets; versions that do not
    go together; the repository; and the state of delivery. Then it sends a span, a log record and
    a metric to each destination, and shows the answers. These have the service name
    rocketry-otel-check and no task, so that no panel and no alert counts them.

    The exit status is 0 if there is no problem, 1 if there is one, and 2 if a setting is wrong.
    """
    settings = Settings()
    screen = Screen()
    data: dict[str, Any] = {
        "settings": [
            {"name": name, "value": value, "source": source}
            for name, value, source in settings_in_force(settings)
        ],
        "versions": versions(),
    }
    problems = version_problems(data["versions"])
    url = repo or settings.repo
    data["repository"] = data["delivery"] = None
    if url is not None and not url.strip().lower().startswith("memory:"):
        data["repository"], data["delivery"] = repository_data(url, settings)
        problem = data["repository"]["problem"]
        problems += [] if problem is None else [f"repository: {problem}"]
    probes, more = ([], []) if no_send else _probes()
    problems += more
    data["destinations"] = [vars(probe) for probe in probes]
    data["problems"] = problems
    if as_json:
        screen.json(data)
    else:
        _write(screen, data, sent=not no_send)
    return _PROBLEM if problems else 0


def _probes() -> tuple[list[Probe], list[str]]:
    """Return the outcomes of the marked items, and a sentence for each problem."""
    if otel_env.sdk_is_disabled():
        return [], ["nothing is sent: OTEL_SDK_DISABLED is true"]
    probes: list[Probe] = []
    problems = []
    for signal in _SIGNALS:
        names = otel_env.exporter_names(signal)
        found = probe_signal(signal)
        probes += found
        if len(found) < len(names):
            problems.append(
                f"{signal}: an exporter that OTEL_{signal.upper()}_EXPORTER names cannot be made"
            )
        problems += [
            f"{probe.signal} to {probe.destination}: {probe.outcome} ({probe.reason})"
            + (f". Cure: {probe.cure}" if probe.cure else "")
            for probe in found
            if not probe.is_accepted
        ]
    return probes, problems


def _write(screen: Screen, data: dict[str, Any], *, sent: bool) -> None:
    screen.heading("Settings")
    columns = [Column("name"), Column("value", 10), Column("from")]
    rows = [[one["name"], one["value"], one["source"]] for one in data["settings"]]
    screen.table(columns, rows)
    screen.line()
    screen.heading("Versions")
    screen.pairs(data["versions"].items())
    screen.line()
    screen.heading("Repository")
    _write_repository(screen, data["repository"])
    screen.line()
    screen.heading("Delivery")
    if data["delivery"] is None:
        screen.line("  not known")
    else:
        write_state(screen, data["delivery"])
    screen.line()
    screen.heading("Destinations")
    if not sent:
        screen.line("  nothing was sent (--no-send)")
    elif data["destinations"]:
        columns = [Column("signal"), Column("outcome"), Column("destination", 15)]
        rows = [[one["signal"], one["outcome"], one["destination"]] for one in data["destinations"]]
        screen.table(columns, rows)
        if any(one["outcome"] == "accepted" for one in data["destinations"]):
            screen.line(f"What was accepted has the service name {SERVICE}.")
    else:
        screen.line("  none")
    screen.line()
    if not data["problems"]:
        screen.line("No problem was found.", "green")
        return
    screen.heading("Problems")
    for problem in data["problems"]:
        screen.paragraph(problem, "- ")


def _write_repository(screen: Screen, data: dict[str, Any] | None) -> None:
    if data is None:
        screen.line("  in memory, or not given: --repo URL or ROCKETRY_OTEL_REPO")
        return
    pairs = [("url", data["url"]), ("readable", _yes(data["readable"]))]
    if data["readable"]:
        pairs += [
            ("writable", _yes(data["writable"])),
            ("records", f"{data['records']:,}"),
            ("oldest", data["oldest"] or "-"),
            ("newest", data["newest"] or "-"),
            ("columns", _columns(data["missing_columns"])),
        ]
    screen.pairs(pairs)


def _yes(value: bool | None) -> str:  # noqa: FBT001  # a value to be shown
    return {True: "yes", False: "no", None: "not tried: a server decides"}[value]


def _columns(missing: list[str]) -> str:
    return f"without {', '.join(missing)}" if missing else "all"
