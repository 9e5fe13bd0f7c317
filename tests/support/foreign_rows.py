"""Rows of another program in a repository of ours, each the newest of its task."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from rocketry_otel import TaskEventRecord

_FIELDS = list(TaskEventRecord.__fields__)
# Deeper than Python can read.
_NESTED = "[" * 100_000

# By the kind of the repository.
FOREIGN: dict[str, list[Any]] = {
    "csv": [{"created": "nonsense"}, {"created": "inf"}],
    "json": [_NESTED, f'{{"task_name": {_NESTED}', '{"__pydantic_self__": 1}', "[1]"],
    "sqlite": [{"created": "'nonsense'"}, {"created": "9e999"}, {"run_id": "CAST(X'ff' AS TEXT)"}],
    "postgresql": [{"created": "'Infinity'"}, {"created": "1e300"}],
    "mongodb": [
        {"created": "nonsense"},
        {"created": float("inf")},
        {"task_name": "etl", "message": {"a": 1}},
        {"_id": "their own", "created": "nonsense"},
        {"_id": True, "created": None},
    ],
}
CASES = [(kind, row) for kind, rows in FOREIGN.items() for row in rows]
NAMES = [f"{kind}-{number}" for kind, rows in FOREIGN.items() for number in range(len(rows))]


def add_foreign(repo: Any, kind: str, row: Any) -> None:
    """Add a row of another program, which is no record, behind all that are there."""
    if kind == "json":
        (repo.path / f"{'9' * 19}-0-0.json").write_text(row, encoding="utf-8")
        return
    values = {"task_name": "etl", "action": "run", "created": "2.5", **row}
    if kind == "csv":
        with repo.filename.open("a", encoding="utf-8") as file:
            file.write(",".join(values.get(name, "") for name in _FIELDS) + "\r\n")
    elif kind == "mongodb":
        repo.get_collection().insert_one(values)
    else:
        values |= {"task_name": "'etl'", "action": "'run'"}
        names, texts = ", ".join(values), ", ".join(values.values())
        with repo.engine.begin() as connection:
            statement = f"INSERT INTO {repo.table} ({names}) VALUES ({texts})"  # noqa: S608
            connection.execute(sa.text(statement))
