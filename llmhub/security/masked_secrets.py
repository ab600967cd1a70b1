"""Known credentials that a server repeats in part: ``key-3f*****4455`` still shows its beginning and end. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MASKED: Final = re.compile(r"(?P<start>[^\s\"'*•…,;()\[\]{}]*)(?:[*•]{2,}|\.{3,}|…+)(?P<end>[^\s\"'*•…,;()\[\]{}]*)")
"""Matches a word with a run of asterisks, dots or the like within it."""
MIN_SHOWN: Final = 4
"""Characters of a credential, at both ends together, from which a masked one is replaced."""
REPLACED: Final = "[redacted]"


def redact_masked(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` without known credentials that are masked in the middle.

    Examples
    --------
    >>> redact_masked("Incorrect key: acme-3f*****4455.", ["acme-3f0123456789abcdef4455"])
    'Incorrect key: [redacted].'
    >>> redact_masked("wait ... 4455 items", ["acme-3f0123456789abcdef4455"])
    'wait ... 4455 items'
    """
    if not MASKED.search(text):
        return text
    known = [secret for secret in secrets if len(secret) > MIN_SHOWN]

    def replace(found: re.Match[str]) -> str:
        return next((_without(found, secret) for secret in known if _shown(found, secret) >= MIN_SHOWN), found[0])

    return MASKED.sub(replace, text)


def _shown(found: re.Match[str], secret: str) -> int:
    """Return how many characters of a secret stand right before and after the mask."""
    start, end = _ends(found, secret)
    return start + end


def _without(found: re.Match[str], secret: str) -> str:
    start, end = _ends(found, secret)
    return found["start"][: len(found["start"]) - start] + REPLACED + found["end"][end:]


def _ends(found: re.Match[str], secret: str) -> tuple[int, int]:
    """Return the length of the secret's beginning before the mask, and of its end after it."""
    before, after = found["start"], found["end"]
    start = next((size for size in range(len(before), 0, -1) if secret.startswith(before[-size:])), 0)
    end = next((size for size in range(len(after), 0, -1) if secret.endswith(after[:size])), 0)
    return start, end
