"""What went out, by the ledger: what a run cost can be read though the process that ran it is gone.

What is known of a model, and how its provider is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmhub.api.default_hub import current_hub
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.hub import Hub

if TYPE_CHECKING:
    import pyarrow as pa
from dataclasses import replace
from datetime import UTC, datetime

from llmhub.core.model_metadata import ModelMetadata
from llmhub.core.provider import Endpoint
from llmhub.engine.event_loop import run_in_background, run_sync
from llmhub.engine.health import DEFAULT_TIMEOUT, Health
from llmhub.engine.health import health_check as ask
from llmhub.engine.transport import TransportConfig
from llmhub.providers import model_profiles, prices


def ledger(*, hub: Hub | None = None) -> pa.Table:
    """Give every request that is in the ledger of a hub's cache: runs by their id, states, times, tokens and cost.

    Parameters
    ----------
    hub
        Whose cache; the default hub unless given.

    Returns
    -------
    pyarrow.Table
        With the schema `llmhub.tables.ledger.LEDGER`: a row for each request, those under way last. ``ambiguous`` are
        those that a process sent which died before the answer came.

    Raises
    ------
    InvalidRequestError
        The hub has no cache that keeps a ledger: a `DiskCache` does.
    """
    from llmhub.tables.ledger import ledger_table  # noqa: PLC0415 - Arrow is loaded when it is asked for

    store = (hub or current_hub()).runtime.store
    if store is None or store.ledger is None:
        said = "this hub has no cache that keeps a ledger; give Hub(cache=DiskCache(path))"
        raise BadRequestError(InvalidRequest(path="hub", message=said))
    return ledger_table(store.ledger.requests())


def metadata(model: str, *, hub: Hub | None = None) -> ModelMetadata:
    """Give what is known of a model: how much it holds, what it refuses and when, how it reasons, where its price is.

    Nothing is sent, and no key is needed. The first call loads the price table.

    Parameters
    ----------
    model
        ``provider/model``.
    hub
        Whose further providers count; the default hub unless given.

    Raises
    ------
    InvalidRequestError
        No provider is named, or none by that name is known.

    Examples
    --------
    >>> found = metadata("openai/gpt-5")
    >>> found.context_window, found.reasoning_efforts, found.price_id
    (400000, ('minimal', 'low', 'medium', 'high'), 'genai-prices-...:openai/gpt-5@...')
    """
    provider, name = (hub or current_hub()).provider(model)
    price = prices.find_price(provider.name, name, datetime.now(UTC))
    return replace(model_profiles.model_metadata(provider.name, name), price_id=price.price_id if price else "")


def health_check(provider: str, *, hub: Hub | None = None) -> Health:
    """Ask a provider for something that costs nothing: whether it answers, and takes the key; within 5 s.

    Raises
    ------
    InvalidRequestError
        No provider by that name is known. What is wrong with one that is known is in the answer's ``error``.
    """
    return run_sync(lambda _: _health_check(provider, hub or current_hub()))


async def ahealth_check(provider: str, *, hub: Hub | None = None) -> Health:
    """Check a provider as `health_check` does, awaited."""
    return await run_in_background(_health_check(provider, hub or current_hub()))


async def _health_check(name: str, hub: Hub) -> Health:
    provider, _ = hub.provider(f"{name}/any")
    endpoint = hub.endpoints.get(name) or hub.settings.endpoints.get(name) or Endpoint()
    bound = TransportConfig(timeout=DEFAULT_TIMEOUT, use_proxy_settings=hub.settings.use_proxy_settings)
    return await ask(provider, endpoint, bound)
