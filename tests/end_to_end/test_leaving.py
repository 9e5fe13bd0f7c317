"""The end of a scheduler and of its program: nothing is sent twice, and no outage is waited for."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from rocketry_otel import Settings, instrument, open_repository
from tests.support.apps import make_app, run_tasks
from tests.support.otlp_receiver import Ok, OTLPReceiver, Slow, Status, attributes_of
from tests.support.program import Program

pytestmark = pytest.mark.slow

RESTARTS = """
    import os
    from rocketry import Rocketry
    from rocketry.args import Session
    from rocketry_otel import instrument

    app = Rocketry(execution="main", config={"cycle_sleep": 0.001})
    count = 0

    @app.task("every 1 ms")
    def often(session=Session()):
        global count
        count += 1
        if count == 20:
            if os.path.exists("restarted"):
                session.shut_down()
            else:
                open("restarted", "w").close()
                session.restart()

    instrument(app)
    app.run()
    print("end", flush=True)
"""
OUTAGE = """
    import time
    from rocketry import Rocketry
    from rocketry.args import Session
    from rocketry_otel import instrument

    app = Rocketry(execution="main", config={"cycle_sleep": 0.001})

    @app.task("every 1 ms")
    def often(session=Session()):
        if handler.delivery.traces.last_error:
            session.shut_down()

    handler = instrument(app)
    app.session.hooks.scheduler_shutdown.append(lambda: print("ends", time.time(), flush=True))
    app.run()
"""

ONE_RUN = """
    import os
    from rocketry import Rocketry
    from rocketry.conds import daily
    from rocketry_otel import instrument

    app = Rocketry(execution="main", config={"cycle_sleep": 0.001})

    @app.task(daily)
    def once():
        pass

    def look():
        if app.session["once"].status == "success":
            print("done", flush=True)
            if os.environ["ENDING"] == "by itself":
                app.session.shut_down()

    instrument(app)
    app.session.hooks.scheduler_cycle.append(look)
    app.run()
"""


def test_planned_restart_sends_nothing_twice(tmp_path: Path) -> None:
    """The process is replaced: its successor finds an orderly end."""
    with OTLPReceiver(grpc=False) as receiver:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "ROCKETRY_OTEL_REPO": "sqlite:///tasks.db",
        }
        with Program.of_script(RESTARTS, tmp_path, env) as program:
            program.wait_for_line("end")
            assert program.wait() == 0
        counts = Counter(it.span.span_id for it in receiver.spans)
        assert (len(counts), max(counts.values())) == (40, 1)
        assert len(receiver.log_records) == 80


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("ending", ["by itself", "SIGTERM"])
def test_last_metrics_have_what_was_delivered(tmp_path: Path, ending: str, protocol: str) -> None:
    """The span and the two records of the only run are sent at the end, and counted."""
    with OTLPReceiver() as receiver:
        is_grpc, is_killed = protocol == "grpc", ending == "SIGTERM"
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": (
                receiver.grpc_endpoint if is_grpc else receiver.http_endpoint
            ),
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "ENDING": ending,
        }
        # A collector that is far away.
        receiver.behave(lambda _, signal: Ok() if signal == "metrics" else Slow(0.3))
        with Program.of_script(ONE_RUN, tmp_path, env) as program:
            program.wait_for_line("done")
            if is_killed:
                program.process.send_signal(signal.SIGTERM)
            assert program.wait() == (-signal.SIGTERM if is_killed else 0)
        assert (len(receiver.spans), len(receiver.log_records)) == (1, 2)
        points = [
            (attributes_of(point.attributes)["signal"], point.as_int)
            for it in receiver.metrics
            if it.metric.name == "rocketry.bridge.delivered"
            for point in it.metric.sum.data_points
        ]
        # The newest of each signal is the last.
        assert dict(points) == {"traces": 1, "logs": 2}


@pytest.mark.parametrize("repo", ["sqlite:///tasks.db", "memory://"])
def test_known_outage_is_not_waited_for(tmp_path: Path, repo: str) -> None:
    """A durable repository has what waits; one in memory is worth the shutdown time-out."""
    with OTLPReceiver(grpc=False) as receiver:
        receiver.behave(Status(503))
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "1",
            "ROCKETRY_OTEL_REPO": repo,
            "ROCKETRY_OTEL_SHUTDOWN_TIMEOUT": "4",
        }
        with Program.of_script(OUTAGE, tmp_path, env) as program:
            ends = float(program.wait_for_line("ends"))
            assert program.wait() == 0
            took = time.time() - ends
        if repo == "memory://":
            # The end of the scheduler and that of the program share the time.
            assert 3.9 <= took < 7
        else:
            assert took < 3


def test_scheduler_that_starts_again_has_its_time_again(tmp_path: Path) -> None:
    """The end of a scheduler is not that of the program."""
    app = make_app()
    app.session.create_task(func=lambda: None, name="etl", execution="main")
    repo = open_repository(f"sqlite:///{tmp_path}/tasks.db")
    handler = instrument(app, repo=repo, settings=Settings(shutdown_timeout=0.2, sigterm=False))
    pipeline = handler._bridge.pipeline
    run_tasks(app, "etl")  # nothing listens at the default endpoint
    assert pipeline.shutdown_timeout < 0.2
    handler._bridge.start([])
    assert pipeline.shutdown_timeout == 0.2
    handler.close()
