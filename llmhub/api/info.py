"""Information about models, providers and past requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, overload

from returns.pipeline import is_successful

from llmhub.api.default_hub import current_hub
from llmhub.core.errors import invalid
from llmhub.core.model_metadata import ModelMetadata
from llmhub.core.provider import Endpoint
from llmhub.core.serialization import from_stored_response, unpack
from llmhub.core.types import CompletionResponse
from llmhub.engine import health
from llmhub.engine.call import Target
from llmhub.engine.event_loop import run_in_background, run_sync
from llmhub.engine.health import DEFAULT_TIMEOUT, Health
from llmhub.engine.transport import TransportConfig
from llmhub.hub import Hub
from llmhub.providers import prices, registry

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def metadata(model: str, *, hub: Hub | None = None) -> ModelMetadata:
    """Return what is known about a model: context window, unsupported parameters, reasoning, price.

    Nothing is sent and no credentials are needed. The first call loads the price table.

    Parameters
    ----------
    model
        ``provider/model``.
    hub
        A hub with further providers; the default hub if omitted.

    Raises
    ------
    BadRequestError
        ``model`` names no provider, or an unknown one.

    Examples
    --------
    >>> model = metadata("openai/gpt-5")
    >>> model.context_window, model.reasoning_efforts, model.price_id
    (400000, ('minimal', 'low', 'medium', 'high'), 'genai-prices-...:openai/gpt-5@...')
    """
    provider, name = (hub or current_hub()).provider(model)
    price = prices.find_price(provider.name, name, datetime.now(UTC))
    return replace(registry.model_metadata(provider.name, name), price_id=price.price_id if price else "")


def models(provider: str | Sequence[str] | None = None, *, hub: Hub | None = None) -> pd.DataFrame:
    """Return the models with a known price: context window, and US dollars per million tokens. Nothing is sent.

    A model that is not listed can be called as well; it only has no known cost.

    Parameters
    ----------
    provider
        One provider, or several; all known ones if omitted.
    hub
        A hub with further providers; the default hub if omitted.

    Returns
    -------
    pandas.DataFrame
        ``model`` (as ``model=`` takes it), ``provider``, ``context_window``, ``input_usd_per_mtok``,
        ``output_usd_per_mtok``.

    Raises
    ------
    BadRequestError
        A provider is unknown.

    Examples
    --------
    >>> models("anthropic").query("model == 'anthropic/claude-haiku-4-5'").input_usd_per_mtok.item()
    1.0
    """
    from llmhub.tables.model_table import model_table  # noqa: PLC0415 - imports pandas

    names = [provider] if isinstance(provider, str) else provider
    if names is None:
        names = list(registry.PROVIDERS)
    else:
        hub = hub or current_hub()
        for name in names:
            hub.provider(f"{name}/any")
    return model_table(names, datetime.now(UTC))


@overload
def count_tokens(text: str, model: str) -> int: ...  # type: ignore[overload-overlap]
@overload
def count_tokens(text: Sequence[str], model: str) -> list[int]: ...
def count_tokens(text: str | Sequence[str], model: str) -> int | list[int]:
    """Return the number of tokens of a text, or of each of several, with the tokenizer of a model.

    Parameters
    ----------
    text
        A text, or a sequence of texts.
    model
        ``provider/model``, or the name of a model.

    Warns
    -----
    EstimateWarning
        The tokenizer of the model is not public or not available, and the count is an estimate.
    """
    from llmhub.tables import tokenizers  # noqa: PLC0415 - only for this

    texts = [text] if isinstance(text, str) else list(text)
    wrong = next((each for each in texts if not isinstance(each, str)), None)
    if wrong is not None:
        raise invalid("text", f"{type(wrong).__name__} is not a text; pass a string or a list of strings")
    folder = current_hub().settings.tokenizer_folder
    counts = tokenizers.count_tokens(texts, model, tokenizers.VocabularySource(folder=folder)).counts
    return counts[0] if isinstance(text, str) else counts


def health_check(provider: str, *, hub: Hub | None = None) -> Health:
    """Send a free request to a provider, and return whether it is reachable and accepts the credentials.

    The request times out after 5 seconds. Problems of a known provider are in ``error`` of the result.

    Parameters
    ----------
    provider
        A provider, or ``provider/model``, whose endpoint is checked; whether it has that model is not.
    hub
        The hub with the endpoint; the default hub if omitted.

    Raises
    ------
    BadRequestError
        The provider is unknown.
    """
    return run_sync(lambda _: _check(provider, hub or current_hub()))


async def ahealth_check(provider: str, *, hub: Hub | None = None) -> Health:
    """Check a provider, awaited (see `health_check`)."""
    return await run_in_background(_check(provider, hub or current_hub()))


async def _check(name: str, hub: Hub) -> Health:
    provider_name = str(name).partition("/")[0]
    provider, _ = hub.provider(f"{provider_name}/any")
    known = hub.resolver.endpoints
    endpoint = known.get(name) or known.get(provider_name) or Endpoint()
    if hub.credentials:
        target = Target(provider, endpoint, "any", name if name in known else f"{provider_name}/any")
        found = await hub.runtime.client.credentials.endpoint(target)
        if not is_successful(found):
            return Health(provider=provider_name, error=found.failure())
        endpoint = found.unwrap()
    settings = hub.settings
    transport = TransportConfig(timeout=DEFAULT_TIMEOUT, proxies=settings.proxies, ca_file=settings.ca_file)
    return await health.health_check(provider, endpoint, transport)


def ledger(*, hub: Hub | None = None) -> pa.Table:
    """Return all requests in the ledger of a hub's cache, including those of other processes and earlier runs.

    Parameters
    ----------
    hub
        The hub whose cache to read; the default hub if omitted.

    Returns
    -------
    pyarrow.Table
        One row per request with the schema `llmhub.tables.ledger.LEDGER`: run id, state, times, tokens and cost.
        Requests in flight come last. The state ``ambiguous`` marks requests whose process died before the response
        arrived.

    Raises
    ------
    BadRequestError
        The hub has no cache with a ledger, such as a `DiskCache`.
    """
    from llmhub.tables.ledger import ledger_table  # noqa: PLC0415 - imports Arrow

    store = (hub or current_hub()).runtime.store
    if store is None or store.ledger is None:
        raise invalid("hub", "has no cache with a ledger; pass Hub(cache=DiskCache(path))")
    return ledger_table(store.ledger.requests())


def responses(results: Any, *, hub: Hub | None = None, prefix: str = "") -> list[CompletionResponse | None]:
    """Return the whole responses of a results table from a hub's cache, with what a table of text leaves out.

    That is images and recordings, reasoning, citations and log probabilities. Nothing is sent.

    Parameters
    ----------
    results
        Results in any kind of frame, or as they were read from a file, with the column ``request_key``.
    hub
        The hub whose cache to read; the default hub if omitted.
    prefix
        Prefix of the result columns.

    Returns
    -------
    list of CompletionResponse
        One per row; ``None`` for a row without a response in the cache.

    Raises
    ------
    BadRequestError
        The hub has no cache, or the results lack the column.

    Examples
    --------
    >>> import llmhub
    >>> with llmhub.simulate():
    ...     table = llmhub.complete_table({"text": ["Say hi"]}, "{text}", model="openai/gpt-4o-mini", progress=False)
    ...     [response.images for response in llmhub.responses(table)]
    [()]
    """
    from llmhub.tables.result_frames import results_table  # noqa: PLC0415 - imports Arrow

    store = (hub or current_hub()).runtime.store
    if store is None:
        raise invalid("hub", "has no cache; pass Hub(cache=DiskCache(path)), with which the results were made")
    table = results_table(results, prefix, ["request_key"])
    if "request_key" not in table.column_names:
        message = (
            'lack the column request_key; pass columns="all" or columns=["request_key"] to the call that makes them'
        )
        raise invalid("results", message)
    keys = table["request_key"].to_pylist()
    values = store.get_many(list({key for key in keys if key is not None}))
    found = {key: unpack(value, key).map(from_stored_response).value_or(None) for key, value in values.items()}
    return [found.get(key) for key in keys]
