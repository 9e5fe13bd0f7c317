"""An application in which one task keeps the scheduler, so that another one misses its slots.

``python late_app.py RUNS REPOSITORY``: ``ticker`` is due once a second. Every second run of it,
but for the last, asks for ``blocker``, which runs for more than two seconds. The application ends
after so many runs. It prints the records of the repository, as a line of JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import time

from rocketry import Rocketry
from rocketry.conds import secondly

from rocketry_otel import instrument, open_repository

logging.getLogger("rocketry").setLevel(logging.CRITICAL)
SECONDS = 2.2


def main(runs: int, url: str) -> None:
    """Run the application."""
    app = Rocketry(config={"cycle_sleep": 0.02, "execution": "main"})
    ticks = []

    def tick() -> None:
        ticks.append(time.time())
        if len(ticks) == runs:
            app.session.shut_down()
        elif len(ticks) % 2 == 0:
            app.session["blocker"].run()

    app.task(secondly, name="ticker", func=tick)
    app.task(name="blocker", func=lambda: time.sleep(SECONDS))
    repo = open_repository(url)
    handler = instrument(app, repo=repo)
    app.run()
    flushed = handler.flush(60)
    records = [record.dict() for record in repo.filter_by().all()]
    sys.stdout.write(json.dumps({"flushed": flushed, "records": records}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
