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
    """A trial in which not all that is committed is to arrive."""

    chosen: Callable[[str, Committed], bool]

    def missing(self, committed: object) -> list[tuple[str, Committed]]:
        """Return what lacks of what is to arrive."""
        missing = super().missing(committed)  # type: ignore[arg-type]
        return [(signal, one) for signal, one in missing if self.chosen(signal, one)]


def overflow_and_kill(one: Scenario) -> None:
    """Let more than the queues hold wait twice: in a life that is killed and in one that is not."""
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
    told = generation.say("delivery")
    assert told["traces"]["waiting"] == told["logs"]["waiting"] == 0


def is_sampled(signal: str, one: Committed) -> bool:
    """Tell what OpenTelemetry's ratio sampler says of a span, with a ratio of one half."""
    return signal == "logs" or int(one.trace_id, 16) % LOW_BITS < LOW_BITS // 2


@full_run
def test_what_is_not_sampled_is_not_sent_again(
    make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """A run that the sampler drops has no span however often it is sent, and nothing waits."""
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
def test_tasks_that_are_excluded_are_not_sent_again(
    make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    """What must not leave the machine does not leave it later either."""
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
    """While log records are refused spans get through, those from the repository as well."""
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
