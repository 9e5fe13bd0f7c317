"""Why a run began: the kind of its trigger, and the true parts of its start condition in words.

In: the tree of a condition that Rocketry has found true. Out: attributes of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .conditions import CONDITION, DEPENDENCY, RETRY, SCHEDULE, AllOf, AnyOf, During, Node, Not
from .verdicts import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conditions import Parsed
    from .verdicts import Moment

TRIGGER = "rocketry.trigger"
TRIGGER_CONDITION = "rocketry.trigger.condition"
REQUEST, STARTUP, SHUTDOWN = "request", "startup", "shutdown"

_ORDER = (RETRY, DEPENDENCY, SCHEDULE, CONDITION)


class TruePart(NamedTuple):
    """A leaf of a condition, or its negation, that was true."""

    leaf: Node
    is_negated: bool

    @property
    def kind(self) -> str:
        """The trigger that it is."""
        if self.is_negated and not isinstance(self.leaf, During):
            return CONDITION
        return self.leaf.kind

    @property
    def words(self) -> str:
        """It in words."""
        text = f"not {self.leaf.words}" if self.is_negated else self.leaf.words
        return f"{text} (not evaluated)" if self.leaf.is_decided_by_user else text


def true_parts(tree: Node, moment: Moment) -> Iterator[TruePart]:
    """Yield the leaves that made a condition true, which Rocketry has found true.

    All parts of an ``&`` are true then, without a look. Of the parts of an ``|`` those that are
    true are looked for. If none is, a time has turned since, and Rocketry's verdict wins.
    """
    return _parts(tree, moment, value=True)


def _parts(node: Node, moment: Moment, *, value: bool) -> Iterator[TruePart]:
    if isinstance(node, Not):
        yield from _parts(node.part, moment, value=not value)
    elif isinstance(node, AllOf | AnyOf):
        has_all = isinstance(node, AllOf) is value
        for part in node.parts if has_all else _chosen(node.parts, moment, value=value):
            yield from _parts(part, moment, value=value)
    else:
        yield TruePart(node, not value)


def _chosen(parts: tuple[Node, ...], moment: Moment, *, value: bool) -> tuple[Node, ...]:
    verdicts = [(part, evaluate(part, moment)) for part in parts]
    for wanted in (value, None):
        found = tuple(part for part, verdict in verdicts if verdict is wanted)
        if found:
            return found
    timed = tuple(part for part in parts if any(leaf.kind == SCHEDULE for leaf in part.leaves()))
    return timed or parts


def condition_attributes(parsed: Parsed, moment: Moment) -> dict[str, str]:
    """Return the attributes of a run that its start condition let begin."""
    found = tuple(true_parts(parsed.tree, moment))
    # The leaves live as long as the memo of their tree.
    key = tuple((id(part.leaf), part.is_negated) for part in found)
    made: dict[str, str] | None = parsed.memo.get(key)
    if made is None:
        kinds = {part.kind for part in found}
        made = parsed.memo[key] = {
            TRIGGER: next((kind for kind in _ORDER if kind in kinds), CONDITION),
            TRIGGER_CONDITION: " and ".join(dict.fromkeys(part.words for part in found)),
        }
    return made
