"""Check whether a provider is reachable and accepts the credentials, with one request that costs nothing.

Providers with a list of models or the like (`Provider.health_url`) are asked for it; for the others only the address is
checked, without credentials.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from returns.pipeline import is_successful

from llmhub.core.errors import AuthFailed, LLMError, Malformed, with_context
from llmhub.core.payload import html_excerpt, is_html
from llmhub.core.protocol import error_from_reply
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest, Provider, locate
from llmhub.core.types import CompletionRequest
from llmhub.engine.transport import Timeout, Transport, TransportConfig, redact_error
from llmhub.providers.endpoint_validation import validate_endpoint

DEFAULT_TIMEOUT: Final = Timeout(connect_s=5.0, total_s=5.0)
"""Time limits of a health check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The result of a health check.

    Parameters
    ----------
    provider
        The provider's name.
    reachable
        Whether there was a reply.
    key_accepted
        Whether the credentials were accepted; ``None`` if the reply does not tell.
    status
        The HTTP status of the reply.
    latency_s
        How long the reply took.
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
        """Whether nothing is known to prevent calls."""
        return self.reachable and self.error is None


async def health_checks(
    endpoints: Mapping[str, tuple[Provider, Endpoint]], config: TransportConfig
) -> dict[str, Health]:
    """Check several providers concurrently (see `health_check`)."""
    results = await asyncio.gather(
        *(health_check(provider, endpoint, config) for provider, endpoint in endpoints.values())
    )
    return dict(zip(endpoints, results, strict=True))


async def health_check(provider: Provider, endpoint: Endpoint, config: TransportConfig) -> Health:
    """Check one provider within the time limits of ``config``. An incomplete endpoint is an error without a request."""
    error = validate_endpoint(provider, endpoint)
    if error is not None:
        return Health(provider=provider.name, error=error)
    transport = Transport(config)
    try:
        if provider.health_url is None:
            return await _probe_address(provider, endpoint, transport)
        return await _fetch_health_url(provider, endpoint, locate(endpoint, provider.health_url), transport)
    finally:
        await transport.close()


async def _probe_address(provider: Provider, endpoint: Endpoint, transport: Transport) -> Health:
    start = time.perf_counter()
    request = CompletionRequest(model="any", messages=())
    url = locate(endpoint, lambda each: provider.locate(each, request, False))
    status = await transport.probe(provider.name, endpoint.base_url or provider.base_url or url, endpoint)
    latency_s = time.perf_counter() - start
    if not is_successful(status):
        return Health(provider=provider.name, latency_s=latency_s, error=status.failure())
    return Health(provider=provider.name, reachable=True, status=status.unwrap(), latency_s=latency_s)


async def _fetch_health_url(provider: Provider, endpoint: Endpoint, url: str, transport: Transport) -> Health:
    start = time.perf_counter()
    unsigned = HttpRequest("GET", url, {"accept": "application/json"})
    reply = await transport.fetch(provider.name, provider.authorize(endpoint, unsigned, time.time()), endpoint)
    latency_s = time.perf_counter() - start
    if not is_successful(reply):
        return Health(provider=provider.name, latency_s=latency_s, error=reply.failure())
    health = _health_from_reply(provider, reply.unwrap(), latency_s)
    return health if health.error is None else replace(health, error=redact_error(health.error, endpoint))


def _health_from_reply(provider: Provider, reply: HttpReply, latency_s: float) -> Health:
    """Return the health that a reply shows: a success, rejected credentials, or an error that tells nothing of them."""
    is_success = 200 <= reply.status < 300  # noqa: PLR2004 - HTTP success
    error = None if is_success else error_from_reply(provider, reply)
    if is_success and is_html(reply.body):
        # A sign-in page or a proxy's own page, behind which there may be no API at all.
        page = Malformed(status=reply.status, message=f"{html_excerpt(reply.body)} instead of JSON; check base_url")
        error = with_context(page, provider=provider.name)
    key_accepted = True if error is None else False if isinstance(error, AuthFailed) else None
    # A server without such a list may work all the same.
    has_no_list = reply.status in {404, 405} and key_accepted is None
    return Health(
        provider=provider.name,
        reachable=True,
        key_accepted=key_accepted,
        status=reply.status,
        latency_s=latency_s,
        error=None if has_no_list else error,
    )
