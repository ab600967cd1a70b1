"""Responses that are correct at a known rate, to compare what an evaluation reports with the truth."""

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
    """Correct answers, and the accuracy of each model.

    Parameters
    ----------
    right
        Correct answers by question; a prompt has the question of this text, or the first one it contains.
    rates
        Accuracy by ``provider/model`` or model.
    rate
        Accuracy of all other models.
    shared
        Share of the randomness that all models have in common, so that some questions are hard for all of them.
    wrong
        Returns a wrong answer for a correct one.

    Notes
    -----
    Each response is correct with exactly the model's accuracy, whatever ``shared`` is. Repeated requests get
    independent responses, so that several samples differ.
    """

    right: Mapping[str, str] = field(repr=False)
    rates: Mapping[str, float] = field(default_factory=dict)
    rate: float = 1.0
    shared: float = 0.5
    wrong: Callable[[str], str] = field(default_factory=lambda: wrong_answer)

    def text(self, model: str, prompt: str, seed: int, attempt: int) -> str | None:
        """Return the response of ``provider/model`` to its ``attempt``-th request; ``None`` for other prompts."""
        question = prompt if prompt in self.right else next((text for text in self.right if text in prompt), None)
        if question is None:
            return None
        model_digest = _digest_text(f"{model}\x1f{question}")
        is_shared = draw_uniform(model_digest, seed, b"whose luck", attempt) < self.shared
        luck = (
            draw_uniform(_digest_text(question), seed, b"luck")
            if is_shared
            else draw_uniform(model_digest, seed, b"own luck", attempt)
        )
        rate = self.rates.get(model, self.rates.get(model.partition("/")[2], self.rate))
        return ANSWER_TEMPLATE.format(self.right[question] if luck < rate else self.wrong(self.right[question]))


def wrong_answer(answer: str) -> str:
    """Return a wrong answer: another number, another letter, or ``unknown``.

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
