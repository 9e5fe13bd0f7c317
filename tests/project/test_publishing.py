"""What a newcomer meets first: the README, on a package index as well, and how to contribute."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import yaml

from rocketry_otel import open_repository
from rocketry_otel._cli.main import EXTRA
from tests.support.processes import run_command, run_python

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

for_index = runpy.run_path(str(ROOT / "hatch_build.py"))["for_index"]


def test_description_has_no_link_that_leads_nowhere() -> None:
    """The metadata has the README, whose links to files are names until there is an address."""
    build = [sys.executable, "-m", "hatchling", "metadata", "readme"]
    description = run_command(build, cwd=ROOT).stdout
    assert description == for_index(README, "") + "\n"
    links = re.findall(r"\]\(([^)]+)\)", description)
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert "[What is guaranteed](docs/guarantees.md)" in README
    assert "What is guaranteed (`docs/guarantees.md`)" in description


def test_links_of_the_description_are_whole_addresses() -> None:
    """With an address, each link leads to the file there; other links stay."""
    text = "[a](docs/a.md#b) [c](https://d.example/) [e](#f) [docs/g.md](docs/g.md)"
    assert for_index(text, "https://h.example/files/") == (
        "[a](https://h.example/files/docs/a.md#b) [c](https://d.example/) [e](#f) "
        "[docs/g.md](https://h.example/files/docs/g.md)"
    )
    assert for_index(text, "") == "a (`docs/a.md`) [c](https://d.example/) [e](#f) docs/g.md"
    picture = "One.\n\n![b](docs/b.svg)\n\nTwo.\n"
    assert for_index(picture, "https://h.example/") == picture.replace(
        "docs/", "https://h.example/docs/"
    )
    assert for_index(picture, "") == "One.\n\nTwo.\n"


def test_first_application_of_the_readme_is_recorded(tmp_path: Path) -> None:
    """The first block, with a task, fills the repository that the block in step 5 reads."""
    first = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    (query,) = re.findall(r"```python\n( +from rocketry_otel import open.*?)```", README, re.DOTALL)
    task = """
@app.task(name="etl", execution="main")
def etl():
    raise ValueError("an empty file")

from rocketry.conditions import SchedulerCycles
app.session["etl"].run()
app.session.config.shut_cond = SchedulerCycles() >= 1
app.run()
"""
    env = {"OTEL_SDK_DISABLED": "true", "ROCKETRY_OTEL_REPO": "sqlite:///tasks.db"}
    done = run_python(first.replace("app.run()\n", task), cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    done = run_python(query, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (record,) = open_repository(f"sqlite:///{tmp_path}/tasks.db").filter_by(action="fail").all()
    assert done.stdout == f"{record.created} ValueError {record.trace_id}\n"


def test_commands_of_the_readme_exist(tmp_path: Path) -> None:
    """Each command and target is there, and `stack init` writes the file that is named."""
    commands = set(
        re.findall(r"^ *rocketry-otel ([a-z]+)(?: [a-z]+| --.*)?$", README, re.MULTILINE)
    )
    assert commands == {"demo", "replay", "stack"}
    assert commands - {"demo", "replay"} <= EXTRA.keys()
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", README)) <= targets
    init = [sys.executable, "-m", "rocketry_otel", "stack", "init"]
    assert run_command(init, cwd=tmp_path).returncode == 0
    (file,) = re.findall(r"docker compose -f (\S+)", README)
    assert (tmp_path / file).is_file()


def test_every_target_is_explained() -> None:
    """The table has the targets of make and no others."""
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)) - {"help"}
    assert set(re.findall(r"^\| `make ([a-z-]+)` \|", CONTRIBUTING, re.MULTILINE)) == targets


def test_places_to_fill_in_are_there() -> None:
    """What is listed for the publication is still to be filled in, or the list is too long."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '[tool.hatch.metadata.hooks.custom]\nfiles = ""\n' in pyproject
    assert "\n[project.urls]" not in pyproject
    security = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "The address is to be filled in" in security
    assert "html_baseurl" not in (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")


def test_hooks_are_the_commands_of_lint() -> None:
    """Each hook is local, and runs a command of `make lint`."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repo,) = config["repos"]
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
    recipe = MAKEFILE.partition("\nlint: ")[2].partition("\n\n")[0]
    commands = [
        line.strip().replace("$(run)", ".venv/bin/python").replace("$(VENV)", ".venv")
        for line in recipe.splitlines()[1:]
    ]
    assert [hook["entry"] for hook in repo["hooks"]] == commands


def test_workflow_has_the_steps_of_ci() -> None:
    """Each step of `.ci/run` is a job of the same name and command."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lines = re.findall(r"^ +step (\".*)$", script, re.MULTILINE)
    # The others install servers.
    steps = {name: command for name, *command in map(shlex.split, lines) if command[0] == "make"}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    job = workflow["jobs"]["step"]
    jobs = {one["name"]: one["run"] for one in job["strategy"]["matrix"]["include"]}
    assert len(steps) >= 10
    # Without the version that another step has tested.
    steps["Tests with the other Pythons"] = steps["Tests with the other Pythons"][:2]
    assert jobs == {name: " ".join(command) for name, command in steps.items()}
    packages = " ".join(re.findall(r"missing\+=\((\S+)\)", script))
    (install,) = [it["run"] for it in job["steps"] if it.get("name", "").startswith("Packages")]
    assert install.endswith(f" install -y -qq {packages}")
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", one) for one in used)
    assert job["env"] == {"REQUIRE_ALL_TESTS": "1"}
