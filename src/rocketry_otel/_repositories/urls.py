"""The parts of a repository URL: options, path and secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from rocketry_otel._errors import RepositoryURLError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# From the colon after the user's name up to the last "@": this hides all of a password with
# unencoded marks. In odd URLs it also hides text that is no secret.
_PASSWORD = re.compile(r"^([^:]*:/+[^:]*|[^:]*(?!:/)):(.*)@", re.DOTALL)
_OPTION = re.compile(r"([?&;])([^?&;=]*)=([^&;]*)")
_SECRET_NAME = re.compile(r"pass|pwd|secret|token|key|credential", re.IGNORECASE)
# A value that consists of options itself, as in `odbc_connect` or `authMechanismProperties`.
_SECRET_WITHIN = re.compile(rf"(?:{_SECRET_NAME.pattern})\w*\s*[:=]", re.IGNORECASE)


def mask_url(url: str) -> str:
    """Return a URL with its password and secret-looking options as ``***``.

    Text that is no URL is masked as far as it looks like one.
    """
    return _OPTION.sub(_masked_option, _PASSWORD.sub(r"\1:***@", str(url)))


def _masked_option(option: re.Match[str]) -> str:
    mark, name, value = option.groups()
    if _SECRET_NAME.search(unquote(name)) or _SECRET_WITHIN.search(unquote(value)):
        value = "***"
    return f"{mark}{name}={value}"


def refusal(url: str, why: str) -> RepositoryURLError:
    """Return the error of a URL that cannot be used."""
    return RepositoryURLError(f"{mask_url(url)}: {why}")


def without_secrets(words: str, url: str) -> str:
    """Return the message of a driver, with every secret of the URL in it as ``***``."""
    for secret in sorted(set(_secrets(url)), key=len, reverse=True):
        words = words.replace(secret, "***")
    return words


def _secrets(url: str) -> Iterator[str]:
    found = [match[2] for match in _PASSWORD.finditer(url)]
    found += [match[3] for match in _OPTION.finditer(url) if _masked_option(match) != match[0]]
    for secret in filter(None, found):
        yield from (secret, unquote(secret))


def split_options(url: str, allowed: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Split a URL into the part before its options, and the options.

    Raises:
        RepositoryURLError: An option is not known.
    """
    base, _, query = url.partition("?")
    options = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in allowed:
            # Without the option: after an unencoded "?" it may be part of a password.
            known = " and ".join(f"{option} ({use})" for option, use in allowed.items())
            raise refusal(url, f"unknown option; known: {known or 'none'}")
        options[name] = unquote(value)
    return base, options


def local_path(url: str) -> Path:
    """Return the absolute path that a ``csv`` or ``json`` URL names.

    Raises:
        RepositoryURLError: The URL has no path, or it has options.
    """
    base, _ = split_options(url, {})
    path = unquote(base.partition("://")[2])
    if not path.strip("/") or "\0" in path:
        scheme = base.partition("://")[0].lower()
        raise refusal(
            url,
            f"this names no file; an absolute path is {scheme}:///directory/name, a relative one "
            f"{scheme}://name, and a question mark in a name is %3F",
        )
    # The working directory may change later. The repository stays where it was opened.
    return Path(path).absolute()
