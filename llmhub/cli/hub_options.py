"""From options to a hub: who is asked where, what is kept, and how fast."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmhub import config
from llmhub.cli.arguments import REQUEST_FLAGS, RUN_FLAGS
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.provider import Endpoint
from llmhub.engine.limits import Limit
from llmhub.hub import DEFAULT_POOL_SIZE, Hub, load_enabled_plugins
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import FAKE_PROVIDERS, endpoints


def build_hub(given: argparse.Namespace) -> Hub:
    """Make the hub that a command line describes.

    Raises
    ------
    InvalidRequestError
        Names the argument.
    """
    plugins = load_enabled_plugins()
    found = config.load_settings(plugin_providers=plugins.providers)
    if given.simulator:
        found = simulated_settings(found, endpoints(given.simulator), given.model)
    moved = {name: replace(found.endpoints.get(name, Endpoint()), base_url=url) for name, url in given.base_url}
    slow = given.rpm is not None or given.tpm is not None
    there = {**PROVIDERS, **plugins.providers}
    known = [name for name in given.model if name.partition("/")[0] in there]
    return Hub(
        plugins=plugins,
        settings=found,
        endpoints=moved,
        cache=None if given.no_cache else given.cache or found.cache_url or found.cache_path,
        limits={name: Limit(rpm=given.rpm, tpm=given.tpm) for name in known} if slow else {},
        pool_size=max(DEFAULT_POOL_SIZE, given.concurrency or 0),
    )


def simulated_settings(found: config.Settings, there: Mapping[str, Endpoint], models: Sequence[str]) -> config.Settings:
    """Reach nobody but a simulator, whatever the environment says.

    Raises
    ------
    InvalidRequestError
        A model's provider is not simulated: it would be asked in earnest.
    """
    for model in models:
        name = model.partition("/")[0]
        if name in PROVIDERS and name not in FAKE_PROVIDERS:
            said = f"{model!r}: no simulator speaks for {name!r}; there are {', '.join(sorted(FAKE_PROVIDERS))}"
            raise BadRequestError(InvalidRequest(path="model", message=said))
    return replace(found, endpoints=there, use_proxy_settings=False)


def collect_options(given: argparse.Namespace) -> dict[str, Any]:
    """Give the options that were set, as `llmhub.complete_table` takes them."""
    named = {name: getattr(given, name, None) for name in (*REQUEST_FLAGS, *RUN_FLAGS)}
    return {name: value for name, value in named.items() if value is not None}
