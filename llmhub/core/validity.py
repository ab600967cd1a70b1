"""What must be right in a request whoever is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

from llmhub.core.errors import InvalidRequest, LLMError
from llmhub.core.structure import FORCED
from llmhub.core.types import (
    FLOATS,
    INTS,
    ROLES,
    CompletionRequest,
    Message,
    OnUnsupported,
    Part,
    Schema,
    Tool,
    ToolResult,
)

FIELDS: Final[Mapping[str, tuple[type, str]]] = {
    "model": (str, "a text"),
    **dict.fromkeys(FLOATS, (float, "a number")),
    **dict.fromkeys(INTS, (int, "a whole number")),
    **dict.fromkeys(("tool_choice", "reasoning_effort", "user"), (str, "a text")),
    "parallel_tool_calls": (bool, "true or false"),
    "response_schema": (Schema, "a Schema"),
    "extra": (Mapping, "a mapping"),
}
"""What a field holds where it is set, and how that is called."""
ITEMS: Final[Mapping[str, tuple[type, str]]] = {
    "messages": (Message, "Messages"),
    "stop": (str, "texts"),
    "tools": (Tool, "Tools"),
}
"""What a field holds any number of."""
PARTS: Final[tuple[Any, ...]] = get_args(Part)


def validate(request: CompletionRequest) -> LLMError | None:
    """Check what is wrong whoever is asked; ``None`` when nothing is.

    Examples
    --------
    >>> validate(CompletionRequest(model="", messages=())).path
    '$.model'
    >>> validate(CompletionRequest(model="m", messages=(Message("user", "hi"),), temperature="hot")).message
    "temperature='hot' is not a number"
    """
    return _untyped(request) or _unmeant(request)


def _untyped(request: CompletionRequest) -> LLMError | None:
    """Find a field that holds what it cannot."""
    for name, (kind, said) in FIELDS.items():
        value = getattr(request, name)
        if value is not None and (isinstance(value, bool) is not (kind is bool) or not isinstance(value, kind)):
            return InvalidRequest(path=f"$.{name}", message=f"{name}={value!r:.80} is not {said}")
    for name, (kind, said) in ITEMS.items():
        value = getattr(request, name)
        if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
            return InvalidRequest(path=f"$.{name}", message=f"{name}={value!r:.80} is not a sequence of {said}")
    if request.unsupported not in get_args(OnUnsupported):
        said = f"unsupported={request.unsupported!r} is not 'error' or 'drop'"
        return InvalidRequest(path="$.unsupported", message=said)
    return None


def _unmeant(request: CompletionRequest) -> LLMError | None:
    """Find what is of the right type and makes no sense."""
    if not request.model.strip():
        return InvalidRequest(path="$.model", message="the model is empty; name one, such as 'openai/gpt-4o-mini'")
    if not request.messages:
        return InvalidRequest(path="$.messages", message="there are no messages; add at least one user message")
    for at, message in enumerate(request.messages):
        wrong = _turn(message, f"$.messages[{at}]")
        if wrong is not None:
            return wrong
    if any(tool.name == FORCED for tool in request.tools):
        said = f"a tool named {FORCED!r} would be taken for the answer to a schema; name it otherwise"
        return InvalidRequest(path="$.tools", message=said)
    if request.n < 1:
        return InvalidRequest(path="$.n", message=f"n={request.n}; ask for at least one answer")
    return None


def _turn(message: Message, path: str) -> LLMError | None:
    if message.role not in ROLES:
        return InvalidRequest(
            path=f"{path}.role", message=f"unknown role {message.role!r}; use one of {', '.join(ROLES)}"
        )
    for index, part in enumerate(message.parts):
        if not isinstance(part, PARTS):
            said = f"{type(part).__name__} is no part of a message; give a text"
            return InvalidRequest(path=f"{path}.parts[{index}]", message=said)
        if isinstance(part, ToolResult) and not part.id:
            said = "a tool result without an id; give it the id of the tool call it answers"
            return InvalidRequest(path=f"{path}.parts[{index}].id", message=said)
    return None
