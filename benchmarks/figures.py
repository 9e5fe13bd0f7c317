"""The figures of a benchmark: measured in turns, shown as ratios with their spread.

Ratios differ less between machines than times do. Each benchmark is a script with the same options:
``--smoke`` shows that it works, ``--large`` takes the sizes that take long, ``--json FILE`` keeps
the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Figure(NamedTuple):
    """The measurements of one subject.

    Attributes:
        name: The subject.
        unit: The unit of the two lists.
        base: What ours is compared with, one value for each round.
        ours: Ours, in the same rounds.
        wanted: The ratio that it should not exceed, or not fall short of if more is better.
    """

    name: str
    unit: str
    base: list[float]
    ours: list[float]
    wanted: str = ""

    @property
    def ratios(self) -> list[float]:
        """The ratio of each round, the smallest first."""
        return sorted(ours / base for base, ours in zip(self.base, self.ours, strict=True))

    def line(self) -> str:
        """Return the line of the table: medians, and the ratio with its smallest and largest."""
        base, ours = statistics.median(self.base), statistics.median(self.ours)
        low, middle, high = self.ratios[0], statistics.median(self.ratios), self.ratios[-1]
        return (
            f"{self.name:44} {base:11,.1f} {ours:11,.1f} {self.unit:8} "
            f"{middle:7.2f} ({low:.2f} to {high:.2f}) {self.wanted and 'wanted ' + self.wanted}"
        ).rstrip()


class Size(NamedTuple):
    """How much a benchmark does.

    Attributes:
        is_smoke: Whether it only shows that it works.
        is_large: Whether it takes the sizes that take long, too.
    """

    is_smoke: bool = False
    is_large: bool = False

    def of(self, smoke: Any, usual: Any, large: Any = None) -> Any:
        """Return the value for this size; a large run without ``large`` gets the usual one."""
        if self.is_smoke:
            return smoke
        return usual if large is None or not self.is_large else large


def surroundings() -> dict[str, str]:
    """Return the machine and the versions: the figures depend on them."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        **{
            name: version(name)
            for name in ("opentelemetry-sdk", "redbird", "rocketry", "sqlalchemy", "pydantic")
        },
    }


def child(script: str, *arguments: object, **environment: str) -> Any:
    """Run a script as another process with ``--child``; return the JSON that it prints last."""
    command = [sys.executable, "-W", "ignore", script, "--child", *map(str, arguments)]
    done = subprocess.run(  # noqa: S603  # ours
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def run(
    description: str | None,
    measure: Callable[[Size], Iterable[Figure]],
    work: Callable[..., Any] | None = None,
) -> int:
    """Measure by the options of the command line, and show the figures.

    Args:
        description: The text of ``--help``.
        measure: Measures.
        work: The work of the other processes; its result is printed as JSON.
    """
    if work is not None and sys.argv[1:2] == ["--child"]:
        print(json.dumps(work(*sys.argv[2:])))
        return 0
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="show that it works; measure nothing")
    parser.add_argument("--large", action="store_true", help="the sizes that take long, too")
    parser.add_argument("--json", type=Path, help="keep the result in this file")
    options = parser.parse_args()
    figures = []
    print(f"{'':44} {'compared':>11} {'ours':>11} {'':8} {'ratio':>7}")
    for figure in measure(Size(options.smoke, options.large)):
        print(figure.line(), flush=True)
        figures.append(figure)
    around = surroundings()
    print("\n".join(f"{key}: {value}" for key, value in around.items()))
    if options.json:
        result = {"around": around, "figures": [figure._asdict() for figure in figures]}
        options.json.write_text(json.dumps(result, indent=1), "utf-8")
    return 0
