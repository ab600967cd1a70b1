"""Load tests of models: latency, throughput, errors and cost under a given load.

The public names are listed in `__init__.pyi` and loaded at first use. The module is callable: ``llmhub.bench(...)`` is
`llmhub.bench.run`. Type checkers know the latter only.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


class _CallableModule(ModuleType):
    """Module that runs a load test when it is called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run a load test; see `llmhub.bench.run`."""
        return self.run(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
