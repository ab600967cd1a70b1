"""Responses of the simulated models, derived from a hash of seed, model and conversation, and therefore repeatable.

A token is four characters, rounded up, of input and output alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, TypeAlias

import msgspec

from llmhub.sim.latency import Latency
from llmhub.sim.phrases import write_answer
from llmhub.sim.schema_values import generate_value
from llmhub.sim.tool_calls import choose_tool_calls
from llmhub.sim.types import SimChoice, SimRequest, SimResponse, SimToolCall

Respond: TypeAlias = Callable[[str], str]
"""A user's own model: text of the last user message to text of the response."""
CHARACTERS_PER_TOKEN: Final = 4
MIN_CACHED_TOKENS: Final = 1024
CACHED_TOKENS_STEP: Final = 128
"""Minimum prompt tokens that may be cached, and their granularity."""
NUMBER_PATTERN: Final = re.compile(r"\d+(?:\.\d+)?")
ARITHMETIC_PATTERN: Final = re.compile(
    r"\bhow (?:many|much|long|far|old)\b|\btotal\b|\bsum\b|\bcalculate\b", re.IGNORECASE
)
MAX_NUMBER_DIGITS: Final = 12
"""Numbers with more digits are treated as identifiers, not as operands."""


def request_digest(request: SimRequest) -> bytes:
    """Return a digest of model and conversation, 32 bytes."""
    text = f"{request.model}\x1f{request.text}".encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=32).digest()


def draw_uniform(digest: bytes, seed: int, purpose: bytes, index: int = 0) -> float:
    """Return a uniform number in [0, 1), determined by the arguments; ``purpose`` has at most 16 bytes.

    Examples
    --------
    >>> draw_uniform(b"a", 0, b"fault") == draw_uniform(b"a", 0, b"fault") != draw_uniform(b"a", 0, b"fault", 1)
    True
    """
    return int.from_bytes(_digest(digest, seed, purpose, index, 7), "big") / (1 << 56)


def count_tokens(text: str) -> int:
    """Return the number of tokens: one per four characters, rounded up.

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
    """Generate the response to a request.

    Parameters
    ----------
    identity
        `request_digest` of the request.
    now
        Creation time of the response, in epoch seconds.
    respond
        Generates the text instead; ``max_tokens`` and stop sequences still apply.
    """
    reasoning = (
        int(request.reasoning_tokens * (0.5 + draw_uniform(identity, seed, b"reasoning")))
        if request.reasoning_tokens
        else 0
    )
    max_tokens = request.max_tokens
    if max_tokens is not None:
        reasoning = min(reasoning, max_tokens)
        max_tokens -= reasoning
    digests = (_digest(identity, seed, b"answer", which) for which in range(request.n))
    choices = tuple(_generate_choice(request, digest, max_tokens, respond) for digest in digests)
    input_tokens = count_tokens(request.text)
    is_cacheable = request.uses_cache and input_tokens >= MIN_CACHED_TOKENS
    is_cached = is_cacheable and draw_uniform(identity, seed, b"cache") >= 0.5  # noqa: PLR2004 - half of them
    return SimResponse(
        request=request,
        choices=choices,
        input_tokens=input_tokens,
        output_tokens=sum(choice_tokens(choice) + reasoning for choice in choices),
        cached_tokens=input_tokens // 2 // CACHED_TOKENS_STEP * CACHED_TOKENS_STEP if is_cached else 0,
        reasoning_tokens=reasoning * request.n,
        id_digits=_digest(identity, seed, b"id", 0, 20).hex(),
        created=int(now),
        duration_s=latency.duration_s(draw_uniform(identity, seed, b"latency")) if latency.median_s else 0.0,
    )


def generate_text(prompt: str, digest: bytes) -> str:
    """Generate one to three sentences that answer the prompt; responses to arithmetic questions end in a number.

    Examples
    --------
    >>> generate_text("Use harbour in a sentence.", bytes(64))
    'We reached the harbour just before it started to rain.'
    """
    text = write_answer(prompt, digest)
    numbers = [float(number) for number in NUMBER_PATTERN.findall(prompt) if len(number) <= MAX_NUMBER_DIGITS]
    if len(numbers) > 1 and ARITHMETIC_PATTERN.search(prompt):
        return f"{text} The answer is {_combine_numbers(numbers, digest[60:])}."
    return text


def _combine_numbers(numbers: list[float], digest: bytes) -> str:
    """Combine two of the numbers, which are sometimes the right ones."""
    left, right = (numbers[byte % len(numbers)] for byte in digest[:2])
    result = (left + right, abs(left - right), left * right)[digest[2] % 3]
    return f"{result:.10g}"


def choice_tokens(choice: SimChoice) -> int:
    """Return the tokens of a choice: its text, and the names and arguments of its tool calls.

    Examples
    --------
    >>> call = SimToolCall("look", {"a": 1})
    >>> choice_tokens(SimChoice("four")), choice_tokens(SimChoice("", "tool_calls", tool_calls=(call,)))
    (1, 3)
    """
    return count_tokens(choice.text) + sum(
        count_tokens(call.name) + count_tokens(call.arguments_json) for call in choice.tool_calls
    )


def _generate_choice(request: SimRequest, digest: bytes, max_tokens: int | None, respond: Respond | None) -> SimChoice:
    """Generate one choice: tool calls, JSON that matches the schema, or sentences."""
    tool_calls = choose_tool_calls(request, digest)
    text = respond(request.prompt) if respond and (request.tools.required or not tool_calls) else None
    if text is not None:
        tool_calls = _override_arguments(tool_calls, text)
    if tool_calls:
        choice = SimChoice("", "tool_calls", tool_calls=tool_calls)
        return choice if max_tokens is None or choice_tokens(choice) <= max_tokens else SimChoice("", "length")
    if text is None:
        schema, prompt = request.schema, request.prompt
        text = generate_text(prompt, digest) if schema is None else generate_json(schema, digest, prompt)
    return _truncate_text(text, max_tokens, request.stop)


def _override_arguments(tool_calls: tuple[SimToolCall, ...], text: str) -> tuple[SimToolCall, ...]:
    """Replace the arguments of a required call by those of the user's own model; no call if they are not an object."""
    try:
        arguments = msgspec.json.decode(text) if tool_calls else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ()
    return (SimToolCall(tool_calls[0].name, arguments),) if isinstance(arguments, dict) else ()


def generate_json(schema: object, digest: bytes, prompt: str) -> str:
    """Generate JSON that matches a schema, with a space after each comma and colon, as models write it.

    Examples
    --------
    >>> generate_json({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": ""}}}, b"seed", "")
    '{"a": 1, "b": ""}'
    """
    return json.dumps(generate_value(schema, digest, prompt), ensure_ascii=False)


def _truncate_text(text: str, max_tokens: int | None, stop: tuple[str, ...]) -> SimChoice:
    """Cut a text at the first stop sequence or at its maximum tokens."""
    longest = len(text) if max_tokens is None else max_tokens * CHARACTERS_PER_TOKEN
    reached = [(index, mark) for mark in stop if mark and (index := text.find(mark)) >= 0]
    if reached:
        index, mark = min(reached)
        if index <= longest:
            return SimChoice(text[:index], "stop_sequence", mark)
    if len(text) > longest:
        return SimChoice(text[:longest], "length")
    return SimChoice(text, "stop")


def _digest(identity: bytes, seed: int, purpose: bytes, index: int, size: int = 64) -> bytes:
    return blake2b(
        identity,
        digest_size=size,
        key=(seed % (1 << 128)).to_bytes(16, "big"),
        person=purpose,
        salt=index.to_bytes(8, "big"),
    ).digest()
