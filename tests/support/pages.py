"""The pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)```([a-z]*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of code on a page.

    Attributes:
        page: The path of the page below the root of the project.
        language: The language of the block, as the page names it.
        code: The code, without the indentation that it has in a list.
    """

    page: str
    language: str
    code: str


def pages() -> list[str]:
    """Return the paths of all pages."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page.relative_to(ROOT).as_posix() for page in found]


def text_of(page: str) -> str:
    """Return the text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def all_blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in their order."""
    return [
        Block(page, language, textwrap.dedent(code))
        for _, language, code in _FENCE.findall(text_of(page))
    ]


def blocks(page: str, language: str) -> list[str]:
    """Return the code of the blocks in one language on a page, in their order."""
    return [block.code for block in all_blocks(page) if block.language == language]


def section(page: str, heading: str) -> str:
    """Return the text below a heading, to the next heading of any level."""
    (found,) = re.findall(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text_of(page), re.DOTALL | re.MULTILINE
    )
    return str(found)
