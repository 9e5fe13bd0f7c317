import re
import runpy
import sys
from importlib.metadata import version

import pytest

from rocketry_otel import open_repository
from rocketry_otel._cli import main as command_line
from rocketry_otel._cli.main import main
from rocketry_otel._demo import run
from tests.support.processes import run_command


@pytest.fixture
def demo_calls(monkeypatch):
    """The arguments of each call of the demo, which does nothing."""
    calls = []

    def run_demo(**arguments):
        calls.append(arguments)
        return 0

    monkeypatch.setattr(run, "run_demo", run_demo)
    return calls


def test_version(capsys):
    """The version that is printed is that of the installed distribution."""
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])

    assert capsys.readouterr().out == f"rocketry-otel {version('rocketry-otel')}\n"


def test_module_is_the_command_line(monkeypatch, capsys):
    """``python -m rocketry_otel`` takes the arguments of the process."""
    monkeypatch.setattr(sys, "argv", ["rocketry_otel", "--version"])

    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("rocketry_otel", run_name="__main__")

    assert capsys.readouterr().out == f"rocketry-otel {version('rocketry-otel')}\n"


def test_spawned_child_does_not_run_the_command_line():
    """A child that multiprocessing spawns imports the module and nothing happens."""
    assert runpy.run_module("rocketry_otel.__main__", run_name="__mp_main__")["main"] is main


def test_no_command(capsys):
    """Without a command, status 2 and a message."""
    with pytest.raises(SystemExit, match=r"^2$"):
        main([])

    assert capsys.readouterr().err.endswith(
        "rocketry-otel: error: the following arguments are required: COMMAND\n"
    )


def test_demo_by_default_runs_ten_seconds(demo_calls):
    """Without options the demo runs for 10 s and chooses its repository itself."""
    assert main(["demo"]) == 0

    assert demo_calls == [{"seconds": 10.0, "repo": None, "keep": False}]


def test_demo_takes_its_options(demo_calls):
    """The options reach the demo."""
    assert main(["demo", "--seconds", "2.5", "--repo", "memory://", "--keep"]) == 0

    assert demo_calls == [{"seconds": 2.5, "repo": "memory://", "keep": True}]


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", ""])
def test_demo_needs_a_number_of_seconds(text, demo_calls, capsys):
    """Other text than a positive finite number is refused with status 2."""
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["demo", f"--seconds={text}"])

    assert capsys.readouterr().err.endswith(
        f"argument --seconds: {text!r} is not a number of seconds above 0\n"
    )
    assert demo_calls == []


@pytest.mark.parametrize("name", ["rocketry", "rocketry.conds"])
def test_demo_without_rocketry(name, monkeypatch, capsys):
    """Where Rocketry is missing, status 2 and the command that installs it."""
    monkeypatch.delitem(sys.modules, "rocketry_otel._demo.run")
    monkeypatch.delitem(sys.modules, "rocketry_otel._demo.tasks")
    monkeypatch.setitem(sys.modules, name, None)

    assert main(["demo"]) == 2

    assert capsys.readouterr().err == (
        "rocketry-otel: the demo needs Rocketry, which is missing: "
        "pip install 'rocketry-otel[rocketry]'\n"
    )


def test_other_missing_modules_are_not_blamed_on_rocketry(monkeypatch):
    """A broken installation of another package shows its own error."""
    monkeypatch.delitem(sys.modules, "rocketry_otel._demo.run")
    monkeypatch.setitem(sys.modules, "rocketry_otel._demo.screen", None)

    with pytest.raises(ModuleNotFoundError, match=r"_demo\.screen"):
        main(["demo"])


def test_demo_with_a_bad_repository(capsys):
    """A repository URL that means nothing gives our message and status 2."""
    assert main(["demo", "--repo", "nowhere"]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rocketry-otel: nowhere: this is not the URL of a repository; examples: ")
    assert err.count("\n") == 1


def test_demo_with_a_bad_setting(monkeypatch, capsys):
    """A setting that is not allowed gives our message and status 2."""
    monkeypatch.setenv("ROCKETRY_OTEL_SPAN_KIND", "robot")

    assert main(["demo"]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "rocketry-otel: ROCKETRY_OTEL_SPAN_KIND is 'robot'; allowed is internal, consumer or "
        "server.\n"
    )


def test_demo_that_was_terminated(monkeypatch):
    """A demo that did not come to its end gives the status of its signal."""
    monkeypatch.setattr(run, "run_demo", lambda **_: 143)

    assert main(["demo"]) == 143


def test_interrupt_at_any_point(monkeypatch, capsys):
    """KeyboardInterrupt gives the status of SIGINT and no traceback."""

    def run_demo(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_demo", run_demo)

    assert main(["demo"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (BrokenPipeError(), 1, ""),
        (OSError(28, "No space left"), 2, "rocketry-otel: [Errno 28] No space left\n"),
    ],
)
def test_output_that_cannot_be_written(monkeypatch, tmp_path, capsys, error, status, message):
    """A reader that has gone ends it with status 1, in silence; a full disk with a sentence."""

    def run_demo(**_):
        raise error

    monkeypatch.setattr(run, "run_demo", run_demo)
    file = tmp_path / "out"
    with file.open("w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)

        assert main(["demo"]) == status

        stream.write("what Python flushes at its exit")
    assert file.read_text(encoding="utf-8") == ""
    assert capsys.readouterr().err == message


def test_error_without_an_output_gives_a_message(monkeypatch, capsys):
    """A shell starts a program without an output after `>&-`."""

    def run_demo(**_):
        raise OSError(28, "No space left")

    monkeypatch.setattr(run, "run_demo", run_demo)
    monkeypatch.setattr(sys, "stdout", None)

    assert main(["demo"]) == 2

    assert capsys.readouterr().err == "rocketry-otel: [Errno 28] No space left\n"


@pytest.mark.parametrize("command", ["runs", "export --format csv"])
def test_output_to_a_full_disk_gives_a_message(tmp_path, command):
    """Also if Python writes the output only at its end."""
    repo = open_repository(f"sqlite:///{tmp_path}/tasks.db")
    for number in range(300):
        repo.add({"task_name": "etl", "action": "run", "created": 1.7e9 + number, "run_id": "r"})
    line = f"{sys.executable} -m rocketry_otel {command} --repo sqlite:///{tmp_path}/tasks.db"

    done = run_command(["sh", "-c", f"{line} > /dev/full"])

    assert (done.returncode, done.stderr) == (
        2,
        "rocketry-otel: [Errno 28] No space left on device\n",
    )


def test_bad_repository_gives_a_message(tmp_path):
    """Also in a separate process, a bad repository gives a message and no traceback."""
    (tmp_path / "file").touch()
    url = f"sqlite:///{tmp_path}/file/tasks.db"

    done = run_command([sys.executable, "-m", "rocketry_otel", "demo", "--repo", url])

    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(rf"rocketry-otel: cannot open {re.escape(url)}: .*\n", done.stderr)


def test_help_names_the_commands():
    """The help names every command."""
    assert "demo" in command_line.parser().format_help()
