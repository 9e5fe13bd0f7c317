import pytest

from rocketry_otel._model.event import TaskEvent, parse_event
from rocketry_otel._model.ids import RunIds, ids_of
from rocketry_otel._model.runs import RunTracker, Step


def event(action: str, run_id: str | None = None, at: float = 1.0, **fields: object) -> TaskEvent:
    """Return an event of the task etl, seconds after the epoch."""
    return parse_event(
        {
            "task_name": "etl",
            "action": action,
            "run_id": run_id,
            "created": at,
            "process": 1,
            "thread": 1,
            **fields,
        }
    )


def beginnings_of(*events: TaskEvent) -> list[int]:
    """Return the beginning of the run that a tracker finds for each event."""
    tracker = RunTracker()
    steps = [tracker.observe(one) for one in events]
    return [step.run.began.created if step.run and step.run.began else -1 for step in steps]


def test_run_begins_and_ends() -> None:
    """The ending closes the run that its id names, and nothing stays behind."""
    tracker = RunTracker()
    began = tracker.observe(event("run", "a", 1.0))
    assert (began.change, began.given_up, tracker.open_count) == ("began", None, 1)
    ended = tracker.observe(event("success", "a", 2.0))
    assert (ended.change, ended.was_open, tracker.open_count) == ("ended", True, 0)
    assert ended.run is began.run
    assert ended.run is not None
    assert ended.run.ids == ids_of("etl", "a", 1_000_000_000)
    assert not ended.run.end_estimated


@pytest.mark.parametrize("first", ["a", "b"])
def test_overlapping_runs_pair_by_id(first: str) -> None:
    """Each ending closes its own run, in whatever order they end."""
    second = "b" if first == "a" else "a"
    found = beginnings_of(
        event("run", "a", 1.0), event("run", "b", 2.0),
        event("success", first, 3.0), event("success", second, 4.0),
    )  # fmt: skip
    beginnings = {"a": 1_000_000_000, "b": 2_000_000_000}
    assert found[2:] == [beginnings[first], beginnings[second]]


def test_run_id_that_is_used_again_is_another_run() -> None:
    """A function of the user's may give the same id each time: the beginning separates the runs."""
    tracker = RunTracker()
    runs = []
    for at in (1.0, 3.0):
        runs.append(tracker.observe(event("run", "1", at)).run)
        assert tracker.observe(event("success", "1", at + 1)).change == "ended"
    assert runs[0] is not None
    assert runs[1] is not None
    assert runs[0].ids != runs[1].ids


def test_overlapping_runs_of_one_id_end_in_their_order() -> None:
    """First begun, first ended, if that is all that can be known."""
    assert beginnings_of(
        event("run", "1", 1.0), event("run", "1", 2.0),
        event("success", "1", 3.0), event("success", "1", 4.0),
    )[2:] == [1_000_000_000, 2_000_000_000]  # fmt: skip


def test_runs_of_one_id_pair_by_place() -> None:
    """Threads and child processes have one each, and each ending ends the run in its own."""
    assert beginnings_of(
        event("run", "1", 1.0, thread=5), event("run", "1", 2.0, thread=6),
        event("success", "1", 3.0, thread=6), event("success", "1", 4.0, thread=5),
    )[2:] == [2_000_000_000, 1_000_000_000]  # fmt: skip


def test_ids_ignore_run_ids_that_are_not_kept() -> None:
    """Ids computed from the repository later are the ids that are sent now."""
    step = RunTracker(keeps_run_id=False).observe(event("run", "a", 1.0))
    assert step.run is not None
    assert step.run.ids == ids_of("etl", None, 1_000_000_000)


def test_second_ending_changes_nothing() -> None:
    """Rocketry logs ``run, fail, success`` with one id when a handler fails: one run, one end."""
    tracker = RunTracker()
    run = tracker.observe(event("run", "a", 1.0)).run
    tracker.observe(event("fail", "a", 2.0))
    again = tracker.observe(event("success", "a", 3.0))
    assert run is not None
    assert again.run is not None
    assert (again.change, again.run.ids) == ("repeated", run.ids)


def test_second_ending_without_id_changes_nothing() -> None:
    """A thread whose success could not be logged logs a failure without its id."""
    tracker = RunTracker()
    run = tracker.observe(event("run", "a", 1.0, thread=5)).run
    tracker.observe(event("success", "a", 2.0, thread=5))
    again = tracker.observe(event("fail", None, 3.0, thread=5))
    assert run is not None
    assert again.run is not None
    assert (again.change, again.run.ids) == ("repeated", run.ids)


def test_ending_without_id_ends_the_run_in_its_place() -> None:
    """A thread or child that fails before the task's function logs no id: its place decides."""
    found = beginnings_of(
        event("run", "a", 1.0, process=7), event("run", "b", 2.0, process=8),
        event("fail", None, 3.0, process=7), event("fail", None, 4.0, process=8),
    )  # fmt: skip
    assert found[2:] == [1_000_000_000, 2_000_000_000]


def test_failed_pickling_is_one_run() -> None:
    """Rocketry then logs a run and a failure without id, and another failure with one."""
    tracker = RunTracker()
    changes = [
        tracker.observe(one).change
        for one in (event("run", None, 1.0), event("fail", None, 2.0), event("fail", "x", 3.0))
    ]
    assert changes == ["began", "ended", "repeated"]


def test_beginning_without_id_is_found_by_place() -> None:
    """Records carried over from a model without run ids are ended by records that have one."""
    found = beginnings_of(
        event("run", None, 1.0, thread=5), event("run", "b", 2.0, thread=5),
        event("success", "a", 3.0, thread=5), event("success", "c", 4.0, thread=5),
    )  # fmt: skip
    assert found == [1_000_000_000, 2_000_000_000, 1_000_000_000, -1]


def test_ending_without_run_is_a_run() -> None:
    """A task that failed in its setup has a run of no length, every time anew."""
    tracker = RunTracker()
    steps = [tracker.observe(event("fail", None, at)) for at in (1.0, 2.0)]
    for step, at in zip(steps, (1_000_000_000, 2_000_000_000), strict=True):
        assert step.change == "ended"
        assert not step.was_open
        assert step.run is not None
        assert step.run.began is None
        assert step.run.ids == ids_of("etl", None, at)


def test_new_run_in_an_old_place_is_new() -> None:
    """Identifiers of threads are used again: an ending with another id is another run."""
    tracker = RunTracker()
    tracker.observe(event("run", "a", 1.0))
    tracker.observe(event("success", "a", 2.0))
    assert tracker.observe(event("fail", "b", 3.0)).change == "ended"


def test_records_without_id_and_place_pair_by_order() -> None:
    """All that a minimal model keeps is the order."""
    nowhere = {"process": None, "thread": None}
    assert beginnings_of(
        event("run", None, 1.0, **nowhere), event("run", None, 2.0, **nowhere),
        event("success", None, 3.0, **nowhere), event("fail", None, 4.0, **nowhere),
    )[2:] == [1_000_000_000, 2_000_000_000]  # fmt: skip


def test_crash_ends_the_newest_run_of_the_task() -> None:
    """It is logged with no id: Rocketry means the newest."""
    tracker = RunTracker()
    tracker.observe(event("run", "a", 1.0))
    tracker.observe(event("run", "b", 2.0))
    step = tracker.observe(event("crash", None, 9.0))
    assert step.run is not None
    assert step.run.began is not None
    assert step.run.began.run_id == "b"
    assert step.run.end_estimated


def test_crash_after_restart_ends_the_stored_run() -> None:
    """A new tracker asks for the beginning, and the ids are those of the run that was cut off."""
    cut_off = event("run", "a", 1.0)
    step = RunTracker(
        find_run=lambda ending: cut_off if ending.action == "crash" else None
    ).observe(event("crash", None, 9.0))
    assert step.run is not None
    assert (step.run.began, step.change, step.was_open) == (cut_off, "ended", False)
    assert step.run.ids == ids_of("etl", "a", 1_000_000_000)
    assert step.run.end_estimated


def test_crash_with_no_run_is_not_estimated() -> None:
    """Without a beginning there is nothing whose end could be estimated."""
    step = RunTracker().observe(event("crash", None, 9.0))
    assert step.run is not None
    assert not step.run.end_estimated


def test_runs_that_never_end_do_not_pile_up() -> None:
    """Above the limit, the oldest run is given up, and its late ending is a run of its own."""
    tracker = RunTracker(limit=2)
    first = tracker.observe(event("run", "a", 1.0)).run
    tracker.observe(event("run", "b", 2.0))
    step = tracker.observe(event("run", "c", 3.0))
    assert step.given_up is first
    assert tracker.open_count == 2
    late = tracker.observe(event("success", "a", 4.0))
    assert (late.change, late.was_open) == ("ended", False)


def test_new_run_with_an_old_id_is_new() -> None:
    """Not even when it was given up before it ended: its ending is its own, not a second one."""
    tracker = RunTracker(limit=1)
    for one in (event("run", "1", 1.0), event("success", "1", 2.0), event("run", "1", 3.0)):
        tracker.observe(one)
    assert tracker.observe(event("run", "2", 4.0)).given_up is not None
    assert tracker.observe(event("success", "1", 5.0, thread=9)).change == "ended"


def test_memory_of_ended_runs_is_bounded() -> None:
    """A second ending long after the first is not recognised, and memory does not grow."""
    tracker = RunTracker()
    for number in range(5000):
        tracker.observe(event("run", f"r{number}", number + 1.0))
        tracker.observe(event("success", f"r{number}", number + 1.5))
    assert len(tracker._ended) <= 4096
    assert tracker.observe(event("fail", "r4999")).change == "repeated"
    assert tracker.observe(event("fail", "r0")).change == "ended"


def test_record_without_action_belongs_to_its_run() -> None:
    """A record of a body belongs to its run, if no other run is possible."""
    tracker = RunTracker()
    run = tracker.observe(event("run", "a", 1.0, thread=5)).run
    assert tracker.observe(event("note", None, 2.0, thread=5)) == Step(run, "none")
    assert tracker.observe(event("note", None, 2.0, thread=6)).run is None
    tracker.observe(event("run", "b", 3.0, thread=5))
    assert tracker.observe(event("note", None, 4.0, thread=5)).run is None


def test_record_without_task_belongs_to_no_run() -> None:
    """There is nothing to find its run by."""
    assert RunTracker().observe(parse_event({"action": "run"})) == Step(None, "none")


def test_open_run_is_found_by_its_task_and_id() -> None:
    """The newest, if an id was given twice; not one that has ended, nor one of another task."""
    tracker = RunTracker()
    assert tracker.open_run("etl", "a") is None
    first = tracker.observe(event("run", "a", 1.0)).run
    nameless = tracker.observe(event("run", None, 2.0)).run
    second = tracker.observe(event("run", "a", 3.0)).run
    tracker.observe(parse_event({"task_name": "other", "action": "run", "run_id": "b"}))
    assert tracker.open_run("etl", "a") is second
    assert tracker.open_run("etl", None) is nameless
    assert tracker.open_run("etl", "b") is None
    tracker.observe(event("success", "a", 4.0))
    assert tracker.open_run("etl", "a") is second
    tracker.observe(event("success", "a", 5.0))
    assert tracker.open_run("etl", "a") is None
    assert first is not second


def test_run_begins_with_nothing_added() -> None:
    """Context, decision, annotations and launcher are empty at first."""
    run = RunTracker().observe(event("run", "a")).run
    assert run is not None
    assert (run.context, run.sampling, run.annotations, run.launched_in) == (None, None, None, None)


def test_ids_of_a_record_win_over_its_place() -> None:
    """An ending with ids of its own does not end the run that its thread suggests."""
    tracker = RunTracker()
    tracker.observe(event("run", "a", 1.0))
    refused = ids_of("etl", "b", 2_000_000_000)
    step = tracker.observe(event("fail", None, 3.0), refused)
    assert (step.change, step.run and step.run.ids) == ("ended", refused)
    assert tracker.open_count == 1


def test_ids_of_a_record_win_over_an_earlier_ending() -> None:
    """An ending is the repetition of another one only if both bear the same ids."""
    tracker = RunTracker()
    tracker.observe(event("run", "a", 1.0))
    tracker.observe(event("success", "a", 2.0), ids_of("etl", "a", 1_000_000_000))
    refused = ids_of("etl", "b", 3_000_000_000)
    changes = [tracker.observe(event("fail", None, at), refused).change for at in (4.0, 5.0)]
    assert changes == ["ended", "repeated"]


def test_ids_of_a_record_find_an_open_run() -> None:
    """Of two runs that overlap in one place the ids choose, not the order."""
    tracker = RunTracker()
    tracker.observe(event("run", None, 1.0))
    second = tracker.observe(event("run", None, 2.0)).run
    step = tracker.observe(event("fail", None, 3.0), ids_of("etl", None, 2_000_000_000))
    assert step.run is second


def test_another_tracker_goes_on_with_open_runs() -> None:
    """Their ids stay, also where the other tracker would have given them others."""
    earlier, tracker = RunTracker(), RunTracker(keeps_run_id=False)
    began = earlier.observe(event("run", "1"))
    earlier.observe(event("run", "2"))
    earlier.observe(event("success", "2", 2.0))
    tracker.adopt(earlier)
    assert tracker.open_count == 1
    ended = tracker.observe(event("success", "1", 3.0))
    assert (ended.change, ended.run) == ("ended", began.run)


def test_runs_without_ids_in_one_instant_are_distinguished() -> None:
    """By their order, whether the earlier one goes on or has ended; so in every tracker."""
    events = [event(action) for action in ("run", "run", "success", "success", "run", "fail")]
    live, later = RunTracker(), RunTracker()
    ids = [step.run.ids for step in map(live.observe, events) if step.run]
    assert ids == [step.run.ids for step in map(later.observe, events) if step.run]
    assert len({*ids}) == 3
    assert ids[0] == ids_of("etl", None, 1_000_000_000)
    assert ids[:2] == ids[2:4]
    assert ids[4] == ids[5]


def test_runs_of_a_broken_clock_cost_no_time_without_bound() -> None:
    """From the 101st run of one instant on they share their ids."""
    tracker = RunTracker()
    ids = [step.run.ids for step in (tracker.observe(event("run")) for _ in range(103)) if step.run]
    assert len({*ids}) == 101
    assert ids[100] == ids[102]


def test_beginning_has_the_ids_that_its_record_bears() -> None:
    """An earlier run of the same instant may be out of what is read."""
    tracker, ids = RunTracker(), ids_of("etl", None, 1_000_000_000, 1)
    run = tracker.observe(event("run"), ids).run
    assert run is not None
    assert run.ids == ids


def test_first_of_two_runs_with_the_same_ids_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of an instant ids are shared; the end of one run leaves the other open."""
    monkeypatch.setattr("rocketry_otel._model.runs._MOST_IN_AN_INSTANT", 0)
    tracker = RunTracker()
    first = tracker.observe(event("run", None, 1.0)).run
    second = tracker.observe(event("run", None, 1.0)).run
    assert first is not None
    assert second is not None
    assert first.ids == second.ids
    assert tracker.observe(event("success", None, 2.0)).run is first
    assert tracker.observe(event("success", None, 2.0), second.ids).run is second


def test_crash_of_a_run_that_has_a_crash_record_is_a_repetition() -> None:
    """Rocketry logs it after a restart: the run was closed before, beside the repository."""
    began = event("run", "r1")
    ids = RunTracker().ids(began)
    asked: list[RunIds] = []

    def has_crashed(its: RunIds) -> bool:
        asked.append(its)
        return True

    tracker = RunTracker(find_run=lambda _: began, has_crashed=has_crashed)
    step = tracker.observe(event("crash", None, 5))
    assert (step.change, step.run and step.run.ids) == ("repeated", ids)
    assert asked == [ids]
    # The crash record itself names its run, and ends it.
    step = tracker.observe(event("crash", "r1", 4), ids, began)
    assert (step.change, step.run and step.run.began) == ("ended", began)
    assert asked == [ids]
    # From now on the tracker knows it.
    assert tracker.observe(event("crash", None, 6)).change == "repeated"
    assert asked == [ids]
