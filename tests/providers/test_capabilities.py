from __future__ import annotations

from dataclasses import replace

import pytest
from returns.result import Failure

from llmhub.core.errors import Unsupported
from llmhub.core.types import CompletionRequest
from llmhub.providers.capabilities import PAGE_PATH, PROBES, probe_capabilities, render_page
from llmhub.providers.registry import PROVIDERS


def test_the_page_is_what_the_code_gives() -> None:
    assert PAGE_PATH.read_text(encoding="utf-8") == render_page(), "run python -m llmhub.providers.capabilities"


def test_every_provider_and_capability_is_tried() -> None:
    found = probe_capabilities()
    assert list(found) == list(PROVIDERS)
    assert all(list(cells) == [probe.name for probe in PROBES] for cells in found.values())
    for probe in PROBES:
        assert any(cells[probe.name] for cells in found.values()), probe.name


@pytest.mark.parametrize(
    ("name", "capability", "there"),
    [
        ("openai", "seed", True),
        ("openai", "reasoning_budget", False),
        ("openai-responses", "max_tokens", True),
        ("anthropic", "seed", False),
        ("anthropic", "earlier reasoning, redacted", True),
        ("bedrock", "image by URL", False),
        ("google", "n > 1", True),
        ("deepseek", "response_schema", True),
        ("openai", "parallel_tool_calls", True),
        ("bedrock", "parallel_tool_calls", False),
        ("anthropic", "logprobs", False),
        ("anthropic", "cache mark", True),
        ("groq", "cache mark", False),
        ("openai", "tool result: error", False),
        ("google", "earlier reasoning, redacted", False),
        ("deepseek", "earlier reasoning", True),
        ("openai", "earlier reasoning", False),
    ],
)
def test_cells_that_are_known(name: str, capability: str, there: bool) -> None:
    assert probe_capabilities()[name][capability] is there


def test_a_wire_that_can_say_nothing_has_nothing() -> None:
    def mute(_: CompletionRequest) -> Failure[Unsupported]:
        return Failure(Unsupported(path="$", message="no"))

    row = PROVIDERS["openai"]
    silent = replace(row, wire=replace(row.wire, encode=mute))
    deaf = replace(row, adapt=lambda _: {})
    for cells in probe_capabilities({"silent": silent, "deaf": deaf}).values():
        assert not any(cells.values())
