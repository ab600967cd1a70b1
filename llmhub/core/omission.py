"""What a caller lets go of with ``unsupported="drop"``: parameters, and what stands in the turns beside their content.

Content is never left out: a picture that a provider cannot see is an error, not a shorter question.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from llmhub.core.errors import LLMError, Unsupported
from llmhub.core.types import CacheMark, CompletionRequest, Logprobs, Message, Part, Reasoning, ToolResult

_PLAIN: Final = CompletionRequest(model="", messages=())
DEFAULTS: Final[dict[str, Any]] = {
    name: getattr(_PLAIN, name) for name in CompletionRequest.__dataclass_fields__ if name not in {"model", "messages"}
}
"""What each optional field of a request is when it was not set."""
PLACE: Final = re.compile(r"\$\.messages\[(\d+)\]\.parts\[(\d+)\](\.is_error)?")
BESIDE: Final[dict[type[Part], str]] = {Reasoning: "messages.reasoning", CacheMark: "messages.cache_mark"}
"""Parts of a turn that may go, and how they are listed."""


def without(request: CompletionRequest, error: LLMError) -> tuple[str, CompletionRequest] | None:
    """Leave out what a provider cannot be told, if the caller lets go of it.

    Returns
    -------
    tuple[str, CompletionRequest] | None
        The name under which it is listed in ``dropped``, and the request without it; the name is empty for what only
        answers hold. ``None`` where nothing may go.

    Examples
    --------
    >>> ask = CompletionRequest(model="m", messages=(Message("user", "hi"),), top_k=3, unsupported="drop")
    >>> without(ask, Unsupported(path="$.top_k"))[0]
    'top_k'
    """
    if not isinstance(error, Unsupported):
        return None
    name = error.path.removeprefix("$.")
    if name in DEFAULTS:
        return (name, replace(request, **{name: DEFAULTS[name]})) if request.unsupported == "drop" else None
    place = PLACE.fullmatch(error.path)
    return None if place is None else _lighter(request, place)


def _lighter(request: CompletionRequest, place: re.Match[str]) -> tuple[str, CompletionRequest] | None:
    """Leave out what stands in a turn beside its content."""
    turn, index = int(place[1]), int(place[2])
    part = request.messages[turn].parts[index]
    if type(part) is Logprobs:
        return "", _put(request, turn, index, ())
    if request.unsupported != "drop":
        return None
    if isinstance(part, ToolResult) and place[3]:
        return "messages.is_error", _put(request, turn, index, (replace(part, is_error=False),))
    return (BESIDE[type(part)], _put(request, turn, index, ())) if type(part) in BESIDE else None


def _put(request: CompletionRequest, turn: int, index: int, parts: tuple[Part, ...]) -> CompletionRequest:
    """Put parts in the place of one; a turn that has none left goes with it."""
    old = request.messages[turn]
    whole = (*old.parts[:index], *parts, *old.parts[index + 1 :])
    turns = (Message(old.role, whole),) if whole else ()
    return replace(request, messages=(*request.messages[:turn], *turns, *request.messages[turn + 1 :]))
