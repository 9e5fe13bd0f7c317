"""The rules that are shipped, with time sixty times as fast: a minute is a second."""

from __future__ import annotations

import re

from .servers import ROOT

RULES = ROOT / "stack" / "prometheus-rules.yaml"
_UNITS = {"m": 60, "h": 3600, "d": 86400}
SPEED = 60


def fast_rules() -> str:
    """Return the rules with every length of time divided, and nothing else changed."""
    lines = []
    for line in RULES.read_text(encoding="utf-8").splitlines():
        is_prose = re.match(r"\s*(#|summary:|description:)", line)
        lines.append(line if is_prose else _faster(line))
    return "\n".join(lines)


def _faster(line: str) -> str:
    # In brackets, after `offset`, `for:` and `interval:`; and the seconds that 300 is.
    duration = r"((?:\[|offset |for: |interval: ))(\d+)([mhd])\b"
    line = re.sub(duration, lambda it: f"{it[1]}{int(it[2]) * _UNITS[it[3]] // SPEED}s", line)
    return re.sub(r"\b300\b", str(300 // SPEED), line)
