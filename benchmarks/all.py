"""Runs all benchmarks, one after the other, and keeps their results.

``--only NAME`` runs one of them. ``--smoke`` shows that they work and measures nothing; it leaves
out what takes long even so. ``--json FOLDER`` keeps a file for each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# Whether the smoke test leaves it out.
BENCHMARKS = {
    "cost_of_a_run": False,
    "cost_of_a_repository": False,
    "latency": True,
    "leaving": True,
    "replaying": False,
    "catching_up": True,
    "queries": False,
    "start_up": True,
    "scale": False,
    "why": False,
    "many_runs": True,
    "import_time": False,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="show that they work")
    parser.add_argument("--large", action="store_true", help="the sizes that take long, too")
    parser.add_argument("--only", choices=BENCHMARKS, help="run one of them")
    parser.add_argument("--json", type=Path, help="keep the results in this folder")
    options = parser.parse_args()
    failed = []
    for name, takes_long in BENCHMARKS.items():
        if options.only not in {None, name} or (options.smoke and takes_long and not options.only):
            continue
        command = [sys.executable, "-W", "ignore", str(HERE / f"{name}.py")]
        command += ["--smoke"] if options.smoke else []
        command += ["--large"] if options.large and name != "cost_of_a_run" else []
        if options.json:
            options.json.mkdir(parents=True, exist_ok=True)
            command += ["--json", str(options.json / f"{name}.json")]
        print(f"== {name}", flush=True)
        began = time.monotonic()
        if subprocess.run(command, check=False).returncode:  # noqa: S603  # ours
            failed.append(name)
        print(f"== {name}: {time.monotonic() - began:.0f} s\n", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
