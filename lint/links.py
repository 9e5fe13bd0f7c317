"""Check the links of the built documentation, and of the pages of the project, without a network.

In: ``site/``, as ``make docs`` has built it. Out: a line for each link that leads nowhere, and
status 1. Sphinx itself warns of most wrong links between pages; this sees all that can be clicked.
"""
# ruff: noqa: INP001  # a program, not a package

from __future__ import annotations

import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
# Pages that a code host or a package index shows, and Sphinx does not.
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.add(str(values["id"]))
        target = values.get("src" if tag in ("img", "script") else "href")
        if target is not None:
            self.targets.append(target)


@cache
def _parsed(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def check_site(site: Path) -> list[str]:
    """Return the links of built pages that lead to no file, or to no place in it."""
    return [
        f"{page.relative_to(site).as_posix()}: {target}"
        for page in sorted(site.rglob("*.html"))
        for target in _parsed(page).targets
        if not _leads_somewhere(page, target, site)
    ]


def _leads_somewhere(page: Path, target: str, site: Path) -> bool:
    parts = urlsplit(target)
    if parts.scheme:
        return parts.scheme in ("https", "http", "mailto", "data")
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page.resolve()
    if not file.is_relative_to(site.resolve()) or not file.is_file():
        return False
    fragment = unquote(parts.fragment)
    return not fragment or file.suffix != ".html" or fragment in _parsed(file).ids


def check_pages(root: Path) -> list[str]:
    """Return the links of Markdown pages outside of ``docs/`` that lead to no file or heading."""
    return [
        f"{name}: {target}"
        for name in PAGES
        if (root / name).is_file()
        for target in _links(root / name)
        if not _is_there(root / name, target)
    ]


def _links(page: Path) -> list[str]:
    targets = _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    return [target for target in targets if not urlsplit(target).scheme]


def _is_there(page: Path, target: str) -> bool:
    path, _, fragment = target.partition("#")
    file = page.parent / unquote(path) if path else page
    if not file.exists():
        return False
    return not fragment or fragment in headings(file.read_text(encoding="utf-8"))


def headings(text: str) -> set[str]:
    """Return the names by which links reach the headings of a page of Markdown."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(name)
    return found


def main(root: Path = ROOT) -> int:
    """Print the links that lead nowhere; return the exit status."""
    site = root / "site"
    if not (site / "index.html").is_file():
        sys.stdout.write("There is no site/index.html: run make docs\n")
        return 1
    broken = [*check_site(site), *check_pages(root)]
    for line in broken:
        sys.stdout.write(f"{line}: leads nowhere\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
