"""Protection of credentials: where they are read, and redaction of text that people, logs and tables get."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
