"""Turns of a conversation as people keep them: texts, values, or mappings in the form of chat logs.

A mapping has ``role`` and ``content``; content is a text, parts, or blocks such as ``{"type": "text", ...}`` and
``{"type": "image_url", ...}`` (https://platform.openai.com/docs/api-reference/chat/create, read 2026-11-27) or
``{"type": "image", "source": {...}}`` (https://docs.claude.com/en/api/messages, read 2026-11-27). What a log holds
besides, and what is null in it, is passed over only where it says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, get_args

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.types import Image, Message, Part, Text, ToolCall, ToolResult


def parse_messages(
    messages: str | Message | Mapping[str, object] | Iterable[str | Message | Mapping[str, object]],
) -> tuple[Message, ...]:
    """Read messages as people write them: strings, `Message`s, or mappings with ``role`` and ``content``.

    One that stands alone is the whole conversation.

    Examples
    --------
    >>> [m.role for m in parse_messages(["Hi", {"role": "assistant", "content": "Hello"}])]
    ['user', 'assistant']

    Raises
    ------
    InvalidRequestError
        For anything else, naming which message.
    """
    if isinstance(messages, (str, Message, Mapping)) or not hasattr(messages, "__iter__"):
        return (_parse_message_at(messages, 0),)
    return tuple(_parse_message_at(message, at) for at, message in enumerate(messages))


def _parse_message_at(message: object, at: int) -> Message:
    turn = parse_message(message)
    if isinstance(turn, Message):
        return turn
    raise BadRequestError(InvalidRequest(path=f"$.messages[{at}]", message=turn))


PART_TYPES: Final[tuple[Any, ...]] = get_args(Part)


MESSAGE_FORMAT: Final = "give a string, a Message, or a mapping with 'role' and a string or parts as 'content'"


def parse_message(value: object) -> Message | str:
    """Read one turn, or say why it is none.

    Examples
    --------
    >>> parse_message({"role": "user", "content": [{"type": "text", "text": "Hi"}]})
    Message(role='user', parts=(Text(text='Hi'),))
    >>> parse_message(7)
    "int is no message; give a string, a Message, or a mapping with 'role' and a string or parts as 'content'"
    """
    if isinstance(value, Message):
        return value
    if isinstance(value, str):
        return Message("user", value)
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        return f"{type(value).__name__} is no message; {MESSAGE_FORMAT}"
    content = value.get("content", value.get("parts"))
    parts = _parse_parts(content)
    if isinstance(parts, str):
        return parts
    if value["role"] == "tool" and isinstance(value.get("tool_call_id"), str):
        shown = tuple(part for part in parts if isinstance(part, (Text, Image)))
        answered = content if isinstance(content, str) else shown
        return Message("tool", ToolResult(value["tool_call_id"], answered, str(value.get("name") or "")))
    return _assemble_message(value, parts, empty=content is None)


def _assemble_message(said: Mapping[str, Any], parts: tuple[Part, ...], *, empty: bool) -> Message | str:
    """Read a turn that is no tool's."""
    calls = [_parse_tool_call(call) for call in said.get("tool_calls") or ()]
    if None in calls:
        return "a tool call without an id and a function's name and arguments"
    if empty and not calls:
        return f"a turn of {said['role']!r} without content; {MESSAGE_FORMAT}"
    return Message(said["role"], (*parts, *(call for call in calls if call is not None)))


def _parse_parts(content: object) -> tuple[Part, ...] | str:
    """Read a turn's content, or say what in it cannot be read."""
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    if isinstance(content, PART_TYPES):
        return (content,)
    if isinstance(content, (Mapping, bytes)) or not hasattr(content, "__iter__"):
        return f"{type(content).__name__} is no content of a message; {MESSAGE_FORMAT}"
    parts: list[Part] = []
    for block in content:
        part = (
            block if isinstance(block, PART_TYPES) else Text(block) if isinstance(block, str) else _parse_block(block)
        )
        if part is None:
            kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
            return (
                f"a block of kind {kind!r} cannot be read; there are {', '.join(BLOCK_PARSERS)}; or give llmhub's parts"
            )
        parts.append(part)
    return tuple(parts)


def _parse_block(block: object) -> Part | None:
    read = BLOCK_PARSERS.get(str(block.get("type"))) if isinstance(block, Mapping) else None
    return read(block) if read is not None and isinstance(block, Mapping) else None


def _text_block(block: Mapping[str, Any]) -> Part | None:
    said = block.get("text")
    return Text(said) if isinstance(said, str) else None


def _image_url_block(block: Mapping[str, Any]) -> Part | None:
    held = block.get("image_url")
    url, detail = (held.get("url"), held.get("detail")) if isinstance(held, Mapping) else (held, block.get("detail"))
    return Image(url=url, detail=detail or "") if isinstance(url, str) and isinstance(detail, str | None) else None


def _image_source_block(block: Mapping[str, Any]) -> Part | None:
    source = block.get("source")
    if not isinstance(source, Mapping):
        return None
    found = {name: source.get(name) or "" for name in ("url", "data", "media_type")}
    good = all(isinstance(value, str) for value in found.values()) and (found["url"] or found["data"])
    return Image(**found) if good else None


BLOCK_PARSERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Part | None]]] = {
    "text": _text_block,
    "input_text": _text_block,
    "output_text": _text_block,
    "image_url": _image_url_block,
    "input_image": _image_url_block,
    "image": _image_source_block,
}
"""Kinds of blocks, and how each is read."""


def _parse_tool_call(call: object) -> ToolCall | None:
    if isinstance(call, ToolCall):
        return call
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(call, Mapping):
        return None
    found: list[Any] = [call.get("id"), function.get("name"), function.get("arguments")]
    return ToolCall(*found) if all(isinstance(value, str) for value in found) else None
