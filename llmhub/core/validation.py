"""Validate requests independently of the provider, and omit what a provider does not support.

`validate_request` checks types and values before a request is encoded; ranges that differ between providers are checked
by their wires. `drop_unsupported` implements ``unsupported="drop"``: it omits parameters and annotations of messages,
but never content, so that an image which a model cannot see is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, get_args

from llmhub.core.errors import InvalidRequest, LLMError, Unsupported
from llmhub.core.forced_tool import FORCED_TOOL_NAME
from llmhub.core.reasoning_details import REASONING_DETAILS
from llmhub.core.recording import is_recording
from llmhub.core.types import (
    FLOAT_FIELDS,
    INT_FIELDS,
    ROLES,
    CacheMark,
    CompletionRequest,
    Logprobs,
    Message,
    OnUnsupported,
    Opaque,
    Part,
    Reasoning,
    Schema,
    Tool,
    ToolResult,
)

FIELD_TYPES: Final[Mapping[str, tuple[type, str]]] = {
    "model": (str, "a string"),
    **dict.fromkeys(FLOAT_FIELDS, (float, "a number")),
    **dict.fromkeys(INT_FIELDS, (int, "an integer")),
    **dict.fromkeys(("tool_choice", "reasoning_effort", "user"), (str, "a string")),
    "parallel_tool_calls": (bool, "True or False"),
    "response_schema": (Schema, "a Schema"),
    "extra": (Mapping, "a mapping"),
}
"""Type of each field that is set, and its name in messages."""
SEQUENCE_ITEM_TYPES: Final[Mapping[str, tuple[type, str]]] = {
    "messages": (Message, "Messages"),
    "stop": (str, "strings"),
    "tools": (Tool, "Tools"),
}
"""Type of the items of each sequence field, and its name in messages."""
PART_TYPES: Final[tuple[Any, ...]] = get_args(Part)

_EMPTY_REQUEST: Final = CompletionRequest(model="", messages=())
OPTIONAL_DEFAULTS: Final[dict[str, Any]] = {
    name: getattr(_EMPTY_REQUEST, name)
    for name in CompletionRequest.__dataclass_fields__
    if name not in {"model", "messages"}
}
"""Value of each optional field that was not set."""
PART_PATH: Final = re.compile(r"\$\.messages\[(\d+)\]\.parts\[(\d+)\](\.is_error)?")
DROPPABLE_PARTS: Final[dict[type[Part], str]] = {Reasoning: "messages.reasoning", CacheMark: "messages.cache_mark"}
"""Parts of a message that may be omitted, and their names in ``dropped_params``."""

RESPONSE_KINDS: Final = frozenset(
    {
        *("annotation", "search_result", "search_image", "executed_tool", "moderation"),
        *("groundingMetadata", "urlContextMetadata", "citationMetadata"),
    }
)
"""Kinds of `Opaque` parts that only responses have, as no API takes them back."""


def validate_request(request: CompletionRequest) -> LLMError | None:
    """Return the first error of a request that no provider would accept, or ``None`` if there is none.

    Examples
    --------
    >>> validate_request(CompletionRequest(model="", messages=())).path
    '$.model'
    >>> validate_request(CompletionRequest(model="m", messages=(Message("user", "hi"),), temperature="hot")).message
    "temperature='hot' is not a number"
    """
    return _type_error(request) or _value_error(request)


def _type_error(request: CompletionRequest) -> LLMError | None:
    for name, (type_, type_name) in FIELD_TYPES.items():
        value = getattr(request, name)
        # bool is a subclass of int, but True is not a number of tokens.
        if value is not None and (isinstance(value, bool) is not (type_ is bool) or not isinstance(value, type_)):
            return InvalidRequest(path=f"$.{name}", message=f"{name}={value!r:.80} is not {type_name}")
    for name, (type_, type_name) in SEQUENCE_ITEM_TYPES.items():
        value = getattr(request, name)
        if not isinstance(value, tuple) or not all(isinstance(item, type_) for item in value):
            return InvalidRequest(path=f"$.{name}", message=f"{name}={value!r:.80} is not a sequence of {type_name}")
    if request.unsupported not in get_args(OnUnsupported):
        message = f"unsupported={request.unsupported!r} is not 'error' or 'drop'"
        return InvalidRequest(path="$.unsupported", message=message)
    return None


def _value_error(request: CompletionRequest) -> LLMError | None:
    if not request.model.strip():
        return InvalidRequest(path="$.model", message="the model is empty; pass one such as 'openai/gpt-4o-mini'")
    if not request.messages:
        return InvalidRequest(path="$.messages", message="there are no messages; add at least one user message")
    for index, message in enumerate(request.messages):
        error = _message_error(message, f"$.messages[{index}]")
        if error is not None:
            return error
    if any(tool.name == FORCED_TOOL_NAME for tool in request.tools):
        text = f"the tool name {FORCED_TOOL_NAME!r} is reserved for structured output; use another name"
        return InvalidRequest(path="$.tools", message=text)
    if request.n < 1:
        return InvalidRequest(path="$.n", message=f"n={request.n} is not positive; request at least one response")
    return None


def _message_error(message: Message, path: str) -> LLMError | None:
    if message.role not in ROLES:
        text = f"unknown role {message.role!r}; use one of {', '.join(ROLES)}"
        return InvalidRequest(path=f"{path}.role", message=text)
    for index, part in enumerate(message.parts):
        if not isinstance(part, PART_TYPES):
            text = f"{type(part).__name__} is not a part of a message; pass a string or one of llmhub's parts"
            return InvalidRequest(path=f"{path}.parts[{index}]", message=text)
        if isinstance(part, ToolResult) and not part.id:
            text = "a tool result without an id; set it to the id of the tool call"
            return InvalidRequest(path=f"{path}.parts[{index}].id", message=text)
    return None


def drop_unsupported(request: CompletionRequest, error: LLMError) -> tuple[str, CompletionRequest] | None:
    """Omit what a provider does not support, if ``request.unsupported`` permits it.

    Returns
    -------
    tuple[str, CompletionRequest] | None
        The name to list in ``dropped_params`` and the request without it, or ``None`` if it must not be omitted. The
        name is empty for parts that only responses have.

    Examples
    --------
    >>> request = CompletionRequest(model="m", messages=(Message("user", "hi"),), top_k=3, unsupported="drop")
    >>> drop_unsupported(request, Unsupported(path="$.top_k"))[0]
    'top_k'
    """
    if not isinstance(error, Unsupported):
        return None
    name = error.path.removeprefix("$.")
    if name in OPTIONAL_DEFAULTS:
        return (name, replace(request, **{name: OPTIONAL_DEFAULTS[name]})) if request.unsupported == "drop" else None
    match = PART_PATH.fullmatch(error.path)
    reduced = None if match is None else _drop_from_message(request, match)
    # A conversation of which nothing is left is an error, not an empty request.
    return reduced if reduced is None or reduced[1].messages else None


def _drop_from_message(request: CompletionRequest, match: re.Match[str]) -> tuple[str, CompletionRequest] | None:
    message_index, part_index = int(match[1]), int(match[2])
    part = request.messages[message_index].parts[part_index]
    if type(part) is Logprobs or (type(part) is Opaque and part.kind in RESPONSE_KINDS):
        return "", _replace_part(request, message_index, part_index, ())
    message = request.messages[message_index]
    if is_recording(part) and message.role == "assistant" and message.text:  # its transcript is sent
        return "", _replace_part(request, message_index, part_index, ())
    if request.unsupported != "drop":
        return None
    if isinstance(part, ToolResult) and match[3]:
        without_flag = replace(part, is_error=False)
        return "messages.is_error", _replace_part(request, message_index, part_index, (without_flag,))
    is_reasoning = type(part) is Opaque and part.kind == REASONING_DETAILS
    name = DROPPABLE_PARTS.get(Reasoning if is_reasoning else type(part))
    return None if name is None else (name, _replace_part(request, message_index, part_index, ()))


def _replace_part(
    request: CompletionRequest, message_index: int, part_index: int, replacement: tuple[Part, ...]
) -> CompletionRequest:
    """Replace one part by any number of parts; a message without parts is removed."""
    old = request.messages[message_index]
    parts = (*old.parts[:part_index], *replacement, *old.parts[part_index + 1 :])
    messages = (Message(old.role, parts),) if parts else ()
    return replace(
        request, messages=(*request.messages[:message_index], *messages, *request.messages[message_index + 1 :])
    )


def exceeds(digits: str, limit: int) -> bool:
    """Return whether a number of any number of digits, which ``int`` may refuse, is larger than ``limit``.

    Examples
    --------
    >>> exceeds("1000", 1000), exceeds("9" * 5000, 1000)
    (False, True)
    """
    significant = digits.lstrip("0") or "0"
    return len(significant) > len(str(limit)) or int(significant) > limit
