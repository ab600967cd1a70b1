"""Parse messages as users write them: strings, `Message` values, or mappings as in chat logs.

A mapping has ``role`` and ``content``; content is a string, parts, or blocks such as ``{"type": "text", ...}`` and
``{"type": "image_url", ...}`` (https://platform.openai.com/docs/api-reference/chat/create, read 2026-11-27) or
``{"type": "image", "source": {...}}`` (https://docs.claude.com/en/api/messages, read 2026-11-27). Other keys of a log
are ignored, and so are keys whose value is ``None``; a block of an unknown type is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, get_args

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import InvalidRequest, LLMError, to_exception
from llmhub.core.types import Image, Message, Part, Text, ToolCall, ToolResult

PART_TYPES: Final[tuple[Any, ...]] = get_args(Part)
MESSAGE_FORMAT: Final = "pass a string, a Message, or a mapping with 'role' and a string or parts as 'content'"


def parse_messages(
    messages: str | Message | Mapping[str, object] | Iterable[str | Message | Mapping[str, object]],
) -> tuple[Message, ...]:
    """Parse a conversation; a single message is a conversation of one.

    Examples
    --------
    >>> [message.role for message in parse_messages(["Hi", {"role": "assistant", "content": "Hello"}])]
    ['user', 'assistant']

    Raises
    ------
    BadRequestError
        If a message cannot be parsed; its path has the index.
    """
    if isinstance(messages, (str, Message, Mapping)) or not hasattr(messages, "__iter__"):
        items: Iterable[object] = (messages,)
    else:
        items = messages
    parsed = []
    for index, message in enumerate(items):
        result = parse_message(message, f"$.messages[{index}]")
        if not is_successful(result):
            raise to_exception(result.failure())
        parsed.append(result.unwrap())
    return tuple(parsed)


def parse_message(value: object, path: str = "$") -> Result[Message, LLMError]:
    """Parse one message; a string is a user message.

    Parameters
    ----------
    value
        String, `Message`, or mapping with ``role`` and ``content``.
    path
        Where the message stands, for the error.

    Returns
    -------
    Result[Message, LLMError]
        `InvalidRequest` if ``value`` is anything else.

    Examples
    --------
    >>> parse_message({"role": "user", "content": [{"type": "text", "text": "Hi"}]}).unwrap()
    Message(role='user', parts=(Text(text='Hi'),))
    >>> parse_message(7).failure().message[:49]
    'int is not a message; pass a string, a Message, o'
    """
    if isinstance(value, Message):
        return Success(value)
    if isinstance(value, str):
        return Success(Message("user", value))
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        return _invalid(path, f"{type(value).__name__} is not a message; {MESSAGE_FORMAT}")
    content = value.get("content", value.get("parts"))
    parts = _parse_parts(content, path)
    if not is_successful(parts):
        return Failure(parts.failure())
    if value["role"] == "tool" and isinstance(value.get("tool_call_id"), str):
        return Success(_tool_message(value, content, parts.unwrap()))
    return _parse_role_message(value, parts.unwrap(), path, has_content=content is not None)


def _tool_message(value: Mapping[str, Any], content: object, parts: tuple[Part, ...]) -> Message:
    output = content if isinstance(content, str) else tuple(part for part in parts if isinstance(part, (Text, Image)))
    return Message("tool", ToolResult(value["tool_call_id"], output, str(value.get("name") or "")))


def _parse_role_message(
    value: Mapping[str, Any], parts: tuple[Part, ...], path: str, *, has_content: bool
) -> Result[Message, LLMError]:
    """Parse a message that is not a tool's output, tool calls included."""
    tool_calls = value.get("tool_calls") or ()
    if not isinstance(tool_calls, Iterable) or isinstance(tool_calls, (str, bytes, Mapping)):
        return _invalid(path, f"tool_calls must be a list of tool calls, not {type(tool_calls).__name__}")
    calls = [_parse_tool_call(call) for call in tool_calls]
    if None in calls:
        return _invalid(path, "a tool call needs an 'id' and a 'function' with 'name' and 'arguments', all strings")
    if not has_content and not calls:
        return _invalid(path, f"a message with role {value['role']!r} has no content; {MESSAGE_FORMAT}")
    return Success(Message(value["role"], (*parts, *(call for call in calls if call is not None))))


def _parse_parts(content: object, path: str) -> Result[tuple[Part, ...], LLMError]:
    if content is None:
        return Success(())
    if isinstance(content, str):
        return Success((Text(content),))
    if isinstance(content, PART_TYPES):
        return Success((content,))
    if isinstance(content, (Mapping, bytes)) or not isinstance(content, Iterable):
        return _invalid(path, f"{type(content).__name__} is not the content of a message; {MESSAGE_FORMAT}")
    parts: list[Part] = []
    for block in content:
        part = (
            block if isinstance(block, PART_TYPES) else Text(block) if isinstance(block, str) else _parse_block(block)
        )
        if part is None:
            kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
            known = ", ".join(BLOCK_PARSERS)
            return _invalid(path, f"cannot parse a block of type {kind!r}; pass one of {known}, or llmhub's parts")
        parts.append(part)
    return Success(tuple(parts))


def _invalid(path: str, message: str) -> Result[Any, LLMError]:
    return Failure(InvalidRequest(path=path, message=message))


def _parse_block(block: object) -> Part | None:
    if isinstance(block, str):
        return Text(block)
    if not isinstance(block, Mapping):
        return None
    parser = BLOCK_PARSERS.get(str(block.get("type")))
    return None if parser is None else parser(block)


def _text_block(block: Mapping[str, Any]) -> Part | None:
    text = block.get("text")
    return Text(text) if isinstance(text, str) else None


def _image_url_block(block: Mapping[str, Any]) -> Part | None:
    image = block.get("image_url")
    url, detail = (
        (image.get("url"), image.get("detail")) if isinstance(image, Mapping) else (image, block.get("detail"))
    )
    return Image(url=url, detail=detail or "") if isinstance(url, str) and isinstance(detail, str | None) else None


def _image_source_block(block: Mapping[str, Any]) -> Part | None:
    source = block.get("source")
    if not isinstance(source, Mapping):
        return None
    fields = {name: source.get(name) or "" for name in ("url", "data", "media_type")}
    is_valid = all(isinstance(value, str) for value in fields.values()) and (fields["url"] or fields["data"])
    return Image(**fields) if is_valid else None


BLOCK_PARSERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Part | None]]] = {
    "text": _text_block,
    "input_text": _text_block,
    "output_text": _text_block,
    "image_url": _image_url_block,
    "input_image": _image_url_block,
    "image": _image_source_block,
}
"""Parsers by block type; each returns ``None`` for a block that lacks a field."""


def _parse_tool_call(call: object) -> ToolCall | None:
    if isinstance(call, ToolCall):
        return call
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(call, Mapping):
        return None
    fields: list[Any] = [call.get("id"), function.get("name"), function.get("arguments")]
    return ToolCall(*fields) if all(isinstance(value, str) for value in fields) else None
