"""Check that an environment has exactly what a pinned file lists.

``python requirements/check.py requirements/dev.txt`` runs in the environment that was made from
the file. It fails if a pinned version is missing, if anything else is installed, or if a
requirement is not met. Extras count, which ``pip check`` does not look at.

pip installs a pinned file with ``--no-deps``: nothing resolves what the file leaves out. So the
file must be closed: each requirement of each pinned package is pinned too.
"""
# ruff: noqa: INP001  # a program, not a package

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PROJECT = "rocketry-otel"
# Each environment has pip; some Pythons bring the other two.
TOOLS = frozenset({"pip", "setuptools", "wheel"})


@dataclass(frozen=True)
class Distribution:
    """What an installed distribution says of itself."""

    version: str
    requires: tuple[str, ...] = ()


@dataclass
class Findings:
    """The result of a check.

    Attributes:
        problems: A line for each.
        unknown: Pinned names whose requirements are not known: that version is not installed.
    """

    problems: list[str] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)


def read(text: str) -> list[Requirement]:
    """Return the requirements of a file of pip's, without hashes and comments.

    Raises:
        ValueError: If a line is an option: pip would read more than this file.
    """
    lines = [line.partition(" #")[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    wanted = [line.partition(" --hash=")[0].strip() for line in lines]
    wanted = [line for line in wanted if line and not line.startswith("#")]
    for line in wanted:
        if line.startswith("-"):
            raise ValueError(f"This file should name packages only: {line}")
    return [Requirement(line) for line in wanted]


def pins(
    requirements: Iterable[Requirement], environment: Mapping[str, str], findings: Findings
) -> dict[str, str]:
    """Return the version of each name that is pinned for an environment."""
    pinned: dict[str, str] = {}
    for requirement in requirements:
        if not _applies(requirement, environment):
            continue
        name = canonicalize_name(requirement.name)
        exact = [it.version for it in requirement.specifier if it.operator == "=="]
        if len(exact) != 1 or len(requirement.specifier) != 1 or "*" in exact[0]:
            findings.problems.append(f"{requirement} is not pinned to one version")
        elif name in pinned:
            findings.problems.append(f"{name} is pinned twice")
        else:
            pinned[name] = exact[0]
    return pinned


def check_closed(
    pinned: Mapping[str, str],
    asked: Iterable[Requirement],
    known: Mapping[str, Distribution],
    environment: Mapping[str, str],
    findings: Findings,
) -> None:
    """Find each requirement that is not pinned, or not in a version that will do.

    Args:
        pinned: Versions by name.
        asked: What is asked for by name, with extras: the file that was compiled.
        known: The distributions whose requirements can be looked at.
        environment: The values of the markers.
        findings: Gets the results.
    """
    todo = [("the .in file", requirement) for requirement in asked]
    todo += [("the file", Requirement(name)) for name in pinned]
    seen: set[tuple[str, str]] = set()
    while todo:
        by, requirement = todo.pop()
        if not _applies(requirement, environment):
            continue
        name = canonicalize_name(requirement.name)
        version = pinned.get(name)
        if version is None:
            findings.problems.append(f"{name} is not pinned: {by} requires {requirement}")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            findings.problems.append(f"{name} is pinned to {version}: {by} requires {requirement}")
        distribution = known.get(name)
        if distribution is None or Version(distribution.version) != Version(version):
            findings.unknown.add(name)
            continue
        for extra in {"", *requirement.extras} - {extra for of, extra in seen if of == name}:
            seen.add((name, extra))
            todo += [(name, needed) for needed in _required(distribution, extra, environment)]


def check_installed(
    pinned: Mapping[str, str], installed: Mapping[str, Distribution], findings: Findings
) -> None:
    """Find what is missing, what has another version, and what should not be there."""
    for name, version in pinned.items():
        if name not in installed:
            findings.problems.append(f"{name} {version} is pinned and not installed")
        elif Version(installed[name].version) != Version(version):
            findings.problems.append(
                f"{name} {version} is pinned, and {installed[name].version} is installed"
            )
    for name in installed.keys() - pinned.keys() - TOOLS:
        findings.problems.append(f"{name} {installed[name].version} is installed and not pinned")


def this_environment() -> dict[str, str]:
    """Return the values of the markers for this interpreter."""
    return {name: str(value) for name, value in default_environment().items()}


def installed_distributions() -> dict[str, Distribution]:
    """Return the distributions that this interpreter finds, by name."""
    found: dict[str, Distribution] = {}
    for distribution in metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        requires = tuple(distribution.requires or ())
        found.setdefault(name, Distribution(distribution.version, requires))
    return found


def check_file(
    pinned_file: Path,
    installed: Mapping[str, Distribution],
    environment: Mapping[str, str] | None = None,
) -> Findings:
    """Check that a pinned file is closed, as far as its packages are installed.

    The project itself counts as pinned, so that its own requirements must be met too.

    Args:
        pinned_file: The file; the one that it was compiled from lies beside it.
        installed: The distributions of this environment.
        environment: The values of the markers; by default those of this interpreter.
    """
    findings = Findings()
    environment = {**this_environment(), **(environment or {})}
    pinned = pins(read(pinned_file.read_text(encoding="utf-8")), environment, findings)
    asked = read(pinned_file.with_suffix(".in").read_text(encoding="utf-8"))
    if PROJECT in installed:
        pinned[PROJECT] = installed[PROJECT].version
    check_closed(pinned, asked, installed, environment, findings)
    return findings


def check_environment(pinned_file: Path, installed: Mapping[str, Distribution]) -> list[str]:
    """Return the problems of the environment that was made from a pinned file."""
    findings = check_file(pinned_file, installed)
    requirements = read(pinned_file.read_text(encoding="utf-8"))
    pinned = pins(requirements, this_environment(), Findings())
    if PROJECT in installed:
        pinned[PROJECT] = installed[PROJECT].version
    else:
        findings.problems.append(f"{PROJECT} is not installed")
    check_installed(pinned, installed, findings)
    return findings.problems


def _required(
    distribution: Distribution, extra: str, environment: Mapping[str, str]
) -> Iterator[Requirement]:
    """Return what a distribution requires, or what one of its extras adds."""
    for text in distribution.requires:
        requirement = Requirement(text)
        if _applies(requirement, environment, extra):
            requirement.marker = None  # it holds
            yield requirement


def _applies(requirement: Requirement, environment: Mapping[str, str], extra: str = "") -> bool:
    marker = requirement.marker
    return marker is None or marker.evaluate({**environment, "extra": extra})


def main(arguments: list[str]) -> str | None:
    """Check this environment against the file; return the problems, or nothing."""
    (name,) = arguments
    problems = check_environment(Path(name), installed_distributions())
    if not problems:
        return None
    return "\n".join([f"{name} does not describe this environment:", *sorted(set(problems))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
