"""Check that code, tests and documentation use one word for one thing.

In: the files of the project. Out: a line for each old word, with the better one, and status 1.
"""
# ruff: noqa: INP001  # a program, not a package

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# CHANGELOG.md is not among them: a release keeps its words.
PLACES = ("src", "tests", "docs", "examples", "benchmarks", "README.md")
SUFFIXES = (".py", ".md")
# Where the old words are listed.
EXCEPTIONS = ("tests/project/test_words.py",)


class Rule(NamedTuple):
    """An old word, and the better one.

    Attributes:
        pattern: The old word, without regard to case. Letters around it make another word;
            an underscore does not.
        better: The better word.
    """

    pattern: str
    better: str


# Words that are ordinary English, or public names in another sense, are banned only as the names
# that they were: a class, a method, a module.
RULES = (
    Rule(r"passages?", "record_ref, RecordRef"),
    Rule(r"holding", "buffer"),
    Rule(r"owed", "handed over, in flight"),
    Rule(r"under[ _-]way", "in flight"),
    Rule(r"dispatch(?:es|ed|er|ing)?", "batch"),
    Rule(r"pacing", "backoff, threads"),
    # SQLite's write-ahead log is its own.
    Rule(r"write[ _-]?ahead(?! log)", "delivery worker"),
    Rule(r"ledger", "checkpointer"),
    Rule(r"(?<=checkpointer\.)note|(?<=state\.)note", "checkpoint"),
    Rule(r"set[ _-](?:\w+ )?aside", "dead letters"),
    Rule(r"heritage|inheritance", "takeover"),
    Rule(r"(?<=class )_?target|(?<=delivery[./])target", "cursor"),
    Rule(r"(?<=delivery\.)report|(?<=delivery/)report", "status"),
    Rule(r"stored_?runs", "run_lookup, RunLookup"),
    Rule(r"retell(?:s|ing)?|retold", "reconstruct"),
    Rule(r"(?<=history[./])stores", "streams"),
    Rule(r"(?<=class )_?newest", "latest_runs"),
    Rule(r"additions", "annotations"),
    Rule(r"enrichments?", "user_hooks"),
    Rule(r"(?<=class )_?counts|(?<=export[./])counts", "counters"),
    Rule(r"(?<=model[./])identity|(?<=class )identity", "ids"),
    Rule(r"(?<=export[./])environment", "otel_env"),
    Rule(r"(?<=export[./])destinations", "responses"),
    Rule(r"(?<=runtime[./])(?:exit|locks)", "shutdown, file_lock"),
    Rule(r"(?<=instrumentation[./])(?:newest|launches|body)", "the module's name of today"),
    Rule(r"rereading", "queue"),
    Rule(r"life|former", "generation; of a process: the process"),
    Rule(r"(?<=class )(?:trial|delivered)", "Scenario, Arrivals"),
    Rule(r"told|tells?|telling|says", "a plain verb: on_error, log, report, show, return"),
)


class Finding(NamedTuple):
    """An old word in a line of a file."""

    path: str
    line: int
    word: str
    better: str


def find_words(text: str, path: str) -> list[Finding]:
    """Return the old words in the text of a file."""
    return [
        Finding(path, number, match[0], rule.better)
        for number, line in enumerate(text.splitlines(), start=1)
        for rule, pattern in _PATTERNS
        for match in pattern.finditer(line)
    ]


def find_all(root: Path) -> list[Finding]:
    """Return the old words in the files of a project."""
    found: list[Finding] = []
    for place in PLACES:
        start = root / place
        for file in sorted(start.rglob("*")) if start.is_dir() else [start]:
            path = file.relative_to(root).as_posix()
            if file.suffix in SUFFIXES and file.is_file() and path not in EXCEPTIONS:
                found += find_words(file.read_text(encoding="utf-8"), path)
    return found


def main(root: Path = ROOT) -> int:
    """Print the old words and how many each folder has; return the exit status."""
    found = find_all(root)
    for one in found:
        sys.stdout.write(f"{one.path}:{one.line}: {one.word!r}: better {one.better}\n")
    folders = Counter(Path(one.path).parent.as_posix() for one in found)
    for folder, count in sorted(folders.items()):
        sys.stdout.write(f"{count:5} in {folder}\n")
    return 1 if found else 0


_PATTERNS = [
    (rule, re.compile(rf"(?<![a-z])(?:{rule.pattern})(?![a-z])", re.IGNORECASE)) for rule in RULES
]

if __name__ == "__main__":
    sys.exit(main())
