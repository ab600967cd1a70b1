"""Remove credentials from text: known ones by value, others by the shapes that providers give them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

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
