"""Send a table of prompts to any LLM provider; get one Arrow table of responses, latencies, costs and errors.

The public names are listed in `__init__.pyi` and loaded at first use, so ``import llmhub`` takes milliseconds. ``.llm``
appears on pandas and polars frames whichever of the libraries is imported first.

Examples
--------
>>> import llmhub
>>> "complete" in dir(llmhub)
True
"""

from __future__ import annotations

from typing import Final

import lazy_loader

from llmhub.notebook import import_hook

__version__: Final = "0.1.0"

_load, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
_PUBLIC_MODULES: Final = ("bench", "datasets", "errors", "evals", "plugins", "sim", "types")
_IPYTHON_HOOKS: Final = ("load_ipython_extension", "unload_ipython_extension")


def __getattr__(name: str) -> object:
    """Load a public name at first use (PEP 562)."""
    if name in __all__ or name.startswith("_"):
        return _load(name)
    raise AttributeError(f"module 'llmhub' has no attribute {name!r}{_suggestion(name)}", name=name)


def _suggestion(name: str) -> str:
    """Name the public module that has ``name``, if one does."""
    import importlib  # noqa: PLC0415 - only on the way to an error

    for module in _PUBLIC_MODULES:
        if name in getattr(importlib.import_module(f"llmhub.{module}"), "__all__", ()):
            return f"; did you mean llmhub.{module}.{name}?"
    return ""


_RARE: Final = frozenset({
    "Breaker", "Completion", "CompletionResponse", "CostOptimized", "Health", "Hedge", "Job", "LowLatency",
    "RankedText", "RedactionPattern", "Redactor", "RoundRobin", "Row", "StreamChunk", "Timeout", "Weighted", "Written",
    "acomplete_table", "aembed", "aembed_table", "ahealth_check", "complete_parallel", "complete_record_batches",
    "current_hub", "load_plugins", "matrix",
    "metadata", "plan_embeddings", "presidio_recognizer", "rehearsal", "schema_of", "stream_table", "types",
})  # fmt: skip
"""Names that few programs need: they can be imported, but do not crowd completion."""


def __dir__() -> list[str]:
    """List the names that most programs need; all public names are in ``__all__``."""
    hidden = {*_IPYTHON_HOOKS, *_RARE, *(name for name in __all__ if name.endswith(("Error", "Warning")))}
    return sorted({*__all__, "__version__"} - hidden)


import_hook.install()
