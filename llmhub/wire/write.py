"""What every wire's ``encode`` does alike: sampling parameters by table, ranges checked before sending."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from returns.result import Failure, Result, Success

from llmhub.core.errors import InvalidRequest, LLMError, Unsupported
from llmhub.core.types import CompletionRequest, Payload

SAMPLING: Final = (
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "parallel_tool_calls",
    "n",
    "logprobs",
    "user",
)
"""Fields of a request that are parameters of the answer, in the order they are checked."""
UNSET: Final = {"stop": (), "n": 1}
"""The value of a field that was not set, where it is not ``None``."""


@dataclass(frozen=True, slots=True)
class Param:
    """One row of a wire's ``PARAMS``: a field, its name on the wire, and the range it must be in (or its length)."""

    field: str
    name: str
    low: float = float("-inf")
    high: float = float("inf")


def parameters(request: CompletionRequest, table: Iterable[Param]) -> Result[Payload, LLMError]:
    """Write the sampling parameters that are set, each under its wire's name.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> ask = CompletionRequest(model="m", messages=(Message("user", "hi"),), temperature=3)
    >>> parameters(ask, [Param("temperature", "temperature", 0, 1)]).failure().message
    'temperature=3.0 is outside 0..1'
    >>> parameters(ask, []).failure().path
    '$.temperature'
    """
    rows = {row.field: row for row in table}
    payload: Payload = {}
    for field in SAMPLING:
        value = getattr(request, field)
        if value == UNSET.get(field):
            continue
        row = rows.get(field)
        if row is None:
            return Failure(Unsupported(path=f"$.{field}", message=f"{field} cannot be said on this wire"))
        size = len(value) if isinstance(value, tuple) else value
        if not isinstance(size, str) and not row.low <= size <= row.high:
            said = f"{field}={value!r} is outside {row.low:g}..{row.high:g}"
            return Failure(InvalidRequest(path=f"$.{field}", message=said))
        payload[row.name] = list(value) if isinstance(value, tuple) else value
    return Success(payload)
