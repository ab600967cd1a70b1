"""What a simulated model says: decided by hash, so the same seed, model and conversation get the same answer.

A token is four characters, rounded up: that is the whole rule, for what goes in and what comes out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, TypeAlias

import msgspec

from llmhub.sim.calls import calls
from llmhub.sim.exchange import Answer, Called, Choice, Question
from llmhub.sim.latency import Latency
from llmhub.sim.schema import fabricate
from llmhub.sim.words import LEXICON, WORD

Respond: TypeAlias = Callable[[str], str]
"""A user's own model: the last user turn to the answer's text."""

TOKEN_CHARACTERS: Final = 4
CACHED_FROM: Final = 1024
CACHED_STEP: Final = 128
"""Prompts from so many tokens may be read from a cache, in steps of so many."""

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
    digests = (_hash(identity, seed, b"answer", which) for which in range(question.n))
    choices = tuple(_choice(question, digest, room, respond) for digest in digests)
    asked = count(question.text)
    reads = question.caches and asked >= CACHED_FROM and draw(identity, seed, b"cache") >= 0.5  # noqa: PLR2004 - half
    return Answer(
        question=question,
        choices=choices,
        input_tokens=asked,
        output_tokens=sum(spent(choice) + reasoning for choice in choices),
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


def spent(choice: Choice) -> int:
    """Count the tokens of an answer: its text, and what its calls say.

    Examples
    --------
    >>> spent(Choice("four")), spent(Choice("", "tool_calls", calls=(Called("look", {"a": 1}),)))
    (1, 3)
    """
    return count(choice.text) + sum(count(call.name) + count(call.text) for call in choice.calls)


def _choice(question: Question, digest: bytes, room: int | None, respond: Respond | None) -> Choice:
    """Give one answer: a call, a text of the form that is asked for, or sentences."""
    called = calls(question, digest)
    said = respond(question.prompt) if respond and (question.tools.must or not called) else None
    if said is not None:
        called = _as_said(called, said)
    if called:
        whole = Choice("", "tool_calls", calls=called)
        return whole if room is None or spent(whole) <= room else Choice("", "length")
    if said is None:
        wanted, prompt = question.schema, question.prompt
        said = compose(prompt, digest) if wanted is None else written(wanted, digest, prompt)
    return _ended(said, room, question.stop)


def _as_said(called: tuple[Called, ...], said: str) -> tuple[Called, ...]:
    """Have a call that must be made say what a user's own model says; none where that are no arguments."""
    try:
        arguments = msgspec.json.decode(said) if called else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ()
    return (Called(called[0].name, arguments),) if isinstance(arguments, dict) else ()


def written(wanted: object, digest: bytes, prompt: str) -> str:
    """Write JSON that fits a schema, as models do: with a space behind each comma and colon.

    Examples
    --------
    >>> written({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": ""}}}, b"seed", "")
    '{"a": 1, "b": ""}'
    """
    return json.dumps(fabricate(wanted, digest, prompt), ensure_ascii=False)


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
