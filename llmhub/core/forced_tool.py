"""Structured output where a model has no mode for it: a tool that it must call, whose arguments are the answer.

The request is changed before it is written and the answer as it is read, so no wire knows of it. The tool has a name
of its own, by which an answer is known for what it is without its request at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from llmhub.core.types import CompletionRequest, FinishReason, Part, Reasoning, Text, Tool, ToolCall

StructuredOutputMode: TypeAlias = Literal["native", "tool"]
"""How a model is held to a schema: by its own mode, or by a tool that it must call."""


FORCED_TOOL_NAME: Final = "structured_answer"
"""Name of the tool; no tool of a caller's may have it."""


FORCED_TOOL_DESCRIPTION: Final = "Give your answer by calling this tool, once. Its arguments are the whole answer."


def with_forced_tool(request: CompletionRequest) -> CompletionRequest:
    """Ask for the same answer by a tool that must be called; beside other tools, one of them must.

    Examples
    --------
    >>> from llmhub.core.types import Message, Schema
    >>> wanted = Schema({"type": "object"})
    >>> ask = CompletionRequest(model="m", messages=(Message("user", "hi"),), response_schema=wanted)
    >>> made = with_forced_tool(ask)
    >>> made.response_schema, made.tools[0].name, made.tool_choice
    (None, 'structured_answer', 'structured_answer')
    """
    wanted = request.response_schema
    if wanted is None:
        return request
    tool = Tool(FORCED_TOOL_NAME, FORCED_TOOL_DESCRIPTION, wanted.schema)
    free = request.tool_choice in {None, "auto", "required"}
    choice = FORCED_TOOL_NAME if request.tool_choice == "none" or not request.tools else "required" if free else None
    return replace(
        request,
        response_schema=None,
        tools=(*request.tools, tool),
        tool_choice=choice or request.tool_choice,
    )


def is_forced_call(part: Part) -> bool:
    """Say whether a part is the call that is the answer."""
    return type(part) is ToolCall and part.name == FORCED_TOOL_NAME


def unwrap_forced_call(parts: Iterable[Part], reason: FinishReason) -> tuple[list[Part], FinishReason]:
    """Read a call that is the answer as the text it stands for; what was said on the way to it is reasoning.

    Examples
    --------
    >>> unwrap_forced_call([Text("Well:"), ToolCall("c1", FORCED_TOOL_NAME, '{"a":1}')], "tool_calls")
    ([Reasoning(text='Well:', signature='', redacted=''), Text(text='{"a":1}')], 'stop')
    """
    whole = list(parts)
    last = max((at for at, part in enumerate(whole) if is_forced_call(part)), default=-1)
    if last < 0:
        return whole, reason
    told: list[Part] = []
    for at, part in enumerate(whole):
        match part:
            case ToolCall(name=name, arguments=said) if name == FORCED_TOOL_NAME:
                told.append(Text(said) if at == last else Reasoning(said))
            case Text(said):
                told.append(Reasoning(said))
            case _:
                told.append(part)
    others = any(isinstance(part, ToolCall) for part in told)
    return told, "stop" if reason == "tool_calls" and not others else reason


def visible_text(parts: Sequence[Part]) -> str:
    """Give the visible text among pieces of a stream, the answer's arguments included."""
    said = [part.text if isinstance(part, Text) else part.arguments for part in parts if _is_visible(part)]  # type: ignore[union-attr] # the two kinds that are visible
    return "".join(said)


def _is_visible(part: Part) -> bool:
    return isinstance(part, Text) or is_forced_call(part)
