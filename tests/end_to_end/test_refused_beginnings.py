"""The repository refuses the beginning of a run and takes its ending: the span is not lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocketry_otel import open_repository, replay
from tests.support.otlp_receiver import Ok, OTLPReceiver, Status, attributes_of
from tests.support.program import Program

# What Rocketry logs if the beginning of a run cannot be logged: a failure without a run id. The
# process dies while the collector is away.
FIRST = """
    import logging, os, sys, time
    from rocketry_otel import OTelRepoHandler, open_repository

    logger = logging.getLogger("rocketry.task")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = OTelRepoHandler(open_repository(os.environ["ROCKETRY_OTEL_REPO"]))
    logger.addHandler(handler)

    def log(action, run_id=None):
        names = {} if run_id is None else {"run_id": run_id, "start": time.time()}
        logger.info(action, extra={"task_name": "etl", "action": action, **names})

    def refuse(record):
        raise OSError("the database is away")

    if "EARLIER" in os.environ:
        log("run", "a")
        log("success", "a")
    write, handler.write = handler.write, refuse
    try:
        log("run", "b")
    except OSError as error:
        print("refused", error, flush=True)
    handler.write = write
    log("fail")
    os._exit(1)
"""
NEXT = """
    from rocketry import Rocketry
    from rocketry_otel import instrument

    app = Rocketry(execution="main")
    instrument(app)
    app.run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [0, 1])
def test_ending_without_a_stored_beginning_gets_its_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: int
) -> None:
    """The next process sends it, also after an earlier run in the same thread; so does a replay."""
    url = f"sqlite:///{tmp_path / 'tasks.db'}"
    with OTLPReceiver() as receiver:
        receiver.behave(Status(503))
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "OTEL_METRICS_EXPORTER": "none",
            "ROCKETRY_OTEL_REPO": url,
            **({"EARLIER": "1"} if earlier else {}),
        }
        with Program.of_script(FIRST, tmp_path, env) as program:
            assert program.wait_for_line("refused") == "the database is away"
            assert program.wait() == 1
        stored = open_repository(url).filter_by(task_name="etl").all()
        assert [record.action for record in stored] == ["run", "success"] * earlier + ["fail"]
        expected = {(it.trace_id, it.span_id, it.action) for it in stored if it.action != "run"}
        assert len(expected) == 1 + earlier

        receiver.behave(Ok())
        with Program.of_script(NEXT, tmp_path, env):
            assert receiver.wait_for(lambda it: spans_of(it, "etl") >= expected, 60)
        assert spans_of(receiver, "etl") == expected

        receiver.clear()
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        result = replay(open_repository(url))
        assert result.complete
        assert result.notes == ("failures without a traceback: 1",)
        assert spans_of(receiver, "etl") == expected


def spans_of(receiver: OTLPReceiver, task_name: str) -> set[tuple[str, str, str]]:
    """Return trace id, span id and action of the spans that have arrived."""
    attributes = [(it.span, attributes_of(it.span.attributes)) for it in receiver.spans]
    return {
        (span.trace_id.hex(), span.span_id.hex(), its["rocketry.action"])
        for span, its in attributes
        if its["task_name"] == task_name
    }
