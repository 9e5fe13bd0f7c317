"""The description on a package index: the README, with links that lead somewhere from there.

In: ``README.md``, and the address of this repository's files from ``pyproject.toml``. Out: the text
in the metadata of the package. A package index shows no other file, so links to files are whole
addresses there; while no address is filled in, they are the names of the files, and pictures are
left out.
"""
# a program, not a package

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A picture in a file; and a link, less those to another site or to a place on the same page.
_PICTURE = re.compile(r"^!\[[^\]]*\]\((?![a-z]+:)[^)\s]+\)\n+", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def for_index(text: str, files: str) -> str:
    """Return a README for a package index.

    Args:
        text: The README.
        files: The address of the repository's files, with a slash at its end; or nothing.
    """
    if files:
        return _LINK.sub(lambda link: f"[{link[1]}]({files}{link[2]})", text)
    return _LINK.sub(_without_link, _PICTURE.sub("", text))


def _without_link(link: re.Match[str]) -> str:
    words, file = link[1], link[2].partition("#")[0]
    return file if words == file else f"{words} (`{file}`)"


class ReadmeHook(MetadataHookInterface):
    """Puts the README into the metadata when the package is built."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the description."""
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": for_index(readme, self.config.get("files", "")),
        }
