"""From command line options to a hub and the keyword arguments of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from llmhub import config
from llmhub.cli.arguments import REQUEST_FLAGS, RUN_FLAGS
from llmhub.core.errors import invalid
from llmhub.core.provider import Endpoint
from llmhub.core.proxies import NO_PROXIES
from llmhub.engine.limits import Limit
from llmhub.hub import DEFAULT_POOL_SIZE, Hub, load_enabled_plugins
from llmhub.providers.registry import PROVIDERS
from llmhub.security.credentials.declared import default_credentials
from llmhub.sim import SIMULATED, endpoints


def build_hub(args: argparse.Namespace) -> Hub:
    """Return the hub that the options describe.

    Raises
    ------
    BadRequestError
        An option is wrong; the error names it.
    """
    plugins = load_enabled_plugins()
    settings = config.load_settings(plugin_providers=plugins.providers)
    if args.simulator:
        settings = simulated_settings(settings, endpoints(args.simulator), args.model)
    overrides = {name: replace(settings.endpoints.get(name, Endpoint()), base_url=url) for name, url in args.base_url}
    rpm, tpm = getattr(args, "rpm", None), getattr(args, "tpm", None)
    has_limit = rpm is not None or tpm is not None
    providers = {**PROVIDERS, **plugins.providers}
    models = [name for name in args.model if name.partition("/")[0] in providers]
    limits = {name: Limit(rpm=rpm, tpm=tpm) for name in models} if has_limit else {}
    pool_size = max(DEFAULT_POOL_SIZE, getattr(args, "concurrency", None) or 0)
    if args.service:
        return Hub(settings=settings, service=args.service, cache=args.cache, limits=limits, pool_size=pool_size)
    return Hub(
        plugins=plugins,
        settings=settings,
        endpoints=overrides,
        credentials=None if args.simulator else default_credentials(settings, plugins.credentials),
        cache=None if args.no_cache else args.cache or _default_cache(args, settings),
        limits=limits,
        pool_size=pool_size,
    )


def _default_cache(args: argparse.Namespace, settings: config.Settings) -> str | Path | None:
    """Return the cache of the environment; simulated responses have one of their own."""
    if args.simulator:
        return config.simulated_cache_path(settings)
    return settings.cache_url or settings.cache_path


def simulated_settings(
    settings: config.Settings, simulated: Mapping[str, Endpoint], models: Sequence[str]
) -> config.Settings:
    """Return settings that reach the simulator only, whatever the environment contains.

    Raises
    ------
    BadRequestError
        The provider of a model is not simulated, so that the real one would be called.
    """
    for model in models:
        name = model.partition("/")[0]
        if name in PROVIDERS and name not in SIMULATED:
            raise invalid(
                "model", f"{model!r}: {name!r} is not simulated; simulated are {', '.join(sorted(SIMULATED))}"
            )
    return replace(settings, endpoints=simulated, proxies=NO_PROXIES)


def read_schema(path: Path) -> dict[str, Any]:
    """Return the JSON schema in a file.

    Raises
    ------
    BadRequestError
        The file cannot be read, or holds no JSON object.
    """
    schema = _read_json("--schema", path, msgspec.json.decode)
    if not isinstance(schema, dict):
        raise invalid("--schema", f"{str(path)!r} must hold a JSON object, not {type(schema).__name__}")
    return schema


def read_messages(path: Path) -> list[Any]:
    """Return the conversation in a file: a JSON list, an object with ``messages``, or a message a line.

    Raises
    ------
    BadRequestError
        The file cannot be read, or holds no messages.
    """
    messages = _read_json("--messages", path, _decode_json_or_lines)
    if isinstance(messages, dict):
        messages = messages.get("messages", [messages])
    if not isinstance(messages, list) or not messages:
        raise invalid("--messages", f"{str(path)!r} must hold a list of messages")
    return messages


def _decode_json_or_lines(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return msgspec.json.Decoder().decode_lines(data)


def _read_json(flag: str, path: Path, decode: Callable[[bytes], Any]) -> Any:
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise invalid(flag, f"{str(path)!r}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise invalid(flag, f"{str(path)!r} is not JSON: {error}") from error


def collect_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were set, as keyword arguments of `llmhub.complete_table`."""
    options = {name: getattr(args, name, None) for name in (*REQUEST_FLAGS, *RUN_FLAGS)}
    return {name: value for name, value in options.items() if value is not None}
