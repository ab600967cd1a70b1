"""Vocabulary of the simulated models, and the pattern of words in a prompt."""

from __future__ import annotations

import re
from typing import Final

_WORDS_BY_KIND: Final = {
    "noun": "answer change context cost detail effect example fact measure method moment number order pattern place "
    "point question reason result rule sample source story system table term time total value view way word",
    "adjective": "careful clear common direct early exact fair familiar first general honest last likely",
    "verb": "changes decides describes explains follows gives holds keeps leaves makes meets needs shows",
}
LEXICON: Final = {kind: tuple(spoken.split()) for kind, spoken in _WORDS_BY_KIND.items()}
WORD_PATTERN: Final = re.compile(r"[^\W\d_]{4,}")
