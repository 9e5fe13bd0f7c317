"""Rocketry's own tests, with its handler and with ours: no test may fail with ours alone.

In: the tests that Rocketry's wheel brings. Out: exit status 0 if each test that fails with the
combined handler also fails with Red Bird's own. Many of these tests depend on time, so a test that
failed with ours alone is run again with both before it counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
ALWAYS = ["tests.rocketry_suite.coroutines", "tests.rocketry_suite.results"]
OURS = "tests.rocketry_suite.plugin"
# There are about 1,800 of them. Fewer than this, and most were not run.
_FEWEST = 1_500


def run(folder: Path, tests: list[str], *, with_ours: bool) -> dict[str, str]:
    """Run tests of Rocketry's and return the outcome of each.

    Args:
        folder: An empty folder, in which the tests leave their files.
        tests: Their ids, relative to the folder of Rocketry's tests; none for all.
        with_ours: Whether the combined handler takes the place of Red Bird's.
    """
    folder.mkdir()
    spec = find_spec("rocketry")
    assert spec is not None
    assert spec.origin is not None
    suite = Path(spec.origin).parent / "test"
    plugins = [OURS, *ALWAYS] if with_ours else ALWAYS
    command = [sys.executable, "-m", "pytest", "-c", str(suite / "pytest.ini"), "-q", "-n", "2"]
    command += ["-o", "log_cli=0", "-p", "no:cacheprovider", "--no-header", "--tb=short"]
    command += [part for plugin in plugins for part in ("-p", plugin)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RESULTS_FILE": str(folder / "results.json"),
    }
    handler = "OTelRepoHandler" if with_ours else "RepoHandler"
    print(f"Rocketry's own tests with {handler}:", flush=True)
    done = subprocess.run(
        [*command, *[str(suite / test) for test in tests or [""]]],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    results = folder / "results.json"
    if not results.exists():
        sys.exit(f"pytest did not come to its end:\n{done.stdout}")
    print(done.stdout.strip().rpartition("\n")[2], flush=True)
    outcomes: dict[str, str] = json.loads(results.read_text(encoding="utf-8"))
    return outcomes


def failed(outcomes: dict[str, str]) -> set[str]:
    """Return the ids of the tests that failed."""
    return {name for name, outcome in outcomes.items() if outcome == "failed"}


def main() -> int:
    """Compare, and print the tests that fail with the combined handler alone."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        plain = run(folder / "plain", [], with_ours=False)
        ours = run(folder / "ours", [], with_ours=True)
        if len(ours) < _FEWEST or ours.keys() != plain.keys():
            print(f"Not the same tests were run: {len(plain)} and {len(ours)}")
            return 1
        alone = failed(ours) - failed(plain)
        if alone:
            print("Run again, for they failed with ours alone:", *sorted(alone), sep="\n  ")
            again = sorted(alone)
            alone = failed(run(folder / "ours-again", again, with_ours=True))
            alone -= failed(run(folder / "plain-again", again, with_ours=False))
    if alone:
        print("FAILED with OTelRepoHandler alone:", *sorted(alone), sep="\n  ")
        return 1
    both = len(failed(plain) & failed(ours))
    print(f"No test fails with OTelRepoHandler alone; {both} fail with either handler.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
