"""The help of the commands in the documentation."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from rocketry_otel._cli.main import EXTRA
from tests.support.command_help import PAGE, commands_in, with_help

pytestmark = pytest.mark.slow


def test_page_has_every_command() -> None:
    """And no other."""
    commands = {"", *EXTRA, "stack init", "demo", "replay"}
    assert set(commands_in(PAGE.read_text(encoding="utf-8"))) == commands


@pytest.mark.skipif(
    tuple(map(int, version("click").split(".")[:2])) < (8, 2), reason="click words it otherwise"
)
def test_help_in_the_page_is_that_of_the_commands() -> None:
    """After a change: ``python -m tests.support.command_help``."""
    page = PAGE.read_text(encoding="utf-8")
    assert with_help(page) == page
