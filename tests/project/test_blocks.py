"""Every block of code on every page is run, or is compared with the real names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import opentelemetry.sdk.environment_variables as standard
import pytest
from packaging.requirements import Requirement

from rocketry_otel._cli.main import EXTRA, parser
from tests.support.page_runs import HANDLER, run_block
from tests.support.pages import ROOT, all_blocks, blocks, pages, text_of
from tests.support.settings_reference import PAGE, PREFIX, standard_names_in

SETTINGS = PAGE.read_text(encoding="utf-8")
TOML = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
_OPTIONAL = TOML.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
EXTRAS = set(re.findall(r"^([a-z-]+) = \[", _OPTIONAL, re.MULTILINE))
LANGUAGES = {"", "bash", "console", "fish", "python", "text", "yaml"}
TESTS = {
    path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")
}


@pytest.mark.parametrize("page", pages())
def test_languages_of_blocks_are_known(page: str) -> None:
    """Another language needs a way to test it."""
    assert {block.language for block in all_blocks(page)} <= LANGUAGES
    assert text_of(page).count("```") % 2 == 0


def takers(page: str) -> list[str]:
    """Return the lines of tests that take the blocks of a page, each block by a name."""
    line = rf"^\(\w+(?:, \w+)*,?\) = blocks\(\"{re.escape(page)}\", \"python\"\)$"
    return [taken for text in TESTS.values() for taken in re.findall(line, text, re.MULTILINE)]


WITH_PYTHON = [page for page in pages() if blocks(page, "python")]


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if takers(page)])
def test_one_test_module_runs_all_python_of_a_page(page: str) -> None:
    """It takes all blocks at once: ``(first, second) = blocks(page, "python")``.

    So a block more is an error until something runs it.
    """
    (taken,) = takers(page)
    names = [name for name in taken.partition(")")[0].strip("(").split(",") if name.strip()]
    assert len(names) == len(blocks(page, "python"))


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if not takers(page)])
def test_python_of_other_pages_runs_in_its_order(page: str, tmp_path: Path) -> None:
    """As one program, which goes on from an instrumented application."""
    code = "\n".join(blocks(page, "python"))
    run_block(code, tmp_path, before="" if "Rocketry(" in code else HANDLER)


def commands() -> Iterator[tuple[str, str]]:
    """Yield each command of the pages, with its page; of a block with output, those after ``$``."""
    for page in pages():
        for code in blocks(page, "console"):
            lines = code.replace("\\\n", " ").splitlines()
            entered = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            yield from ((page, line) for line in entered or lines if line.strip())


COMMANDS = sorted(set(commands()))


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_exists(page: str, line: str) -> None:
    """Its program, command, options, extras and variables are real."""
    del page
    words = shlex.split(line, comments=True)
    while words and (assigned := re.fullmatch(r"([A-Z_]+)=.*", words[0])):
        assert is_variable(assigned[1]), line
        del words[0]
    program, *arguments = words
    CHECKS[program](arguments)


def is_variable(name: str) -> bool:
    """Return whether a variable is in the reference, or belongs to another program."""
    is_ours = name.startswith(PREFIX) and f"### {name}\n" in SETTINGS
    return is_ours or name in {*standard_names_in(SETTINGS), *vars(standard), *OTHERS}


# Of the shell, of Python's instrumentation, of Compose.
OTHERS = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "POSTGRES_PASSWORD", "COLLECTOR_TOKEN"}
OTHERS |= {"COLUMNS", "NO_COLOR", "TRACEPARENT"}


def check_export(arguments: list[str]) -> None:
    """Each assignment is of a known variable."""
    names = [argument.partition("=")[0] for argument in arguments]
    assert names
    assert [name for name in names if not is_variable(name)] == []


def check_pip(arguments: list[str]) -> None:
    """Extras of this package exist."""
    assert arguments[0] == "install"
    wanted = [argument for argument in arguments[1:] if not argument.startswith("-")]
    assert wanted
    for requirement in map(Requirement, wanted):
        if requirement.name == "rocketry-otel":
            assert requirement.extras <= EXTRAS


def check_rocketry_otel(arguments: list[str]) -> None:
    """The command and its options are understood."""
    if arguments and arguments[0] in EXTRA and "--help" not in arguments:
        from rocketry_otel._cli.extra import NAME, _Group  # noqa: PLC0415  # an extra

        check_click(_Group(NAME), arguments)
    elif "--help" not in arguments:
        parser().parse_args(arguments)


def check_click(command: click.Command, arguments: list[str]) -> None:
    """Parse arguments without running anything."""
    with command.make_context("rocketry-otel", list(arguments), resilient_parsing=False) as context:
        if isinstance(command, click.Group):
            # Its name was public before click 8.2.
            kept = getattr(context, "_protected_args", None) or context.protected_args
            name, below, rest = command.resolve_command(context, [*kept, *context.args])
            assert name
            assert below is not None
            check_click(below, rest)


def check_docker(arguments: list[str]) -> None:
    """Files that Compose is given exist; test_stack_files compares the images."""
    assert arguments[0] in {"compose", "run", "build", "stop"}
    files = [after for option, after in pairwise(arguments) if option == "-f"]
    for file in files:
        assert (ROOT / file.removeprefix("rocketry-stack/")).is_file()


def check_make(arguments: list[str]) -> None:
    """The targets exist."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert arguments
    assert set(arguments) <= targets


def check_nothing(arguments: list[str]) -> None:
    """A program of others, or a script of the reader's."""
    assert arguments


CHECKS = {
    "docker": check_docker,
    "export": check_export,
    "make": check_make,
    "opentelemetry-instrument": check_nothing,
    "pip": check_pip,
    "python": check_nothing,
    "rocketry-otel": check_rocketry_otel,
}
