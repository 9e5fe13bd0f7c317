"""The reference of every ``ROCKETRY_OTEL_*`` variable, for the documentation.

``python -m tests.support.settings_reference`` writes it into ``docs/settings.md``, from the code.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import _rocketry_otel_pydantic
from rocketry_otel import Settings
from rocketry_otel._model.durations import seconds_of
from rocketry_otel._settings import _ALLOWED, PREFIX

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
_GENERATED = re.compile(r"(<!-- generated -->\n).*?(<!-- end -->)", re.DOTALL)

# A value that is allowed and not the default, for each setting.
EXAMPLES = {
    "repo": "sqlite:////var/lib/app/tasks.db",
    "span_kind": "server",
    "exceptions": "type",
    "include": "etl-*,report",
    "exclude": "heartbeat",
    "shutdown_timeout": "2.5",
    "sigterm": "false",
    "global_providers": "false",
    "links": "false",
    "log_lines": "false",
    "propagate_baggage": "true",
    "join_traces": "true",
    "retention": "30d",
    "catch_up": "2w",
    "state_dir": "/var/lib/app/delivery",
    "trace_url": "http://localhost:16686/trace/{trace_id}",
}


def described() -> dict[str, str]:
    """Return the text of each setting in the docstring of the class."""
    text = inspect.cleandoc(Settings.__doc__ or "")
    attributes = re.search(r"^Attributes:\n(.*?)^\w+:\n", text, re.DOTALL | re.MULTILINE)
    assert attributes
    entries = re.findall(
        r"^    (\w+): (.*?)(?=^    \w|\Z)", attributes[1], re.DOTALL | re.MULTILINE
    )
    return {name: " ".join(entry.split()).replace("``", "`") for name, entry in entries}


def default_of(name: str) -> str:
    """Return the default of a setting, as its variable would give it; nothing if it has none."""
    value = Settings.__fields__[name].default
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, int):
        days, rest = divmod(value, seconds_of("1d"))
        assert rest == 0
        return f"{days}d"
    return f"{value:g}" if isinstance(value, float) else value


def reference() -> str:
    """Return a heading, a text and a table for each variable."""
    texts = described()
    parts = []
    for name in Settings.__fields__:
        default = default_of(name)
        variable = PREFIX + name.upper()
        parts.append(
            f"### {variable}\n\n{texts[name]}\n\n"
            f"| | |\n|---|---|\n"
            f"| allowed | {_ALLOWED[name]} |\n"
            f"| default | {f'`{default}`' if default else 'not set'} |\n"
            f"| example | `{variable}={EXAMPLES[name]}` |\n"
            f"| in Python | `Settings({name}=...)` |\n"
        )
    variable, *off = _rocketry_otel_pydantic.VARIABLE, *_rocketry_otel_pydantic.OFF
    parts.append(
        f"### {variable}\n\nSwitches the support of pydantic 2 off. It is read when an interpreter "
        "starts, and is no setting of `Settings`.\n\n"
        f"| | |\n|---|---|\n"
        f"| allowed | {', '.join(f'`{word}`' for word in off)}; any other value leaves it on |\n"
        f"| default | not set |\n"
        f"| example | `{variable}=off` |\n"
    )
    return "\n".join(parts)


def with_reference(page: str) -> str:
    """Return a page with the reference in its place."""
    return _GENERATED.sub(lambda found: f"{found[1]}\n{reference()}\n{found[2]}", page)


def standard_names_in(text: str) -> set[str]:
    """Return the standard variables that a text names whole, in quotation marks or as code."""
    return set(re.findall(r"[\"`](OTEL_[A-Z_]+[A-Z])(?=[\"`=])", text))


if __name__ == "__main__":
    PAGE.write_text(with_reference(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
