"""A scheduler in the cells of a notebook, with a real kernel in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

from tests.support.otlp_receiver import OTLPReceiver, attributes_of
from tests.support.pages import blocks
from tests.support.processes import clean_environment

(app, serve, end, in_thread, end_thread, look) = blocks("docs/notebooks.md", "python")

DRIVER = Path(__file__).with_name("drive.py")
RESTART = ""
# Two runs have ended; their ids.
TWO_RUNS = """
def ended():
    return [it.run_id for it in app.session["etl"].logger.filter_by(action="success").all()]

while len(ended()) < 2:
    await asyncio.sleep(0.05)
print(*ended())
"""
AFTER_TWO_RUNS = """
from rocketry.args import Task

@app.task("every 100 ms")
async def stop(this=Task()) -> None:
    if len(handler.repo.filter_by(task_name="etl", action="success").all()) >= 2:
        this.session.shut_down()
"""
# Nothing is sent before it must be.
LATE = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_BLRP_SCHEDULE_DELAY": "3600000"}


def run_cells(
    cells: list[str], folder: Path, receiver: OTLPReceiver, *program: str, **added: str
) -> list[str]:
    """Return what each cell has printed, without those that restart the kernel.

    The program and the variables that are added start the kernel.
    """
    python = Path(os.environ["NOTEBOOK_PYTHON"])
    env = {**added, **LATE, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
    # The folders of Jupyter and IPython, and no configuration of the user's.
    env |= {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
    done = subprocess.run(
        [*(str(python.with_name(name)) for name in program), str(python), str(DRIVER)],
        input=json.dumps(cells),
        env=clean_environment(env),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert isinstance(shown, list)
    return shown


def runs_of(receiver: OTLPReceiver) -> list[str]:
    """Return the run ids of the spans."""
    return [attributes_of(it.span.attributes)["rocketry.run_id"] for it in receiver.spans]


def test_restart_of_a_kernel_sends_what_waits(tmp_path: Path) -> None:
    """While the scheduler runs in the kernel's loop, and in a thread; each run is recorded once.

    The repository is in memory, so no later process could send the runs.
    """
    with OTLPReceiver(grpc=False) as receiver:
        lives = [app, serve, TWO_RUNS, RESTART, app, in_thread, TWO_RUNS]
        shown = run_cells(lives, tmp_path, receiver)
    assert [bool(text) for text in shown] == [False, False, True, False, False, True]
    ids = shown[2].split() + shown[5].split()
    assert len(ids) >= 4
    assert set(ids) <= set(runs_of(receiver))
    assert max(Counter(runs_of(receiver)).values()) == 1
    attributes = [attributes_of(it.log_record.attributes) for it in receiver.log_records]
    logged = Counter((it.get("rocketry.run_id"), it.get("rocketry.action")) for it in attributes)
    assert max(logged.values()) == 1
    assert {(run_id, "success") for run_id in ids} <= set(logged)


def test_cells_of_the_page_work_in_their_order(tmp_path: Path) -> None:
    """The scheduler ends and starts again; a cell that awaits it is busy until it ends."""
    with OTLPReceiver(grpc=False) as receiver:
        cells = [app, serve, TWO_RUNS, end, in_thread, end_thread, look]
        cells += [AFTER_TWO_RUNS, "await app.serve()", look, "handler.flush()", look]
        shown = run_cells(cells, tmp_path, receiver)
    outputs = [text for text in shown if text]
    assert shown == ["", "", outputs[0], "", "", "", outputs[1], "", "", outputs[2], "", outputs[3]]
    looks = [text.split() for text in outputs[1:]]
    assert all(int(ended) >= 2 for ended, _ in looks)
    # The end of a scheduler has sent everything.
    assert {waiting for _, waiting in looks} == {"0"}
    assert max(Counter(runs_of(receiver)).values()) == 1
    assert len(receiver.spans) == int(looks[-1][0])


def test_kernel_without_a_change_of_code_is_recorded(tmp_path: Path) -> None:
    """By its server, which `opentelemetry-instrument` starts."""
    plain = app.replace("from rocketry_otel import instrument\n", "")
    plain = plain.replace("handler = instrument(app)\n", "")
    with OTLPReceiver(grpc=False) as receiver:
        cells = [plain, serve, TWO_RUNS, end]
        shown = run_cells(
            *(cells, tmp_path, receiver, "opentelemetry-instrument"),
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
    assert [bool(text) for text in shown] == [False, False, True, False]
    assert set(shown[2].split()) <= set(runs_of(receiver))
    assert max(Counter(runs_of(receiver)).values()) == 1
