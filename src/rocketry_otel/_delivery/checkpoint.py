"""How far delivery has come, as it is stored."""

from __future__ import annotations

from typing import NamedTuple

FOREVER = 2**63 - 1


class Checkpoint(NamedTuple):
    """How far a process has come with its own records, on one channel.

    Attributes:
        since: All its records that were created before this time are delivered; in nanoseconds
            since the epoch.
        waiting: How many items were not delivered at the checkpoint.
        until: When the newest undelivered record was created, if that is known.
    """

    since: int
    waiting: int
    until: int = FOREVER


class Backlog(NamedTuple):
    """The records that are still to be sent from the repository on one channel.

    Attributes:
        since: Records that were created before this are delivered; in nanoseconds since the epoch.
        done: How many of the later records are done, in the order of the repository.
        mark: Identifies the last of these.
        waiting: How many items are known to wait.
        until: When the newest record to send was created.
        reached: When the record that was sent last was created.
    """

    since: int
    done: int = 0
    mark: str = ""
    waiting: int = 0
    until: int = FOREVER
    reached: int = 0

    @property
    def oldest(self) -> int:
        """When the oldest record to send may have been created."""
        return max(self.since, self.reached)


def with_earlier(backlog: Backlog | None, checkpoint: Checkpoint) -> Backlog:
    """Return the backlog with the undelivered records of a checkpoint added.

    Args:
        backlog: The backlog so far.
        checkpoint: How far another process, or a queue of this one, has come.
    """
    if backlog is None:
        return Backlog(checkpoint.since, waiting=checkpoint.waiting, until=checkpoint.until)
    waiting = backlog.waiting + checkpoint.waiting
    if checkpoint.since >= backlog.since:
        # The reading goes on to the end of the repository, so it meets these records.
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
