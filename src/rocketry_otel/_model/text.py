"""Text that every backend, repository and encoder accepts.

In: any object. Out: clean text. A lone surrogate, or an object instead of a text, makes the
protobuf encoder raise, and so costs the whole batch. All text that leaves the machine passes
here.
"""

from __future__ import annotations

import unicodedata
from datetime import datetime, timedelta

# Python refuses to print integers of more than some thousand digits.
_ANY_WIDTH = 2**64

_LONGEST_LINE = 300
# Control characters, marks that turn the direction of writing, halves of a pair, line ends.
_NOT_PRINTED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def safe_text(value: object) -> str:
    r"""Return any value as text that can be encoded; never raises.

    Lone surrogates become backslash escapes, and NUL becomes ``\x00`` written out. A second
    cleaning changes nothing.
    """
    if type(value) is not str:
        value = str(value) if type(value) is int and abs(value) < _ANY_WIDTH else _str_of(value)
    if "\x00" in value:
        value = value.replace("\x00", "\\x00")
    if value.isascii():
        return value
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _str_of(value: object) -> str:
    try:
        # A subclass of str may override any method: take the bare text.
        return str.__str__(value) if isinstance(value, str) else str.__str__(str(value))
    except Exception:  # noqa: BLE001  # an object of the user's may raise anything in __str__
        return f"<{type(value).__name__} that cannot be shown>"


def optional_text(value: object) -> str | None:
    """Return ``value`` as clean text; ``None`` if it is ``None`` or empty.

    A CSV file cannot distinguish an empty text from ``None``, and so all repositories agree.
    """
    return None if value is None else safe_text(value) or None


def optional_integer(value: object) -> int | None:
    """Return ``value`` if it is an integer that every database keeps, else ``None``."""
    return int(value) if isinstance(value, int) and -(2**63) <= value < 2**63 else None


def optional_seconds(value: object) -> float | None:
    """Return a time or a length of time as seconds; ``None`` if it is neither."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else None


def shortened(text: str, limit: int) -> str:
    """Return ``text`` in about ``limit`` bytes of UTF-8 at most, without its middle.

    Bytes, for that is what backends limit. The end of a traceback is the most useful part, so it
    gets three quarters of the room.
    """
    if len(text) <= limit and (text.isascii() or len(_encoded(text)) <= limit):
        return text
    head_size = limit // 4
    tail_size = limit - head_size
    # A character has at least one byte. One that was cut in two is left out.
    head = _encoded(text[:head_size])[:head_size].decode("utf-8", "ignore")
    tail = _encoded(text[-tail_size:])[-tail_size:].decode("utf-8", "ignore")
    left_out = len(text) - len(head) - len(tail)
    return f"{head}\n[... {left_out} characters left out ...]\n{tail}"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def one_line(text: str, limit: int = _LONGEST_LINE) -> str:
    """Return a text of somebody else's as one line for the log and the terminal.

    Args:
        text: The text, of any length and with any characters.
        limit: How many characters are kept. The work does not grow with the rest of the text.
    """
    part = text[: 4 * limit]
    printed = "".join(
        " " if unicodedata.category(character) in _NOT_PRINTED else character for character in part
    )
    line = " ".join(printed.split())
    is_whole = len(line) <= limit and len(part) == len(text)
    return line if is_whole else line[: limit - 3] + "..."
