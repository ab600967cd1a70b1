"""Parser of ``.env`` files: assignments of environment variables, a line each."""

from __future__ import annotations

import re
from typing import Final

ASSIGNMENT: Final = re.compile(
    r"""^[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*"""
    r"""(?:'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|(?P<plain>[^\n]*?))[ \t\r]*(?:(?<=[ \t])\#[^\n]*)?$""",
    re.MULTILINE,
)
"""Matches ``NAME=value``, with or without quotes, ``export`` and a comment."""
ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r"}
"""Escape sequences within double quotes; any other character stands for itself."""


def parse_dotenv(text: str) -> dict[str, str]:
    r"""Return the variables in the text of a ``.env`` file. Lines that are no assignments are skipped.

    Examples
    --------
    >>> parse_dotenv("# keys\nexport A=one # first\nB = 'two #2'\nC=\"x\\ny\"\nD=\n")
    {'A': 'one', 'B': 'two #2', 'C': 'x\ny', 'D': ''}
    """
    variables: dict[str, str] = {}
    for found in ASSIGNMENT.finditer(text):
        double = found["double"]
        unescaped = None if double is None else ESCAPE.sub(lambda escape: ESCAPED.get(escape[1], escape[1]), double)
        values = (found["single"], unescaped, found["plain"])
        variables[found["name"]] = next((value for value in values if value is not None), "")
    return variables
