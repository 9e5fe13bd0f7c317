"""The commands that need the extra ``cli``, and shell completion."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
import rich  # noqa: F401  # missing packages are noticed here
from click.shell_completion import CompletionItem

from .main import EXTRA, parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_INTERRUPTED = 130  # what a shell calls SIGINT: 128 + 2
NAME = "rocketry-otel"


def run_extra(given: Sequence[str], completion: str) -> int:
    """Run a command.

    Args:
        given: The arguments of the process.
        completion: The variable by which a shell asks for completions.

    Returns:
        The exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal may not have all letters of a task's name.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _Group(NAME).main(
            list(given), prog_name=NAME, standalone_mode=False, complete_var=completion
        )
    except click.Abort:
        return _INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return status if isinstance(status, int) else 0


class _Group(click.Group):
    """All commands; the module of one is imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        del ctx
        return ["demo", "replay", *EXTRA]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name."""
        del ctx
        if cmd_name in EXTRA:
            command: click.Command = import_module(f"{__package__}.{cmd_name}").command
            return command
        return _Other(cmd_name) if cmd_name in {"demo", "replay"} else None


class _Other(click.Command):
    """A command that needs no extra: it is here for its completion alone."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return its options."""
        del ctx
        options = _options(parser(), str(self.name))
        return [CompletionItem(name) for name in options if name.startswith(incomplete)]


def _options(of: argparse.ArgumentParser, command: str) -> list[str]:
    groups: list[Any] = [it for it in of._actions if isinstance(it.choices, dict)]  # noqa: SLF001
    names: list[str] = []
    for group in groups:
        for action in group.choices[command]._actions:  # noqa: SLF001
            names += [name for name in action.option_strings if name.startswith("--")]
    return names
