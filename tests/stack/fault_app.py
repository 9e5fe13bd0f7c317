"""An application whose one task follows a file, so that a test can play faults.

``python fault_app.py FILE``: the task reads ``fail`` or ``hang`` there, and succeeds where there
is no file. It runs until it is ended.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from rocketry import Rocketry
from rocketry.conds import every

from rocketry_otel import instrument

logging.getLogger("rocketry").setLevel(logging.CRITICAL)


def main(file: Path) -> None:
    """Run the application."""
    app = Rocketry(config={"cycle_sleep": 0.02})

    @app.task(every("300 ms"), name="etl", execution="thread")
    def etl() -> None:
        what = file.read_text(encoding="utf-8") if file.exists() else ""
        if what == "fail":
            raise RuntimeError("on demand")
        while what == "hang" and file.exists():
            time.sleep(0.05)

    instrument(app)
    app.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
