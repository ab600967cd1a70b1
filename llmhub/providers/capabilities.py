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

from llmhub.core.protocol import prepare
from llmhub.core.provider import Endpoint, Provider
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
from llmhub.providers.registry import PROVIDERS

PAGE_PATH: Final = Path(__file__).with_name("CAPABILITIES.md")
PROBE_MODELS: Final[Mapping[str, str]] = {
    "bedrock": "anthropic.claude-sonnet-4-5",
    "google": "gemini-2.5-flash",
    "vertex": "gemini-2.5-flash",
}
"""Models asked of providers whose payload depends on the model's family; of any other, one that nobody knows."""
UNKNOWN_MODEL: Final = "any"
SCHEMA_PROBE_NAME: Final = "response_schema"
ENDPOINT: Final = Endpoint(base_url="http://localhost", api_key="k", project="p")
USER_MESSAGES: Final = (Message("user", "hi"),)
TOOL: Final = Tool("look", "Looks.", {"type": "object", "properties": {}})
TOOL_CALL_MESSAGES: Final = (*USER_MESSAGES, Message("assistant", ToolCall("c1", "look")))
PIXEL: Final = "iVBORw0KGgo="


@dataclass(frozen=True, slots=True)
class CapabilityProbe:
    """A capability: what a request says that has it, and one that has it not."""

    name: str
    with_capability: Mapping[str, Any]
    without_capability: Mapping[str, Any] = field(default_factory=dict)


def _beside(name: str, *parts: Part) -> CapabilityProbe:
    """Probe a part of the user's turn."""
    return CapabilityProbe(name, {"messages": (Message("user", (Text("hi"), *parts)),)})


def _result(name: str, result: ToolResult) -> CapabilityProbe:
    """Probe what a tool's result may be."""
    plain = Message("tool", ToolResult(result.id, "seen"))
    both = {"tools": (TOOL,)}
    return CapabilityProbe(
        name,
        {**both, "messages": (*TOOL_CALL_MESSAGES, Message("tool", result))},
        {**both, "messages": (*TOOL_CALL_MESSAGES, plain)},
    )


def _earlier(name: str, part: Part) -> CapabilityProbe:
    """Probe a part of an earlier answer."""
    turns = {
        said: (*USER_MESSAGES, Message("assistant", parts))
        for said, parts in {0: (Text("a"),), 1: (part, Text("a"))}.items()
    }
    return CapabilityProbe(name, {"messages": turns[1]}, {"messages": turns[0]})


PROBES: Final = (
    *(CapabilityProbe(name, {name: 0.25}) for name in ("temperature", "top_p")),
    CapabilityProbe("top_k", {"top_k": 3}),
    CapabilityProbe("max_tokens", {"max_tokens": 64}),
    CapabilityProbe("stop", {"stop": ("X",)}),
    CapabilityProbe("seed", {"seed": 7}),
    *(CapabilityProbe(name, {name: 0.25}) for name in ("presence_penalty", "frequency_penalty")),
    CapabilityProbe("n > 1", {"n": 2}),
    CapabilityProbe("logprobs", {"logprobs": 3}),
    CapabilityProbe("user", {"user": "u"}),
    CapabilityProbe("tools", {"tools": (TOOL,)}),
    *(
        CapabilityProbe(f"tool_choice {name}", {"tools": (TOOL,), "tool_choice": name}, {"tools": (TOOL,)})
        for name in ("auto", "none")
    ),
    CapabilityProbe("tool_choice required", {"tools": (TOOL,), "tool_choice": "required"}, {"tools": (TOOL,)}),
    CapabilityProbe("tool_choice by name", {"tools": (TOOL,), "tool_choice": "look"}, {"tools": (TOOL,)}),
    CapabilityProbe("parallel_tool_calls", {"tools": (TOOL,), "parallel_tool_calls": False}, {"tools": (TOOL,)}),
    CapabilityProbe(
        "strict tools", {"tools": (Tool("look", "Looks.", TOOL.parameters, strict=True),)}, {"tools": (TOOL,)}
    ),
    _result("tool result: error", ToolResult("c1", "seen", is_error=True)),
    _result("tool result: image", ToolResult("c1", (Text("seen"), Image(data=PIXEL, media_type="image/png")))),
    CapabilityProbe(SCHEMA_PROBE_NAME, {"response_schema": Schema({"type": "object", "properties": {}})}),
    CapabilityProbe("reasoning_effort", {"reasoning_effort": "low"}),
    CapabilityProbe("reasoning_budget", {"reasoning_budget": 2048, "max_tokens": 4096}, {"max_tokens": 4096}),
    _earlier("earlier reasoning", Reasoning("hm", "s")),
    _earlier("earlier reasoning, redacted", Reasoning(redacted="s")),
    _beside("cache mark", CacheMark()),
    _beside("image by URL", Image("https://example.org/a.png")),
    _beside("image inline", Image(data=PIXEL, media_type="image/png")),
    _beside("document by URL", Document("https://example.org/a.pdf", media_type="application/pdf")),
    _beside("document inline", Document(data="AAAA", media_type="application/pdf", name="a")),
)


def probe_capabilities(providers: Mapping[str, Provider] = PROVIDERS) -> dict[str, dict[str, bool]]:
    """Try every capability of every provider.

    Examples
    --------
    >>> found = probe_capabilities()
    >>> found["anthropic"]["top_k"], found["openai"]["top_k"]
    (True, False)
    """
    return {
        name: {probe.name: _can(provider, PROBE_MODELS.get(name, UNKNOWN_MODEL), probe) for probe in PROBES}
        for name, provider in providers.items()
    }


def _can(provider: Provider, model: str, probe: CapabilityProbe) -> bool:
    """Say whether a request that has the capability says something that one without it does not."""
    bodies = []
    for said in (probe.with_capability, probe.without_capability):
        request = CompletionRequest(**{"model": model, "messages": USER_MESSAGES, **said})
        made = prepare(provider, ENDPOINT, request, 0.0)
        if not is_successful(made):
            return False
        bodies.append(made.unwrap().body)
    return bodies[0] != bodies[1]


def _how(name: str) -> str:
    """Say how a provider's model is held to a schema."""
    request = CompletionRequest(model=PROBE_MODELS.get(name, UNKNOWN_MODEL), messages=USER_MESSAGES)
    return {"native": "yes", "tool": "tool"}[PROVIDERS[name].structured_output_mode(request)]


def render_page() -> str:
    """Write the table: a column for each group of providers that are alike, a row for each capability."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, cells in probe_capabilities().items():
        said = [
            "-" if not there else _how(name) if probe == SCHEMA_PROBE_NAME else "yes" for probe, there in cells.items()
        ]
        groups.setdefault(tuple(said), []).append(name)
    keys = list(groups)
    legend = [f"{at}. {', '.join(groups[key])}" for at, key in enumerate(keys, 1)]
    head = ["", *(str(at) for at in range(1, len(keys) + 1))]
    rows = [[probe.name, *(key[at] for key in keys)] for at, probe in enumerate(PROBES)]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    asked = "; ".join(f"`{name}/{model}`" for name, model in PROBE_MODELS.items())
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
    PAGE_PATH.write_text(render_page(), encoding="utf-8")
