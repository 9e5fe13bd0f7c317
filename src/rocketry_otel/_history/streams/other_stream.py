"""The records of a repository that is none of Red Bird's own kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redbird.base import BaseResult
from redbird.templates import TemplateRepo, TemplateResult

from .base import Place, RecordStream, Window, fields_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redbird.base import BaseRepo

    from .base import Fields


def stream_of(repo: BaseRepo) -> RecordStream:
    """Return the records of any repository."""
    return OtherStream(repo)


class OtherStream(RecordStream):
    """The records of an unknown kind of repository."""

    def read(self, window: Window, place: Place | None = None) -> Iterator[Fields]:
        """Give the fields of each record, in the order in which the repository gives them.

        The query is for all records: the repository may support only equal values.
        """
        del place
        result = self.repo.filter_by()
        if _converts_here(self.repo, result):
            # Red Bird's own loop stops at the first unreadable record.
            found = map(self.fields, result.query_data())
        else:
            found = map(fields_of, result)
        yield from (fields for fields in found if fields is not None and window.holds(fields))


def _converts_here(repo: BaseRepo, result: Any) -> bool:
    """Return whether Red Bird makes records of what the repository gives."""
    query = type(result).query
    return query is BaseResult.query or (
        query is TemplateResult.query and type(repo).query_items is TemplateRepo.query_items
    )
