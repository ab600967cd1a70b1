"""The other side of each wire, one file a wire, in one table. None of it knows the wires it is there to test."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from llmhub.sim.peers.anthropic import ANTHROPIC
from llmhub.sim.peers.azure import AZURE
from llmhub.sim.peers.bedrock_converse import BEDROCK
from llmhub.sim.peers.gemini import GEMINI
from llmhub.sim.peers.ollama import OLLAMA
from llmhub.sim.peers.openai_chat import COMPATIBLE, OPENAI
from llmhub.sim.peers.openai_responses import AZURE_RESPONSES, RESPONSES
from llmhub.sim.peers.record import Peer
from llmhub.sim.peers.vertex import VERTEX, VERTEX_CLAUDE

__all__ = ["PEERS", "Peer"]

PEERS: Final[Mapping[str, Peer]] = MappingProxyType(
    {
        peer.name: peer
        for peer in (
            *(OPENAI, RESPONSES, ANTHROPIC, GEMINI, BEDROCK, AZURE, AZURE_RESPONSES),
            *(VERTEX, VERTEX_CLAUDE, COMPATIBLE, OLLAMA),
        )
    }
)
