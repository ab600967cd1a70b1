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
        complete_parallel,
        complete_record_batches,
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
    from llmhub.api.info import ledger
    from llmhub.api.sink import Written
    from llmhub.bench._run import Bench, Measure, bench
    from llmhub.bench.load import Load, concurrent, constant_rate, one_at_a_time, poisson, sweep
    from llmhub.bench.summary import Targets
    from llmhub.cache.memory import MemoryCache
    from llmhub.cache.modes import CacheMode
    from llmhub.cache.redis import RedisCache
    from llmhub.cache.sqlite import DiskCache
    from llmhub.cache.tiered import TieredCache
    from llmhub.core.errors import CacheError, ConnectorError, LLMError
    from llmhub.core.model_metadata import ModelMetadata
    from llmhub.core.provider import Endpoint, Provider, Wire
    from llmhub.core.request_builder import RequestBuilder, builder
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
    from llmhub.datasets._diff import Difference, diff
    from llmhub.datasets._freeze import freeze
    from llmhub.datasets._replay import Replay, replay
    from llmhub.datasets._verify import Verification, verify
    from llmhub.datasets.croissant import About
    from llmhub.datasets.dataset import Frozen
    from llmhub.datasets.provenance import Recipe
    from llmhub.datasets.splits import sample_by_hash, split_by_hash
    from llmhub.engine.circuit_breaker import Breaker
    from llmhub.engine.health import Health
    from llmhub.engine.hooks import ErrorAction
    from llmhub.engine.limits import FixedWindow, Limit, SlidingWindow, TokenBucket
    from llmhub.engine.retry import Retry
    from llmhub.engine.routing_policy import CostOptimized, Failover, Hedge, LowLatency, RoundRobin, Route, Weighted
    from llmhub.engine.transport import Timeout
    from llmhub.evals import scorers, tasks
    from llmhub.evals._compare import compare
    from llmhub.evals._evaluate import Evaluation, evaluate
    from llmhub.evals._scorer import Scorer, scorer
    from llmhub.evals.comparison import Comparison
    from llmhub.evals.judge import Judge
    from llmhub.evals.tasks import Task
    from llmhub.hub import Hub
    from llmhub.notebook.accessor import llm
    from llmhub.notebook.magic import load_ipython_extension, unload_ipython_extension
    from llmhub.notebook.show import show
    from llmhub.plots import api as plots
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
        "complete_parallel",
        "complete_record_batches",
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
    "api.info": ("ledger",),
    "api.sink": ("Written",),
    "bench._run": (
        "Bench",
        "Measure",
        "bench",
    ),
    "bench.load": (
        "Load",
        "concurrent",
        "constant_rate",
        "one_at_a_time",
        "poisson",
        "sweep",
    ),
    "bench.summary": ("Targets",),
    "cache.memory": ("MemoryCache",),
    "cache.modes": ("CacheMode",),
    "cache.redis": ("RedisCache",),
    "cache.sqlite": ("DiskCache",),
    "cache.tiered": ("TieredCache",),
    "core.errors": (
        "CacheError",
        "ConnectorError",
        "LLMError",
    ),
    "core.model_metadata": ("ModelMetadata",),
    "core.provider": (
        "Endpoint",
        "Provider",
        "Wire",
    ),
    "core.request_builder": (
        "RequestBuilder",
        "builder",
    ),
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
    "datasets._diff": (
        "Difference",
        "diff",
    ),
    "datasets._freeze": ("freeze",),
    "datasets._replay": (
        "Replay",
        "replay",
    ),
    "datasets._verify": (
        "Verification",
        "verify",
    ),
    "datasets.croissant": ("About",),
    "datasets.dataset": ("Frozen",),
    "datasets.provenance": ("Recipe",),
    "datasets.splits": (
        "sample_by_hash",
        "split_by_hash",
    ),
    "engine.circuit_breaker": ("Breaker",),
    "engine.health": ("Health",),
    "engine.hooks": ("ErrorAction",),
    "engine.limits": (
        "FixedWindow",
        "Limit",
        "SlidingWindow",
        "TokenBucket",
    ),
    "engine.retry": ("Retry",),
    "engine.routing_policy": (
        "CostOptimized",
        "Failover",
        "Hedge",
        "LowLatency",
        "RoundRobin",
        "Route",
        "Weighted",
    ),
    "engine.transport": ("Timeout",),
    "evals._compare": ("compare",),
    "evals._evaluate": (
        "Evaluation",
        "evaluate",
    ),
    "evals._scorer": (
        "Scorer",
        "scorer",
    ),
    "evals.comparison": ("Comparison",),
    "evals.judge": ("Judge",),
    "evals.tasks": ("Task",),
    "hub": ("Hub",),
    "notebook.accessor": ("llm",),
    "notebook.magic": (
        "load_ipython_extension",
        "unload_ipython_extension",
    ),
    "notebook.show": ("show",),
    "plugins": (
        "ConnectorPlugin",
        "Plugins",
        "PluginWarning",
        "load_plugins",
    ),
    "tables.rows": ("Row",),
}
"""Where each public name lives."""
_MODULES: Final = {"plots": "plots.api", "scorers": "evals.scorers", "tasks": "evals.tasks"}
"""Modules that are public by a short name."""
_HOME: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "About",
    "Bench",
    "Breaker",
    "CacheError",
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
    "ModelMetadata",
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
    "complete_record_batches",
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
