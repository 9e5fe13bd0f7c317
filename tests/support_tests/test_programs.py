"""The building of the stack's programs, with a stand-in for Go."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from tests.stack import programs
from tests.support.processes import Finished, run_command

SCRIPT = Path(programs.__file__)
# Builds what it is asked for, as empty files; the collector's builder as one that builds, too.
GO = """#!/bin/sh
echo "$@" >> "$LOG"
[ "$1 $2" = "mod init" ] && echo "${3##*/}" > go.mod
if [ "$1" = list ]; then
  module="${LOG%/*}/modules/${5##*/}"
  mkdir -p "$module/discovery/kubernetes" "$module/driver/kubernetes"
  touch "$module/discovery/kubernetes/whole.go" "$module/driver/kubernetes/whole.go"
  echo "$module"
fi
[ "$1" = build ] || exit 0
for word; do case "$word" in -o=*) out="${word#-o=}";; esac; done
for word; do
  name="${word##*/}"
  case "$word" in
    */builder) printf '#!/bin/sh\\nmkdir sources\\ntouch sources/otelcol\\n' > "$out$name"
               chmod +x "$out$name";;
    .) case "$out" in */) touch "$out$(cat go.mod)";; *) touch "$out";; esac;;
    */cmd|*/cmd/*|*/app/*) touch "$out$name";;
  esac
done
"""
# Of these a package is left out.
LEFT_OUT = {
    "github.com/prometheus/prometheus": "prometheus",
    "github.com/docker/buildx": "buildx",
}
# Fetch what is asked for, as empty files.
FETCHERS = {
    "mvn": "mkdir lib && touch lib/kafka_2.13-4.1.1.jar",
    "java": "exit 1",
    "npm": "mkdir -p node_modules/@grafana/lezer-logql && cd $_ && touch index.es.js",
    "node": "exit 1",
}
BROKEN_GO = """#!/bin/sh
echo "go: reading https://registry.example/some/module/@v/v1.info: 403 Forbidden"
exit 1
"""


def build(tmp_path: Path, go: str | None) -> Finished:
    """Run what `make stack` runs, with this for Go."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    if go is not None:
        scripts = {name: f"#!/bin/bash\n{line}\n" for name, line in FETCHERS.items()}
        for name, script in {**scripts, "go": go}.items():
            (tools / name).write_text(script, encoding="utf-8")
            (tools / name).chmod(stat.S_IRWXU)
    # A shell, and what it calls, but no Go.
    path = os.pathsep.join([str(tools), "/usr/bin", "/bin"] if go else [str(tools)])
    env = {"PATH": path, "STACK_CACHE": str(tmp_path / "cache"), "LOG": str(tmp_path / "log")}
    return run_command([sys.executable, str(SCRIPT)], env)


def test_missing_go_is_reported(tmp_path):
    """It fails with one line."""
    done = build(tmp_path, None)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(" needs what is not here: go\n")
    assert done.stderr.count("\n") == 1


def test_each_program_is_built_once(tmp_path):
    """A second time there is nothing to do."""
    first = build(tmp_path, GO)
    assert (first.returncode, first.stderr) == (0, "")
    every = (*programs.PROGRAMS, *programs.OPTIONAL)
    assert first.stdout.count("Built ") == len(every)
    there = {file.relative_to(tmp_path / "cache") for file in (tmp_path / "cache").rglob("*")}
    for program in every:
        assert {Path(program.key) / name for name in program.binaries} <= there
    # What they copy for the build does not stay.
    assert not [file for file in there if "copies" in file.parts]
    calls = (tmp_path / "log").read_text(encoding="utf-8")
    for module, copy in LEFT_OUT.items():
        assert f"mod edit -replace={module}=./copies/{copy}" in calls
    assert "get go.opentelemetry.io/collector/cmd/builder@v0.159.0" in calls

    second = build(tmp_path, GO)
    assert second.stdout == f"The stack's programs are in {tmp_path / 'cache'}\n"
    assert (tmp_path / "log").read_text(encoding="utf-8") == calls


def test_optional_program_is_left_out_without_its_tools(tmp_path):
    """It is named, and all others are built; where all tests are required, nothing is left out."""
    tools = tmp_path / "only-go"
    tools.mkdir()
    (tools / "go").write_text(GO, encoding="utf-8")
    (tools / "go").chmod(stat.S_IRWXU)
    for name in ("sh", "cat", "touch", "mkdir", "chmod"):
        (tools / name).symlink_to(shutil.which(name))
    env = {
        "PATH": str(tools),
        "STACK_CACHE": str(tmp_path / "cache"),
        "LOG": str(tmp_path / "log"),
        "REQUIRE_ALL_TESTS": "",
    }
    done = run_command([sys.executable, str(SCRIPT)], env)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Left out: {programs.KAFKA.key} needs what is not here: mvn, java\n" in done.stdout
    assert programs.GRAFANA_SCHEMA.key in {it.name for it in (tmp_path / "cache").iterdir()}
    required = run_command([sys.executable, str(SCRIPT)], {**env, "REQUIRE_ALL_TESTS": "1"})
    assert required.returncode == 1
    assert required.stderr == f"{programs.KAFKA.key} needs what is not here: mvn, java\n"


def test_failure_leaves_nothing_behind_and_names_no_host(tmp_path):
    """Go's message is shown, without the addresses; the next time begins anew."""
    done = build(tmp_path, BROKEN_GO)
    assert done.returncode == 1
    assert "some/module/@v/v1.info: 403 Forbidden" in done.stderr
    assert "registry.example" not in done.stderr + done.stdout
    assert list((tmp_path / "cache").iterdir()) == []


def test_cache_is_outside_the_repository(monkeypatch):
    """By default with the user's other caches."""
    monkeypatch.delenv("STACK_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert programs.cache() == Path("/caches/rocketry-otel/stack")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/user")
    assert programs.cache() == Path("/home/user/.cache/rocketry-otel/stack")


@pytest.mark.parametrize("source", [programs.MANIFEST, programs.STANDIN_SOURCE])
def test_what_a_program_is_made_from_is_part_of_its_name(source, tmp_path):
    """A change is another program, and is built."""
    changed = tmp_path / source.name
    changed.write_bytes(source.read_bytes() + b"\n")
    module = ("example.org/module", "v1")
    keys = {programs._key("name", file, module) for file in (source, changed)}
    assert len(keys) == 2
    assert programs._key("name", source, ("example.org/module", "v2")) not in keys
