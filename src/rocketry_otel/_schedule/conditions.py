"""A start condition of Rocketry as a plain tree, and its words.

In: a condition, by the names of its class and its attributes. Out: a tree that holds periods and
names of tasks, but no condition, task or function. A condition is never evaluated here, and its
own text is not used: that of some raises or misleads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from weakref import ref

from rocketry_otel._runtime.by_identity import ByIdentity

from . import periods
from .slots import PeriodSlots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The kinds of triggers, in the order in which they are named.
RETRY, DEPENDENCY, SCHEDULE, CONDITION = "retry", "dependency", "schedule", "condition"

Comparisons = tuple[tuple[str, Any], ...]

_NONE_OF: Comparisons = (("__eq__", 0),)
_OPERATORS = {
    "__eq__": "exactly",
    "__ne__": "not exactly",
    "__lt__": "fewer than",
    "__gt__": "more than",
    "__le__": "at most",
    "__ge__": "at least",
}
_PARTICIPLES: dict[tuple[str, ...], str] = {
    ("run",): "started",
    ("success",): "succeeded",
    ("fail",): "failed",
    ("terminate",): "been terminated",
    ("inaction",): "ended without action",
}
_NOUNS: dict[tuple[str, ...], str] = {
    ("run",): "start",
    ("success",): "success",
    ("fail",): "failure",
    ("terminate",): "termination",
    ("inaction",): "inaction",
}
_HAPPENED = {"TaskStarted", "TaskFailed", "TaskTerminated", "TaskSucceeded", "TaskFinished"} | {
    "TaskInacted"
}
_AFTER = {"DependFinish", "DependSuccess", "DependFailure"}
_WRAPPERS = {"TimeCondWrapper", "TimeActionWrapper", "RetryWrapper", "RunningWrapper"}
# The endings that TaskExecutable takes for a run that is done.
DONE = ("success", "inaction", "fail", "terminate")


@dataclass(frozen=True, slots=True)
class Node(ABC):
    """A part of a start condition.

    Attributes:
        kind: The trigger that it is, if it is true.
        is_decided_by_user: Whether only code of the user's decides it.
    """

    kind: ClassVar[str] = CONDITION
    is_decided_by_user: ClassVar[bool] = False

    @property
    def parts(self) -> tuple[Node, ...]:
        """The parts that it is composed of; none for a leaf."""
        return ()

    @property
    @abstractmethod
    def words(self) -> str:
        """It in words."""

    def leaves(self) -> Iterator[Node]:
        """Yield the leaves below it, or itself."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.leaves()

    @property
    def holds_user_code(self) -> bool:
        """Whether code of the user's decides a part of it."""
        return any(leaf.is_decided_by_user for leaf in self.leaves())


@dataclass(frozen=True, slots=True)
class AllOf(Node):
    """True if all parts are."""

    all_parts: tuple[Node, ...]

    @property
    def parts(self) -> tuple[Node, ...]:
        """Its parts, in their order."""
        return self.all_parts

    @property
    def words(self) -> str:
        """Its parts, joined."""
        return " and ".join(_inner(part, AnyOf) for part in self.all_parts) or "always"


@dataclass(frozen=True, slots=True)
class AnyOf(Node):
    """True if a part is."""

    any_parts: tuple[Node, ...]

    @property
    def parts(self) -> tuple[Node, ...]:
        """Its parts, in their order."""
        return self.any_parts

    @property
    def words(self) -> str:
        """Its parts, joined."""
        return " or ".join(_inner(part, AllOf) for part in self.any_parts) or "never"


@dataclass(frozen=True, slots=True)
class Not(Node):
    """True if its part is not."""

    part: Node

    @property
    def parts(self) -> tuple[Node, ...]:
        """Its only part."""
        return (self.part,)

    @property
    def words(self) -> str:
        """Its part, negated."""
        return f"not {_inner(self.part, AllOf, AnyOf)}"


@dataclass(frozen=True, slots=True)
class Constant(Node):
    """Always true, or always false."""

    value: bool

    @property
    def words(self) -> str:
        """``always`` or ``never``."""
        return "always" if self.value else "never"


@dataclass(frozen=True, slots=True)
class Once(Node):
    """Once in each period: the period has begun, and no run of the task has used it.

    Attributes:
        period: Rocketry's period. One of a length alone has no begin: it only has to be over.
        done: The actions that use the period: ``run`` alone, or endings.
        failures: How many failures in the period are allowed.
        task: The name of the task whose runs count; ``None`` for the task itself.
    """

    kind: ClassVar[str] = SCHEDULE
    period: Any
    done: tuple[str, ...]
    failures: int = 0
    task: str | None = None

    @property
    def words(self) -> str:
        """The period, and what is unusual."""
        text = periods.once_in(self.period)
        if periods.is_delta(self.period) and self.done == DONE:
            text += " from the last ending"
        if self.failures:
            text += f", with {self.failures} more after failures"
        return text if self.task is None else f"{text}, by the runs of {self.task}"


@dataclass(frozen=True, slots=True)
class During(Node):
    """The time is in a period."""

    kind: ClassVar[str] = SCHEDULE
    period: Any

    @property
    def words(self) -> str:
        """The period."""
        return periods.time_in(self.period)


@dataclass(frozen=True, slots=True)
class Happened(Node):
    """How often a task has begun or ended in a period.

    Attributes:
        actions: The actions that count.
        period: Rocketry's period; ``None`` for that of the task, which mostly is any time.
        task: The name of the task; ``None`` for the task itself.
        comparisons: What the count is compared with; without any it has to be above zero.
    """

    actions: tuple[str, ...]
    period: Any = None
    task: str | None = None
    comparisons: Comparisons = ()

    @property
    def interval(self) -> float | None:
        """The seconds of ``every(...)``; ``None`` for a condition of another kind."""
        if self.task is not None or self.comparisons != _NONE_OF:
            return None
        return periods.length_of(self.period)

    @property
    def kind(self) -> str:  # type: ignore[override]  # it depends on the period
        """A schedule, if the task itself has to wait for the end of a period."""
        is_own = self.task is None and self.comparisons == _NONE_OF
        return SCHEDULE if is_own and self.period is not None else CONDITION

    @property
    def words(self) -> str:
        """Task, count, action and period; ``every ...`` for an interval."""
        if self.interval is not None:
            text = f"every {periods.duration_words(self.interval)}"
            noun = _NOUNS.get(self.actions, "ending")
            return text if self.actions == ("run",) else f"{text} from the last {noun}"
        participle = _PARTICIPLES.get(self.actions, "finished")
        has = "has not" if self.comparisons == _NONE_OF else "has"
        counts = "" if self.comparisons == _NONE_OF else _counts(self.comparisons, "times")
        return f"{_subject(self.task)} {has} {participle}{counts}{periods.within(self.period)}"


@dataclass(frozen=True, slots=True)
class After(Node):
    """A task has ended since this one began.

    Attributes:
        other: The name of the task that is waited for.
        actions: The endings that count.
        task: The name of the task that waits; ``None`` for the task itself.
    """

    kind: ClassVar[str] = DEPENDENCY
    other: str
    actions: tuple[str, ...]
    task: str | None = None

    @property
    def words(self) -> str:
        """Ending and task."""
        text = f"after {_NOUNS.get(self.actions, 'end')} of {self.other}"
        return text if self.task is None else f"{text} since the last start of {self.task}"


@dataclass(frozen=True, slots=True)
class Retry(Node):
    """The last run failed, and not more than ``limit`` runs did in a row; -1 is no limit."""

    kind: ClassVar[str] = RETRY
    limit: int

    @property
    def words(self) -> str:
        """The limit, if there is one."""
        if self.limit in {-1, 0}:
            return "retry" if self.limit else "no retry"
        return f"retry, at most {self.limit} times"


@dataclass(frozen=True, slots=True)
class Running(Node):
    """How many runs of a task go on that began in a period; attributes as in ``Happened``."""

    period: Any = None
    task: str | None = None
    comparisons: Comparisons = ()

    @property
    def words(self) -> str:
        """Task, number and time."""
        subject, time = _subject(self.task), periods.for_longer(self.period)
        if not self.comparisons:
            return f"{subject} has been running{time}" if time else f"{subject} is running"
        return f"{subject} runs{_counts(self.comparisons, 'times')} at once{time}"


@dataclass(frozen=True, slots=True)
class SchedulerRunning(Node):
    """The scheduler started in a period."""

    period: Any = None

    @property
    def words(self) -> str:
        """The time."""
        return f"the scheduler has been running{periods.for_longer(self.period)}"


@dataclass(frozen=True, slots=True)
class SchedulerCycles(Node):
    """The number of the scheduler's cycles."""

    comparisons: Comparisons = ()

    @property
    def words(self) -> str:
        """The number."""
        counts = _counts(self.comparisons or (("__gt__", 0),), "cycles")
        return f"the scheduler has made{counts}"


@dataclass(frozen=True, slots=True)
class UserCode(Node):
    """A function or a class of the user's, which nobody but Rocketry calls.

    Attributes:
        name: The name of the function or class.
    """

    is_decided_by_user: ClassVar[bool] = True
    name: str

    @property
    def words(self) -> str:
        """Its name."""
        return self.name


def parse(condition: Any) -> Node:
    """Return a condition of Rocketry as a tree."""
    name = periods.class_name(condition)
    if name in _WRAPPERS:
        return parse(condition.get_cond())
    if name in {"All", "Any"}:
        parts = tuple(parse(part) for part in condition.subconditions)
        return AllOf(parts) if name == "All" else AnyOf(parts)
    if name == "Not":
        return Not(parse(condition.condition))
    if name in {"AlwaysTrue", "AlwaysFalse"}:
        return Constant(name == "AlwaysTrue")
    try:
        return _leaf(name, condition)
    except Exception:  # noqa: BLE001  # a condition that another version of Rocketry makes
        return UserCode(f"condition {type(condition).__name__}")


def _leaf(name: str, condition: Any) -> Node:
    if name in {"TaskExecutable", "TaskRunnable"}:
        done = DONE if name == "TaskExecutable" else ("run",)
        failures = getattr(condition, "retries", None) or 0
        return Once(condition.period, done, failures, task_name(condition.task))
    if name in _HAPPENED:
        actions = condition._action  # noqa: SLF001  # no public way
        return Happened(
            (actions,) if isinstance(actions, str) else tuple(actions),
            condition.period,
            task_name(condition.task),
            _comparisons(condition),
        )
    if name in _AFTER:
        other = task_name(condition.depend_task)
        if other is None:
            return UserCode("a task without a name")
        return After(other, tuple(condition._dep_actions), task_name(condition.task))  # noqa: SLF001
    make = _RARE_LEAVES.get(name)
    return make(condition) if make else UserCode(f"condition {type(condition).__name__}")


# The leaves that are made of their condition's attributes alone.
_RARE_LEAVES: dict[str, Callable[[Any], Node]] = {
    "IsPeriod": lambda condition: During(condition.period),
    "Retry": lambda condition: Retry(condition.n),
    "TaskRunning": lambda condition: Running(
        condition.period, task_name(condition.task), _comparisons(condition)
    ),
    "SchedulerStarted": lambda condition: SchedulerRunning(condition.period),
    "SchedulerCycles": lambda condition: SchedulerCycles(_comparisons(condition)),
    "FuncCond": lambda condition: UserCode(_function_name(condition.func)),
    "TaskCond": lambda condition: UserCode(_function_name(condition.func)),
}


def _function_name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def task_name(task: Any) -> str | None:
    """Return the name of a task that a condition names by its name, its function or itself."""
    if task is None or isinstance(task, str):
        return task
    registered = getattr(task, "__rocketry__", None)
    name = registered["name"] if registered else getattr(task, "name", None)
    return name if isinstance(name, str) else None


def _comparisons(condition: Any) -> Comparisons:
    return tuple(condition._comps.items())  # noqa: SLF001  # no public way


def _counts(comparisons: Comparisons, noun: str) -> str:
    if not comparisons:
        return ""
    counts = " and ".join(f"{_OPERATORS.get(key, key)} {value}" for key, value in comparisons)
    return f" {counts} {noun}"


def _subject(task: str | None) -> str:
    return "this task" if task is None else task


def _inner(node: Node, *in_brackets: type[Node]) -> str:
    return f"({node.words})" if isinstance(node, in_brackets) else node.words


class Parsed(NamedTuple):
    """The start condition of a task.

    Attributes:
        condition: Rocketry's object. It is not kept alive, because it may hold tasks.
        tree: The same as a tree.
        slots: The slots of its periods.
        memo: Room for what depends on the tree alone.
    """

    condition: ref[Any]
    tree: Node
    slots: PeriodSlots
    memo: dict[Any, Any]


class Conditions:
    """The tree of each task, parsed once while its start condition is the same object."""

    def __init__(self) -> None:
        """Begin with no task."""
        self._parsed = ByIdentity[Parsed]()

    def of(self, task: Any) -> Parsed:
        """Return the start condition of a task."""
        condition = task.start_cond
        known = self._parsed.get(task)
        if known is not None and known.condition() is condition:
            return known
        parsed = self._parsed[task] = Parsed(
            ref(condition), parse(condition), PeriodSlots(task.session.config.timezone), {}
        )
        return parsed
