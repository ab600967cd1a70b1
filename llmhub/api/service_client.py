"""Requests to a service of llmhub: its address, its key, its errors, and patience while it restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args
from urllib.parse import urlencode

import msgspec
from returns.pipeline import is_successful

from llmhub.core.errors import (
    Cancelled,
    Disconnected,
    LLMError,
    Malformed,
    Overloaded,
    ServerError,
    TimedOut,
    to_exception,
)
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest
from llmhub.core.secret import Secret
from llmhub.engine.transport import redact_error
from llmhub.hub import Hub

POOL: Final = "service"
"""Name of the connections to the service."""
ERRORS: Final[Mapping[str, type[Any]]] = {kind.__name__: kind for kind in get_args(LLMError)}
TRANSIENT: Final = (Cancelled, Disconnected, TimedOut, Overloaded, ServerError)
"""Errors of a service that drains or restarts, or of a proxy before it."""
FIRST_DELAY_S: Final = 0.2
MAX_DELAY_S: Final = 5.0
HTTP_ERRORS: Final = 400


@dataclass(frozen=True, slots=True)
class ServiceClient:
    """The service of a hub. Use it on the background loop only."""

    hub: Hub

    async def fetch(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: bytes = b"",
        content_type: str = "",
        patience_s: float = 0.0,
    ) -> HttpReply:
        """Send a request, and return its reply.

        Parameters
        ----------
        patience_s
            How long to repeat a request that a service which restarts does not answer.

        Raises
        ------
        ConnectorError
            The error that the service states, or that of the network.
        """
        loop = asyncio.get_running_loop()
        deadline, delay_s = loop.time() + patience_s, FIRST_DELAY_S
        while True:
            outcome = await self._fetch_once(method, path, query or {}, body, content_type)
            if isinstance(outcome, HttpReply):
                return outcome
            if not isinstance(outcome, TRANSIENT) or loop.time() + delay_s > deadline:
                raise to_exception(outcome)
            await asyncio.sleep(max(delay_s, min(outcome.retry_after_s or 0.0, MAX_DELAY_S)))
            delay_s = min(delay_s * 2, MAX_DELAY_S)

    async def _fetch_once(
        self, method: str, path: str, query: Mapping[str, Any], body: bytes, content_type: str
    ) -> HttpReply | LLMError:
        key = self.hub.service_key
        endpoint = Endpoint(base_url=self.hub.service or "", api_key=key or "")
        headers = {"content-type": content_type} if content_type else {}
        if isinstance(key, Secret) and key:
            headers["authorization"] = f"Bearer {key.reveal()}"
        url = f"{endpoint.base_url}{path}{'?' if query else ''}{urlencode(query)}"
        request = HttpRequest(method, url, headers, body)
        fetched = await self.hub.runtime.client.transport.fetch(POOL, request, endpoint)
        if not is_successful(fetched):
            return fetched.failure()
        reply = fetched.unwrap()
        return reply if reply.status < HTTP_ERRORS else redact_error(error_of_reply(reply), endpoint)


def error_of_reply(reply: HttpReply) -> LLMError:
    """Return the error that a reply of the service states.

    Examples
    --------
    >>> error = error_of_reply(HttpReply(404, {}, b'{"error": {"type": "NotFound", "message": "there is no run"}}'))
    >>> type(error).__name__, error.message, error.status
    ('NotFound', 'there is no run', 404)
    """
    try:
        stated = msgspec.json.decode(reply.body)["error"]
        kind, message = ERRORS[stated["type"]], str(stated["message"])
        retry_after_s = stated.get("retry_after_s")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        text = reply.body[:200].decode("utf-8", "replace")
        message = f"the service replied with status {reply.status}: {text}"
        return (
            ServerError(message=message, status=reply.status)
            if reply.status >= 500  # noqa: PLR2004 - errors of servers
            else Malformed(message=message, status=reply.status)
        )
    error: LLMError = kind(
        message=message,
        status=reply.status,
        retry_after_s=retry_after_s if isinstance(retry_after_s, (int, float)) else None,
    )
    return error
