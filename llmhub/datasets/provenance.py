"""How answers came about, as a value that a lock holds: prompt, parameters, models, scorers, addresses and versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.cache_key import CREDENTIALS, MAPPING_VERSION
from llmhub.core.types import JSON
from llmhub.hub import Hub
from llmhub.tables.tokenizers import encoding_name_of

PACKAGES: Final = ("llmhub", "aiohttp", "genai-prices", "msgspec", "numpy", "pandas", "pyarrow", "scipy", "tiktoken")
"""Packages whose versions may show in what is frozen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a run was asked.

    Parameters
    ----------
    name, version
        Of the task.
    prompt, system
        The templates.
    parameters
        Parameters of the answers, as in `llmhub.complete`: ``temperature``, ``seed``, ...
    models
        Models as asked, ``provider/model``.
    samples
        Answers a row and model.
    target
        The column that answers are held against.
    scorers
        What each scorer is known by: name, version, parameters.
    design
        How scores were compared, as `llmhub.evaluate` takes it: ``failures``, ``level``, ...
    """

    name: str = "asked"
    version: str = "1"
    prompt: str = ""
    system: str = ""
    parameters: Mapping[str, JSON] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    samples: int = 1
    target: str = ""
    scorers: tuple[Mapping[str, JSON], ...] = ()
    design: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def is_replayable(self) -> bool:
        """Whether it says how to ask again."""
        return bool(self.prompt and self.models)


def recipe_from_lock(said: Mapping[str, Any]) -> Recipe:
    """Read a recipe from a lock."""
    return Recipe(**{**said, "models": tuple(said["models"]), "scorers": tuple(said["scorers"])})


def recipe_to_json(recipe: Recipe) -> dict[str, JSON]:
    """Give a recipe as JSON."""
    found: dict[str, JSON] = msgspec.to_builtins(recipe)
    return found


def served_models(results: pa.Table) -> list[JSON]:
    """Say for each model as asked which served it, where its prices stand and which tokenizer is its own."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    columns = ("provider", "model", "served_model", "price_id")
    pairs = results.select(list(columns)).group_by(list(columns)).aggregate([])
    for provider, model, who, price in zip(*(pairs.column(name).to_pylist() for name in columns), strict=True):
        name = f"{provider}/{model}"
        names, prices = found.setdefault(name, (set(), set()))
        names.update({who} - {None})
        prices.update({price} - {None})
    return [
        {
            "asked": name,
            "served": sorted(names),
            "price_ids": sorted(prices),
            "tokenizer": encoding_name_of(name.partition("/")[2])[0],
        }
        for name, (names, prices) in sorted(found.items())
    ]


def request_period(results: pa.Table) -> list[str | None]:
    """Say when the first and the last call was sent."""
    bounds = pc.min_max(results.column("started_at")).as_py()
    return [bounds[end].isoformat() if bounds[end] else None for end in ("min", "max")]


def endpoint_settings(hub: Hub, models: Sequence[str]) -> dict[str, JSON]:
    """Say where each provider was reached: what counts in a request's key, and never a credential."""
    found: dict[str, JSON] = {}
    for name in sorted({model.partition("/")[0] for model in models}):
        endpoint = hub.target(next(model for model in models if model.startswith(f"{name}/"))).endpoint
        found[name] = {
            "base_url": _public(endpoint.base_url),
            "project": endpoint.project,
            "api_version": endpoint.api_version,
            "region": endpoint.region,
            "headers": {key: value for key, value in endpoint.headers.items() if key.lower() not in CREDENTIALS},
        }
    return found


def _public(address: str) -> str:
    """Leave out who asks, should the address say it."""
    scheme, slashes, rest = address.partition("://")
    return scheme + slashes + rest.rpartition("@")[2]


def package_versions() -> dict[str, JSON]:
    """Give the versions of whatever may show in what is frozen."""
    found: dict[str, JSON] = {"python": platform.python_version(), "mapping": MAPPING_VERSION}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
