"""Several processes on one repository: each run ends once, as the process that has it knows."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rocketry_otel import open_repository
from tests.support.otlp_receiver import OTLPReceiver, attributes_of
from tests.support.program import Program

pytestmark = pytest.mark.slow

# A task with so many runs that go on until there is a file "go"; none begins after the first cycle.
WORKER = """
    import os, socket, threading, time
    from pathlib import Path

    host = os.environ.get("HOST", socket.gethostname())
    socket.gethostname = lambda: host

    from rocketry import Rocketry
    from rocketry_otel import instrument

    app = Rocketry(execution="thread", config={"cycle_sleep": 0.01, "multilaunch": True})
    begun = threading.Barrier(int(os.environ["RUNS"]) + 1)

    @app.task(name="etl")
    def etl():
        begun.wait()
        while not Path("go").exists():
            time.sleep(0.01)

    def cycle():
        # Rocketry reads its state, and logs crashes, before the first cycle.
        app.session.hooks.scheduler_cycle.remove(cycle)
        print("started", flush=True)
        for _ in range(int(os.environ["RUNS"])):
            app.session["etl"].run()

    def report():
        begun.wait()
        print("begun", flush=True)
        while not Path("stop").exists():
            time.sleep(0.01)
        app.session.shut_down()

    app.session.hooks.scheduler_cycle.append(cycle)
    instrument(app)
    threading.Thread(target=report, daemon=True).start()
    app.run()
"""


class Workers:
    """Processes on one repository, which send to one receiver.

    Args:
        directory: Their working directory.
        url: The repository.
        receiver: The receiver.
    """

    def __init__(self, directory: Path, url: str, receiver: OTLPReceiver) -> None:
        self.directory = directory
        self.url = url
        self.receiver = receiver

    def start(self, runs: int = 0, state: str = "state", **env: str) -> Program:
        """Start a worker that begins so many runs, with the state in this folder."""
        worker = Program.of_script(
            WORKER,
            self.directory,
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.http_endpoint,
                "OTEL_BSP_SCHEDULE_DELAY": "50",
                "OTEL_BLRP_SCHEDULE_DELAY": "50",
                "ROCKETRY_OTEL_REPO": self.url,
                "ROCKETRY_OTEL_STATE_DIR": str(self.directory / state),
                "RUNS": str(runs),
                **env,
            },
        )
        worker.wait_for_line("begun" if runs else "started")
        return worker

    def stop(self, *workers: Program, let_runs_end: bool = True) -> None:
        """Let workers end, and their runs."""
        if let_runs_end:
            (self.directory / "go").touch()
        (self.directory / "stop").touch()
        for worker in workers:
            assert worker.wait() == 0
        (self.directory / "stop").unlink()

    @staticmethod
    def kill(worker: Program) -> None:
        """Kill a worker."""
        worker.process.send_signal(signal.SIGKILL)
        assert worker.wait() == -signal.SIGKILL

    def actions(self) -> list[str]:
        """Return the actions of the records, in their order."""
        return [record.action for record in open_repository(self.url).filter_by().all()]

    def await_spans(self, count: int) -> None:
        """Wait for so many spans."""
        assert self.receiver.wait_for(
            lambda it: len({one.span.span_id for one in it.spans}) >= count, 30
        ), self.endings()

    def endings(self) -> list[Any]:
        """Return how each run has ended, by its spans; each time that one came, it was the same.

        A process that was killed may have sent what is sent again.
        """
        sent = {it.span.SerializeToString(): it.span for it in self.receiver.spans}
        assert len({span.span_id for span in sent.values()}) == len(sent)
        return [attributes_of(span.attributes)["rocketry.action"] for span in sent.values()]


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """A receiver."""
    with OTLPReceiver(grpc=False) as receiver:
        yield receiver


@pytest.fixture(params=["sqlite", "csv", "postgresql"])
def workers(
    request: pytest.FixtureRequest,
    make_url: Callable[[str], str],
    receiver: OTLPReceiver,
    tmp_path: Path,
) -> Workers:
    """Workers on each kind of repository."""
    return Workers(tmp_path, make_url(request.param), receiver)


@pytest.mark.parametrize("state", ["state", "other"])
def test_run_of_a_living_process_is_no_crash(workers: Workers, state: str) -> None:
    """A rolling deploy: Rocketry logs a crash when the second worker starts."""
    with workers.start(1) as first, workers.start(state=state) as second:
        assert workers.actions() == ["run", "crash"]
        workers.stop(first, second)
    workers.await_spans(1)
    assert workers.endings() == ["success"]
    assert workers.actions() == ["run", "crash", "success"]
    began, crash, ended = open_repository(workers.url).filter_by().all()
    assert began.trace_id == ended.trace_id != crash.trace_id
    # With another state, it is not known what was sent.
    records = {it.log_record.SerializeToString() for it in workers.receiver.log_records}
    assert len(records) == 3


def test_run_of_another_host_is_closed_there(workers: Workers) -> None:
    """This host's crash ends nothing; the other host closes the run when it is back."""
    with workers.start(1, HOST="there") as first:
        workers.kill(first)
    with workers.start(state="here", HOST="here") as second:
        assert workers.actions() == ["run", "crash"]
        workers.stop(second, let_runs_end=False)
    assert workers.endings() == []
    with workers.start(HOST="there") as again:
        workers.await_spans(1)
        workers.stop(again)
    assert workers.endings() == ["crash"]
    attributes = attributes_of(workers.receiver.spans[0].span.attributes)
    assert attributes["host.name"] == "there"
    assert attributes["process.pid"] == first.process.pid
    assert workers.actions() == ["run", "crash"]


def test_each_run_of_a_killed_process_is_closed_once(workers: Workers) -> None:
    """Rocketry logs a crash of the newest one alone."""
    with workers.start(3) as first:
        workers.kill(first)
    with workers.start() as second:
        workers.await_spans(3)
        workers.stop(second)
    assert workers.actions() == ["run", "run", "run", "crash"]
    with workers.start() as third:
        workers.stop(third)
    assert workers.endings() == ["crash", "crash", "crash"]
    assert workers.actions() == ["run", "run", "run", "crash"]


def test_living_process_closes_the_runs_of_a_killed_one(workers: Workers) -> None:
    """Nothing need start again for it."""
    with workers.start() as other, workers.start(2) as one:
        workers.kill(one)
        workers.await_spans(2)
        workers.stop(other)
    assert workers.endings() == ["crash", "crash"]
    assert workers.actions() == ["run", "run"]
    assert list(workers.directory.glob("state/*/scheduler-*.lock")) == []
