"""How far delivery has come: what is noted of it."""

from __future__ import annotations

from typing import NamedTuple

FOREVER = 2**63 - 1


class Checkpoint(NamedTuple):
    """How far a process has come with what it has written itself, on one channel.

    Attributes:
        since: All that it wrote and that was created before this is delivered; in nanoseconds
            since the epoch.
        waiting: How many items were not delivered when this was noted.
        until: When the newest was created of what is not delivered, where that is known.
    """

    since: int
    waiting: int
    until: int = FOREVER


class Backlog(NamedTuple):
    """What is to be sent from the repository on one channel.

    Attributes:
        since: What was created before this is delivered; in nanoseconds since the epoch.
        done: How many of the records that were created since, in the order of the repository,
            need not be sent any more.
        mark: What the last of these is known by again.
        waiting: How many items are known to wait.
        until: When the newest was created of what is to be sent.
        reached: When that was created which was sent last.
    """

    since: int
    done: int = 0
    mark: str = ""
    waiting: int = 0
    until: int = FOREVER
    reached: int = 0

    @property
    def oldest(self) -> int:
        """When the oldest may have been created that is still to be sent."""
        return max(self.since, self.reached)


def with_earlier(backlog: Backlog | None, checkpoint: Checkpoint) -> Backlog:
    """Return the backlog that holds what is still to be delivered elsewhere, too.

    Args:
        backlog: What is to be sent already.
        checkpoint: How far another process, or the queue of this one, has come.
    """
    if backlog is None:
        return Backlog(checkpoint.since, waiting=checkpoint.waiting, until=checkpoint.until)
    waiting = backlog.waiting + checkpoint.waiting
    if checkpoint.since >= backlog.since:
        # Whoever sends it reads on to the end, and so meets this on its way.
        return backlog._replace(
            waiting=waiting,
            until=max(checkpoint.until, backlog.until),
            reached=min(backlog.reached, checkpoint.since),
        )
    return Backlog(checkpoint.since, waiting=waiting, until=max(checkpoint.until, backlog.until))


class DeadLetter(NamedTuple):
    """A stored record that a destination has refused for good.

    Attributes:
        created: When it was created, in nanoseconds since the epoch.
        task_name: Its task.
        action: Its action.
        reason: Why it was refused.
    """

    created: int
    task_name: str
    action: str
    reason: str
