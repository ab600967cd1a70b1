"""Simulated servers by provider, one file per wire format. They share no code with the wires that they test."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from llmhub.sim.servers.anthropic import ANTHROPIC
from llmhub.sim.servers.azure import AZURE
from llmhub.sim.servers.bedrock_converse import BEDROCK
from llmhub.sim.servers.cohere import COHERE
from llmhub.sim.servers.fake_provider import FakeProvider
from llmhub.sim.servers.gemini import GEMINI
from llmhub.sim.servers.ollama import OLLAMA
from llmhub.sim.servers.openai_chat import COMPATIBLE, OPENAI
from llmhub.sim.servers.openai_completions import COMPLETIONS
from llmhub.sim.servers.openai_responses import AZURE_RESPONSES, RESPONSES
from llmhub.sim.servers.vertex import VERTEX, VERTEX_CLAUDE

__all__ = ["FAKE_PROVIDERS", "FakeProvider"]
FAKE_PROVIDERS: Final[Mapping[str, FakeProvider]] = MappingProxyType(
    {
        peer.name: peer
        for peer in (
            *(OPENAI, RESPONSES, ANTHROPIC, GEMINI, BEDROCK, AZURE, AZURE_RESPONSES),
            *(VERTEX, VERTEX_CLAUDE, COMPATIBLE, OLLAMA, COHERE, COMPLETIONS),
        )
    }
)
