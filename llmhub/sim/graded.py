"""Answers that are right at a known rate: so that what an evaluation reports can be held against what is true."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from llmhub.sim.completions import draw_uniform

NUMBER_ANSWER: Final = re.compile(r"-?[\d,]*\d")
ANSWER_TEMPLATE: Final = "Let me think. The answer is {}."


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
    wrong: Callable[[str], str] = field(default_factory=lambda: wrong_answer)

    def text(self, model: str, prompt: str, seed: int, attempt: int) -> str | None:
        """Answer a prompt as ``provider/model`` does the ``attempt``-th time; ``None`` if it is none of the questions."""
        asked = prompt if prompt in self.right else next((each for each in self.right if each in prompt), None)
        if asked is None:
            return None
        own = _digest_text(f"{model}\x1f{asked}")
        common = draw_uniform(own, seed, b"whose luck", attempt) < self.shared
        luck = (
            draw_uniform(_digest_text(asked), seed, b"luck")
            if common
            else draw_uniform(own, seed, b"own luck", attempt)
        )
        rate = self.rates.get(model, self.rates.get(model.partition("/")[2], self.rate))
        return ANSWER_TEMPLATE.format(self.right[asked] if luck < rate else self.wrong(self.right[asked]))


def wrong_answer(answer: str) -> str:
    """Give what is wrong: another number, another letter, or nothing.

    Examples
    --------
    >>> wrong_answer("1,318"), wrong_answer("C"), wrong_answer("Paris")
    ('1321', 'D', 'unknown')
    """
    if NUMBER_ANSWER.fullmatch(answer):
        return str(int(answer.replace(",", "")) + 3)
    if len(answer) == 1 and answer.isalpha() and answer.isascii():
        return chr(ord(answer) + 1) if answer.upper() < "D" else chr(ord(answer) - 1)
    return "unknown"


def _digest_text(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
