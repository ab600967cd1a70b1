"""What a distribution of its own brings to llmhub: one of each kind."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmhub import MemoryCache, Message
from llmhub.engine.call import Answer, Call, Send
from llmhub.providers.registry import PROVIDERS

PROVIDER = replace(PROVIDERS["compatible"], name="acme", required_env=(("ACME_API_KEY", "ACME_BASE_URL"),))


def polite(send: Send) -> Send:
    async def sending(call: Call) -> Answer:
        last = call.request.messages[-1]
        messages = (*call.request.messages[:-1], Message("user", f"{last.text}, please"))
        return await send(replace(call, request=replace(call.request, messages=messages)))

    return sending


def store(address: str) -> MemoryCache:
    return MemoryCache(max_entries=int(address.rpartition("/")[2]))


def last(candidates: Sequence[str], stats: Any) -> Sequence[str]:
    return candidates[::-1]


def is_polite(row: Any, text: str) -> bool:
    return "please" in text


class Clerk:
    id = "clerk"

    def initialize(self, hub: Any) -> None:
        sys.stdout.write(f"hello {sorted(hub.plugins.providers)}\n")

    def shutdown(self) -> None:
        sys.stdout.write("goodbye\n")
