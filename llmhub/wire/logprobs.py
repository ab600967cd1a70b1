"""How likely each token was, as the wires tell it: rows of one form, which a stream only adds to.

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
"""Index of the part among those of a streamed answer: behind all others."""


def decode_logprobs(tokens: object) -> list[Logprobs]:
    """Read a list of tokens, each with the likeliest in its place; no part where there are none.

    Examples
    --------
    >>> decode_logprobs([{"token": "Hi", "logprob": -0.5, "top_logprobs": [{"token": "Hi", "logprob": -0.5}]}])
    [Logprobs(data='["Hi",-0.5,[["Hi",-0.5]]],')]
    >>> decode_logprobs(None)
    []
    """
    return _part(_row(token, token.get("top_logprobs"), "logprob") for token in iter_objects(tokens))


def decode_gemini_logprobs(told: Mapping[str, object]) -> list[Logprobs]:
    """Read what Gemini tells of a candidate: the chosen tokens, and the likeliest at each place beside them.

    Examples
    --------
    >>> decode_gemini_logprobs({"chosenCandidates": [{"token": "Hi", "logProbability": -0.5}]})
    [Logprobs(data='["Hi",-0.5,[]],')]
    """
    tops = [as_mapping(place).get("candidates") for place in as_list(told.get("topCandidates"))]
    chosen = list(iter_objects(told.get("chosenCandidates")))
    return _part(_row(token, top, "logProbability") for token, top in zip_longest(chosen, tops[: len(chosen)]))


def _row(token: Mapping[str, object], top: object, name: str) -> str:
    others = [[as_text(other.get("token")), _number(other.get(name))] for other in iter_objects(top)]
    return f"{encode_compact([as_text(token.get('token')), _number(token.get(name)), others])},"


def _part(rows: Iterable[str]) -> list[Logprobs]:
    data = "".join(rows)
    return [Logprobs(data)] if data else []


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < MAX_LOGPROB else 0.0


MAX_LOGPROB: Final = 1e300
"""Beyond this a number is no logarithm of anything."""
