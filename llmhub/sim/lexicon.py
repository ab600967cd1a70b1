"""Vocabulary of the simulated models, and the pattern of words in a prompt."""

from __future__ import annotations

import re
from typing import Final

_NOUNS: Final = (
    "answer change context cost detail effect example fact measure method moment number order pattern place point "
    "question reason result rule sample source story system table term time total value view way word"
)
NOUNS: Final = tuple(_NOUNS.split())
WORD_PATTERN: Final = re.compile(r"[^\W\d_]{4,}")
SIM_MARKER: Final = re.compile(r"\[\[sim:[^\]]*\]\]")
"""Instructions to the simulator inside a prompt, such as ``[[sim:tool look]]``."""
