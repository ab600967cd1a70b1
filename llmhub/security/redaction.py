"""Remove credentials from text: known ones by value, others by the shapes that providers give them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

REPLACEMENT: Final = "[redacted]"
MIN_SECRET_LENGTH: Final = 6
"""Shorter values are not redacted, because that would garble ordinary text."""

SECRET_PATTERNS: Final = re.compile(
    r"sk-[A-Za-z0-9_*\-]{8,}"  # OpenAI, Anthropic, OpenRouter, DeepSeek
    r"|\b(?:gsk|xai|pplx|hf|r8|fw|csk)[_-][A-Za-z0-9]{16,}"  # Groq, xAI, Perplexity, Hugging Face, ...
    r"|\bAIza[0-9A-Za-z_\-]{30,}"  # Google
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS access key ids
    r"|\bya29\.[0-9A-Za-z_\-]{20,}"  # Google OAuth
    r"|\beyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{5,}"  # JSON web tokens
    r"|(?i:\bbearer\s+)[A-Za-z0-9._~+/\-]{8,}=*"
    r"|(?<=://)[^/@\s]+(?=@)"  # user and password in a URL
)

PUBLIC_PARAMETERS: Final = frozenset({"api-version", "api_version", "version", "alt"})
"""Query parameters that are no credentials."""
CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that command a terminal or reorder text, except tabs and line breaks."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` with every credential replaced.

    Parameters
    ----------
    text
        Text for a person, a log or a table.
    secrets
        Known credentials.

    Examples
    --------
    >>> redact("Incorrect API key provided: sk-proj-abcdefgh1234.")
    'Incorrect API key provided: [redacted].'
    >>> redact("cannot reach http://ann:hunter22@localhost/v1")
    'cannot reach http://[redacted]@localhost/v1'
    >>> redact("no such user: hunter22", ["hunter22"])
    'no such user: [redacted]'
    """
    known = (secret for secret in secrets if len(secret) >= MIN_SECRET_LENGTH)
    for secret in sorted(known, key=len, reverse=True):  # a secret may contain another
        text = text.replace(secret, REPLACEMENT)
    return SECRET_PATTERNS.sub(REPLACEMENT, text)


def url_secrets(url: str) -> tuple[str, ...]:
    """Return the parts of a URL that may be credentials: password (or a lone user name) and query values.

    Examples
    --------
    >>> url_secrets("https://ann:hunter%202@host/v1?sig=abcdef")
    ('hunter%202', 'hunter 2', 'abcdef')
    """
    try:
        parts = urlsplit(url)
        password = parts.password or parts.username or ""
        values = [value for name, value in parse_qsl(parts.query) if name not in PUBLIC_PARAMETERS]
    except ValueError:
        return ()
    texts = (password, unquote(password), *values, *map(quote, values))
    return tuple(dict.fromkeys(text for text in texts if text))


def escape_controls(text: str) -> str:
    r"""Return ``text`` with control characters as escape sequences, so that a terminal shows and does not obey them.

    Examples
    --------
    >>> escape_controls("\x1b]0;title\x07 ok")
    '\\x1b]0;title\\x07 ok'
    """
    return CONTROL_CHARACTERS.sub(lambda found: repr(found[0])[1:-1], text)
