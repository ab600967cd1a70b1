"""Turns of a conversation as people keep them: texts, values, or mappings in the form of chat logs.

A mapping has ``role`` and ``content``; content is a text, parts, or blocks such as ``{"type": "text", ...}`` and
``{"type": "image_url", ...}`` (https://platform.openai.com/docs/api-reference/chat/create, read 2026-11-27) or
``{"type": "image", "source": {...}}`` (https://docs.claude.com/en/api/messages, read 2026-11-27). What a log holds
besides, and what is null in it, is passed over only where it says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

from llmhub.core.types import Image, Message, Part, Text, ToolCall, ToolResult

PARTS: Final[tuple[Any, ...]] = get_args(Part)
FORM: Final = "give a string, a Message, or a mapping with 'role' and a string or parts as 'content'"


def turn_of(said: object) -> Message | str:
    """Read one turn, or say why it is none.

    Examples
    --------
    >>> turn_of({"role": "user", "content": [{"type": "text", "text": "Hi"}]})
    Message(role='user', parts=(Text(text='Hi'),))
    >>> turn_of(7)
    "int is no message; give a string, a Message, or a mapping with 'role' and a string or parts as 'content'"
    """
    if isinstance(said, Message):
        return said
    if isinstance(said, str):
        return Message("user", said)
    if not isinstance(said, Mapping) or not isinstance(said.get("role"), str):
        return f"{type(said).__name__} is no message; {FORM}"
    content = said.get("content", said.get("parts"))
    parts = _parts(content)
    if isinstance(parts, str):
        return parts
    if said["role"] == "tool" and isinstance(said.get("tool_call_id"), str):
        shown = tuple(part for part in parts if isinstance(part, (Text, Image)))
        answered = content if isinstance(content, str) else shown
        return Message("tool", ToolResult(said["tool_call_id"], answered, str(said.get("name") or "")))
    return _spoken(said, parts, empty=content is None)


def _spoken(said: Mapping[str, Any], parts: tuple[Part, ...], *, empty: bool) -> Message | str:
    """Read a turn that is no tool's."""
    calls = [_call(call) for call in said.get("tool_calls") or ()]
    if None in calls:
        return "a tool call without an id and a function's name and arguments"
    if empty and not calls:
        return f"a turn of {said['role']!r} without content; {FORM}"
    return Message(said["role"], (*parts, *(call for call in calls if call is not None)))


def _parts(content: object) -> tuple[Part, ...] | str:
    """Read a turn's content, or say what in it cannot be read."""
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    if isinstance(content, PARTS):
        return (content,)
    if isinstance(content, (Mapping, bytes)) or not hasattr(content, "__iter__"):
        return f"{type(content).__name__} is no content of a message; {FORM}"
    parts: list[Part] = []
    for block in content:
        part = block if isinstance(block, PARTS) else Text(block) if isinstance(block, str) else _block(block)
        if part is None:
            kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
            return f"a block of kind {kind!r} cannot be read; there are {', '.join(BLOCKS)}; or give llmhub's parts"
        parts.append(part)
    return tuple(parts)


def _block(block: object) -> Part | None:
    read = BLOCKS.get(str(block.get("type"))) if isinstance(block, Mapping) else None
    return read(block) if read is not None and isinstance(block, Mapping) else None


def _text(block: Mapping[str, Any]) -> Part | None:
    said = block.get("text")
    return Text(said) if isinstance(said, str) else None


def _addressed(block: Mapping[str, Any]) -> Part | None:
    held = block.get("image_url")
    url, detail = (held.get("url"), held.get("detail")) if isinstance(held, Mapping) else (held, block.get("detail"))
    return Image(url=url, detail=detail or "") if isinstance(url, str) and isinstance(detail, str | None) else None


def _sourced(block: Mapping[str, Any]) -> Part | None:
    source = block.get("source")
    if not isinstance(source, Mapping):
        return None
    found = {name: source.get(name) or "" for name in ("url", "data", "media_type")}
    good = all(isinstance(value, str) for value in found.values()) and (found["url"] or found["data"])
    return Image(**found) if good else None


BLOCKS: Final[Mapping[str, Callable[[Mapping[str, Any]], Part | None]]] = {
    "text": _text,
    "input_text": _text,
    "output_text": _text,
    "image_url": _addressed,
    "input_image": _addressed,
    "image": _sourced,
}
"""Kinds of blocks, and how each is read."""


def _call(call: object) -> ToolCall | None:
    if isinstance(call, ToolCall):
        return call
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(call, Mapping):
        return None
    found: list[Any] = [call.get("id"), function.get("name"), function.get("arguments")]
    return ToolCall(*found) if all(isinstance(value, str) for value in found) else None
