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

from llmhub.sim.latency import Latency
from llmhub.sim.lexicon import LEXICON, WORD_PATTERN
from llmhub.sim.schema_values import generate_value
from llmhub.sim.tool_calls import choose_tool_calls
from llmhub.sim.types import SimChoice, SimRequest, SimResponse, SimToolCall

Respond: TypeAlias = Callable[[str], str]
"""A user's own model: the last user turn to the answer's text."""
CHARACTERS_PER_TOKEN: Final = 4
MIN_CACHED_TOKENS: Final = 1024
CACHED_TOKENS_STEP: Final = 128
"""Prompts from so many tokens may be read from a cache, in steps of so many."""
SENTENCE_TEMPLATES: Final = (
    "The {noun} of {echo} {verb} a {adjective} {other}.",
    "A {adjective} {noun} {verb} {echo}.",
    "Here the {noun} {verb} the {other}, and {echo} with it.",
    "What matters about {echo} is the {adjective} {noun}.",
    "In short, {echo} {verb} one {noun} more than the {other}.",
    "Seen from the {other}, {echo} is a {adjective} {noun}.",
    "The {adjective} {noun} comes first; {echo} {verb} the {other}.",
    "One {noun} {verb} {echo} well enough.",
)
NUMBER_PATTERN: Final = re.compile(r"\d+(?:\.\d+)?")
ARITHMETIC_PATTERN: Final = re.compile(
    r"\bhow (?:many|much|long|far|old)\b|\btotal\b|\bsum\b|\bcalculate\b", re.IGNORECASE
)
MAX_NUMBER_DIGITS: Final = 12
"""Digits beyond which a number in a prompt is a name and not counted with."""


def request_digest(question: SimRequest) -> bytes:
    """Give the 32 bytes that stand for a model and a conversation."""
    said = f"{question.model}\x1f{question.text}".encode("utf-8", "surrogatepass")
    return blake2b(said, digest_size=32).digest()


def draw_uniform(digest: bytes, seed: int, purpose: bytes, index: int = 0) -> float:
    """Draw a number from 0 up to 1 for one purpose (at most 16 bytes).

    Examples
    --------
    >>> draw_uniform(b"a", 0, b"fault") == draw_uniform(b"a", 0, b"fault") != draw_uniform(b"a", 0, b"fault", 1)
    True
    """
    return int.from_bytes(_digest(digest, seed, purpose, index, 7), "big") / (1 << 56)


def count_tokens(text: str) -> int:
    """Count tokens: one for every four characters, rounded up.

    Examples
    --------
    >>> count_tokens(""), count_tokens("four"), count_tokens("fours")
    (0, 1, 2)
    """
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def generate_response(
    request: SimRequest,
    identity: bytes,
    *,
    seed: int = 0,
    now: float = 0.0,
    latency: Latency = Latency(),  # noqa: B008 - a frozen value
    respond: Respond | None = None,
) -> SimResponse:
    """Answer a question.

    Parameters
    ----------
    identity
        What `request_digest` gave for it.
    now
        Epoch seconds that the answer bears.
    respond
        Gives the text instead; length and stop sequences are honoured all the same.
    """
    reasoning = (
        int(request.reasoning_tokens * (0.5 + draw_uniform(identity, seed, b"reasoning")))
        if request.reasoning_tokens
        else 0
    )
    room = request.max_tokens
    if room is not None:
        reasoning = min(reasoning, room)
        room -= reasoning
    digests = (_digest(identity, seed, b"answer", which) for which in range(request.n))
    choices = tuple(_generate_choice(request, digest, room, respond) for digest in digests)
    asked = count_tokens(request.text)
    reads = request.uses_cache and asked >= MIN_CACHED_TOKENS and draw_uniform(identity, seed, b"cache") >= 0.5  # noqa: PLR2004 - half
    return SimResponse(
        request=request,
        choices=choices,
        input_tokens=asked,
        output_tokens=sum(choice_tokens(choice) + reasoning for choice in choices),
        cached_tokens=asked // 2 // CACHED_TOKENS_STEP * CACHED_TOKENS_STEP if reads else 0,
        reasoning_tokens=reasoning * request.n,
        id_digits=_digest(identity, seed, b"id", 0, 20).hex(),
        created=int(now),
        duration_s=latency.duration_s(draw_uniform(identity, seed, b"latency")) if latency.median_s else 0.0,
    )


def generate_text(prompt: str, digest: bytes) -> str:
    """Make up one to four plain sentences that echo words of the prompt; a sum asked for ends in a number.

    Examples
    --------
    >>> generate_text("Describe the harbour.", bytes(64))
    'The answer of Describe changes a careful answer.'
    """
    echoes = WORD_PATTERN.findall(prompt, 0, 2000) or ["this"]
    said = []
    for at in range(1 + digest[0] % 4):
        shape, echo, *rest = digest[1 + 6 * at : 7 + 6 * at]
        kinds = ("noun", "noun", "adjective", "verb")
        noun, other, adjective, verb = (
            LEXICON[kind][n % len(LEXICON[kind])] for kind, n in zip(kinds, rest, strict=True)
        )
        said.append(
            SENTENCE_TEMPLATES[shape % len(SENTENCE_TEMPLATES)].format(
                noun=noun, other=other, adjective=adjective, verb=verb, echo=echoes[echo % len(echoes)]
            )
        )
    numbers = [float(number) for number in NUMBER_PATTERN.findall(prompt) if len(number) <= MAX_NUMBER_DIGITS]
    if len(numbers) > 1 and ARITHMETIC_PATTERN.search(prompt):
        said.append(f"The answer is {_combine_numbers(numbers, digest[60:])}.")
    return " ".join(said)


def _combine_numbers(numbers: list[float], digest: bytes) -> str:
    """Put two of the numbers together: now and then even the right two."""
    left, right = (numbers[byte % len(numbers)] for byte in digest[:2])
    result = (left + right, abs(left - right), left * right)[digest[2] % 3]
    return f"{result:.10g}"


def choice_tokens(choice: SimChoice) -> int:
    """Count the tokens of an answer: its text, and what its calls say.

    Examples
    --------
    >>> choice_tokens(SimChoice("four")), choice_tokens(SimChoice("", "tool_calls", tool_calls=(SimToolCall("look", {"a": 1}),)))
    (1, 3)
    """
    return count_tokens(choice.text) + sum(
        count_tokens(call.name) + count_tokens(call.arguments_json) for call in choice.tool_calls
    )


def _generate_choice(question: SimRequest, digest: bytes, room: int | None, respond: Respond | None) -> SimChoice:
    """Give one answer: a call, a text of the form that is asked for, or sentences."""
    called = choose_tool_calls(question, digest)
    said = respond(question.prompt) if respond and (question.tools.required or not called) else None
    if said is not None:
        called = _override_arguments(called, said)
    if called:
        whole = SimChoice("", "tool_calls", tool_calls=called)
        return whole if room is None or choice_tokens(whole) <= room else SimChoice("", "length")
    if said is None:
        wanted, prompt = question.schema, question.prompt
        said = generate_text(prompt, digest) if wanted is None else generate_json(wanted, digest, prompt)
    return _truncate_text(said, room, question.stop)


def _override_arguments(called: tuple[SimToolCall, ...], said: str) -> tuple[SimToolCall, ...]:
    """Have a call that must be made say what a user's own model says; none where that are no arguments."""
    try:
        arguments = msgspec.json.decode(said) if called else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ()
    return (SimToolCall(called[0].name, arguments),) if isinstance(arguments, dict) else ()


def generate_json(wanted: object, digest: bytes, prompt: str) -> str:
    """Write JSON that fits a schema, as models do: with a space behind each comma and colon.

    Examples
    --------
    >>> generate_json({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": ""}}}, b"seed", "")
    '{"a": 1, "b": ""}'
    """
    return json.dumps(generate_value(wanted, digest, prompt), ensure_ascii=False)


def _truncate_text(text: str, room: int | None, stop: tuple[str, ...]) -> SimChoice:
    """End a text at the first stop sequence, or where its tokens run out."""
    longest = len(text) if room is None else room * CHARACTERS_PER_TOKEN
    reached = [(at, mark) for mark in stop if mark and (at := text.find(mark)) >= 0]
    if reached:
        at, mark = min(reached)
        if at <= longest:
            return SimChoice(text[:at], "stop_sequence", mark)
    if len(text) > longest:
        return SimChoice(text[:longest], "length")
    return SimChoice(text, "stop")


def _digest(identity: bytes, seed: int, purpose: bytes, at: int, size: int = 64) -> bytes:
    return blake2b(
        identity,
        digest_size=size,
        key=(seed % (1 << 128)).to_bytes(16, "big"),
        person=purpose,
        salt=at.to_bytes(8, "big"),
    ).digest()
