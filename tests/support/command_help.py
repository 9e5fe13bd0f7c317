"""The help of every command, for the documentation.

``python -m tests.support.command_help`` writes it into ``docs/command-line.md``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.processes import run_command

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
_BLOCK = re.compile(r"```console\n\$ rocketry-otel ([a-z ]*)--help\n.*?```\n", re.DOTALL)


def help_of(command: str) -> str:
    """Return the help of a command, or of the program if it is empty, at 80 columns."""
    done = run_command(
        [sys.executable, "-m", "rocketry_otel", *command.split(), "--help"],
        {"COLUMNS": "80", "NO_COLOR": "1", "PYTHON_COLORS": "0", "TERM": "dumb"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def with_help(page: str, help_of: Callable[[str], str] = help_of) -> str:
    """Return a page with the help of each command that it names."""
    return _BLOCK.sub(
        lambda block: f"```console\n$ rocketry-otel {block[1]}--help\n{help_of(block[1])}```\n",
        page,
    )


def commands_in(page: str) -> list[str]:
    """Return the commands whose help a page has."""
    return [block[1].strip() for block in _BLOCK.finditer(page)]


if __name__ == "__main__":
    PAGE.write_text(with_help(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
