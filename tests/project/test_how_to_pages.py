"""The blocks of the pages by task, and of those for people who come from elsewhere, work."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.otlp_receiver import OTLPReceiver
from tests.support.page_runs import run_block
from tests.support.pages import blocks, text_of

(by_url, ask, by_sqlite, own_repository) = blocks("docs/repositories.md", "python")
(without_messages, card_filter) = blocks("docs/privacy.md", "python")
(beside_fastapi,) = blocks("docs/servers.md", "python")
(as_the_handbook, instead, by_sql, query) = blocks("docs/from-rocketry-logging.md", "python")

ETL_FAILS = """
@app.task("every 1 hour", execution="main")
def etl():
    raise ValueError("no rows")

app.run()
"""


def test_repository_of_a_url_is_read_by_other_programs(tmp_path: Path) -> None:
    """By this project, and by any other with SQLite."""
    run_block(by_url, tmp_path, after=ETL_FAILS)
    shown = run_block(ask + by_sqlite, tmp_path)
    failures, rows = shown.splitlines()
    assert ast.literal_eval(failures) == ["etl"]
    assert ast.literal_eval(rows) == [("etl", None), ("etl", "ValueError")]


def test_repository_of_ones_own_gets_the_fields_of_its_model(tmp_path: Path) -> None:
    """A model of Rocketry's, in a CSV file."""
    run_block(own_repository, tmp_path, after=ETL_FAILS)
    heading, *rows = (tmp_path / "tasks.csv").read_text(encoding="utf-8").splitlines()
    assert {"task_name", "action", "created", "run_id"} <= set(heading.split(","))
    assert len(rows) == 2


def test_secrets_do_not_leave(tmp_path: Path) -> None:
    """Neither that of an exception nor, with the filter, that of a log line."""
    line = "logging.getLogger('shop').warning('card 4111 1111 1111 1111')"
    log = f"{card_filter}\n@app.task('every 1 hour')\ndef log():\n    {line}\n"
    switched_on = without_messages.replace('exceptions="type"', 'exceptions="type", log_lines=True')
    assert switched_on != without_messages
    with OTLPReceiver(grpc=False) as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
        after = f"{log}logging.lastResort = logging.NullHandler()\napp.run()"
        run_block(switched_on, tmp_path, after=after, env=env)
    names = {it.span.name for it in receiver.spans}
    assert names == {"run pay", "run log"}
    sent = f"{receiver.trace_requests}{receiver.log_requests}"
    assert "ValueError" in sent
    assert "card [card]" in sent
    assert "4111 1111" not in sent


def test_scheduler_beside_fastapi_runs_and_ends(tmp_path: Path) -> None:
    """A request asks for a run, and the lifespan ends the scheduler."""
    pytest.importorskip("fastapi")
    use = """
async def use() -> None:
    async with lifespan(api):
        await ask()
        while not app.session["refresh"].logger.filter_by(action="success").all():
            await asyncio.sleep(0.05)

asyncio.run(use())
print("ended")
"""
    assert run_block(beside_fastapi, tmp_path, after=use) == "ended\n"


def test_handler_as_the_handbook_adds_it_is_not_read(tmp_path: Path) -> None:
    """Rocketry reads another repository, though the file has the records; we warn of it."""
    after = """
@app.task("every 1 hour")
def do_things() -> None: ...

app.run()
first = next(each for each in logger.handlers if hasattr(each, "repo"))
print(first is handler, len(handler.repo.filter_by().all()))
"""
    assert run_block(as_the_handbook, tmp_path, before=QUIET, after=after) == "False 2\n"


# Without it, the warning goes to the output of errors.
QUIET = "import logging\nlogging.getLogger('rocketry_otel').setLevel(logging.ERROR)"


@pytest.mark.parametrize("code", [instead, by_sql], ids=["CSV", "SQL"])
def test_handler_in_its_place_is_read_after_a_restart(code: str, tmp_path: Path) -> None:
    """A query through the handler and through the task finds the run; a second process, too."""
    assert run_block(code, tmp_path, after=f"app.run()\n{query}") == "1 1\n"
    status = "app.session['do_things'].set_cached()\nprint(app.session['do_things'].status)"
    assert run_block(code, tmp_path, after=status) == "success\n"


@pytest.mark.parametrize("page", ["docs/from-celery.md", "docs/from-apscheduler.md"])
def test_metrics_and_settings_of_a_translation_exist(page: str) -> None:
    """Names of ours in the tables are those of the reference."""
    reference = text_of("docs/telemetry.md") + text_of("docs/settings.md")
    for name in re.findall(r"`(rocketry\.[a-z_.]+|ROCKETRY_OTEL_[A-Z_]+)[=`]", text_of(page)):
        assert name in reference


def test_record_models_of_rocketry_exist() -> None:
    """As the page on Rocketry's logging names them."""
    import rocketry.log  # noqa: PLC0415  # imported where it is needed

    text = text_of("docs/from-rocketry-logging.md")
    names = set(re.findall(r"`(?:rocketry\.log\.)?(\w+Record)`", text)) - {"TaskEventRecord"}
    assert names >= {"MinimalRecord", "LogRecord", "TaskLogRecord", "TaskRunRecord"}
    assert [name for name in names if not hasattr(rocketry.log, name)] == []
