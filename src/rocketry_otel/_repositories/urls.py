"""What the repositories do with a URL before they open it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from rocketry_otel._errors import RepositoryURLError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# From the colon after the user's name up to the last "@": a password with unencoded marks in
# it is hidden whole, at the price of hiding, in odd URLs, something that is no secret.
_PASSWORD = re.compile(r"^([^:]*:/+[^:]*|[^:]*(?!:/)):(.*)@", re.DOTALL)
_OPTION = re.compile(r"([?&;])([^?&;=]*)=([^&;]*)")
_SECRET_NAME = re.compile(r"pass|pwd|secret|token|key|credential", re.IGNORECASE)
# A value that is itself made of options, as of `odbc_connect` or `authMechanismProperties`.
_SECRET_WITHIN = re.compile(rf"(?:{_SECRET_NAME.pattern})\w*\s*[:=]", re.IGNORECASE)


def mask_url(url: str) -> str:
    """Return a URL with its password and secret-looking options as ``***``.

    Args:
        url: Any text; what is no URL is masked as far as it looks like one.

    Returns:
        What can be shown, logged and raised.
    """
    return _OPTION.sub(_masked_option, _PASSWORD.sub(r"\1:***@", str(url)))


def _masked_option(option: re.Match[str]) -> str:
    mark, name, value = option.groups()
    if _SECRET_NAME.search(unquote(name)) or _SECRET_WITHIN.search(unquote(value)):
        value = "***"
    return f"{mark}{name}={value}"


def refusal(url: str, why: str) -> RepositoryURLError:
    """Return the error that says why a URL cannot be used."""
    return RepositoryURLError(f"{mask_url(url)}: {why}")


def without_secrets(words: str, url: str) -> str:
    """Return the words of a driver, with every secret of the URL in them as ``***``."""
    for secret in sorted(set(_secrets(url)), key=len, reverse=True):
        words = words.replace(secret, "***")
    return words


def _secrets(url: str) -> Iterator[str]:
    found = [match[2] for match in _PASSWORD.finditer(url)]
    found += [match[3] for match in _OPTION.finditer(url) if _masked_option(match) != match[0]]
    for secret in filter(None, found):
        yield from (secret, unquote(secret))


def split_options(url: str, allowed: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Split a URL into what stands before its options, and the options.

    Args:
        url: The URL.
        allowed: What each known option is for.

    Raises:
        RepositoryURLError: An option is not known.
    """
    base, _, query = url.partition("?")
    options = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in allowed:
            # It is not quoted: behind an unencoded "?" it may be part of a password.
            known = " and ".join(f"{option} ({use})" for option, use in allowed.items())
            raise refusal(url, f"it has an option that is not known; known: {known or 'none'}")
        options[name] = unquote(value)
    return base, options


def local_path(url: str) -> Path:
    """Return the absolute path that a ``csv`` or ``json`` URL names.

    Raises:
        RepositoryURLError: There is no path in it, or there are options.
    """
    base, _ = split_options(url, {})
    path = unquote(base.partition("://")[2])
    if not path.strip("/") or "\0" in path:
        scheme = base.partition("://")[0].lower()
        raise refusal(
            url,
            f"this names no file; absolute is {scheme}:///directory/name, relative is "
            f"{scheme}://name, and a question mark in a name is %3F",
        )
    # The working directory may change later; the repository stays where it was opened.
    return Path(path).absolute()
