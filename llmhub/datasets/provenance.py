"""Provenance of a frozen dataset: prompt, parameters, models, scorers, endpoints and package versions.

Everything here is stored in ``lock.json``; it never includes credentials, nor the value of any header or URL query.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.cache_key import MAPPING_VERSION, is_keyed
from llmhub.core.provider import public_url
from llmhub.core.types import JSON
from llmhub.hub import Hub
from llmhub.tables.tokenizers import encoding_name_of

PACKAGES: Final = ("llmhub", "aiohttp", "genai-prices", "msgspec", "numpy", "pandas", "pyarrow", "scipy", "tiktoken")
"""Packages whose versions can affect a frozen dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How results were requested and scored.

    Parameters
    ----------
    name, version
        Name and version of the task.
    prompt, system
        Prompt template and system message.
    parameters
        Request parameters, as in `llmhub.complete`: ``temperature``, ``seed``, ...
    models
        Requested models, as ``provider/model``.
    samples
        Samples per row and model.
    target
        Column with the reference answer.
    scorers
        Name, version and parameters of each scorer.
    design
        Options of `llmhub.evaluate` for the comparison: ``failures``, ``level``, ...
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
        """Whether prompt and models are known, so that the requests can be rebuilt."""
        return bool(self.prompt and self.models)

    @property
    def judge_models(self) -> tuple[str, ...]:
        """Models of the judges among the scorers."""
        parameters = [scorer.get("parameters") for scorer in self.scorers]
        models = [own.get("model") for own in parameters if isinstance(own, Mapping) and "rubric" in own]
        return tuple(model for model in models if isinstance(model, str))


def recipe_from_lock(recorded: Mapping[str, Any]) -> Recipe:
    """Return the recipe recorded in a lock."""
    return Recipe(**{**recorded, "models": tuple(recorded["models"]), "scorers": tuple(recorded["scorers"])})


def recipe_to_json(recipe: Recipe) -> dict[str, JSON]:
    """Return a recipe as it is recorded in a lock."""
    recorded: dict[str, JSON] = msgspec.to_builtins(recipe)
    return recorded


def served_models(results: pa.Table) -> list[JSON]:
    """Return, for each requested model, the models that served it, its price ids and its tokenizer."""
    columns = ["provider", "model", "served_model", "price_id"]
    distinct = results.select(columns).group_by(columns).aggregate([])
    found: dict[str, tuple[set[str], set[str]]] = {}
    rows = zip(*(distinct.column(name).to_pylist() for name in columns), strict=True)
    for provider, model, served_model, price_id in rows:
        served, price_ids = found.setdefault(f"{provider}/{model}", (set(), set()))
        served.update({served_model} - {None})
        price_ids.update({price_id} - {None})
    return [
        {
            "asked": name,
            "served": sorted(served),
            "price_ids": sorted(price_ids),
            "tokenizer": encoding_name_of(name.partition("/")[2])[0],
        }
        for name, (served, price_ids) in sorted(found.items())
    ]


def request_period(results: pa.Table) -> list[str | None]:
    """Return when the first and the last call started, in ISO 8601; ``None`` if no call was made."""
    bounds = pc.min_max(results.column("started_at")).as_py()
    return [bounds[end].isoformat() if bounds[end] else None for end in ("min", "max")]


def endpoint_settings(hub: Hub, models: Sequence[str]) -> dict[str, JSON]:
    """Return the settings of each provider's endpoint that are part of cache keys.

    A header or query parameter may hold a key under any name, so their names are recorded and never their values.
    """
    settings: dict[str, dict[str, JSON]] = {}
    for provider in sorted({model.partition("/")[0] for model in models}):
        endpoint = hub.target(next(model for model in models if model.startswith(f"{provider}/"))).endpoint
        more = {name.lower() for name in endpoint.cache_key_names}
        settings[provider] = {
            "base_url": public_url(endpoint.base_url),
            "project": endpoint.project,
            "api_version": endpoint.api_version,
            "region": endpoint.region,
            "headers": sorted(name for name in endpoint.headers if is_keyed(name, more)),
        }
        parameters = parse_qsl(urlsplit(endpoint.base_url).query, keep_blank_values=True)
        query = sorted({name for name, _ in parameters if is_keyed(name, more)})
        settings[provider] |= {"query": query} if query else {}
    return {**settings}


def package_versions() -> dict[str, JSON]:
    """Return the versions of Python, the cache key format and the installed `PACKAGES`."""
    versions: dict[str, JSON] = {"python": platform.python_version(), "mapping": MAPPING_VERSION}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
