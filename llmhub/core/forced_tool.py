"""Structured output by a forced tool call, for models without a native mode: the tool's arguments are the response.

The request is rewritten before it is encoded and the response after it is decoded, so wire formats are not involved.
The tool's name is reserved, so that a response can be interpreted without its request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from llmhub.core.types import CompletionRequest, FinishReason, Part, Reasoning, Text, Tool, ToolCall

StructuredOutputMode: TypeAlias = Literal["native", "tool"]
"""How a response is constrained to a schema: by the provider, or by a forced tool call."""
FORCED_TOOL_NAME: Final = "structured_answer"
"""Reserved name of the tool; validation rejects it for a caller's tool."""
FORCED_TOOL_DESCRIPTION: Final = "Give your answer by calling this tool, once. Its arguments are the whole answer."
"""Sent to the model: a change of the text changes responses, so it requires a new `MAPPING_VERSION`."""


def with_forced_tool(request: CompletionRequest) -> CompletionRequest:
    """Return the request with its response schema replaced by a tool that the model has to call.

    If the request has tools of its own, the model has to call one of them or the forced one.

    Examples
    --------
    >>> from llmhub.core.types import Message, Schema
    >>> schema = Schema({"type": "object"})
    >>> request = CompletionRequest(model="m", messages=(Message("user", "hi"),), response_schema=schema)
    >>> forced = with_forced_tool(request)
    >>> forced.response_schema, forced.tools[0].name, forced.tool_choice
    (None, 'structured_answer', 'structured_answer')
    """
    schema = request.response_schema
    if schema is None:
        return request
    if request.tool_choice == "none" or not request.tools:
        tool_choice: str | None = FORCED_TOOL_NAME
    else:
        tool_choice = "required" if request.tool_choice in {None, "auto", "required"} else request.tool_choice
    return replace(
        request,
        response_schema=None,
        tools=(*request.tools, Tool(FORCED_TOOL_NAME, FORCED_TOOL_DESCRIPTION, schema.schema)),
        tool_choice=tool_choice,
    )


def is_forced_call(part: Part) -> bool:
    """Return whether a part is a call of the forced tool."""
    return type(part) is ToolCall and part.name == FORCED_TOOL_NAME


def unwrap_forced_call(parts: Iterable[Part], reason: FinishReason) -> tuple[list[Part], FinishReason]:
    """Replace the last call of the forced tool by its arguments as text; all text before it becomes reasoning.

    Examples
    --------
    >>> unwrap_forced_call([Text("Well:"), ToolCall("c1", FORCED_TOOL_NAME, '{"a":1}')], "tool_calls")
    ([Reasoning(text='Well:', signature='', redacted=''), Text(text='{"a":1}')], 'stop')
    """
    original = list(parts)
    last = max((index for index, part in enumerate(original) if is_forced_call(part)), default=-1)
    if last < 0:
        return original, reason
    unwrapped: list[Part] = []
    for index, part in enumerate(original):
        match part:
            case ToolCall(name=name, arguments=arguments) if name == FORCED_TOOL_NAME:
                unwrapped.append(Text(arguments) if index == last else Reasoning(arguments))
            case Text(text):
                unwrapped.append(Reasoning(text))
            case _:
                unwrapped.append(part)
    has_other_calls = any(isinstance(part, ToolCall) for part in unwrapped)
    return unwrapped, "stop" if reason == "tool_calls" and not has_other_calls else reason


def visible_text(parts: Sequence[Part]) -> str:
    """Return the visible text of stream fragments, arguments of the forced tool included."""
    return "".join(
        part.text if isinstance(part, Text) else part.arguments  # type: ignore[union-attr] # a forced call
        for part in parts
        if isinstance(part, Text) or is_forced_call(part)
    )
