"""The records of a repository that somebody made themselves."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from redbird.base import BaseRepo, BaseResult
from redbird.templates import TemplateRepo
from rocketry.log import MinimalRecord

from rocketry_otel._errors import RepositoryError
from rocketry_otel._history.streams.base import Window
from rocketry_otel._history.streams.stream_of import stream_of
from tests.support.stored import records

GOOD = {"task_name": "etl", "action": "run"}
DATA = [{**GOOD, "created": 1.0}, {"task_name": "etl"}, {**GOOD, "created": 3.0}]


class ByData(TemplateRepo):
    def insert(self, item: Any) -> None: ...
    def query_update(self, query: Any, values: Any) -> None: ...
    def query_delete(self, query: Any) -> None: ...
    def query_data(self, query: Any) -> Any:
        return iter(DATA)


class ByItems(ByData):
    def query_items(self, query: Any) -> Any:
        return (MinimalRecord(**data) for data in DATA[::2])


class Result(BaseResult):
    def query_data(self) -> Any:
        return iter(DATA)

    def update(self, **_: Any) -> None: ...
    def delete(self) -> None: ...


class Bare(BaseRepo):
    cls_result: ClassVar[type] = Result

    def insert(self, item: Any) -> None: ...


@pytest.mark.parametrize("kind", [ByData, ByItems, Bare])
def test_unknown_repository_is_read(kind: Any, caplog) -> None:
    """Unreadable records are skipped, if the repository leaves their conversion to us."""
    repo = kind(model=MinimalRecord)
    assert [fields["created"] for fields in records(repo)] == [1.0, 3.0]
    assert [fields["created"] for fields in records(repo, 2_000_000_000)] == [3.0]
    messages = [one.getMessage() for one in caplog.records]
    assert len(messages) == (kind is not ByItems)
    assert all(words.startswith(f"records of {kind.__name__} that cannot be") for words in messages)


def test_removing_is_refused() -> None:
    """The removal of an unknown repository may lose records."""
    with pytest.raises(RepositoryError, match=r"^records cannot be removed from Bare one by one"):
        stream_of(Bare(model=MinimalRecord)).remove(Window(), lambda _: True)
