"""The capability table is up to date and its cells are right."""

from __future__ import annotations

from dataclasses import replace

import pytest
from returns.result import Failure

from llmhub.core.errors import Unsupported
from llmhub.core.types import CompletionRequest
from llmhub.providers.capabilities import PAGE_PATH, PROBES, probe_capabilities, render_page
from llmhub.providers.registry import PROVIDERS


def test_page_is_up_to_date() -> None:
    assert PAGE_PATH.read_text(encoding="utf-8") == render_page(), "run python -m llmhub.providers.capabilities"


def test_every_provider_is_probed_for_every_capability() -> None:
    found = probe_capabilities()
    assert list(found) == list(PROVIDERS)
    assert all(list(cells) == [probe.name for probe in PROBES] for cells in found.values())
    for probe in PROBES:
        assert any(cells[probe.name] for cells in found.values()), probe.name


@pytest.mark.parametrize(
    ("name", "capability", "expected"),
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
def test_known_cells(name: str, capability: str, expected: bool) -> None:
    assert probe_capabilities()[name][capability] is expected


def test_provider_whose_body_never_changes_has_no_capability() -> None:
    def refuse(_: CompletionRequest) -> Failure[Unsupported]:
        return Failure(Unsupported(path="$", message="no"))

    row = PROVIDERS["openai"]
    refusing = replace(row, wire=replace(row.wire, encode=refuse))
    ignoring = replace(row, adapt=lambda _: {})
    for cells in probe_capabilities({"refusing": refusing, "ignoring": ignoring}).values():
        assert not any(cells.values())
