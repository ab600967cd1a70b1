"""Where a hub reads credentials: ``Hub(credentials=...)`` takes a source of this module, a function, or a list of both.

Examples
--------
>>> import llmhub
>>> chain = [llmhub.credentials.EnvironmentCredentials(), lambda provider: {"openai": "secret"}.get(provider)]
>>> llmhub.Hub(credentials=chain).target("openai/gpt-4o-mini").model
'gpt-4o-mini'
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
