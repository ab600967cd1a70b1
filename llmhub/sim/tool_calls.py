"""Which tools a simulated model calls, and with what: those a prompt names, or one of those it has to call."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from llmhub.sim.schema_values import generate_value
from llmhub.sim.types import SimRequest, SimToolCall, ToolOffer

TOOL_MARKER: Final = re.compile(r"\[\[sim:tool\s+([^\s\]]+)\s*\]\]")
"""What has a model call a tool that it may call: ``[[sim:tool look_up]]``."""


def offer_tools(
    declared: Iterable[tuple[str, object]],
    tool_choice: str = "auto",
    *,
    parallel: bool = True,
    finish_as_stop: bool = False,
) -> ToolOffer:
    """Offer tools.

    Parameters
    ----------
    declared
        The tools' names and schemas.
    tool_choice
        ``auto``, ``none``, ``required``, or the name of the one that has to be called.
    finish_as_stop
        Whether this provider tells the end of a call by name as it tells that of a text.

    Examples
    --------
    >>> offer_tools([("a", {}), ("b", {})], "b").schemas, offer_tools([("a", {})], "none").schemas
    ({'b': {}}, {})
    """
    tools = dict(declared)
    if tool_choice in {"auto", "required"}:
        return ToolOffer(schemas=tools, required=tool_choice == "required" and bool(tools), parallel=parallel)
    named = {name: schema for name, schema in tools.items() if name == tool_choice}
    return ToolOffer(schemas=named, required=bool(named), parallel=parallel, finish_as_stop=finish_as_stop)


def choose_tool_calls(question: SimRequest, digest: bytes) -> tuple[SimToolCall, ...]:
    """Call what the user's last turn names or what has to be called; nothing where it is left to the model.

    Examples
    --------
    >>> from llmhub.sim.types import SimMessage
    >>> look = {"type": "object", "properties": {"at": {"const": "sea"}}}
    >>> asked = SimRequest(model="m", messages=(SimMessage("user", "Go. [[sim:tool look]]"),), tools=offer_tools([("look", look)]))
    >>> choose_tool_calls(asked, b"seed")
    (SimToolCall(name='look', arguments={'at': 'sea'}),)
    """
    tools = question.tools
    last = next((turn.role for turn in reversed(question.messages) if turn.role != "system"), "")
    named = TOOL_MARKER.findall(question.prompt) if tools.schemas and last == "user" else []
    asked = [name for name in named if name in tools.schemas]
    if not asked and tools.required:
        names = list(tools.schemas)
        asked = [names[digest[0] % len(names)]]
    made = []
    for at, name in enumerate(asked if tools.parallel else asked[:1]):
        arguments = generate_value(tools.schemas[name], bytes([at % 256]) + digest[:63], question.prompt)
        made.append(SimToolCall(name, arguments if isinstance(arguments, dict) else {}))
    return tuple(made)
