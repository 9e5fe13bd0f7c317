"""The settings in force and where each comes from, and the versions of what is installed."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from rocketry_otel._export.endpoint import visible
from rocketry_otel._model.text import one_line
from rocketry_otel._repositories.urls import mask_url
from rocketry_otel._settings import PREFIX, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_HIDDEN = "***"
# Values that may hold a secret; of a header, the name is no secret but the value is.
_SECRET = re.compile(r"HEADERS|KEY|TOKEN|PASS|SECRET|CREDENTIAL")
_PACKAGES = (
    *("rocketry-otel", "rocketry", "redbird", "pydantic"),
    *("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-exporter-otlp"),
    *("opentelemetry-exporter-otlp-proto-http", "opentelemetry-exporter-otlp-proto-grpc"),
    *("opentelemetry-proto", "protobuf", "grpcio"),
    *("sqlalchemy", "psycopg", "pymongo", "click", "rich"),
)
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(;.*)?")
_BOUND = re.compile(r"(>=|<=|==|!=|~=|<|>)\s*([0-9]+(?:\.[0-9]+)*)(\.\*)?")


def settings_in_force(settings: Settings) -> list[tuple[str, str, str]]:
    """Return each setting: its variable, its value without secrets, and where that comes from."""
    found = []
    for name, value in settings.dict().items():
        variable = PREFIX + name.upper()
        given = os.environ.get(variable, "").strip()
        source = "environment" if given else "default"
        found.append((variable, _shown(variable, given or value), source))
    found += [
        (name, _shown(name, value), "environment")
        for name, value in sorted(os.environ.items())
        if name.startswith("OTEL_") and value.strip()
    ]
    return found


def _shown(name: str, value: object) -> str:
    if value is None:
        return "-"
    if _SECRET.search(name):
        return _HIDDEN
    if isinstance(value, bool):
        return str(value).lower()
    text = ",".join(map(str, value)) or "-" if isinstance(value, tuple) else str(value)
    if name.endswith("ENDPOINT"):
        return one_line(visible(text))
    if name.endswith("RESOURCE_ATTRIBUTES"):
        pairs = (pair.partition("=") for pair in text.split(","))
        text = ",".join(
            f"{key}{mark}{_HIDDEN if _SECRET.search(key.upper()) else rest}"
            for key, mark, rest in pairs
        )
    return one_line(mask_url(text))


def versions() -> dict[str, str]:
    """Return the version of each package that matters, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def version_problems(found: dict[str, str]) -> list[str]:
    """Return a sentence for each two versions that do not go together.

    Args:
        found: The versions, by package.
    """
    return sorted(
        f"{name} {found[name]} needs {needed} {choices[0]}, and {needed} {found[needed]} is "
        f"installed: pip install '{needed}{choices[0]}'"
        for name in found
        for needed, choices in _needs(name)
        if needed in found and not any(_holds(bounds, found[needed]) for bounds in choices)
    )


def _needs(name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield what a package needs, each with its bounds: any of several is enough."""
    if name == "python":
        return
    # Extras may differ in their bounds, and which ones were chosen is not known.
    of_extras: dict[str, list[str]] = {}
    for text in requires(name) or ():
        match = _REQUIREMENT.match(text)
        if match is None:
            continue
        marker = match[3] or ""
        needed, bounds = re.sub(r"[-_.]+", "-", match[1]).lower(), match[2].replace(" ", "")
        # Our extras have bounds that hold if the package is installed. Other markers are about
        # other Pythons, or about extras of others.
        if not marker:
            yield needed, [bounds]
        elif name == "rocketry-otel" and "extra" in marker:
            of_extras.setdefault(needed, []).append(bounds)
    yield from of_extras.items()


def _holds(bounds: str, installed: str) -> bool:
    here = _numbers(installed)
    return all(
        _compare(mark, here, _numbers(bound), is_open=bool(rest))
        for mark, bound, rest in _BOUND.findall(bounds)
    )


def _compare(mark: str, here: list[int], bound: list[int], *, is_open: bool) -> bool:
    length = max(len(here), len(bound))
    if is_open:
        here, length = here[: len(bound)], len(bound)
    one, other = (it + [0] * (length - len(it)) for it in (here, bound))
    if mark == "~=":
        return one >= other and one[: len(bound) - 1] == other[: len(bound) - 1]
    return {
        ">=": one >= other,
        "<=": one <= other,
        "==": one == other,
        "!=": one != other,
        "<": one < other,
        ">": one > other,
    }[mark]


def _numbers(text: str) -> list[int]:
    match = re.match(r"[0-9]+(\.[0-9]+)*", text)
    return [] if match is None else [int(part) for part in match[0].split(".")]
