"""The command ``rocketry-otel check``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel._cli import check_repository, check_settings
from rocketry_otel._cli.check_settings import settings_in_force, version_problems, versions
from rocketry_otel._cli.main import main
from rocketry_otel._settings import Settings
from tests.support.histories import write_by_red_bird
from tests.support.otlp_receiver import OTLPReceiver, Status
from tests.support.processes import run_command
from tests.support.runs import COMMAND, on_terminal
from tests.support.stored_states import write_state

Output = pytest.CaptureFixture[str]


def test_all_is_well(runs_url: str, receiver: OTLPReceiver, capsys: Output) -> None:
    """Status 0, and every part is there."""
    write_state(runs_url, ["traces http://c"])
    assert main(["check", "--repo", runs_url]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for words in (
        "\nSettings\n",
        "\nVersions\n",
        "\nRepository\n",
        "\nDelivery\n",
        "\nDestinations\n",
        f"  url       {runs_url}\n  readable  yes\n  writable  yes\n  records   9\n",
        "  oldest    2023-11-14T22:13:20Z\n  newest    2023-11-15T00:18:20Z\n  columns   all\n",
        f"traces   accepted  {receiver.http_endpoint}/v1/traces\n",
        "What was accepted has the service name rocketry-otel-check.\n",
    ):
        assert words in f"\n{out}"
    assert out.endswith("\nNo problem was found.\n")
    assert (len(receiver.spans), len(receiver.log_records), len(receiver.metrics)) == (1, 1, 1)


def checked(capsys: Output, *options: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the object of JSON."""
    status = main(["check", "--json", *options])
    return status, json.loads(capsys.readouterr().out)


def test_nothing_is_sent(receiver: OTLPReceiver, capsys: Output) -> None:
    """With ``--no-send``, no request is made; without a repository, none is looked at."""
    status, data = checked(capsys, "--no-send", "--repo", "memory://")
    assert (status, data["repository"], data["destinations"]) == (0, None, [])
    assert receiver.requests == []
    assert main(["check", "--no-send"]) == 0
    out = capsys.readouterr().out
    assert "  nothing was sent (--no-send)\n" in out
    assert "  in memory, or not given: --repo URL or ROCKETRY_OTEL_REPO\n" in out


def test_problem_of_a_destination(receiver: OTLPReceiver, capsys: Output) -> None:
    """Status 1, and the cure."""
    receiver.behave(Status(401))
    assert main(["check"]) == 1
    out = capsys.readouterr().out
    assert (
        f"- traces to {receiver.http_endpoint}/v1/traces: unauthorised (HTTP 401 Unauthorized). "
        "Cure: set OTEL_EXPORTER_OTLP_HEADERS"
    ) in out
    assert "What was accepted" not in out


def test_switched_off(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """That nothing is sent at all is a problem; that a signal has no exporter is none."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    status, data = checked(capsys)
    assert (status, data["problems"]) == (1, ["nothing is sent: OTEL_SDK_DISABLED is true"])
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    for signal in ("TRACES", "LOGS", "METRICS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
    assert main(["check"]) == 0
    assert "Destinations\n  none\n" in capsys.readouterr().out
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "nothing-known")
    status, data = checked(capsys)
    assert (status, data["problems"]) == (
        1,
        ["logs: an exporter that OTEL_LOGS_EXPORTER names cannot be made"],
    )


def test_repository_that_is_not_there(tmp_path: Path, capsys: Output) -> None:
    """Status 1; nothing is created."""
    url = f"sqlite:///{tmp_path}/none/tasks.db"
    status, data = checked(capsys, "--no-send", "--repo", url)
    assert (status, data["problems"]) == (
        1, [f"repository: cannot open {url}: there is no such file"],
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    assert main(["check", "--no-send", "--repo", url]) == 1
    assert "  readable  no\n" in capsys.readouterr().out


def test_repository_of_another_model(tmp_path: Path, capsys: Output) -> None:
    """The columns that it lacks; an empty one has no oldest record; documents have no columns."""
    url = f"csv://{tmp_path}/t.csv"
    write_by_red_bird(url)
    _, data = checked(capsys, "--no-send", "--repo", url)
    assert data["repository"]["missing_columns"][:3] == ["message", "exc_text", "exc_type"]
    assert main(["check", "--no-send", "--repo", url]) == 0
    assert "  columns   without message, exc_text," in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    _, data = checked(capsys, "--no-send", "--repo", f"json://{tmp_path}/empty")
    found = data["repository"]
    assert (found["records"], found["oldest"], found["missing_columns"]) == (0, None, [])


def test_repository_that_cannot_be_written(
    runs_url: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A problem, as the application would have it; on a server, that is not known."""
    monkeypatch.setattr(check_repository.os, "access", lambda *_: False)
    status, data = checked(capsys, "--no-send", "--repo", runs_url)
    assert (status, data["repository"]["writable"]) == (1, False)
    assert "may not write" in data["problems"][0]
    monkeypatch.setattr(check_repository, "repository_path", lambda _: None)
    assert main(["check", "--no-send", "--repo", runs_url]) == 0
    assert "  writable  not tried: a server decides\n" in capsys.readouterr().out


def test_driver_that_raises(runs_url: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is shown in one line."""

    def fail(_: object) -> None:
        raise OSError("the disk\nis gone")

    monkeypatch.setattr(check_repository, "stream_of", fail)
    status, data = checked(capsys, "--no-send", "--repo", runs_url)
    assert (status, data["problems"]) == (1, ["repository: OSError: the disk is gone"])


def test_wrong_setting() -> None:
    """Status 2, and no traceback."""
    done = run_command([*COMMAND, "check"], {"ROCKETRY_OTEL_LINKS": "perhaps"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "rocketry-otel: ROCKETRY_OTEL_LINKS is 'perhaps'; allowed is true or false.\n"
    )


def test_settings_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its source; no password, header or key is shown."""
    for name, value in {
        "ROCKETRY_OTEL_REPO": "postgresql://u:hunter2@h/db",
        "ROCKETRY_OTEL_RETENTION": "30d",
        "ROCKETRY_OTEL_TRACE_URL": "http://j/{trace_id}?token=hunter2",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=hunter2",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/hunter2",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:hunter2@h:1",
        "OTEL_RESOURCE_ATTRIBUTES": "a=b,api.token=hunter2,c",
        "OTEL_SERVICE_NAME": " ",
    }.items():
        monkeypatch.setenv(name, value)
    found = {name: (value, source) for name, value, source in settings_in_force(Settings())}
    assert "hunter2" not in str(found)
    assert found["ROCKETRY_OTEL_REPO"] == ("postgresql://u:***@h/db", "environment")
    assert found["ROCKETRY_OTEL_RETENTION"] == ("30d", "environment")
    assert found["ROCKETRY_OTEL_LINKS"] == ("true", "default")
    assert found["ROCKETRY_OTEL_INCLUDE"] == ("*", "default")
    assert found["ROCKETRY_OTEL_EXCLUDE"] == ("-", "default")
    assert found["ROCKETRY_OTEL_STATE_DIR"] == ("-", "default")
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"] == ("http://h:1", "environment")
    assert found["OTEL_RESOURCE_ATTRIBUTES"] == ("a=b,api.token=***,c", "environment")
    assert "OTEL_SERVICE_NAME" not in found


def test_versions_that_go_together() -> None:
    """Those of this environment do."""
    found = versions()
    assert {"python", "rocketry-otel", "pydantic", "opentelemetry-sdk"} <= found.keys()
    assert version_problems(found) == []


@pytest.mark.parametrize(
    ("needs", "installed", "fits"),
    [
        ("sdk>=1.39", "1.39.0", True),
        ("sdk>=1.39", "1.38.9", False),
        ("sdk<2,>=1.10", "2.0", False),
        ("sdk <= 1.5", "1.5.1", False),
        ("sdk==1.4.*", "1.4.7", True),
        ("sdk==1.4.*", "1.5.0", False),
        ("sdk (!=1.4)", "1.4", False),
        ("sdk~=1.4", "1.9", True),
        ("sdk~=1.4", "2.0", False),
        ("sdk~=1.4", "1.3", False),
        ("sdk>1.4", "1.4", False),
        ("SDK[more]==1.0", "1.0", True),
        ("sdk<1; extra == 'x'", "2", True),
        ("sdk<1; python_version < '3'", "2", True),
        ("sdk", "dev", True),
        ("sdk>=1", "dev", False),
        ("!!!", "1", True),
    ],
)
def test_bounds(needs: str, installed: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """Each kind of bound, with a sentence that has the cure."""
    monkeypatch.setattr(check_settings, "requires", {"api": [needs]}.get)
    problems = version_problems({"python": "3", "api": "1", "sdk": installed})
    bounds = needs[3:].strip(" ()")
    expected = (
        f"api 1 needs sdk {bounds.replace(' ', '')}, and sdk {installed} is installed: pip install"
    )
    assert [one.partition(" 'sdk")[0] for one in problems] == [expected] * (not fits)


def test_bounds_of_one_extra_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which extras were chosen is not known."""
    needs = ["sdk>=1; extra == 'a'", "sdk>=2; extra == 'b'"]
    monkeypatch.setattr(check_settings, "requires", {"rocketry-otel": needs}.get)
    assert version_problems({"rocketry-otel": "1", "sdk": "1.5"}) == []
    assert version_problems({"rocketry-otel": "1", "sdk": "0.9"}) == [
        "rocketry-otel 1 needs sdk >=1, and sdk 0.9 is installed: pip install 'sdk>=1'"
    ]


def test_bounds_of_our_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count if what they ask for is installed."""
    needs = {"rocketry-otel": ["sqlalchemy<3,>=1.4; extra == 'sql'"]}.get
    monkeypatch.setattr(check_settings, "requires", needs)
    found = {"rocketry-otel": "1", "sqlalchemy": "3.1"}
    bounds = "<3,>=1.4"
    (problem,) = version_problems(found)
    assert problem == (
        f"rocketry-otel 1 needs sqlalchemy {bounds}, and sqlalchemy 3.1 is installed: "
        f"pip install 'sqlalchemy{bounds}'"
    )


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 160])
def test_on_a_terminal(columns: int, runs_url: str) -> None:
    """No line is longer than the terminal is wide, apart from paths."""
    status, written = on_terminal(
        ["check", "--repo", runs_url], columns, OTEL_EXPORTER_OTLP_ENDPOINT="localhost:1"
    )
    assert status == 1
    lines = [line for line in written.splitlines() if "sqlite:" not in line]
    assert max(map(len, lines)) <= columns
