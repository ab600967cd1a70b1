"""Whether a provider answers and takes the key: one small request that costs nothing, bounded in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from returns.pipeline import is_successful

from llmhub.core.errors import AuthFailed, LLMError, with_context
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest, Provider
from llmhub.core.types import CompletionRequest
from llmhub.engine.transport import Timeout, Transport, TransportConfig, redact_error
from llmhub.providers.endpoint_validation import validate_endpoint

DEFAULT_TIMEOUT: Final = Timeout(connect_s=5.0, total_s=5.0)
"""How long a provider has to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a provider is.

    Parameters
    ----------
    reachable
        Whether anything answered.
    key_accepted
        Whether the credentials were taken; ``None`` where nothing says so.
    status
        The HTTP status of the answer.
    latency_s
        How long it took.
    error
        What is wrong, if anything.
    """

    provider: str
    reachable: bool = False
    key_accepted: bool | None = None
    status: int | None = None
    latency_s: float = 0.0
    error: LLMError | None = None

    @property
    def ok(self) -> bool:
        """Whether it can be asked, as far as is known."""
        return self.reachable and self.error is None


async def health_checks(
    endpoints: Mapping[str, tuple[Provider, Endpoint]], config: TransportConfig
) -> dict[str, Health]:
    """Check several providers side by side (see `health_check`): one that hangs holds up no other."""
    found = await asyncio.gather(
        *(health_check(provider, endpoint, config) for provider, endpoint in endpoints.values())
    )
    return dict(zip(endpoints, found, strict=True))


async def health_check(provider: Provider, endpoint: Endpoint, config: TransportConfig) -> Health:
    """Ask for what a key opens and nobody pays for; where there is no such thing, whether the address answers at all.

    The bound in time is that of ``config``. Nothing is sent when the endpoint lacks something.
    """
    wrong = validate_endpoint(provider, endpoint)
    if wrong is not None:
        return Health(provider=provider.name, error=wrong)
    transport = Transport(config)
    start = time.perf_counter()
    try:
        if provider.health_url is None:
            url = provider.locate(endpoint, CompletionRequest(model="any", messages=()), False)
            reached = await transport.probe(provider.name, endpoint.base_url or provider.base_url or url)
            took_s = time.perf_counter() - start
            if is_successful(reached):
                return Health(provider=provider.name, reachable=True, status=reached.unwrap(), latency_s=took_s)
            return Health(provider=provider.name, latency_s=took_s, error=reached.failure())
        bare = HttpRequest("GET", provider.health_url(endpoint), {"accept": "application/json"})
        asked = await transport.fetch(provider.name, provider.authorize(endpoint, bare, time.time()), endpoint)
        took_s = time.perf_counter() - start
    finally:
        await transport.close()
    if not is_successful(asked):
        return Health(provider=provider.name, latency_s=took_s, error=asked.failure())
    found = _health_from_reply(provider, asked.unwrap(), took_s)
    return found if found.error is None else replace(found, error=redact_error(found.error, endpoint))


def _health_from_reply(provider: Provider, reply: HttpReply, took_s: float) -> Health:
    """Read the answer: a list, a refusal of the key, or something else that says nothing of the key."""
    taken = 200 <= reply.status < 300  # noqa: PLR2004 - HTTP success
    error = None if taken else with_context(provider.wire.decode_error(reply), provider=provider.name)
    known = True if taken else False if isinstance(error, AuthFailed) else None
    # Where there is no such list, its absence says nothing of the key.
    unlisted = reply.status in {404, 405} and known is None
    return Health(
        provider=provider.name,
        reachable=True,
        key_accepted=known,
        status=reply.status,
        latency_s=took_s,
        error=None if unlisted else error,
    )
