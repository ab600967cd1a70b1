"""A frame of prompts in, one Arrow table of answers, latencies, costs and errors out.

Names are loaded at first use, so ``import llmhub`` is quick; ``.llm`` appears on pandas frames whichever of the
two is imported first.

Examples
--------
>>> import llmhub
>>> "complete" in dir(llmhub)
True
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmhub.api import (
        Job,
        acomplete,
        acomplete_table,
        ahealth_check,
        astream,
        complete,
        complete_batches,
        complete_parallel,
        complete_table,
        configure,
        current_hub,
        health_check,
        metadata,
        parse,
        plan,
        rehearsal,
        schema_of,
        stream,
        stream_table,
        submit,
        try_complete,
        using,
    )
    from llmhub.api.ledgers import ledger
    from llmhub.api.writing import Written
    from llmhub.cache.access import CacheMode
    from llmhub.cache.disk import DiskCache
    from llmhub.cache.memory import MemoryCache
    from llmhub.cache.redis import RedisCache
    from llmhub.cache.tier import TieredCache
    from llmhub.core.builder import RequestBuilder, builder
    from llmhub.core.errors import CacheFailedError, ConnectorError, LLMError
    from llmhub.core.metadata import ProviderMetadata
    from llmhub.core.provider import Endpoint, Provider, Wire
    from llmhub.core.types import (
        CacheMark,
        CompletionRequest,
        CompletionResponse,
        Message,
        Schema,
        StreamChunk,
        Text,
        Tool,
        ToolCall,
        Usage,
    )
    from llmhub.engine.breaker import Breaker
    from llmhub.engine.health import Health
    from llmhub.engine.hooks import ErrorAction
    from llmhub.engine.limit import Limit
    from llmhub.engine.load import Load, concurrent, constant_rate, one_at_a_time, poisson, sweep
    from llmhub.engine.retry import Retry
    from llmhub.engine.route import CostOptimized, Failover, Hedge, LowLatency, RoundRobin, Route, Weighted
    from llmhub.engine.transport import Timeout
    from llmhub.engine.windows import FixedWindow, SlidingWindow, TokenBucket
    from llmhub.evals import scorers, tasks
    from llmhub.evals.bench import Bench, Measure, bench
    from llmhub.evals.compare import compare
    from llmhub.evals.comparison import Comparison
    from llmhub.evals.croissant import About
    from llmhub.evals.difference import Difference, diff
    from llmhub.evals.evaluate import Evaluation, evaluate
    from llmhub.evals.freeze import freeze
    from llmhub.evals.frozen import Frozen
    from llmhub.evals.judging import Judge
    from llmhub.evals.load_summary import Targets
    from llmhub.evals.recipe import Recipe
    from llmhub.evals.replay import Replay, replay
    from llmhub.evals.score import Scorer, scorer
    from llmhub.evals.splits import sample_by_hash, split_by_hash
    from llmhub.evals.tasks import Task
    from llmhub.evals.verify import Verification, verify
    from llmhub.hub import Hub
    from llmhub.notebook import plots
    from llmhub.notebook.accessor import llm
    from llmhub.notebook.display import show
    from llmhub.notebook.magic import load_ipython_extension, unload_ipython_extension
    from llmhub.plugins import ConnectorPlugin, Plugins, PluginWarning, load_plugins
    from llmhub.tables.rows import Row

__version__: Final = "0.1.0"

_HOMES: Final = {
    "api": (
        "Job",
        "acomplete",
        "acomplete_table",
        "ahealth_check",
        "astream",
        "complete",
        "complete_batches",
        "complete_parallel",
        "complete_table",
        "configure",
        "current_hub",
        "health_check",
        "metadata",
        "parse",
        "plan",
        "rehearsal",
        "schema_of",
        "stream",
        "stream_table",
        "submit",
        "try_complete",
        "using",
    ),
    "cache.access": ("CacheMode",),
    "api.ledgers": ("ledger",),
    "api.writing": ("Written",),
    "cache.disk": ("DiskCache",),
    "cache.memory": ("MemoryCache",),
    "cache.redis": ("RedisCache",),
    "cache.tier": ("TieredCache",),
    "core.builder": ("RequestBuilder", "builder"),
    "core.errors": ("CacheFailedError", "ConnectorError", "LLMError"),
    "core.provider": ("Endpoint", "Provider", "Wire"),
    "core.metadata": ("ProviderMetadata",),
    "core.types": (
        "CacheMark",
        "CompletionRequest",
        "CompletionResponse",
        "Message",
        "Schema",
        "StreamChunk",
        "Text",
        "Tool",
        "ToolCall",
        "Usage",
    ),
    "engine.breaker": ("Breaker",),
    "engine.health": ("Health",),
    "engine.hooks": ("ErrorAction",),
    "engine.limit": ("Limit",),
    "engine.retry": ("Retry",),
    "engine.route": ("CostOptimized", "Failover", "Hedge", "LowLatency", "RoundRobin", "Route", "Weighted"),
    "engine.transport": ("Timeout",),
    "engine.load": ("Load", "concurrent", "constant_rate", "one_at_a_time", "poisson", "sweep"),
    "evals.bench": ("Bench", "Measure", "bench"),
    "evals.croissant": ("About",),
    "evals.load_summary": ("Targets",),
    "evals.difference": ("Difference", "diff"),
    "evals.freeze": ("freeze",),
    "evals.frozen": ("Frozen",),
    "evals.recipe": ("Recipe",),
    "evals.replay": ("Replay", "replay"),
    "engine.windows": ("FixedWindow", "SlidingWindow", "TokenBucket"),
    "evals.score": ("Scorer", "scorer"),
    "evals.splits": ("sample_by_hash", "split_by_hash"),
    "evals.verify": ("Verification", "verify"),
    "evals.compare": ("compare",),
    "evals.comparison": ("Comparison",),
    "evals.evaluate": ("Evaluation", "evaluate"),
    "evals.judging": ("Judge",),
    "evals.tasks": ("Task",),
    "hub": ("Hub",),
    "plugins": ("ConnectorPlugin", "PluginWarning", "Plugins", "load_plugins"),
    "notebook.accessor": ("llm",),
    "tables.rows": ("Row",),
    "notebook.display": ("show",),
    "notebook.magic": ("load_ipython_extension", "unload_ipython_extension"),
}
"""Where each public name lives."""
_MODULES: Final = {"plots": "notebook.plots", "scorers": "evals.scorers", "tasks": "evals.tasks"}
"""Modules that are public by a short name."""
_HOME: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "About",
    "Bench",
    "Breaker",
    "CacheFailedError",
    "CacheMark",
    "CacheMode",
    "Comparison",
    "CompletionRequest",
    "CompletionResponse",
    "ConnectorError",
    "ConnectorPlugin",
    "CostOptimized",
    "Difference",
    "DiskCache",
    "Endpoint",
    "ErrorAction",
    "Evaluation",
    "Failover",
    "FixedWindow",
    "Frozen",
    "Health",
    "Hedge",
    "Hub",
    "Job",
    "Judge",
    "LLMError",
    "Limit",
    "Load",
    "LowLatency",
    "Measure",
    "MemoryCache",
    "Message",
    "PluginWarning",
    "Plugins",
    "Provider",
    "ProviderMetadata",
    "Recipe",
    "RedisCache",
    "Replay",
    "RequestBuilder",
    "Retry",
    "RoundRobin",
    "Route",
    "Row",
    "Schema",
    "Scorer",
    "SlidingWindow",
    "StreamChunk",
    "Targets",
    "Task",
    "Text",
    "TieredCache",
    "Timeout",
    "TokenBucket",
    "Tool",
    "ToolCall",
    "Usage",
    "Verification",
    "Weighted",
    "Wire",
    "Written",
    "acomplete",
    "acomplete_table",
    "ahealth_check",
    "astream",
    "bench",
    "builder",
    "compare",
    "complete",
    "complete_batches",
    "complete_parallel",
    "complete_table",
    "concurrent",
    "configure",
    "constant_rate",
    "current_hub",
    "diff",
    "evaluate",
    "freeze",
    "health_check",
    "ledger",
    "llm",
    "load_ipython_extension",
    "load_plugins",
    "metadata",
    "one_at_a_time",
    "parse",
    "plan",
    "plots",
    "poisson",
    "rehearsal",
    "replay",
    "sample_by_hash",
    "schema_of",
    "scorer",
    "scorers",
    "show",
    "split_by_hash",
    "stream",
    "stream_table",
    "submit",
    "sweep",
    "tasks",
    "try_complete",
    "unload_ipython_extension",
    "using",
    "verify",
]


def __getattr__(name: str) -> object:
    """Load a public name at first use (PEP 562)."""
    home = _HOME.get(name)
    if name in _MODULES:
        value: object = importlib.import_module(f"llmhub.{_MODULES[name]}")
    elif home is not None:
        value = getattr(importlib.import_module(f"llmhub.{home}"), name)
    else:
        raise AttributeError(f"module 'llmhub' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])


FRAMES: Final = ("pandas", "polars")
"""Libraries whose frames get ``.llm``."""


class _AfterFrames(importlib.abc.MetaPathFinder):
    """Waits for a library of frames to be imported, and puts ``.llm`` on its frames right after."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the library as it would be found without this, and wrap its loader."""
        if fullname not in FRAMES or getattr(sys.modules.get(fullname), "DataFrame", None) is not None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads a module as its own loader does, then registers the accessors."""

    def __init__(self, own: importlib.abc.Loader) -> None:
        self._own = own

    def __getattr__(self, name: str) -> object:
        """Be its own loader in all else: resources, source, data."""
        return getattr(self._own, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Make the module as its own loader does."""
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then add to it."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        module.__loader__ = self._own
        self._own.exec_module(module)
        _register(module)


def _register(library: ModuleType) -> None:
    importlib.import_module("llmhub.notebook.register").register(library)


for _library in map(sys.modules.get, FRAMES):
    if _library is not None:
        _register(_library)
if not all(map(sys.modules.get, FRAMES)):
    sys.meta_path.insert(0, _AfterFrames())
