"""The commands that need the extra, and what they have in common."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import click
import pytest

from rocketry_otel._cli.extra import _Group, run_extra
from rocketry_otel._cli.main import EXTRA, main
from tests.support.processes import run_command, run_python

COMPLETION = "_ROCKETRY_OTEL_COMPLETE"


@pytest.mark.parametrize("package", ["click", "rich"])
def test_missing_extra(package: str) -> None:
    """One sentence with what to install, status 2, and no traceback."""
    done = run_python(
        """
        import sys
        sys.modules[sys.argv[1]] = None
        from rocketry_otel._cli.main import main
        sys.exit(main(["runs"]))
        """,
        package,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"rocketry-otel: this command needs {package}, which is missing: "
        "pip install 'rocketry-otel[cli]'\n"
    )


def lack(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the import of the commands fail for want of a package."""
    imported = builtins.__import__

    def fail(name: str, *rest: Any) -> Any:
        if name == "extra":
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", fail)


def test_missing_part_of_a_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence is the same."""
    lack("rich.table", monkeypatch)
    assert main(["runs"]) == 2
    assert "this command needs rich.table, which is missing" in capsys.readouterr().err


def test_other_missing_packages_show_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation of something else is not blamed on the extra."""
    lack("other", monkeypatch)
    with pytest.raises(ModuleNotFoundError, match="other"):
        main(["runs"])


def test_commands_without_the_extra_need_none(url: str) -> None:
    """``replay`` imports neither package."""
    done = run_python(
        """
        import sys
        sys.modules["click"] = sys.modules["rich"] = None
        from rocketry_otel._cli.main import main
        sys.exit(main(["replay", "--dry-run", "--repo", sys.argv[1]]))
        """,
        url,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """With one line for each."""
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    words = capsys.readouterr().out.split()
    assert all(name in words for name in EXTRA)


@pytest.mark.parametrize("name", EXTRA)
def test_mistake_of_the_user(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and a message."""
    assert main([name, "--no-such-option"]) == 2
    out, err = capsys.readouterr()
    assert (out, "No such option" in err or "no such option" in err.lower()) == ("", True)


@pytest.mark.parametrize("name", ["runs", "stats", "status", "export"])
def test_repository_is_needed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without one, and with one that does not exist, status 2 and a message."""
    assert main([name]) == 2
    assert capsys.readouterr().err == (
        "rocketry-otel: no repository is given: use --repo URL or ROCKETRY_OTEL_REPO\n"
    )
    assert main([name, "--repo", "csv:///nowhere/at-all.csv"]) == 2
    assert capsys.readouterr().err == (
        "rocketry-otel: cannot open csv:///nowhere/at-all.csv: there is no such file\n"
    )


def test_unknown_command() -> None:
    """The commands that there are, and status 2."""
    done = run_command([sys.executable, "-m", "rocketry_otel", "rums"])
    assert done.returncode == 2
    assert "invalid choice: 'rums'" in done.stderr


def complete(words: str, position: int) -> list[str]:
    """Return what bash is offered."""
    done = run_command(
        [sys.executable, "-m", "rocketry_otel"],
        {COMPLETION: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)},
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_completion_of_other_commands() -> None:
    """Their options are offered, and no command of another name."""
    context = click.Context(click.Command("x"))
    group = _Group("x")
    assert group.list_commands(context) == ["demo", "replay", *EXTRA]
    replay = group.get_command(context, "replay")
    assert replay is not None
    assert [it.value for it in replay.shell_complete(context, "--d")] == ["--dry-run"]
    assert group.get_command(context, "nothing") is None


def test_time_that_is_none(runs_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and what a time may be."""
    assert main(["runs", "--repo", runs_url, "--since", "soon"]) == 2
    assert "'soon' is neither an age such as 45s" in capsys.readouterr().err


@pytest.mark.slow
def test_completion() -> None:
    """Names of commands, and the options of each kind of command."""
    source = run_command([sys.executable, "-m", "rocketry_otel"], {COMPLETION: "bash_source"})
    assert "complete -o nosort -F" in source.stdout
    assert complete("rocketry-otel s", 1) == ["show", "stats", "status", "stack"]
    assert complete("rocketry-otel replay --d", 2) == ["--dry-run"]
    assert complete("rocketry-otel runs --act", 2) == ["--action"]
    assert complete("rocketry-otel nothing --act", 2) == [""]


@pytest.mark.parametrize(
    ("error", "status"), [(click.Abort(), 130), (click.ClickException("x"), 1)]
)
def test_end_of_a_command(error: Exception, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted question gives the status of SIGINT, another error its own."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(click.Group, "main", fail)
    monkeypatch.setattr(sys, "stdout", object())
    assert run_extra(["runs"], COMPLETION) == status


def test_help_of_a_command_is_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0."""
    assert main(["stack", "--help"]) == 0
    assert "init" in capsys.readouterr().out
