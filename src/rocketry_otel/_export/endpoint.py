"""The address of a collector: the parts to show, and the parts that are secret.

In: an endpoint as the user wrote it, in any form. Out: its scheme, host, port and path, for
logs and ``handler.delivery``; and messages of libraries without the other parts.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

# User, query and fragment may hold secrets. A password with a mark such as "/" in it cannot be
# separated from host and path: such an address does not match.
_ADDRESS = re.compile(
    r"""(?P<scheme>[a-z][a-z0-9+.-]*://)?
        (?:(?P<user>[^/?\#@]*)@)?
        (?P<host>\[[0-9a-f:.%]+\]|[^/?\#@:\[\]]*)
        (?P<port>:[0-9]{1,5})?
        (?P<path>/[^?\#@]*)?
        (?P<rest>[?\#][^@]*)?""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_MARKS = re.compile(r"[:/?#@&=;,\s]+")
_HIDDEN = "***"
# A shorter piece, such as a user called "u", counts only as a whole word.
_SHORT = 4


def visible(endpoint: str) -> str:
    """Return the parts of an endpoint to show: scheme, host, port and path.

    Args:
        endpoint: The endpoint, as a variable has it.

    Returns:
        The parts. If a password cannot be separated from host and path, ``***`` takes the place
        of everything after the scheme.
    """
    match = _ADDRESS.fullmatch(endpoint)
    if match is None:
        scheme = _SCHEME.match(endpoint)
        return f"{scheme[0] if scheme else ''}{_HIDDEN}"
    return "".join(match[part] or "" for part in ("scheme", "host", "port", "path"))


def without_secrets(message: str, endpoint: str) -> str:
    """Return a message of a library without the secrets of an endpoint.

    Args:
        message: A line such as ``InvalidURL: Failed to parse: ...``.
        endpoint: The endpoint that the message may quote, whole or in part.

    Returns:
        The message itself if it quotes no secret. Otherwise the name of the exception's class, and
        a remark.
    """
    shown = visible(endpoint)
    if shown == endpoint:
        return message
    message = message.replace(endpoint, shown)
    known = set(_pieces(shown))
    secrets = {piece for piece in _pieces(endpoint) if piece not in known}
    quoted = message.replace(shown, "")
    # A long message is cut, and may end in the first part of a secret.
    end = quoted.removesuffix("...")
    if any(_is_in(secret, quoted) or _begins_at_the_end(secret, end) for secret in secrets):
        name = message.partition(":")[0]
        name = name if name.isidentifier() else "error"
        return f"{name} (the message quotes the endpoint, which holds a secret)"
    return message


def _is_in(secret: str, text: str) -> bool:
    if len(secret) >= _SHORT:
        return secret in text
    return re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text) is not None


def _begins_at_the_end(secret: str, text: str) -> bool:
    lengths = range(_SHORT, len(secret))
    return any(text.endswith(secret[:length]) for length in lengths)


def _pieces(text: str) -> list[str]:
    found = [piece for piece in _MARKS.split(text) if piece]
    return found + [unquote(piece) for piece in found]
