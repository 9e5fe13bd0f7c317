"""What is not to be sent is not sent again either, and signals do not wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.arrivals import span_key
from tests.support.committed import Committed, Store
from tests.support.otlp_receiver import Ok, Status
from tests.support.scenario import Scenario, trial

from .shared import SMALL_QUEUES, full_run

LOW_BITS = 2**64


class Chosen(Scenario):
    """A scenario in which not all committed records are to arrive."""

    chosen: Callable[[str, Committed], bool]

    def missing(self, committed: object) -> list[tuple[str, Committed]]:
        """Return the items that have not arrived and are due."""
        missing = super().missing(committed)  # type: ignore[arg-type]
        return [(signal, one) for signal, one in missing if self.chosen(signal, one)]


def overflow_and_kill(one: Scenario) -> None:
    """Let the queues overflow twice: in a process that is killed and in one that is not."""
    one.collector.stop()
    generation = one.begin()
    generation.await_records()
    one.kill(generation)
    generation = one.begin()
    generation.await_records()
    generation.pause()
    one.collector.get_well()
    one.settle()
    assert generation.say("flush", 20) is True
    status = generation.say("delivery")
    assert status["traces"]["waiting"] == status["logs"]["waiting"] == 0


def is_sampled(signal: str, one: Committed) -> bool:
    """Return whether OpenTelemetry's ratio sampler samples a span at a ratio of one half."""
    return signal == "logs" or int(one.trace_id, 16) % LOW_BITS < LOW_BITS // 2


@full_run
def test_unsampled_runs_are_not_sent_again(
    make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """A dropped run has no span, however often it is sent, and nothing waits for it."""
    sampler = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    with trial(tmp_path, make_store("sqlite"), kind=Chosen, **sampler, **SMALL_QUEUES) as one:
        assert isinstance(one, Chosen)
        one.chosen = is_sampled
        overflow_and_kill(one)
        delivered = one.check()
        ended = [record for record in one.committed() if record.action != "run"]
        kept = {span_key(record) for record in ended if is_sampled("traces", record)}
        assert delivered.spans.keys() == kept
        assert 0 < len(kept) < len(ended)


@full_run
def test_excluded_tasks_are_not_sent_again(
    make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """They must not leave the machine later either."""
    excluded = {"ROCKETRY_OTEL_EXCLUDE": "main*"}
    with trial(tmp_path, make_store("csv"), kind=Chosen, **excluded, **SMALL_QUEUES) as one:
        assert isinstance(one, Chosen)
        one.chosen = lambda _, record: not record.task_name.startswith("main")
        overflow_and_kill(one)
        names = {name for name, _, _ in one.check().log_records}
        assert not [name for name in names if name.startswith("main")]
        assert "thread" in names


@full_run
def test_one_signal_does_not_wait_for_the_other(
    make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """While log records are refused, spans get through, also those from the repository."""
    with trial(tmp_path, make_store("sqlite"), **SMALL_QUEUES) as one:
        one.collector.stop()
        generation = one.begin()
        generation.await_records()
        one.kill(generation)
        one.collector.behave(lambda _, signal: Status(503) if signal == "logs" else Ok())
        generation = one.begin()
        generation.await_records()
        generation.pause()
        committed = one.committed()

        def spans_are_there(_: object) -> bool:
            missing = one.delivered().missing(committed)
            return all(signal == "logs" for signal, _ in missing)

        assert one.collector.wait_for(spans_are_there, 60), one.report(["spans are missing"])
        assert not one.collector.log_records
        one.collector.get_well()
        one.settle()
