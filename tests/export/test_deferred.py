from __future__ import annotations

import threading

import pytest

from rocketry_otel._export.deferred import Deferred, catch, made


def ignore(_: Exception) -> None:
    """Do nothing with the error of an item."""


def test_item_is_made_when_it_is_wanted() -> None:
    """The provider passes it to ``catch``, on the same thread."""
    assert made(Deferred(lambda: catch("item"), ignore)) == "item"


def test_provider_may_make_none() -> None:
    """A scope may be disabled."""
    assert made(Deferred(lambda: None, ignore)) is None


def test_other_items_are_not_caught() -> None:
    """Outside, and on other threads, an item goes to the queues as always."""
    elsewhere: list[bool] = []

    def make() -> None:
        thread = threading.Thread(target=lambda: elsewhere.append(catch("other")))
        thread.start()
        thread.join()
        catch("item")

    assert catch("before") is False
    assert made(Deferred(make, ignore)) == "item"
    assert elsewhere == [False]
    assert catch("after") is False


def test_error_is_raised_and_ends_the_catching() -> None:
    """The caller counts it."""

    def make() -> None:
        raise ValueError("a limit of the user's")

    with pytest.raises(ValueError, match=r"^a limit of the user's$"):
        made(Deferred(make, ignore))
    assert catch("after") is False
