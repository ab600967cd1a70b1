"""Whether addresses answer at all: asked side by side, without credentials, and within a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from returns.pipeline import is_successful

from llmhub.engine.transport import Transport, Wiring


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Whether an address answered: with which HTTP status, or why not, and after how long."""

    status: int | None = None
    error: str = ""
    took_s: float = 0.0


async def probe(addresses: Mapping[str, str], wiring: Wiring) -> dict[str, Reached]:
    """Ask each address by its name; any HTTP answer will do. The bound in time is that of ``wiring``."""
    transport = Transport(wiring)
    try:
        found = await asyncio.gather(*(_reach(transport, name, url) for name, url in addresses.items()))
    finally:
        await transport.close()
    return dict(zip(addresses, found, strict=True))


async def _reach(transport: Transport, name: str, url: str) -> Reached:
    start = time.perf_counter()
    reached = await transport.reach(name, url)
    took_s = time.perf_counter() - start
    if is_successful(reached):
        return Reached(status=reached.unwrap(), took_s=took_s)
    return Reached(error=reached.failure().message, took_s=took_s)
