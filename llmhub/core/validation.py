"""What a caller lets go of with ``unsupported="drop"``: parameters, and what stands in the turns beside their content.

Content is never left out: a picture that a provider cannot see is an error, not a shorter question.

What must be right in a request whoever is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, get_args

from llmhub.core.errors import InvalidRequest, LLMError, Unsupported
from llmhub.core.forced_tool import FORCED_TOOL_NAME
from llmhub.core.types import (
    FLOAT_FIELDS,
    INT_FIELDS,
    ROLES,
    CacheMark,
    CompletionRequest,
    Logprobs,
    Message,
    OnUnsupported,
    Part,
    Reasoning,
    Schema,
    Tool,
    ToolResult,
)

_EMPTY_REQUEST: Final = CompletionRequest(model="", messages=())


OPTIONAL_DEFAULTS: Final[dict[str, Any]] = {
    name: getattr(_EMPTY_REQUEST, name)
    for name in CompletionRequest.__dataclass_fields__
    if name not in {"model", "messages"}
}
"""What each optional field of a request is when it was not set."""


PART_PATH: Final = re.compile(r"\$\.messages\[(\d+)\]\.parts\[(\d+)\](\.is_error)?")


DROPPABLE_PARTS: Final[dict[type[Part], str]] = {Reasoning: "messages.reasoning", CacheMark: "messages.cache_mark"}
"""Parts of a turn that may go, and how they are listed."""


def drop_unsupported(request: CompletionRequest, error: LLMError) -> tuple[str, CompletionRequest] | None:
    """Leave out what a provider cannot be told, if the caller lets go of it.

    Returns
    -------
    tuple[str, CompletionRequest] | None
        The name under which it is listed in ``dropped``, and the request without it; the name is empty for what only
        answers hold. ``None`` where nothing may go.

    Examples
    --------
    >>> ask = CompletionRequest(model="m", messages=(Message("user", "hi"),), top_k=3, unsupported="drop")
    >>> drop_unsupported(ask, Unsupported(path="$.top_k"))[0]
    'top_k'
    """
    if not isinstance(error, Unsupported):
        return None
    name = error.path.removeprefix("$.")
    if name in OPTIONAL_DEFAULTS:
        return (name, replace(request, **{name: OPTIONAL_DEFAULTS[name]})) if request.unsupported == "drop" else None
    place = PART_PATH.fullmatch(error.path)
    return None if place is None else _drop_from_message(request, place)


def _drop_from_message(request: CompletionRequest, place: re.Match[str]) -> tuple[str, CompletionRequest] | None:
    """Leave out what stands in a turn beside its content."""
    turn, index = int(place[1]), int(place[2])
    part = request.messages[turn].parts[index]
    if type(part) is Logprobs:
        return "", _replace_part(request, turn, index, ())
    if request.unsupported != "drop":
        return None
    if isinstance(part, ToolResult) and place[3]:
        return "messages.is_error", _replace_part(request, turn, index, (replace(part, is_error=False),))
    return (
        (DROPPABLE_PARTS[type(part)], _replace_part(request, turn, index, ()))
        if type(part) in DROPPABLE_PARTS
        else None
    )


def _replace_part(request: CompletionRequest, turn: int, index: int, parts: tuple[Part, ...]) -> CompletionRequest:
    """Put parts in the place of one; a turn that has none left goes with it."""
    old = request.messages[turn]
    whole = (*old.parts[:index], *parts, *old.parts[index + 1 :])
    turns = (Message(old.role, whole),) if whole else ()
    return replace(request, messages=(*request.messages[:turn], *turns, *request.messages[turn + 1 :]))


FIELD_TYPES: Final[Mapping[str, tuple[type, str]]] = {
    "model": (str, "a text"),
    **dict.fromkeys(FLOAT_FIELDS, (float, "a number")),
    **dict.fromkeys(INT_FIELDS, (int, "a whole number")),
    **dict.fromkeys(("tool_choice", "reasoning_effort", "user"), (str, "a text")),
    "parallel_tool_calls": (bool, "true or false"),
    "response_schema": (Schema, "a Schema"),
    "extra": (Mapping, "a mapping"),
}
"""What a field holds where it is set, and how that is called."""


SEQUENCE_ITEM_TYPES: Final[Mapping[str, tuple[type, str]]] = {
    "messages": (Message, "Messages"),
    "stop": (str, "texts"),
    "tools": (Tool, "Tools"),
}
"""What a field holds any number of."""


PART_TYPES: Final[tuple[Any, ...]] = get_args(Part)


def validate_request(request: CompletionRequest) -> LLMError | None:
    """Check what is wrong whoever is asked; ``None`` when nothing is.

    Examples
    --------
    >>> validate_request(CompletionRequest(model="", messages=())).path
    '$.model'
    >>> validate_request(CompletionRequest(model="m", messages=(Message("user", "hi"),), temperature="hot")).message
    "temperature='hot' is not a number"
    """
    return _type_error(request) or _value_error(request)


def _type_error(request: CompletionRequest) -> LLMError | None:
    """Find a field that holds what it cannot."""
    for name, (kind, said) in FIELD_TYPES.items():
        value = getattr(request, name)
        if value is not None and (isinstance(value, bool) is not (kind is bool) or not isinstance(value, kind)):
            return InvalidRequest(path=f"$.{name}", message=f"{name}={value!r:.80} is not {said}")
    for name, (kind, said) in SEQUENCE_ITEM_TYPES.items():
        value = getattr(request, name)
        if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
            return InvalidRequest(path=f"$.{name}", message=f"{name}={value!r:.80} is not a sequence of {said}")
    if request.unsupported not in get_args(OnUnsupported):
        said = f"unsupported={request.unsupported!r} is not 'error' or 'drop'"
        return InvalidRequest(path="$.unsupported", message=said)
    return None


def _value_error(request: CompletionRequest) -> LLMError | None:
    """Find what is of the right type and makes no sense."""
    if not request.model.strip():
        return InvalidRequest(path="$.model", message="the model is empty; name one, such as 'openai/gpt-4o-mini'")
    if not request.messages:
        return InvalidRequest(path="$.messages", message="there are no messages; add at least one user message")
    for at, message in enumerate(request.messages):
        wrong = _message_error(message, f"$.messages[{at}]")
        if wrong is not None:
            return wrong
    if any(tool.name == FORCED_TOOL_NAME for tool in request.tools):
        said = f"a tool named {FORCED_TOOL_NAME!r} would be taken for the answer to a schema; name it otherwise"
        return InvalidRequest(path="$.tools", message=said)
    if request.n < 1:
        return InvalidRequest(path="$.n", message=f"n={request.n}; ask for at least one answer")
    return None


def _message_error(message: Message, path: str) -> LLMError | None:
    if message.role not in ROLES:
        return InvalidRequest(
            path=f"{path}.role", message=f"unknown role {message.role!r}; use one of {', '.join(ROLES)}"
        )
    for index, part in enumerate(message.parts):
        if not isinstance(part, PART_TYPES):
            said = f"{type(part).__name__} is no part of a message; give a text"
            return InvalidRequest(path=f"{path}.parts[{index}]", message=said)
        if isinstance(part, ToolResult) and not part.id:
            said = "a tool result without an id; give it the id of the tool call it answers"
            return InvalidRequest(path=f"{path}.parts[{index}].id", message=said)
    return None
