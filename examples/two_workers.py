"""Two workers on one PostgreSQL database: each has its tasks, and all records are in one table.

    export ROCKETRY_OTEL_REPO=postgresql+psycopg://user:password@host/database
    python two_workers.py orders &
    python two_workers.py reports &
    python two_workers.py history

The worker `reports` waits for a task of the worker `orders`: it looks for its success in the table.
If one of them is killed, the other closes its open runs and sends what it has left unsent.
"""

from __future__ import annotations

import os
import sys

from rocketry import Rocketry

from rocketry_otel import instrument, open_repository


def orders() -> Rocketry:
    """Return the worker that loads orders."""
    app = Rocketry(execution="thread")
    instrument(app)

    @app.task("every 10 minutes")
    def load_orders() -> None:
        pass

    return app


def reports() -> Rocketry:
    """Return the worker that makes a report of each load."""
    app = Rocketry(execution="thread")
    repo = instrument(app).repo

    @app.cond()
    def new_orders_are_there() -> bool:
        loaded = repo.filter_by(task_name="load_orders", action="success").last()
        reported = repo.filter_by(task_name="make_report", action="run").last()
        return bool(loaded and (not reported or reported.created < loaded.created))

    @app.task(new_orders_are_there)
    def make_report() -> None:
        pass

    return app


def show_history() -> None:
    """Print the records of both workers, without changing anything."""
    repo = open_repository(os.environ["ROCKETRY_OTEL_REPO"], read_only=True)
    for record in sorted(repo.filter_by().all(), key=lambda record: record.created):
        print(record.task_name, record.action, record.trace_id)


if __name__ == "__main__":
    role = sys.argv[1]
    if role == "history":
        show_history()
    else:
        {"orders": orders, "reports": reports}[role]().run()
