from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.token_estimate import estimate_tokens

# Texts and their tokens in OpenAI's o200k vocabulary (tiktoken 0.14.0).
SAMPLES = (
    (18, "The library opens at nine in the morning and closes when the last reader has gone home."),
    (
        41,
        (
            "A baker sells 48 loaves before noon and half as many after it. How many loaves does she sell in the whole "
            "day, and what does she earn at $2.75 a loaf?"
        ),
    ),
    (
        26,
        (
            "Summarise the following customer review in one sentence, keep the tone neutral, and do not mention the "
            "name of the shop."
        ),
    ),
    (
        23,
        "Please classify the ticket as one of: billing, delivery, quality, other. Answer with the single word only.",
    ),
    (
        33,
        (
            "def mean(values: list[float]) -> float:\n    if not values:\n        raise ValueError("
            '"no values")\n    return sum(values) / len(values)\n'
        ),
    ),
    (
        24,
        "for row in table.rows():\n    total += row.price * row.count\n    if total > limit:\n        break\n",
    ),
    (34, '{"id": 17, "name": "Ada", "tags": ["a", "b"], "active": true, "score": 0.75}'),
    (20, "Die Bibliothek öffnet um neun Uhr morgens und schließt, wenn der letzte Leser gegangen ist."),
    (20, "La bibliothèque ouvre à neuf heures du matin et ferme quand le dernier lecteur est rentré chez lui."),
    (21, "图书馆早上九点开门，最后一位读者回家后关门。"),  # noqa: RUF001 - Chinese punctuation
    (23, "図書館は朝九時に開き、最後の利用者が帰ると閉まります。"),
    (21, "Библиотека открывается в девять утра и закрывается, когда уходит последний читатель."),
    (
        42,
        (
            "# Results\n\n- **Accuracy** rose from 81.3 % to 84.9 %\n- *Latency* fell by a third\n\n"
            "See the [full table](results.md) for each run.\n"
        ),
    ),
)


@pytest.mark.parametrize(("tokens", "text"), SAMPLES)
def test_estimates_are_within_25_percent(tokens: int, text: str) -> None:
    assert estimate_tokens(text) == pytest.approx(tokens, rel=0.25)


def test_estimates_are_unbiased() -> None:
    counted = sum(tokens for tokens, _ in SAMPLES)
    assert sum(estimate_tokens(text) for _, text in SAMPLES) == pytest.approx(counted, rel=0.03)


@given(st.text(st.characters(), max_size=300))
def test_estimates_are_counts(text: str) -> None:
    tokens = estimate_tokens(text)
    assert (tokens > 0) == bool(text)
    assert tokens <= 2 * len(text)


@given(st.text(max_size=200), st.integers(2, 50))
def test_estimates_are_proportional_to_length(text: str, times: int) -> None:
    once, many = estimate_tokens(text), estimate_tokens(" ".join([text] * times))
    assert many <= times * (once + 4)
    assert many >= times * (once - 3)


@given(st.text(st.characters(codec="utf-8"), max_size=100))
def test_lone_surrogates_count_as_one_character(text: str) -> None:
    assert estimate_tokens(text + "\ud800") == estimate_tokens(text + "?")


@pytest.mark.parametrize("run", [" " * 5000, "=" * 5000, "\n" * 5000, "." * 5000])
def test_runs_of_a_character_are_few_tokens(run: str) -> None:
    assert 0 < estimate_tokens(run) < len(run) / 2
