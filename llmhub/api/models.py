"""What is known of a model, and how its provider is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from llmhub.api.hubs import current_hub
from llmhub.core.metadata import ProviderMetadata
from llmhub.core.provider import Endpoint
from llmhub.engine.health import BOUND, Health
from llmhub.engine.health import health_check as ask
from llmhub.engine.loop import run_here, run_sync
from llmhub.engine.transport import Wiring
from llmhub.hub import Hub
from llmhub.providers import models, prices


def metadata(model: str, *, hub: Hub | None = None) -> ProviderMetadata:
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
    >>> found.context_window, found.efforts, found.price_id
    (400000, ('minimal', 'low', 'medium', 'high'), 'genai-prices-...:openai/gpt-5@...')
    """
    provider, name = (hub or current_hub()).provider(model)
    price = prices.price(provider.name, name, datetime.now(UTC))
    return replace(models.metadata(provider.name, name), price_id=price.price_id if price else "")


def health_check(provider: str, *, hub: Hub | None = None) -> Health:
    """Ask a provider for something that costs nothing: whether it answers, and takes the key; within 5 s.

    Raises
    ------
    InvalidRequestError
        No provider by that name is known. What is wrong with one that is known is in the answer's ``error``.
    """
    return run_sync(lambda _: _checked(provider, hub or current_hub()))


async def ahealth_check(provider: str, *, hub: Hub | None = None) -> Health:
    """Check a provider as `health_check` does, awaited."""
    return await run_here(_checked(provider, hub or current_hub()))


async def _checked(name: str, hub: Hub) -> Health:
    provider, _ = hub.provider(f"{name}/any")
    endpoint = hub.endpoints.get(name) or hub.settings.endpoints.get(name) or Endpoint()
    bound = Wiring(timeout=BOUND, use_proxy_settings=hub.settings.use_proxy_settings)
    return await ask(provider, endpoint, bound)
