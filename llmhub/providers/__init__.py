"""Providers: one file a vendor, collected in `PROVIDERS`."""

from llmhub.providers.registry import PROVIDERS

__all__ = ["PROVIDERS"]
