"""Frozen datasets of results: freeze, verify, replay, compare; and deterministic splits by the content of rows.

The public names are listed in `__init__.pyi` and loaded at first use. A module whose function is public under the same
name is private (`_freeze`, `_verify`, `_replay`, `_diff`), so that importing it never hides the function.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
