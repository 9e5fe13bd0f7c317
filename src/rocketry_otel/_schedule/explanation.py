"""Why a task does not start now: its condition with all verdicts, and what is missing.

In: the tree of a condition, and a moment. Out: plain values and text.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .conditions import AllOf, AnyOf, Constant, Node, Not
from .since import TimedVerdict, timed_verdict
from .verdicts import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .verdicts import Moment

_OPERATORS: dict[type[Node], str] = {AllOf: "and", AnyOf: "or", Not: "not"}
_SIGNS = {True: "yes", False: "no", None: "unknown"}


@dataclass(frozen=True)
class ConditionPart:
    """A start condition, or a part of it, at a moment.

    Attributes:
        text: The part in words.
        verdict: Whether it is true; ``None`` if only a function or a class of the application
            decides, which is not called.
        since: Since when it has this verdict, with a time zone; ``None`` if that is not known.
        operator: ``and``, ``or`` or ``not``; ``None`` if it has no parts.
        parts: Its parts, in their order.
    """

    text: str
    verdict: bool | None
    since: datetime | None = None
    operator: str | None = None
    parts: tuple[ConditionPart, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain data, as JSON takes it; times are RFC 3339 in UTC."""
        return {
            "text": self.text,
            "verdict": self.verdict,
            "since": None if self.since is None else _time_text(self.since),
            "operator": self.operator,
            "parts": [part.to_dict() for part in self.parts],
        }

    def lines(self, depth: int = 0) -> Iterator[str]:
        """Yield the lines of the text for people.

        Args:
            depth: How far the first line is indented, in levels.
        """
        line = f"{'  ' * depth}{_SIGNS[self.verdict]:<7} {self.text}"
        if self.verdict is None and not self.parts:
            line += " (not evaluated)"
        yield line if self.since is None else f"{line}, since {self.since:%Y-%m-%d %H:%M:%S}"
        for part in self.parts:
            yield from part.lines(depth + 1)


@dataclass(frozen=True)
class Explanation:
    """Whether a task would start at the scheduler's next look, and why not.

    Attributes:
        task_name: The name of the task.
        time: When this was so, with a time zone.
        verdict: Whether the task would start; ``None`` if only code of the application decides.
        is_requested: Whether ``task.run()`` has asked for a run. The condition does not count then.
        held_back: What keeps the task from its start, whatever its condition is, in words.
        condition: The start condition.
        missing: The parts that have to become true for the condition to be true, and no more. A
            part that nobody has evaluated is among them if it counts.
    """

    task_name: str
    time: datetime
    verdict: bool | None
    is_requested: bool
    held_back: tuple[str, ...]
    condition: ConditionPart
    missing: tuple[str, ...]

    @property
    def text(self) -> str:
        """The explanation for people, in several lines."""
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain data, as JSON takes it; times are RFC 3339 in UTC."""
        return {
            "task_name": self.task_name,
            "time": _time_text(self.time),
            "verdict": self.verdict,
            "is_requested": self.is_requested,
            "held_back": list(self.held_back),
            "condition": self.condition.to_dict(),
            "missing": list(self.missing),
        }

    def __str__(self) -> str:
        would = {True: "starts at", False: "does not start at", None: "may start at"}
        lines = [f"{self.task_name} {would[self.verdict]} the next look of the scheduler."]
        if self.is_requested:
            lines.append("requested: task.run() has asked for a run")
        lines += [f"held back: {reason}" for reason in self.held_back]
        lines += self.condition.lines()
        lines += [f"missing: {words}" for words in self.missing]
        return "\n".join(lines)


def part_of(node: Node, moment: Moment) -> ConditionPart:
    """Return a condition with its verdicts at a moment."""
    return _shown(node, timed_verdict(node, moment))


def _shown(node: Node, found: TimedVerdict) -> ConditionPart:
    time = None
    if found.since is not None:
        time = datetime.fromtimestamp(found.since, timezone.utc).astimezone()
    parts = tuple(map(_shown, node.parts, found.parts))
    return ConditionPart(node.words, found.verdict, time, _OPERATORS.get(type(node)), parts)


def missing(tree: Node, moment: Moment) -> tuple[str, ...]:
    """Return the parts that are missing for a condition to be true, in words.

    If all of them become true, and nothing else changes, the condition is true. Without one of
    them it is not, if the parts that nobody has evaluated are false.
    """
    found = missing_leaves(tree, moment)
    return tuple(dict.fromkeys(_words(leaf, wanted) for leaf, wanted in found))


def missing_leaves(
    node: Node, moment: Moment, *, wanted: bool = True
) -> tuple[tuple[Node, bool], ...]:
    """Return the leaves that have to change, each with the verdict that it has to have."""
    if evaluate(node, moment) is wanted:
        return ()
    if isinstance(node, Not):
        return missing_leaves(node.part, moment, wanted=not wanted)
    if not isinstance(node, AllOf | AnyOf):
        return ((node, wanted),)
    of_parts = [missing_leaves(part, moment, wanted=wanted) for part in node.parts]
    if isinstance(node, AllOf) is wanted:
        return tuple(leaf for leaves in of_parts for leaf in leaves)
    return min(of_parts, key=_difficulty, default=())


def _difficulty(leaves: tuple[tuple[Node, bool], ...]) -> tuple[int, int, int]:
    """Return what makes one way worse than another: never possible, unknown, long."""
    constants = sum(isinstance(leaf, Constant) for leaf, _ in leaves)
    unknown = sum(leaf.is_decided_by_user for leaf, _ in leaves)
    return constants, unknown, len(leaves)


def _words(leaf: Node, wanted: bool) -> str:  # noqa: FBT001
    text = leaf.words if wanted else f"not {leaf.words}"
    return f"{text} (not evaluated)" if leaf.is_decided_by_user else text


def _time_text(time: datetime) -> str:
    return time.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
