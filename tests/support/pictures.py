"""Pictures of the demo and of the command line, from their real output.

``python -m tests.support.pictures`` runs the demo in a terminal of its own, then the commands on
what it has recorded, and writes ``docs/_static/*.svg``. A picture loads no font from the network,
so that it is shown offline as well.
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

from tests.support.pages import ROOT
from tests.support.processes import clean_environment

FOLDER = ROOT / "docs" / "_static"
_COLUMNS = 100
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*|<!-- .*? -->\s*", re.DOTALL)
# The demo's bar of progress writes its line again and again; the last one is shown.
_REWRITTEN = re.compile(r"^.*\r(?!\n)", re.MULTILINE)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-HJKhl]")


def output_of(arguments: list[str], folder: Path) -> str:
    """Return the output of a command in a terminal, with its colours."""
    ours, theirs = pty.openpty()
    size = {"COLUMNS": str(_COLUMNS), "LINES": "60", "TERM": "xterm-256color"}
    with subprocess.Popen(
        [sys.executable, "-m", "rocketry_otel", *arguments],
        cwd=folder,
        env=clean_environment({**size, "OTEL_TRACES_EXPORTER": "none"}),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        output = bytearray()
        # At its end, a terminal of Linux gives an error.
        try:
            while piece := os.read(ours, 65536):
                output += piece
        except OSError:
            pass
    os.close(ours)
    text = output.decode(errors="replace").replace("\r\n", "\n")
    return _CONTROL.sub("", _REWRITTEN.sub("", text))


def picture(command: str, output: str) -> str:
    """Return the output of a command as SVG."""
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {command}\n"), Text.from_ansi(output), sep="")
    identifier = re.sub(r"\W+", "-", command)
    svg = console.export_svg(title=command, unique_id=identifier)
    return "\n".join(line.rstrip() for line in _FONT_FACE.sub("", svg).splitlines()) + "\n"


def main() -> None:
    """Write all pictures."""
    with TemporaryDirectory() as name:
        folder, repo = Path(name), "sqlite:///demo.db"
        demo = output_of(["demo", "--seconds", "6", "--repo", repo], folder)
        # What follows has paths of this machine.
        demo = demo.partition("\n>>> ")[0]
        shown = {"demo": ("rocketry-otel demo", demo)}
        for command in ("runs", "stats"):
            output = output_of([command, "--repo", repo], folder)
            shown[command] = (f"rocketry-otel {command}", output)
    for stem, (command, output) in shown.items():
        (FOLDER / f"{stem}.svg").write_text(picture(command, output), encoding="utf-8")


if __name__ == "__main__":
    main()
