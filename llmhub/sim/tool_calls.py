"""Tool calls of the simulated models: tools that the prompt names, or a tool that has to be called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from llmhub.sim.schema_values import generate_value
from llmhub.sim.types import SimRequest, SimToolCall, ToolOffer

TOOL_MARKER: Final = re.compile(r"\[\[sim:tool\s+([^\s\]]+)\s*\]\]")
"""Marker in a prompt that makes the model call a tool: ``[[sim:tool look_up]]``."""


def offer_tools(
    declared: Iterable[tuple[str, object]],
    tool_choice: str = "auto",
    *,
    parallel: bool = True,
    finish_as_stop: bool = False,
) -> ToolOffer:
    """Return the tools that a model may call.

    Parameters
    ----------
    declared
        Names and schemas.
    tool_choice
        ``auto``, ``none``, ``required``, or the name of the tool that has to be called.
    finish_as_stop
        Whether the finish reason of a call that was requested by name is that of a text.

    Examples
    --------
    >>> offer_tools([("a", {}), ("b", {})], "b").schemas, offer_tools([("a", {})], "none").schemas
    ({'b': {}}, {})
    """
    tools = dict(declared)
    if tool_choice in {"auto", "required"}:
        return ToolOffer(schemas=tools, required=tool_choice == "required" and bool(tools), parallel=parallel)
    marked_names = {name: schema for name, schema in tools.items() if name == tool_choice}
    return ToolOffer(
        schemas=marked_names, required=bool(marked_names), parallel=parallel, finish_as_stop=finish_as_stop
    )


def choose_tool_calls(request: SimRequest, digest: bytes) -> tuple[SimToolCall, ...]:
    """Return calls of the tools that the last user message names, or of a required tool; otherwise none.

    Examples
    --------
    >>> from llmhub.sim.types import SimMessage
    >>> look = {"type": "object", "properties": {"at": {"const": "sea"}}}
    >>> prompt, tools = SimMessage("user", "Go. [[sim:tool look]]"), offer_tools([("look", look)])
    >>> choose_tool_calls(SimRequest(model="m", messages=(prompt,), tools=tools), b"seed")
    (SimToolCall(name='look', arguments={'at': 'sea'}),)
    """
    tools = request.tools
    last = next((message.role for message in reversed(request.messages) if message.role != "system"), "")
    marked_names = TOOL_MARKER.findall(request.prompt) if tools.schemas and last == "user" else []
    names = [name for name in marked_names if name in tools.schemas]
    if not names and tools.required:
        names = list(tools.schemas)
        names = [names[digest[0] % len(names)]]
    tool_calls = []
    for index, name in enumerate(names if tools.parallel else names[:1]):
        arguments = generate_value(tools.schemas[name], bytes([index % 256]) + digest[:63], request.prompt)
        tool_calls.append(SimToolCall(name, arguments if isinstance(arguments, dict) else {}))
    return tuple(tool_calls)
