"""The pinned files are closed: pip resolves nothing when it installs them."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from requirements.check import (
    PROJECT,
    Distribution,
    Findings,
    check_environment,
    check_file,
    installed_distributions,
    pins,
    read,
    this_environment,
)

from tests.support.processes import run_command

ROOT = Path(__file__).parents[2]
PINNED_FILES = sorted((ROOT / "requirements").glob("*.txt"))
INSTALLED = installed_distributions()


def linux(python: str, patch: int, machine: str) -> dict[str, str]:
    """Return the values of the markers for a Python on Linux."""
    full = f"{python}.{patch}"
    return {
        "implementation_name": "cpython",
        "implementation_version": full,
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": full,
        "python_version": python,
        "sys_platform": "linux",
    }


ENVIRONMENTS = [
    linux(*values)
    for values in product(("3.10", "3.11", "3.12", "3.13"), (0, 99), ("x86_64", "aarch64"))
]


def names_of(environments):
    """Return short names for test ids."""
    return [f"{it['python_full_version']}-{it['platform_machine']}" for it in environments]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=names_of(ENVIRONMENTS))
@pytest.mark.parametrize("pinned_file", PINNED_FILES, ids=lambda file: file.name)
def test_pinned_file_is_closed(pinned_file, environment):
    """Each Python finds each requirement pinned, as far as the pinned versions are installed here.

    Each environment checks its own file in full: see ``check`` in the Makefile.
    """
    findings = check_file(pinned_file, INSTALLED, environment)
    assert findings.problems == []


@pytest.fixture
def own_file() -> Path:
    """The file that this environment was made from."""
    made_from = [file for file in PINNED_FILES if not check_environment(file, INSTALLED)]
    if not made_from:
        pytest.skip("This environment was not made from a file of requirements/")
    return made_from[0]


@pytest.mark.slow
def test_each_line_of_the_own_file_is_needed(own_file, tmp_path):
    """If one line is removed, the file is not closed."""
    copied = tmp_path / own_file.name
    copied.with_suffix(".in").write_bytes(own_file.with_suffix(".in").read_bytes())
    requirements = read(own_file.read_text(encoding="utf-8"))
    pinned_here = pins(requirements, this_environment(), Findings())
    assert len(pinned_here) > 20
    for name in pinned_here:
        kept = [str(it) for it in requirements if canonicalize_name(it.name) != name]
        copied.write_text("\n".join(kept), encoding="utf-8")
        problems = check_file(copied, INSTALLED).problems
        assert any(it.startswith(f"{name} is not pinned: ") for it in problems), name


# The shape of the fault that a release of coverage once made: an extra, asked for in passing.
SMALL = {
    "cov-plugin": Distribution("7.1", ("coverage[toml]>=7.10.6",)),
    "coverage": Distribution(
        "7.17.4", ('tomli; python_full_version <= "3.11.0a6" and extra == "toml"',)
    ),
    "tomli": Distribution("2.0"),
    "colours": Distribution("1", ('win-colours; sys_platform == "win32"',)),
}
SMALL_PINNED = """
# Made by a program.
cov_plugin==7.1 \\
    --hash=sha256:00 \\
    --hash=sha256:01
    # via -r small.in
coverage==7.17.4 --hash=sha256:02
colours==1 --hash=sha256:03
tomli==2.0 ; python_full_version < '3.11' \\
    --hash=sha256:04
    # via coverage
"""


def check_small(
    folder: Path, python: str, pinned: str, asked: str = "cov-plugin\ncolours\n"
) -> Findings:
    """Check a file of four packages for one Python."""
    (folder / "small.in").write_text(asked, encoding="utf-8")
    (folder / "small.txt").write_text(pinned, encoding="utf-8")
    return check_file(folder / "small.txt", SMALL, linux(python, 0, "x86_64"))


@pytest.mark.parametrize("python", ["3.10", "3.11"])
def test_closed_file_has_no_problems(tmp_path, python):
    """A requirement of another system, or of another Python, need not be pinned."""
    assert check_small(tmp_path, python, SMALL_PINNED) == Findings()


@pytest.mark.parametrize(
    ("replaced", "by", "problem"),
    [
        ("tomli==2.0 ;", "# ;", "tomli is not pinned: coverage requires tomli"),
        ("tomli==2.0 ; python_full_version < '3.11'", "tomli>=2", "not pinned to one version"),
        ("coverage==7.17.4", "coverage==7.10", "cov-plugin requires coverage[toml]>=7.10.6"),
        ("colours==1", "coverage==7.17.4", "coverage is pinned twice"),
        ("colours==1", "colours==1.*", "colours==1.* is not pinned to one version"),
        ("colours==1 ", "# ", "colours is not pinned: the .in file requires colours"),
    ],
)
def test_file_that_is_not_closed(tmp_path, replaced, by, problem):
    """The problem names the package, and the package that requires it."""
    assert replaced in SMALL_PINNED
    findings = check_small(tmp_path, "3.10", SMALL_PINNED.replace(replaced, by))
    assert any(problem in it for it in findings.problems), findings


def test_extra_of_the_in_file_is_followed(tmp_path):
    """The pinned file does not name extras; the file that it was compiled from does."""
    pinned = "coverage==7.17.4 --hash=sha256:02"
    assert check_small(tmp_path, "3.10", pinned, "coverage").problems == []
    assert check_small(tmp_path, "3.10", pinned, "coverage[toml]").problems == [
        "tomli is not pinned: coverage requires tomli"
    ]


def test_versions_that_are_not_installed_are_unknown(tmp_path):
    """Only the environment of the file itself knows what they require."""
    findings = check_small(tmp_path, "3.11", "coverage==7.17.5 --hash=sha256:02", "coverage")
    assert findings == Findings(unknown={"coverage"})


def test_file_that_names_another_is_refused(tmp_path):
    """Then pip would read the other file too."""
    with pytest.raises(ValueError, match="should name packages only"):
        check_small(tmp_path, "3.11", "-r other.txt\n")


def test_environment_that_differs_from_its_file(tmp_path):
    """Each difference is a problem, and so is a project that is not installed."""
    (tmp_path / "small.in").write_text("coverage", encoding="utf-8")
    pinned_file = tmp_path / "small.txt"
    pinned_file.write_text("coverage==7.17.4\nabsent==1\n", encoding="utf-8")
    installed = {
        "coverage": Distribution("7.17.5"),
        "stray": Distribution("3"),
        "pip": Distribution("23.0.1"),
        "setuptools": Distribution("65.5.0"),
    }
    assert sorted(check_environment(pinned_file, installed)) == [
        "absent 1 is pinned and not installed",
        "coverage 7.17.4 is pinned, and 7.17.5 is installed",
        f"{PROJECT} is not installed",
        "stray 3 is installed and not pinned",
    ]


def test_program_fails_with_one_line_for_each_problem(tmp_path, capsys):
    """Then make stops there."""
    (tmp_path / "small.in").write_text("no-such-package", encoding="utf-8")
    pinned_file = tmp_path / "small.txt"
    pinned_file.write_text("no-such-package==1\n", encoding="utf-8")
    done = run_command([sys.executable, str(ROOT / "requirements/check.py"), str(pinned_file)])
    assert done.returncode == 1
    first, *problems = done.stderr.splitlines()
    assert first == f"{pinned_file} does not describe this environment:"
    assert "no-such-package 1 is pinned and not installed" in problems


def test_program_accepts_the_environment_of_its_file(own_file):
    """It prints nothing."""
    done = run_command([sys.executable, str(ROOT / "requirements/check.py"), str(own_file)])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_pip_resolves_nothing_in_the_makefile():
    """Each call of `pip install` there leaves dependencies alone."""
    calls = [line for line in MAKEFILE.splitlines() if "pip install $(quietly)" in line]
    assert len(calls) == 3
    assert all("--no-deps" in line for line in calls)
    assert MAKEFILE.count("pip install") == len(calls) + MAKEFILE.count("`pip install`")
