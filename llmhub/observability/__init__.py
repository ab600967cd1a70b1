"""Logs, metrics, traces and dashboards, made of the events of the engine (`llmhub.engine.observer`)."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
