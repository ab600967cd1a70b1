"""Log probabilities of tokens as the wires send them, converted to rows of one form that streams append to.

Sources: https://platform.openai.com/docs/api-reference/chat/object, https://ai.google.dev/api/generate-content
(``LogprobsResult``) and https://github.com/ollama/ollama/blob/main/docs/api.md (read 2026-11-27).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Final

from llmhub.core.types import Logprobs
from llmhub.wire.readers import as_list, as_mapping, as_text, encode_compact, iter_objects

LOGPROBS_INDEX: Final = 1 << 80
"""Index of the part among those of a streamed answer: after all others."""

MAX_LOGPROB: Final = 1e300
"""A greater number is not a logarithm of a probability."""


def decode_logprobs(tokens: object) -> list[Logprobs]:
    """Decode a list of tokens, each with its most likely alternatives; no part for an empty list.

    Examples
    --------
    >>> decode_logprobs([{"token": "Hi", "logprob": -0.5, "top_logprobs": [{"token": "Hi", "logprob": -0.5}]}])
    [Logprobs(data='["Hi",-0.5,[["Hi",-0.5]]],')]
    >>> decode_logprobs(None)
    []
    """
    return _part(_row(token, token.get("top_logprobs"), "logprob") for token in iter_objects(tokens))


def decode_gemini_logprobs(result: Mapping[str, object]) -> list[Logprobs]:
    """Decode Gemini's ``logprobsResult``: the chosen tokens, and beside them the alternatives at each position.

    Examples
    --------
    >>> decode_gemini_logprobs({"chosenCandidates": [{"token": "Hi", "logProbability": -0.5}]})
    [Logprobs(data='["Hi",-0.5,[]],')]
    """
    alternatives = [as_mapping(position).get("candidates") for position in as_list(result.get("topCandidates"))]
    chosen = list(iter_objects(result.get("chosenCandidates")))
    pairs = zip_longest(chosen, alternatives[: len(chosen)])
    return _part(_row(token, top, "logProbability") for token, top in pairs)


def decode_parallel_logprobs(lists: Mapping[str, object]) -> list[Logprobs]:
    """Decode parallel lists of tokens, their log probabilities and their alternatives, as Completions has them.

    Examples
    --------
    >>> decode_parallel_logprobs({"tokens": ["Hi"], "token_logprobs": [-0.5], "top_logprobs": [{"Hi": -0.5}]})
    [Logprobs(data='["Hi",-0.5,[["Hi",-0.5]]],')]
    """
    tokens, own, top = (as_list(lists.get(name)) for name in ("tokens", "token_logprobs", "top_logprobs"))
    return decode_logprobs(
        [
            {"token": token, "logprob": logprob, "top_logprobs": _alternatives(alternatives)}
            for token, logprob, alternatives in zip_longest(tokens, own[: len(tokens)], top[: len(tokens)])
        ]
    )


def _alternatives(values: object) -> list[Mapping[str, object]]:
    return [{"token": token, "logprob": value} for token, value in as_mapping(values).items()]


def _row(token: Mapping[str, object], top: object, field: str) -> str:
    alternatives = [[as_text(other.get("token")), _logprob(other.get(field))] for other in iter_objects(top)]
    return f"{encode_compact([as_text(token.get('token')), _logprob(token.get(field)), alternatives])},"


def _part(rows: Iterable[str]) -> list[Logprobs]:
    data = "".join(rows)
    return [Logprobs(data)] if data else []


def _logprob(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < MAX_LOGPROB else 0.0
