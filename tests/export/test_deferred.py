from __future__ import annotations

import threading

import pytest

from rocketry_otel._export.deferred import catch, made
from tests.support.channels import deferred


def fail() -> None:
    """Raise, as a sampler of the user's may."""
    raise ValueError("a limit of the user's")


def test_item_is_made_when_it_is_wanted() -> None:
    """The provider passes it to ``catch``, on the same thread."""
    assert made(deferred(lambda: catch("item"))) == "item"


def test_provider_may_make_none() -> None:
    """A scope may be disabled."""
    assert made(deferred(lambda: None)) is None


def test_item_is_encoded_for_a_destination_that_takes_bytes() -> None:
    """Then no provider makes it."""
    item = deferred(fail, encode=lambda: "bytes")
    assert made(item, encoded=True) == "bytes"


def test_item_is_made_for_a_destination_that_takes_no_bytes() -> None:
    """Such as the console."""
    assert made(deferred(lambda: catch("item"), encode=fail)) == "item"


def test_provider_makes_an_item_that_cannot_be_encoded() -> None:
    """Its own way shows whether that is an error."""
    assert made(deferred(lambda: catch("item"), encode=fail), encoded=True) == "item"
    assert made(deferred(lambda: catch("item")), encoded=True) == "item"


def test_other_items_are_not_caught() -> None:
    """Outside, and on other threads, an item goes to the queues as always."""
    elsewhere: list[bool] = []

    def make() -> None:
        thread = threading.Thread(target=lambda: elsewhere.append(catch("other")))
        thread.start()
        thread.join()
        catch("item")

    assert catch("before") is False
    assert made(deferred(make)) == "item"
    assert elsewhere == [False]
    assert catch("after") is False


def test_error_is_raised_and_ends_the_catching() -> None:
    """The caller counts it."""
    with pytest.raises(ValueError, match=r"^a limit of the user's$"):
        made(deferred(fail))
    assert catch("after") is False
