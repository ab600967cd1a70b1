"""Structured reasoning of gateways (``reasoning_details``), which is sent back so that a model can go on from it.

Source: https://openrouter.ai/docs/guides/best-practices/reasoning-tokens and recorded exchanges (read 2026-11-30).
"""

from __future__ import annotations

import json
from typing import Final

from llmhub.core.types import Opaque

REASONING_DETAILS: Final = "reasoning_details"
"""Kind of the `Opaque` part that holds them: JSON objects, each with a comma after it, so that they concatenate."""
IDENTITY: Final = ("type", "index", "id")
"""Fields of a detail that tell it from the next one."""
TEXTS: Final = ("text", "summary")
"""Fields of a detail that a stream sends in pieces."""


def read_reasoning_details(part: Opaque) -> list[dict[str, object]]:
    """Return the objects in a part of the kind `REASONING_DETAILS`.

    Examples
    --------
    >>> read_reasoning_details(Opaque("reasoning_details", '{"type":"reasoning.text"},'))
    [{'type': 'reasoning.text'}]
    """
    try:
        details = json.loads(f"[{part.data.removesuffix(',')}]")
    except (ValueError, RecursionError):
        return []
    return [detail for detail in details if isinstance(detail, dict)]


def merge_details(data: str) -> str:
    """Merge the pieces of each detail that a stream sent: texts grow, any other field keeps its last value.

    Examples
    --------
    >>> pieces = '{"index":0,"text":"h"},{"index":0,"text":"m"},{"index":0,"signature":"s"},'
    >>> merge_details(pieces)
    '{"index":0,"text":"hm","signature":"s"},'
    """
    merged: list[dict[str, object]] = []
    for detail in read_reasoning_details(Opaque(REASONING_DETAILS, data)):
        if merged and _is_piece(merged[-1], detail):
            last = merged[-1]
            grown = {name: f"{last.get(name) or ''}{detail[name]}" for name in TEXTS if detail.get(name)}
            merged[-1] = {**last, **{name: value for name, value in detail.items() if value is not None}, **grown}
        else:
            merged.append(detail)
    return "".join(f"{json.dumps(detail, separators=(',', ':'))}," for detail in merged)


def _is_piece(last: dict[str, object], detail: dict[str, object]) -> bool:
    """Return whether ``detail`` continues ``last``; encrypted data is never sent in pieces."""
    is_same = all(last.get(name) == detail.get(name) for name in IDENTITY)
    return is_same and detail.get("index") is not None and not ("data" in last and "data" in detail)
