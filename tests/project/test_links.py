"""The check of links finds links that lead nowhere, and leaves the others alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from lint.links import check_pages, headings, main

ROOT = Path(__file__).parents[2]


def page(body: str) -> str:
    """Return a page of a site."""
    return f'<html><body><h1 id="top">A page</h1>{body}</body></html>'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of two built pages and a README, whose links are whole."""
    (tmp_path / "site" / "deep").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "site" / "index.html").write_text(
        page('<a href="deep/a.html#top">a</a><a href="https://example.com/x#y">x</a><a href="#">')
    )
    (tmp_path / "site" / "deep" / "a.html").write_text(page('<a href="../index.html">back</a>'))
    (tmp_path / "docs" / "a.md").write_text("# A page\n\n## `SIGTERM`, and more\n\n")
    (tmp_path / "README.md").write_text(
        "# One\n[a](docs/a.md#sigterm-and-more) [b](#one) [c](https://example.com)\n"
        "```python\n# Two\nx = [1](2)\n```\n"
    )
    return tmp_path


def test_whole_links_pass(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pages, places in pages and other sites pass; code is not read."""
    assert (main(project), capsys.readouterr().out) == (0, "")


@pytest.mark.parametrize(
    "link",
    [
        '<a href="b.html">',
        '<a href="deep/a.html#bottom">',
        '<a href="#bottom">',
        '<img src="missing.svg">',
        '<a href="../README.md">',
        '<a href="javascript:void(0)">',
    ],
)
def test_broken_link_of_a_built_page_is_found(
    project: Path, capsys: pytest.CaptureFixture[str], link: str
) -> None:
    """A missing page, place or picture, and a file outside of the site."""
    (project / "site" / "new.html").write_text(page(link))
    assert main(project) == 1
    target = link.split('"')[1]
    assert capsys.readouterr().out == f"new.html: {target}: leads nowhere\n"


@pytest.mark.parametrize("target", ["docs/b.md", "docs/a.md#sigterm", "#two", "docs/a.md#two"])
def test_broken_link_of_the_readme_is_found(project: Path, target: str) -> None:
    """A missing file or heading."""
    (project / "README.md").write_text(f"# One\n[a]({target})\n")
    assert check_pages(project) == [f"README.md: {target}"]


def test_missing_site_fails_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check does not pass for want of pages."""
    assert main(tmp_path) == 1
    assert "run make docs" in capsys.readouterr().out


def test_pages_of_the_project_have_whole_links() -> None:
    """README and its neighbours; `make docs` checks the built pages."""
    assert check_pages(ROOT) == []
    assert "settings" in headings((ROOT / "README.md").read_text(encoding="utf-8"))
