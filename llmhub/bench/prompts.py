"""Prompts of load tests: short explanations, or random words of a fixed length in tokens."""

from __future__ import annotations

import random
from typing import Final

from llmhub.tables.tokenizers import count_tokens

PROMPT: Final = "Number {number}. In about {words} words, explain {subject} to a reader new to the subject."
SUBJECTS: Final = ("tides", "yeast", "glaciers", "printing", "compasses", "vaccines", "lighthouses", "bridges")
WORD_LIST: Final = """
    the of and to in is that for it as was with be by on not he his but at are this have from or had an
    they which one you were all her she there would their we him been has when who will no more if out
    so said what up its about than into them can only other time new some could these two may first then
    do any like my now over such our man me even most made after also did many off before must well back
    through years much where your way
"""
WORDS: Final = tuple(WORD_LIST.split())
"""Frequent words, each of them one token with the space before it in most vocabularies."""
MAX_CORRECTIONS: Final = 12


def default_prompt(index: int, words: int) -> str:
    """Return the request for an explanation, each with a number of its own so that no prefix is the same.

    Examples
    --------
    >>> default_prompt(0, 100)
    'Number 1. In about 100 words, explain tides to a reader new to the subject.'
    """
    return PROMPT.format(number=index + 1, words=words, subject=SUBJECTS[index % len(SUBJECTS)])


def prompts_of_length(tokens: int, count: int, model: str) -> list[str]:
    """Return prompts of random words, all of a length in tokens of the model's vocabulary.

    They begin differently, so that no server can answer from the prefix of an earlier one. If the vocabulary is not
    available, lengths are estimates, as a warning says.
    """
    generator = random.Random(0)  # noqa: S311 - not for security
    words = [generator.choices(WORDS, k=tokens) for _ in range(count)]
    for _ in range(MAX_CORRECTIONS):
        counts = count_tokens([" ".join(own) for own in words], model).counts
        if all(length == tokens for length in counts):
            break
        for own, length in zip(words, counts, strict=True):
            if length > tokens:
                del own[max(1, len(own) - (length - tokens)) :]
            else:
                own.extend(generator.choices(WORDS, k=tokens - length))
    return [" ".join(own) for own in words]
