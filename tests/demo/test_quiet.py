"""Loggers, warnings and Rocketry during the demo."""

import logging
import warnings

import pytest
import rocketry

from rocketry_otel._demo import tasks
from rocketry_otel._demo.quiet import RunCounter, quiet
from tests.demo.loggers import state_of_loggers


def test_quiet_keeps_warnings_once():
    """Warnings of ours and OpenTelemetry's are kept, each once; Rocketry's words are dropped."""
    with quiet() as kept:
        logging.getLogger("rocketry_otel").warning("a %s", "thing")
        logging.getLogger("rocketry_otel.x").warning("a thing")
        logging.getLogger("rocketry_otel").info("not this")
        logging.getLogger("opentelemetry.sdk").error("another")
        logging.getLogger("rocketry.scheduler").critical("noise")
        logging.getLogger("shop").critical("noise")
        warnings.warn("noise", UserWarning, stacklevel=1)

    assert kept.texts == ["a thing", "another"]


def test_quiet_undoes_everything_after_an_error():
    """Whatever happens, the loggers and Rocketry's default session are as before."""
    before = (state_of_loggers(), rocketry.session)

    def fail():
        tasks.make_app("127.0.0.1:1").session.set_as_default()
        logging.getLogger("rocketry.task").setLevel(logging.CRITICAL)
        raise RuntimeError

    with pytest.raises(RuntimeError), quiet():
        fail()

    assert (state_of_loggers(), rocketry.session) == before


def test_run_counter():
    """Runs are counted when they begin and end; a crash of an earlier process ends none of them."""
    counter = RunCounter()
    counters = []
    for action in ("crash", "run", "run", "success", "fail"):
        counter.emit(logging.makeLogRecord({"action": action, "task_name": f"to {action}"}))
        counters.append((counter.ended, counter.in_flight))

    assert counters == [(1, 0), (1, 1), (1, 2), (2, 1), (3, 0)]
    assert counter.tasks == {"to crash", "to success", "to fail"}
