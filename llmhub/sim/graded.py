"""Answers that are right at a known rate: so that what an evaluation reports can be held against what is true."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from llmhub.sim.answers import draw

NUMERAL: Final = re.compile(r"-?[\d,]*\d")
SAID: Final = "Let me think. The answer is {}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """Right answers, and how often each model finds them.

    Parameters
    ----------
    right
        The right answer to each question; a question is known by a prompt that is it, or that holds it.
    rates
        How often a model is right, by ``provider/model`` or by model.
    rate
        How often any other model is.
    shared
        Share of a model's luck that hangs on the question, and so is every model's alike: what one finds hard the
        others do too.
    wrong
        Gives a wrong answer in the place of a right one.

    Notes
    -----
    Each answer is right with exactly the model's rate, whatever is shared. The same question asked again is answered
    anew, so that several samples differ.
    """

    right: Mapping[str, str] = field(repr=False)
    rates: Mapping[str, float] = field(default_factory=dict)
    rate: float = 1.0
    shared: float = 0.5
    wrong: Callable[[str], str] = field(default_factory=lambda: beside)

    def text(self, name: str, prompt: str, seed: int, at: int) -> str | None:
        """Answer a prompt as ``provider/model`` does the ``at``-th time; ``None`` if it is none of the questions."""
        asked = prompt if prompt in self.right else next((each for each in self.right if each in prompt), None)
        if asked is None:
            return None
        own = _identity(f"{name}\x1f{asked}")
        common = draw(own, seed, b"whose luck", at) < self.shared
        luck = draw(_identity(asked), seed, b"luck") if common else draw(own, seed, b"own luck", at)
        rate = self.rates.get(name, self.rates.get(name.partition("/")[2], self.rate))
        return SAID.format(self.right[asked] if luck < rate else self.wrong(self.right[asked]))


def beside(answer: str) -> str:
    """Give what is wrong: another number, another letter, or nothing.

    Examples
    --------
    >>> beside("1,318"), beside("C"), beside("Paris")
    ('1321', 'D', 'unknown')
    """
    if NUMERAL.fullmatch(answer):
        return str(int(answer.replace(",", "")) + 3)
    if len(answer) == 1 and answer.isalpha() and answer.isascii():
        return chr(ord(answer) + 1) if answer.upper() < "D" else chr(ord(answer) - 1)
    return "unknown"


def _identity(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
