"""Which tools a simulated model calls, and with what: those a prompt names, or one of those it has to call."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from llmhub.sim.exchange import Called, Offer, Question
from llmhub.sim.schema import fabricate

MARKER: Final = re.compile(r"\[\[sim:tool\s+([^\s\]]+)\s*\]\]")
"""What has a model call a tool that it may call: ``[[sim:tool look_up]]``."""


def offer(
    declared: Iterable[tuple[str, object]], choice: str = "auto", *, parallel: bool = True, silent: bool = False
) -> Offer:
    """Offer tools.

    Parameters
    ----------
    declared
        The tools' names and schemas.
    choice
        ``auto``, ``none``, ``required``, or the name of the one that has to be called.
    silent
        Whether this provider tells the end of a call by name as it tells that of a text.

    Examples
    --------
    >>> offer([("a", {}), ("b", {})], "b").schemas, offer([("a", {})], "none").schemas
    ({'b': {}}, {})
    """
    tools = dict(declared)
    if choice in {"auto", "required"}:
        return Offer(schemas=tools, must=choice == "required" and bool(tools), parallel=parallel)
    named = {name: schema for name, schema in tools.items() if name == choice}
    return Offer(schemas=named, must=bool(named), parallel=parallel, silent=silent)


def calls(question: Question, digest: bytes) -> tuple[Called, ...]:
    """Call what the user's last turn names or what has to be called; nothing where it is left to the model.

    Examples
    --------
    >>> from llmhub.sim.exchange import Turn
    >>> look = {"type": "object", "properties": {"at": {"const": "sea"}}}
    >>> asked = Question(model="m", turns=(Turn("user", "Go. [[sim:tool look]]"),), tools=offer([("look", look)]))
    >>> calls(asked, b"seed")
    (Called(name='look', arguments={'at': 'sea'}),)
    """
    tools = question.tools
    last = next((turn.role for turn in reversed(question.turns) if turn.role != "system"), "")
    named = MARKER.findall(question.prompt) if tools.schemas and last == "user" else []
    asked = [name for name in named if name in tools.schemas]
    if not asked and tools.must:
        names = list(tools.schemas)
        asked = [names[digest[0] % len(names)]]
    made = []
    for at, name in enumerate(asked if tools.parallel else asked[:1]):
        arguments = fabricate(tools.schemas[name], bytes([at % 256]) + digest[:63], question.prompt)
        made.append(Called(name, arguments if isinstance(arguments, dict) else {}))
    return tuple(made)
