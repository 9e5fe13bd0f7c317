"""The check of words finds old words, and leaves other words alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from lint.words import Finding, find_words, main


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("from .record_ref import Passage", "Passage"),
        ("def find_passage(self):", "passage"),
        ("A batch that is owed", "owed"),
        ("runs under way", "under way"),
        ("def test_under_way():", "under_way"),
        ("refused and set aside", "set aside"),
        ("self._write_ahead = WriteAhead()", "write_ahead"),
        ("lookup = StoredRuns(repo)", "StoredRuns"),
        ("class _Newest:", "_Newest"),
        ("the heritage of a process", "heritage"),
        ("from rocketry_otel._model.identity import ids_of", "identity"),
        ("handler.delivery.report()", "report"),
        ("The queue is told of it", "told"),
        ("It tells and says so", "tells"),
    ],
)
def test_old_word_is_found(text: str, word: str) -> None:
    """An old word is found in prose, in names with underscores and in classes."""
    assert word in [one.word for one in find_words(text, "a.py")]


@pytest.mark.parametrize(
    "text",
    [
        "what is followed, allowed or showed",
        "SQLite's write-ahead log",
        "Thread(target=run)",
        "the newest record of a task",
        "performer, lifetime",
        "from . import report",
        "report.table(runs)",
        "it counts what was refused; progress=show",
    ],
)
def test_other_word_passes(text: str) -> None:
    """English words and public names in another sense pass."""
    assert find_words(text, "a.py") == []


def test_finding_names_the_place() -> None:
    """A finding has the file, the line and the better word."""
    (found,) = find_words("one\nthe ledger\n", "docs/a.md")
    assert found == Finding("docs/a.md", 2, "ledger", "checkpointer")


def test_old_word_fails_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One old word in a project fails the check, which counts the words of each folder."""
    for folder in ("src", "tests/project", "docs", "benchmarks"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "README.md").write_text("Fine.\n")
    (tmp_path / "CHANGELOG.md").write_text("A ledger of old.\n")
    (tmp_path / "tests" / "project" / "test_words.py").write_text("# ledger\n")
    assert main(tmp_path) == 0
    (tmp_path / "src" / "a.py").write_text("# A ledger.\n")
    assert main(tmp_path) == 1
    assert capsys.readouterr().out == ("src/a.py:1: 'ledger': better checkpointer\n    1 in src\n")
