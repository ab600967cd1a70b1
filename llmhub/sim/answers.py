"""What a simulated model says: decided by hash, so the same seed, model and conversation get the same answer.

A token is four characters, rounded up: that is the whole rule, for what goes in and what comes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, TypeAlias

from llmhub.sim.exchange import Answer, Choice, Question
from llmhub.sim.latency import Latency

Respond: TypeAlias = Callable[[str], str]
"""A user's own model: the last user turn to the answer's text."""

TOKEN_CHARACTERS: Final = 4
CACHED_FROM: Final = 1024
CACHED_STEP: Final = 128
"""Prompts from so many tokens may be read from a cache, in steps of so many."""

SPOKEN: Final = {
    "noun": "answer change context cost detail effect example fact measure method moment number order pattern place "
    "point question reason result rule sample source story system table term time total value view way word",
    "adjective": "careful clear common direct early exact fair familiar first general honest last likely",
    "verb": "changes decides describes explains follows gives holds keeps leaves makes meets needs shows",
}
LEXICON: Final = {kind: tuple(spoken.split()) for kind, spoken in SPOKEN.items()}
SENTENCES: Final = (
    "The {noun} of {echo} {verb} a {adjective} {other}.",
    "A {adjective} {noun} {verb} {echo}.",
    "Here the {noun} {verb} the {other}, and {echo} with it.",
    "What matters about {echo} is the {adjective} {noun}.",
    "In short, {echo} {verb} one {noun} more than the {other}.",
    "Seen from the {other}, {echo} is a {adjective} {noun}.",
    "The {adjective} {noun} comes first; {echo} {verb} the {other}.",
    "One {noun} {verb} {echo} well enough.",
)
WORD: Final = re.compile(r"[^\W\d_]{4,}")
NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")
ARITHMETIC: Final = re.compile(r"\bhow (?:many|much|long|far|old)\b|\btotal\b|\bsum\b|\bcalculate\b", re.IGNORECASE)
LONGEST_NUMBER: Final = 12
"""Digits beyond which a number in a prompt is a name and not counted with."""


def identify(question: Question) -> bytes:
    """Give the 32 bytes that stand for a model and a conversation."""
    said = f"{question.model}\x1f{question.text}".encode("utf-8", "surrogatepass")
    return blake2b(said, digest_size=32).digest()


def draw(identity: bytes, seed: int, purpose: bytes, at: int = 0) -> float:
    """Draw a number from 0 up to 1 for one purpose (at most 16 bytes).

    Examples
    --------
    >>> draw(b"a", 0, b"fault") == draw(b"a", 0, b"fault") != draw(b"a", 0, b"fault", 1)
    True
    """
    return int.from_bytes(_hash(identity, seed, purpose, at, 7), "big") / (1 << 56)


def count(text: str) -> int:
    """Count tokens: one for every four characters, rounded up.

    Examples
    --------
    >>> count(""), count("four"), count("fours")
    (0, 1, 2)
    """
    return -(-len(text) // TOKEN_CHARACTERS)


def answer(
    question: Question,
    identity: bytes,
    *,
    seed: int = 0,
    now: float = 0.0,
    latency: Latency = Latency(),  # noqa: B008 - a frozen value
    respond: Respond | None = None,
) -> Answer:
    """Answer a question.

    Parameters
    ----------
    identity
        What `identify` gave for it.
    now
        Epoch seconds that the answer bears.
    respond
        Gives the text instead; length and stop sequences are honoured all the same.
    """
    reasoning = int(question.reasoning * (0.5 + draw(identity, seed, b"reasoning"))) if question.reasoning else 0
    room = question.max_tokens
    if room is not None:
        reasoning = min(reasoning, room)
        room -= reasoning
    texts = (
        respond(question.prompt) if respond else compose(question.prompt, _hash(identity, seed, b"answer", which))
        for which in range(question.n)
    )
    choices = tuple(_ended(text, room, question.stop) for text in texts)
    asked = count(question.text)
    reads = question.caches and asked >= CACHED_FROM and draw(identity, seed, b"cache") >= 0.5  # noqa: PLR2004 - half
    return Answer(
        question=question,
        choices=choices,
        input_tokens=asked,
        output_tokens=sum(count(choice.text) + reasoning for choice in choices),
        cached_tokens=asked // 2 // CACHED_STEP * CACHED_STEP if reads else 0,
        reasoning_tokens=reasoning * question.n,
        key=_hash(identity, seed, b"id", 0, 20).hex(),
        created=int(now),
        duration_s=latency.duration_s(draw(identity, seed, b"latency")) if latency.median_s else 0.0,
    )


def compose(prompt: str, digest: bytes) -> str:
    """Make up one to four plain sentences that echo words of the prompt; a sum asked for ends in a number.

    Examples
    --------
    >>> compose("Describe the harbour.", bytes(64))
    'The answer of Describe changes a careful answer.'
    """
    echoes = WORD.findall(prompt, 0, 2000) or ["this"]
    said = []
    for at in range(1 + digest[0] % 4):
        shape, echo, *rest = digest[1 + 6 * at : 7 + 6 * at]
        kinds = ("noun", "noun", "adjective", "verb")
        noun, other, adjective, verb = (
            LEXICON[kind][n % len(LEXICON[kind])] for kind, n in zip(kinds, rest, strict=True)
        )
        said.append(
            SENTENCES[shape % len(SENTENCES)].format(
                noun=noun, other=other, adjective=adjective, verb=verb, echo=echoes[echo % len(echoes)]
            )
        )
    numbers = [float(number) for number in NUMBER.findall(prompt) if len(number) <= LONGEST_NUMBER]
    if len(numbers) > 1 and ARITHMETIC.search(prompt):
        said.append(f"The answer is {_reckoned(numbers, digest[60:])}.")
    return " ".join(said)


def _reckoned(numbers: list[float], digest: bytes) -> str:
    """Put two of the numbers together: now and then even the right two."""
    left, right = (numbers[byte % len(numbers)] for byte in digest[:2])
    result = (left + right, abs(left - right), left * right)[digest[2] % 3]
    return f"{result:.10g}"


def _ended(text: str, room: int | None, stop: tuple[str, ...]) -> Choice:
    """End a text at the first stop sequence, or where its tokens run out."""
    longest = len(text) if room is None else room * TOKEN_CHARACTERS
    reached = [(at, mark) for mark in stop if mark and (at := text.find(mark)) >= 0]
    if reached:
        at, mark = min(reached)
        if at <= longest:
            return Choice(text[:at], "stop_sequence", mark)
    if len(text) > longest:
        return Choice(text[:longest], "length")
    return Choice(text, "stop")


def _hash(identity: bytes, seed: int, purpose: bytes, at: int, size: int = 64) -> bytes:
    return blake2b(
        identity,
        digest_size=size,
        key=(seed % (1 << 128)).to_bytes(16, "big"),
        person=purpose,
        salt=at.to_bytes(8, "big"),
    ).digest()
