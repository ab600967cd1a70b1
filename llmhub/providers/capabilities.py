"""Which provider can be told what: a table that is tried out, not written by hand.

A cell is a request with the capability and one without it: the capability is there when both can be prepared and
say different things. What a single model refuses is in `models`; the models asked here are the ones named.

``python -m llmhub.providers.capabilities`` writes the table anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from returns.pipeline import is_successful

from llmhub.core.provider import Endpoint, Provider, prepare
from llmhub.core.types import (
    CacheMark,
    CompletionRequest,
    Document,
    Image,
    Message,
    Part,
    Reasoning,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from llmhub.providers.table import PROVIDERS

PAGE: Final = Path(__file__).with_name("CAPABILITIES.md")
MODELS: Final[Mapping[str, str]] = {
    "bedrock": "anthropic.claude-sonnet-4-5",
    "google": "gemini-2.5-flash",
    "vertex": "gemini-2.5-flash",
}
"""Models asked of providers whose payload depends on the model's family; of any other, one that nobody knows."""
UNKNOWN: Final = "any"
HELD: Final = "response_schema"
ENDPOINT: Final = Endpoint(base_url="http://localhost", api_key="k", project="p")
SAID: Final = (Message("user", "hi"),)
TOOL: Final = Tool("look", "Looks.", {"type": "object", "properties": {}})
CALLED: Final = (*SAID, Message("assistant", ToolCall("c1", "look")))
PIXEL: Final = "iVBORw0KGgo="


@dataclass(frozen=True, slots=True)
class Probe:
    """A capability: what a request says that has it, and one that has it not."""

    name: str
    there: Mapping[str, Any]
    absent: Mapping[str, Any] = field(default_factory=dict)


def _beside(name: str, *parts: Part) -> Probe:
    """Probe a part of the user's turn."""
    return Probe(name, {"messages": (Message("user", (Text("hi"), *parts)),)})


def _result(name: str, result: ToolResult) -> Probe:
    """Probe what a tool's result may be."""
    plain = Message("tool", ToolResult(result.id, "seen"))
    both = {"tools": (TOOL,)}
    return Probe(name, {**both, "messages": (*CALLED, Message("tool", result))}, {**both, "messages": (*CALLED, plain)})


def _earlier(name: str, part: Part) -> Probe:
    """Probe a part of an earlier answer."""
    turns = {
        said: (*SAID, Message("assistant", parts)) for said, parts in {0: (Text("a"),), 1: (part, Text("a"))}.items()
    }
    return Probe(name, {"messages": turns[1]}, {"messages": turns[0]})


PROBES: Final = (
    *(Probe(name, {name: 0.25}) for name in ("temperature", "top_p")),
    Probe("top_k", {"top_k": 3}),
    Probe("max_tokens", {"max_tokens": 64}),
    Probe("stop", {"stop": ("X",)}),
    Probe("seed", {"seed": 7}),
    *(Probe(name, {name: 0.25}) for name in ("presence_penalty", "frequency_penalty")),
    Probe("n > 1", {"n": 2}),
    Probe("logprobs", {"logprobs": 3}),
    Probe("user", {"user": "u"}),
    Probe("tools", {"tools": (TOOL,)}),
    *(
        Probe(f"tool_choice {name}", {"tools": (TOOL,), "tool_choice": name}, {"tools": (TOOL,)})
        for name in ("auto", "none")
    ),
    Probe("tool_choice required", {"tools": (TOOL,), "tool_choice": "required"}, {"tools": (TOOL,)}),
    Probe("tool_choice by name", {"tools": (TOOL,), "tool_choice": "look"}, {"tools": (TOOL,)}),
    Probe("parallel_tool_calls", {"tools": (TOOL,), "parallel_tool_calls": False}, {"tools": (TOOL,)}),
    Probe("strict tools", {"tools": (Tool("look", "Looks.", TOOL.parameters, strict=True),)}, {"tools": (TOOL,)}),
    _result("tool result: error", ToolResult("c1", "seen", is_error=True)),
    _result("tool result: image", ToolResult("c1", (Text("seen"), Image(data=PIXEL, media_type="image/png")))),
    Probe(HELD, {"response_schema": Schema({"type": "object", "properties": {}})}),
    Probe("reasoning_effort", {"reasoning_effort": "low"}),
    Probe("reasoning_budget", {"reasoning_budget": 2048, "max_tokens": 4096}, {"max_tokens": 4096}),
    _earlier("earlier reasoning", Reasoning("hm", "s")),
    _earlier("earlier reasoning, redacted", Reasoning(redacted="s")),
    _beside("cache mark", CacheMark()),
    _beside("image by URL", Image("https://example.org/a.png")),
    _beside("image inline", Image(data=PIXEL, media_type="image/png")),
    _beside("document by URL", Document("https://example.org/a.pdf", media_type="application/pdf")),
    _beside("document inline", Document(data="AAAA", media_type="application/pdf", name="a")),
)


def capabilities(providers: Mapping[str, Provider] = PROVIDERS) -> dict[str, dict[str, bool]]:
    """Try every capability of every provider.

    Examples
    --------
    >>> found = capabilities()
    >>> found["anthropic"]["top_k"], found["openai"]["top_k"]
    (True, False)
    """
    return {
        name: {probe.name: _can(provider, MODELS.get(name, UNKNOWN), probe) for probe in PROBES}
        for name, provider in providers.items()
    }


def _can(provider: Provider, model: str, probe: Probe) -> bool:
    """Say whether a request that has the capability says something that one without it does not."""
    bodies = []
    for said in (probe.there, probe.absent):
        request = CompletionRequest(**{"model": model, "messages": SAID, **said})
        made = prepare(provider, ENDPOINT, request, 0.0)
        if not is_successful(made):
            return False
        bodies.append(made.unwrap().body)
    return bodies[0] != bodies[1]


def _how(name: str) -> str:
    """Say how a provider's model is held to a schema."""
    request = CompletionRequest(model=MODELS.get(name, UNKNOWN), messages=SAID)
    return {"native": "yes", "tool": "tool"}[PROVIDERS[name].structure(request)]


def page() -> str:
    """Write the table: a column for each group of providers that are alike, a row for each capability."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, cells in capabilities().items():
        said = ["-" if not there else _how(name) if probe == HELD else "yes" for probe, there in cells.items()]
        groups.setdefault(tuple(said), []).append(name)
    keys = list(groups)
    legend = [f"{at}. {', '.join(groups[key])}" for at, key in enumerate(keys, 1)]
    head = ["", *(str(at) for at in range(1, len(keys) + 1))]
    rows = [[probe.name, *(key[at] for key in keys)] for at, probe in enumerate(PROBES)]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    asked = "; ".join(f"`{name}/{model}`" for name, model in MODELS.items())
    return "\n".join(
        [
            "# What each provider can be told",
            "",
            "Tried out by `python -m llmhub.providers.capabilities`, which writes this page. A dash is refused before",
            'anything is sent (`Unsupported`); with `unsupported="drop"` it is left out and listed, unless it is',
            "content (a picture, a document). Where a schema is held to by a `tool` that must be called, the answer's",
            "`forced_tool` says so; single models of other providers may be asked that way too.",
            "",
            "Single models may refuse more: see `llmhub.metadata(model)`. Where a model's family decides, this one was",
            f"asked: {asked}.",
            "",
            *legend,
            "",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
